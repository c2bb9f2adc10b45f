"""Weights of linear layers, packed in the dtype that is asked for.

The blocks of a GGUF file are taken as they are where they are codes and scales of that dtype already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import fastsedd_kernels as fk
import numpy as np

from fastsedd.choices import STORED
from fastsedd.models.backbone import parts
from fastsedd.models.backbone.naming import Blocks, Named

# Dtypes that keep numbers of each stored type, from the narrowest; of these all but Q6_K's lose nothing. "int8g" keeps
# its 6 bits in steps of a 127th of each group's largest number.
KEPT = {
    "Q4_0": "int4", "Q4_1": "int4", "Q4_K": "int4", "Q8_0": "int8g", "Q6_K": "int8g", "bfloat16": "bfloat16",
    "float16": "float32", "float32": "float32",
}  # fmt: skip
_WIDTHS = ("int4", "int8g", "bfloat16", "float32")
_TAKEN = ("Q4_0", "Q4_1", "Q4_K", "Q8_0")  # by `fk.pack_gguf`


def kept(types: Sequence[str]) -> str:
    """The dtype in which weights of these stored types are kept together."""
    return max((KEPT[each] for each in types), key=_WIDTHS.index)


def pack(tensors: Named, names: Sequence[str], dtype: str, *, paired: bool = False) -> fk.PackedWeight:
    """The weights of these names, one under the other, or as a pair; dtype : one of `fk.pack`, or "stored".

    Large ones are read and packed some rows at a time.
    """
    types = [tensors.dtype_of(name) for name in names]
    wanted = kept(types) if dtype == STORED else dtype
    as_stored = len(set(types)) == 1 and types[0] in _TAKEN and KEPT[types[0]] == wanted

    def part(first: int, last: int) -> fk.PackedWeight:
        cut = [(name, first, last) for name in names] if paired else list(_stacked(tensors, names, first, last))
        if as_stored:
            return _pack_blocks([tensors.blocks(*each) for each in cut], paired=paired)
        weights = [tensors.rows(*each) for each in cut]
        if paired:
            return fk.pack(weights, wanted)
        return fk.pack(weights[0] if len(weights) == 1 else np.concatenate(weights), wanted)

    shapes = [tensors.shape(name) for name in names]
    outputs = shapes[0][0] if paired else sum(shape[0] for shape in shapes)
    return parts.packed(part, (outputs, shapes[0][1]), wanted, paired=paired)


def _stacked(tensors: Named, names: Sequence[str], first: int, last: int) -> Iterator[tuple[str, int, int]]:
    """Where some rows lie of matrices one under the other: rows of each."""
    begin = 0
    for name in names:
        rows = tensors.shape(name)[0]
        if begin < last and first < begin + rows:
            yield name, max(first - begin, 0), min(last - begin, rows)
        begin += rows


def _pack_blocks(found: Sequence[Blocks | None], *, paired: bool) -> fk.PackedWeight:
    """Blocks of one type as they are."""
    blocks = [each for each in found if each is not None]
    first = blocks[0]
    if paired:
        return fk.pack_gguf([each.data for each in blocks], first.type, first.shape)
    data = first.data if len(blocks) == 1 else np.concatenate([each.data for each in blocks])
    return fk.pack_gguf(data, first.type, (len(data), first.shape[1]))
