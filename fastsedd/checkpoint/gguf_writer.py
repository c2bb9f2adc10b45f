"""A masked language model -> a GGUF file as llama.cpp's own converter lays it out, by the `gguf` package, an extra.

Matrices are of one type, vectors are float32. Rows that are no multiple of a block are float16, and a head beside 4
bits is Q8_0: llama.cpp, too, has the head in a wider type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.architectures.masked_language import backbone_of
from fastsedd.checkpoint import gguf_model
from fastsedd.checkpoint.gguf_blocks import BLOCKS
from fastsedd.checkpoint.gguf_tokenizer import PREFIX, TEMPLATE, Embedded
from fastsedd.checkpoint.stored import StoredTensor
from fastsedd.choices import GgufType
from fastsedd.errors import CheckpointError, UnavailableError

_STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_HEADS = ("lm_head.weight", "model.embed_tokens.weight")  # the latter where it is the head too
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32}
_QUANTISATION = 2  # the version of ggml's blocks


class _Planned(NamedTuple):
    """A tensor of the file; pairs : of that many heads, neighbours are rotated with each other"""

    name: str
    stored: StoredTensor
    own_name: str
    type: str
    pairs: int


def architecture(config: ModelConfig) -> str | None:
    """`general.architecture` of a model, None for a family that has none."""
    return next((name for name, families in gguf_model.FAMILIES.items() if config.architecture in families), None)


def write(
    path: Path, config: ModelConfig, stored: Mapping[str, StoredTensor], tokenizer: Embedded | None,
    dtype: GgufType | None, progress: Callable[[int, int], None],
) -> None:  # fmt: skip
    """Write a model, one tensor in memory at a time; `progress(done, total)` after each.

    config : of a family that has an architecture; stored : its tensors; dtype : of matrices, None: as they are stored
    Raises CheckpointError for values that are not finite, or not in the type's range, and for a scaling of positions
    that a GGUF file does not state; UnavailableError without the package.
    """
    try:
        import gguf
    except ImportError:
        raise UnavailableError("a .gguf file needs gguf: pip install 'fastsedd[gguf]'") from None
    name = architecture(config)
    assert name is not None
    planned = _plan(config, stored, name, dtype)
    writer = gguf.GGUFWriter(path, name)
    _write_keys(writer, config, name, [tensor.type for tensor in planned])
    _write_tokenizer(writer, config, name, tokenizer)
    divisors = _write_scaling(writer, config, name, planned[0].stored.file.path)
    if divisors is not None:
        writer.add_tensor_info(gguf_model.FREQUENCIES, divisors.shape, divisors.dtype, divisors.nbytes)
    for tensor in planned:
        number = gguf.GGMLQuantizationType[tensor.type]
        writer.add_tensor_info(
            tensor.name, tensor.stored.shape, np.dtype(np.float32), _nbytes(tensor), raw_dtype=number
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if divisors is not None:
            writer.write_tensor_data(divisors)
        for done, tensor in enumerate(planned, 1):
            writer.write_tensor_data(_data(gguf, tensor))
            progress(done, len(planned))
    finally:
        writer.close()


def _plan(config: ModelConfig, stored: Mapping[str, StoredTensor], name: str, dtype: GgufType | None) -> list[_Planned]:
    """All tensors in the network's order: the embedding, then layer by layer."""
    backbone, family = backbone_of(config), config.family
    heads = {"self_attn.q_proj": config.heads, "self_attn.k_proj": backbone.kv_heads}
    found = []
    for network in family.network_shapes(config):
        own = family.own_name(network)
        part = network.rpartition(".")[0].split(".", 3)[-1]
        pairs = heads.get(part, 0) if name in gguf_model.PAIRED else 0
        is_head = network == _HEADS[backbone.tied]
        kind = _type(stored[own], dtype, is_head=is_head)
        found.append(_Planned(gguf_model.file_name(network), stored[own], own, kind, pairs))
    return found


def _type(tensor: StoredTensor, dtype: GgufType | None, *, is_head: bool) -> str:
    if len(tensor.shape) == 1:
        return "F32"
    if dtype is None:
        return _STORED.get(tensor.dtype, tensor.dtype)
    kind = dtype.upper()
    if is_head and kind in ("Q4_0", "Q4_1"):
        kind = "Q8_0"
    return "F16" if kind in BLOCKS and tensor.shape[-1] % BLOCKS[kind].count else kind


def _nbytes(tensor: _Planned) -> int:
    elements = math.prod(tensor.stored.shape)
    if tensor.type in BLOCKS:
        return elements // BLOCKS[tensor.type].count * BLOCKS[tensor.type].nbytes
    return elements * (4 if tensor.type == "F32" else 2)


def _data(gguf: Any, tensor: _Planned) -> NDArray[Any]:
    """A tensor's rows as the file has them. Raises CheckpointError where a number is beyond the type's range."""
    if tensor.stored.dtype == tensor.type:  # blocks, which are kept
        blocks = tensor.stored.blocks(tensor.own_name)
        assert blocks is not None
        return _paired(blocks.data, tensor.pairs)
    values = tensor.stored.read(tensor.own_name)
    with np.errstate(over="ignore", invalid="ignore"):
        data = gguf.quants.quantize(values, gguf.GGMLQuantizationType[tensor.type])
    finite = True
    if tensor.type == "F16":
        finite = bool(np.isfinite(data).all())
    elif tensor.type in BLOCKS:
        finite = BLOCKS[tensor.type].finite(data.reshape(-1, BLOCKS[tensor.type].nbytes))
    if not finite:
        raise CheckpointError(
            f"{tensor.stored.file.path}: {tensor.own_name} has values beyond the range of {tensor.type}, "
            "allowed of a dtype: f32, bf16"
        )
    return _paired(data, tensor.pairs)


def _paired(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows with each head's second half between its first, as llama.cpp rotates them; as they are of no heads."""
    if not heads:
        return rows
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _write_keys(writer: Any, config: ModelConfig, name: str, types: list[str]) -> None:
    backbone = backbone_of(config)
    writer.add_string("general.type", "model")
    matrices = [kind for kind in types if kind != "F32"] or types
    common = max(dict.fromkeys(matrices), key=matrices.count)
    if common in _FILE_TYPES:
        writer.add_uint32("general.file_type", _FILE_TYPES[common])
    if any(kind in BLOCKS for kind in types):
        writer.add_uint32("general.quantization_version", _QUANTISATION)
    integers = {
        "context_length": config.length, "embedding_length": config.width, "block_count": config.blocks,
        "feed_forward_length": backbone.hidden, "attention.head_count": config.heads,
        "attention.head_count_kv": backbone.kv_heads, "attention.key_length": backbone.head_dim,
        "attention.value_length": backbone.head_dim, "rope.dimension_count": backbone.head_dim,
        "vocab_size": config.vocab_size,
    }  # fmt: skip
    for key, value in integers.items():
        writer.add_uint32(f"{name}.{key}", value)
    writer.add_float32(f"{name}.attention.layer_norm_rms_epsilon", backbone.eps)
    writer.add_float32(f"{name}.rope.freq_base", backbone.theta)
    writer.add_bool(f"{name}.attention.causal", False)
    writer.add_bool(gguf_model.SHIFT, backbone.shift)
    writer.add_string(gguf_model.MODEL_TYPE, config.architecture)
    if backbone.block is not None:
        writer.add_uint32(gguf_model.BLOCK_SIZE, backbone.block)
    writer.add_array(gguf_model.ENDS, list(backbone.ends))


def _write_tokenizer(writer: Any, config: ModelConfig, name: str, tokenizer: Embedded | None) -> None:
    """The tokenizer, or that there is none, and the ids of special tokens, which are the model's own."""
    backbone = backbone_of(config)
    special = {"mask": config.mask_id, "padding": backbone.pad, "eos": next(iter(backbone.ends), None)}
    if tokenizer is None:
        writer.add_string(f"{PREFIX}.model", "none")
    else:
        special |= {key: token for key, token in tokenizer.special.items() if key in ("bos", "eos")}
        writer.add_string(f"{PREFIX}.model", tokenizer.model)
        writer.add_string(f"{PREFIX}.pre", tokenizer.pre)
        writer.add_array(f"{PREFIX}.tokens", tokenizer.tokens)
        writer.add_array(f"{PREFIX}.token_type", tokenizer.types)
        writer.add_array(f"{PREFIX}.merges", tokenizer.merges)
        writer.add_string(TEMPLATE, tokenizer.template or "")
    for key, token in special.items():
        if token is not None:
            writer.add_uint32(f"{PREFIX}.{key}_token_id", token)


def _write_scaling(writer: Any, config: ModelConfig, name: str, path: Path) -> NDArray[np.float32] | None:
    """The scaling of positions; of Llama 3's, what a tensor of the file divides each frequency by.

    Raises CheckpointError for one that a GGUF file does not state.
    """
    backbone = backbone_of(config)
    scaling = dict(backbone.scaling)
    kind = scaling.pop("rope_type", scaling.pop("type", None))
    if kind is None:
        return None
    factor, length = scaling.pop("factor", None), scaling.pop("original_max_position_embeddings", None)
    if kind == "llama3" and isinstance(factor, (int, float)):
        if {**scaling, "original_max_position_embeddings": length} == gguf_model.LLAMA3:
            return gguf_model.llama3_divisors(factor, backbone.theta, backbone.head_dim).astype(np.float32)
    elif kind in ("linear", "yarn") and not scaling and (kind == "linear" or length is not None):
        writer.add_string(f"{name}.rope.scaling.type", kind)
        writer.add_float32(f"{name}.rope.scaling.factor", factor)
        if length is not None:
            writer.add_uint32(f"{name}.rope.scaling.original_context_length", int(length))
        return None
    raise CheckpointError(
        f"{path}: rope_scaling is {dict(backbone.scaling)}, allowed in a GGUF file: linear and yarn of a factor and an "
        "original length alone, and Llama 3's"
    )
