"""Checkpoints: bytes on disk -> (config, named arrays), every tensor accounted for. Knows no kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastsedd.architectures.base import ModelConfig
from fastsedd.checkpoint import (
    bare,
    chat_json,
    config_json,
    gguf_model,
    grid_json,
    hub,
    hydra_config,
    layout,
    lightning,
    location,
    mask,
    prefixes,
    special_tokens,
    weights,
)
from fastsedd.checkpoint.gguf_tokenizer import Embedded
from fastsedd.checkpoint.stored import DTYPES, READ_TYPES, LazyTensors, StoredTensor
from fastsedd.config import FittedTimes
from fastsedd.errors import CheckpointError

__all__ = ["Checkpoint", "find_chat_template", "find_tokenizer", "read"]

GPT2 = "gpt2"  # whose tokenizer is that of the published models, which do not carry it
GPT2_TOKENS = 50257


@dataclass(frozen=True)
class Checkpoint:
    """A model's files, checked.

    stored : where its tensors lie; path : the weights' file; tokenizer : files beside it
    grid : the time grid that was fitted to it, if it is there
    embedded : the tokenizer in a GGUF file
    assumed : what its files do not say and is taken for granted, one line; "" where nothing is
    """

    config: ModelConfig
    stored: Mapping[str, StoredTensor]
    path: Path
    tokenizer: tuple[Path, ...] = ()
    grid: FittedTimes | None = None
    assumed: str = ""
    embedded: Embedded | None = None

    @property
    def tensors(self) -> LazyTensors:
        """float32 arrays by name, read on access, which raises CheckpointError where the file is at fault by then."""
        return LazyTensors(self.stored)

    @property
    def is_gguf(self) -> bool:
        return self.path.suffix == weights.GGUF

    @property
    def in_blocks(self) -> bool:
        """True if any tensor is stored as blocks of numbers with scales of their own."""
        return any(tensor.dtype not in DTYPES for tensor in self.stored.values())

    @property
    def stored_dtype(self) -> str:
        """The dtype of most numbers, or their type of blocks."""
        counts = dict.fromkeys(READ_TYPES, 0)
        for tensor in self.stored.values():
            counts[tensor.dtype] += math.prod(tensor.shape)
        return max(counts, key=lambda dtype: counts[dtype])


def read(
    source: str | Path, revision: str | None = None, *, offline: bool = False, heads: int | None = None
) -> Checkpoint:
    """Find and check a checkpoint: a folder, a file of weights with its config beside it, or a name on the hub.

    Of the tensors only what the file says of them is read here. Without a config they must be the article's, of whose
    sizes `heads` alone does not follow from the shapes: see `fastsedd.checkpoint.bare`. A path that exists is never
    taken for a name; a Path is never one.
    Raises CheckpointError, in one line, for anything else, and where a config says other heads than `heads`.
    """
    found = location.find(_path(source, revision, offline))
    if found.weights.suffix == weights.GGUF:
        return _read_gguf(found.weights, heads)
    stated = _config(found)  # refused before the weights are looked at
    stored = weights.read(found.weights)
    config, assumed = (stated, "") if stated is not None else _stated_within(found.weights, stored, heads)
    _check_heads(found.config or found.weights, config, heads)
    stored = layout.renamed(found.weights, config, prefixes.own_names(config, stored))
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    config = config_json.checked(found.weights, partial(config.family.fitted, config, shapes))
    config = special_tokens.read(mask.read(config, found.weights.parent), found.weights.parent)
    layout.check(found.weights, config, shapes)
    grid_path = found.weights.with_name(grid_json.NAME)
    grid = grid_json.read(grid_path) if grid_path.exists() else None
    tensors = {name: stored[name] for name in config.tensor_shapes}
    for name, tensor in tensors.items():
        tensor.check_dtype(name)
    return Checkpoint(config, tensors, found.weights, found.tokenizer, grid, assumed)


def _read_gguf(path: Path, heads: int | None) -> Checkpoint:
    found = gguf_model.read(path)
    _check_heads(path, found.config, heads)
    layout.check(path, found.config, {name: tensor.shape for name, tensor in found.tensors.items()})
    tensors = {name: found.tensors[name] for name in found.config.tensor_shapes}
    return Checkpoint(found.config, tensors, path, assumed=found.assumed, embedded=found.tokenizer)


def _check_heads(path: Path, config: ModelConfig, heads: int | None) -> None:
    if heads is not None and heads != config.heads:
        raise CheckpointError(f"{path}: states {config.heads} heads, but {heads} were requested")


def find_tokenizer(read: Checkpoint, source: str | Path | None = None, *, offline: bool = False) -> tuple[Path, ...]:
    """The files of a checkpoint's tokenizer; none where there is none.

    source : a folder, a tokenizer.json or a name on the hub that is to be used instead
    Those beside the weights come first; a vocabulary of GPT-2's size is GPT-2's, from the hub. Raises CheckpointError
    where a source has none, UnavailableError where it is out of reach.
    """
    if source is None:
        if read.tokenizer or not _is_of_gpt2(read.config):
            return read.tokenizer
        return location.tokenizer_in(hub.fetch_tokenizer(GPT2, offline=offline))
    path = Path(source)
    if _exists(path) and not path.is_dir():
        mask.check(read.config, (path,))
        return (path,)
    if source != "" and _exists(path):  # a folder
        folder = path
    else:
        name, revision = hub.address(str(source)) or (str(source).rstrip("/"), None)
        if not hub.is_repository(name):
            raise CheckpointError(f"{source}: no such file or folder")
        folder = hub.fetch_tokenizer(name, revision, offline=offline)
    files = location.tokenizer_in(folder)
    if not files:
        raise CheckpointError(f"{source}: holds no tokenizer, allowed: tokenizer.json, or vocab.json and merges.txt")
    mask.check(
        read.config, tuple(file for name in ("tokenizer.json", *mask.FILES) if (file := folder / name).is_file())
    )
    return files


def _is_of_gpt2(config: ModelConfig) -> bool:
    """True for a vocabulary of GPT-2's size; trainers of uniform-state models add one, a mask or padding."""
    added = config.normalised and config.graph == "uniform"
    return config.tokens - added == GPT2_TOKENS


def find_chat_template(files: tuple[Path, ...]) -> tuple[str, dict[str, str]] | None:
    """The chat template beside a tokenizer's files, and the tokens that it may name; None where there is none."""
    return chat_json.read(files[0].parent)


def _path(source: str | Path, revision: str | None, offline: bool) -> Path:
    if source == "":
        raise CheckpointError("the model is an empty path, allowed: a folder, a file or owner/name")
    path = Path(source)
    name = None
    if isinstance(source, str) and not _exists(path):
        pasted = hub.address(source)
        if pasted is None:
            name = hub.parse(source)
        else:
            name, revision = hub.parse(pasted[0]), _one_revision(source, pasted[1], revision)
            if name is None:
                raise CheckpointError(f"{source}: names no owner, allowed: https://huggingface.co/owner/name")
    if name is not None:
        return hub.fetch(name, revision, offline=offline)
    if revision is not None:
        raise CheckpointError(f"{source}: is not a name on the hub: revision {revision!r} is for those alone")
    return path


def _one_revision(source: str, stated: str | None, given: str | None) -> str | None:
    if stated is not None and given is not None and stated != given:
        raise CheckpointError(f"{source}: names the revision {stated!r}, but {given!r} was requested")
    return given if stated is None else stated


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or has a NUL: `location.find` says so
        return False


def _config(found: location.Location) -> ModelConfig | None:
    """The config beside the weights. Lightning's files state their own, of which Hydra's is the unresolved form."""
    path = found.config
    if path is None or (path.suffix == ".yaml" and found.weights.suffix == lightning.SUFFIX):
        return None
    return hydra_config.read(path) if path.suffix == ".yaml" else config_json.read(path)


def _stated_within(path: Path, stored: Mapping[str, StoredTensor], heads: int | None) -> bare.Bare:
    """The config that a file of weights states itself, or that follows from its shapes."""
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    beside = weights.read_beside(path)
    if path.suffix == lightning.SUFFIX:
        return bare.Bare(lightning.read(path, shapes, beside), "")
    return bare.read(path, shapes, beside, heads)
