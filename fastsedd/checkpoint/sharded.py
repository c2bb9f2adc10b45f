"""An index of weights that are shared out over several files: `model.safetensors.index.json` and PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from fastsedd.checkpoint import small_file
from fastsedd.checkpoint.stored import StoredTensor
from fastsedd.errors import CheckpointError

SUFFIX = ".index.json"
MAX_SHARDS = 1024


class _Index(msgspec.Struct):
    weight_map: dict[str, str]  # tensor -> file


def shards(index: Path) -> list[str]:
    """The names of the files beside an index that it refers to. Raises CheckpointError for one that lies elsewhere."""
    return sorted(set(_weight_map(index).values()))


def read(index: Path, read_shard: Callable[[Path], dict[str, StoredTensor]]) -> dict[str, StoredTensor]:
    """The tensors of all the files of an index, each in the file that the index says, and none besides."""
    wanted = _weight_map(index)
    found: dict[str, StoredTensor] = {}
    files = {shard: index.parent / shard for shard in sorted(set(wanted.values()))}
    for shard, path in files.items():
        if not path.is_file():
            raise CheckpointError(f"{index}: names {shard!r}, which is not beside it")
    for shard, path in files.items():
        for name, tensor in read_shard(path).items():
            if wanted.get(name) != shard:
                raise CheckpointError(f"{path}: holds {name!r}, which {index.name} does not expect there")
            found[name] = tensor
    for name, shard in wanted.items():
        if name not in found:
            raise CheckpointError(f"{index}: says that {name!r} is in {shard!r}, where it is not")
    return found


def _weight_map(index: Path) -> dict[str, str]:
    found = small_file.decode(index, _Index).weight_map
    suffix = Path(index.name.removesuffix(SUFFIX)).suffix
    for shard in set(found.values()):
        if not shard.endswith(suffix) or any(character in shard for character in "/\\:\0") or shard.startswith("."):
            raise CheckpointError(f"{index}: names {shard!r}, allowed: {suffix} files beside it")
    if len(set(found.values())) > MAX_SHARDS:
        raise CheckpointError(f"{index}: names {len(set(found.values()))} files, allowed: at most {MAX_SHARDS}")
    return found
