"""Names on the Hugging Face hub -> files in its cache, through huggingface_hub, which is optional.

That library reads HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and HF_TOKEN; what it has fetched once is used
again without the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fastsedd.checkpoint import grid_json, location, sharded
from fastsedd.checkpoint.weights import is_weights
from fastsedd.errors import CheckpointError, UnavailableError

_PART = r"[A-Za-z0-9][\w.\-]*"
_NAME = re.compile(rf"({_PART}/{_PART})(?:/({_PART}(?:/{_PART})*))?", re.ASCII)
_REVISION = "main"
_MOST_NAME = 255

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")


class Name(NamedTuple):
    """A repository, and the file or folder in it that is meant; "" is the whole."""

    repository: str
    inside: str


def parse(text: str) -> Name | None:
    """`owner/name` or `owner/name/path/in/it`; None for what is no such name."""
    matched = _NAME.fullmatch(text) if len(text) <= _MOST_NAME else None
    if matched is None or is_weights(matched[1]):
        return None
    return Name(matched[1], matched[2] or "")


def fetch(name: Name, revision: str | None = None, *, offline: bool = False) -> Path:
    """The folder or file that a name means, in the cache; fetched first, unless `offline`, if it is not there.

    Raises CheckpointError where the hub has no such thing, UnavailableError where it cannot be asked.
    """
    library = _library(name.repository)
    if offline or library.constants.HF_HUB_OFFLINE:
        cached = _cached(library, name.repository, revision)
        if cached is None:
            raise UnavailableError(
                f"{name.repository}: no such file or folder, and what it names on the hub is not in the hub's cache"
            )
        return _inside(cached, name)
    try:
        with _errors(library, name.repository, revision):
            listed = library.HfApi().model_info(name.repository, revision=revision).siblings or []
    except UnavailableError:  # what has been fetched before will do
        cached = _cached(library, name.repository, revision)
        if cached is None:
            raise
        return _inside(cached, name)
    wanted = _wanted(name, [file.rfilename for file in listed])
    folder = _download(library, name.repository, revision, wanted)
    for index in (folder / each for each in wanted if each.endswith(sharded.SUFFIX)):
        prefix = index.parent.relative_to(folder)
        shards = [(prefix / shard).as_posix() for shard in sharded.shards(index)]
        _download(library, name.repository, revision, shards)
    return _inside(folder, name)


def fetch_tokenizer(repository: str, *, offline: bool = False) -> Path:
    """A folder with the files of a repository's tokenizer, as far as it has them. Raises as `fetch` does."""
    library = _library(repository)
    cached = _cached(library, repository, None)
    if cached is not None and location.tokenizer_in(cached):  # a tokenizer does not change: the hub is not asked again
        return cached
    if offline or library.constants.HF_HUB_OFFLINE:
        raise UnavailableError(f"{repository}: is not in the hub's cache, and the network is not to be used")
    return _download(library, repository, None, TOKENIZER_FILES)


def _library(name: str) -> Any:
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        raise UnavailableError(
            f"{name}: no such file or folder, and names on the hub need huggingface_hub: pip install 'fastsedd[hub]'"
        ) from None
    return huggingface_hub


def _cached(library: Any, repository: str, revision: str | None) -> Path | None:
    """The newest state of a repository's revision that has been fetched, whole or in part."""
    folder = Path(library.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    revision = revision or _REVISION
    try:
        commit = (folder / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        commit = revision
    snapshot = folder / "snapshots" / commit
    return snapshot if re.fullmatch(r"[0-9a-f]+", commit) and snapshot.is_dir() else None


def _inside(folder: Path, name: Name) -> Path:
    path = folder / name.inside
    if not path.exists():
        raise CheckpointError(f"{'/'.join(name)}: is not in the hub's cache, or not in the repository")
    return path


def _wanted(name: Name, files: Sequence[str]) -> list[str]:
    """The files of a repository that make up the checkpoint; of shared out weights the index alone."""
    if name.inside in files:
        weights = PurePosixPath(name.inside)
    else:
        prefix = f"{name.inside}/" if name.inside else ""
        below = [file.removeprefix(prefix) for file in files if file.startswith(prefix)]
        if not below:
            raise CheckpointError(f"{name.repository}: has no file or folder {name.inside!r}")
        weights = PurePosixPath(prefix + location.choose_weights("/".join(filter(None, name)), below))
    others = map(
        str, [*location.configs(weights), *(weights.parent / each for each in (*TOKENIZER_FILES, grid_json.NAME))]
    )
    return [str(weights), *(file for file in others if file in files)]


def _download(library: Any, repository: str, revision: str | None, files: Sequence[str]) -> Path:
    patterns = [escape(file) for file in files]
    with _errors(library, repository, revision):
        return Path(library.snapshot_download(repository, revision=revision, allow_patterns=patterns))


@contextmanager
def _errors(library: Any, repository: str, revision: str | None) -> Iterator[None]:
    """What the hub's library raises, in one line."""
    errors = library.errors
    try:
        yield
    except errors.GatedRepoError:
        raise CheckpointError(f"{repository}: is gated: accept its terms on the hub and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{repository}: no such file or folder, and on the hub no such repository, or a private one: set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{repository}: has no revision {revision!r}") from None
    except errors.HFValidationError as error:
        raise CheckpointError(f"{repository}: {_first_line(error)}") from None
    except Exception as error:  # whatever the HTTP library raises of which that library happens to be made
        raise UnavailableError(
            f"{repository}: no such file or folder, and the hub cannot be asked: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
