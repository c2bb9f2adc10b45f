"""Weights of linear layers, packed in the dtype that is asked for.

The blocks of a GGUF file are taken as they are where they are codes and scales of that dtype already.
"""

from __future__ import annotations

from collections.abc import Sequence

import fastsedd_kernels as fk
import numpy as np

from fastsedd.choices import STORED
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
    """The weights of these names, one under the other, or as a pair; dtype : one of `fk.pack`, or "stored"."""
    types = [tensors.dtype_of(name) for name in names]
    wanted = kept(types) if dtype == STORED else dtype
    if len(set(types)) == 1 and types[0] in _TAKEN and KEPT[types[0]] == wanted:
        return pack_blocks([tensors.blocks_of(name) for name in names], paired=paired)
    if len(names) == 1:
        return fk.pack(tensors[names[0]], wanted)
    weights = [tensors[name] for name in names]
    return fk.pack(weights if paired else np.concatenate(weights), wanted)


def pack_blocks(parts: Sequence[Blocks], *, paired: bool = False) -> fk.PackedWeight:
    """Blocks of one type as they are."""
    first = parts[0]
    if paired:
        return fk.pack_gguf([part.data for part in parts], first.type, first.shape)
    data = first.data if len(parts) == 1 else np.concatenate([part.data for part in parts])
    return fk.pack_gguf(data, first.type, (len(data), first.shape[1]))
