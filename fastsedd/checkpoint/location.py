"""The files that a path means: weights, and the config and the tokenizer beside them. For folders and repositories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple, TypeVar

from fastsedd.checkpoint import sharded
from fastsedd.checkpoint.weights import SUFFIXES, is_weights
from fastsedd.errors import CheckpointError

# Of several weights in a folder, the first of these is meant.
WEIGHTS = (
    "model.safetensors",
    f"model.safetensors{sharded.SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{sharded.SUFFIX}",
    "checkpoints-meta/checkpoint.pth",  # of the published trainer's runs
    "checkpoint.pth",
    "checkpoints/best.ckpt",  # of MDLM's and BD3-LM's runs
    "checkpoints/last.ckpt",
    "best.ckpt",
    "last.ckpt",
)
CONFIG = "config.json"
HYDRA_CONFIG = ".hydra/config.yaml"
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))

MAX_NAMES = 5  # of the candidates that an error shows

_Path = TypeVar("_Path", bound=PurePath)


class Location(NamedTuple):
    """tokenizer : its files, none where there is no tokenizer beside the weights."""

    weights: Path
    config: Path | None
    tokenizer: tuple[Path, ...]


def find(path: Path) -> Location:
    """The files of a checkpoint. Raises CheckpointError where there is none, or more than one to choose from."""
    try:
        weights = path / choose_weights(str(path), _files_in(path)) if path.is_dir() else path
        if not weights.is_file():
            raise CheckpointError(f"{path}: no such file or folder")
        if not is_weights(weights.name):
            raise CheckpointError(f"{path}: is not a file of weights, allowed: a folder or {', '.join(SUFFIXES)}")
        config = next((each for each in configs(weights) if each.is_file()), None)
        return Location(weights, config, tokenizer_in(weights.parent))
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def choose_weights(where: str, names: Sequence[str]) -> str:
    """The file of a folder that holds its weights, or the index of them; names : relative to it, with slashes.

    A known name, or else the only weights there are: in the folder itself, or in one below.
    """
    for name in WEIGHTS:
        if name in names:
            return name
    candidates = sorted(name for name in names if is_weights(name))
    for depth in (1, 2):
        at_depth = [name for name in candidates if len(PurePosixPath(name).parts) == depth]
        if len(at_depth) == 1:
            return at_depth[0]
        if at_depth:
            shown = ", ".join(at_depth[:MAX_NAMES]) + (", …" if len(at_depth) > MAX_NAMES else "")
            raise CheckpointError(f"{where}: holds {len(at_depth)} files of weights: name one of {shown}")
    raise CheckpointError(f"{where}: holds no file of weights, allowed: {', '.join(SUFFIXES)}")


def configs(weights: _Path) -> tuple[_Path, ...]:
    """Places for the config of these weights, the likeliest first: beside them, or at the top of a training run."""
    beside = weights.parent
    run = beside.parent if beside.name in ("checkpoints", "checkpoints-meta") else beside
    return (beside / CONFIG, run / CONFIG, run / HYDRA_CONFIG)


def tokenizer_in(folder: Path) -> tuple[Path, ...]:
    """The files of the tokenizer in a folder; none where there is none."""
    for names in TOKENIZERS:
        files = tuple(folder / name for name in names)
        if all(file.is_file() for file in files):
            return files
    return ()


def _files_in(folder: Path) -> list[str]:
    """The files of a folder and of those directly in it, but for hidden ones."""
    found = []
    for path in (*folder.iterdir(), *folder.glob("*/*")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(".") and is_weights(name) and path.is_file():
            found.append(name)
    return found
