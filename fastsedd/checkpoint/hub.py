"""Names on the Hugging Face hub -> files in its cache, through huggingface_hub, which is optional.

That library reads HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and HF_TOKEN; what it has fetched once is used
again without the network.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from fastsedd.checkpoint import grid_json, location, mask, sharded
from fastsedd.checkpoint.weights import is_weights
from fastsedd.errors import CheckpointError, UnavailableError

_PART = r"[A-Za-z0-9][\w.\-]*"
_NAME = re.compile(rf"({_PART}/{_PART})(?:/({_PART}(?:/{_PART})*))?", re.ASCII)
_REVISION = "main"
_MAX_NAME = 255

_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_ADDRESS = re.compile(rf"(?:([A-Za-z][\w+.\-]*)://|(?=(?:{'|'.join(map(re.escape, _HOSTS))})/))(.*)", re.DOTALL)
_VIEWS = ("tree", "blob", "resolve", "raw", "commit")  # what an address names before the revision

# What only a network says: anything else that the operating system refuses is about files.
_NETWORK = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.EADDRNOTAVAIL}

CHAT_TEMPLATE = "chat_template.jinja"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")


class Name(NamedTuple):
    """A repository, and the file or folder in it that is meant; "" is the whole."""

    repository: str
    inside: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, self))


def parse(text: str) -> Name | None:
    """`owner/name` or `owner/name/path/in/it`, with a slash at the end or without; None for anything else."""
    matched = _NAME.fullmatch(text.removesuffix("/")) if len(text) <= _MAX_NAME else None
    if matched is None or is_weights(matched[1]):
        return None
    return Name(matched[1], matched[2] or "")


def is_repository(text: str) -> bool:
    """True if a text may name a whole repository; the oldest have no owner."""
    return len(text) <= _MAX_NAME and re.fullmatch(rf"{_PART}(?:/{_PART})?", text, re.ASCII) is not None


def address(text: str) -> tuple[str, str | None] | None:
    """A web address of the hub, or hf://, as `parse` takes it: a name, and the revision that it states, if it does.

    None for what is not an address. Raises CheckpointError for one of another place or of a data set.
    """
    matched = _ADDRESS.fullmatch(text.strip())
    if matched is None:
        return None
    scheme = (matched[1] or "https").lower()
    host, parts = ("", _parts(matched[2])) if scheme == "hf" else _split(matched[2])
    own = {*_HOSTS, "", _split(os.environ.get("HF_ENDPOINT", "").partition("://")[2])[0]}
    if scheme not in ("http", "https", "hf") or host not in own:
        raise CheckpointError(f"{text}: an address, allowed: a path, owner/name or an address of {_HOSTS[0]}")
    revision = None
    if len(parts) > 1 and "@" in parts[1]:  # hf://owner/name@revision
        parts[1], revision = parts[1].split("@", 1)
    elif scheme != "hf" and parts[2:3] and parts[2] in _VIEWS:
        revision = parts[3] if len(parts) > 3 else None
        parts[2:4] = []
    name = "/".join(parts[1:] if parts[:1] == ["models"] and len(parts) > 2 else parts)
    if parts[:1] in (["datasets"], ["spaces"]) or (parse(name) is None and not re.fullmatch(_PART, name)):
        raise CheckpointError(f"{text}: is not the address of a model, allowed: https://{_HOSTS[0]}/owner/name")
    return name, revision


def _split(address: str) -> tuple[str, list[str]]:
    """The host of an address, and what follows it up to a question mark, in parts."""
    try:
        found = urlsplit(f"//{address}")
    except ValueError:
        return "?", []
    return found.netloc, _parts(found.path)


def _parts(path: str) -> list[str]:
    return [unquote(part) for part in path.split("/") if part]  # a revision may have slashes that are written as %2F


def fetch(name: Name, revision: str | None = None, *, offline: bool = False) -> Path:
    """The folder or file that a name means, in the cache; fetched first, unless `offline`, if it is not there.

    Raises CheckpointError where the hub has no such thing, UnavailableError where it cannot be reached.
    """
    library = _library(name)
    if offline or library.constants.HF_HUB_OFFLINE:
        cached = _cached(library, name.repository, revision)
        if cached is None:
            raise UnavailableError(
                f"{name}: no such file or folder, and what it names on the hub is not in the hub's cache"
            )
        return _inside(cached, name)
    try:
        with _errors(library, name, revision):
            listed = library.HfApi().model_info(name.repository, revision=revision).siblings or []
    except UnavailableError:  # what has been fetched before will do
        cached = _cached(library, name.repository, revision)
        if cached is None:
            raise
        return _inside(cached, name)
    wanted = _wanted(name, [file.rfilename for file in listed])
    folder = _download(library, name, revision, wanted)
    for index in (folder / each for each in wanted if each.endswith(sharded.SUFFIX)):
        prefix = index.parent.relative_to(folder)
        shards = [(prefix / shard).as_posix() for shard in sharded.shards(index)]
        _download(library, name, revision, shards)
    return _inside(folder, name)


def fetch_tokenizer(repository: str, revision: str | None = None, *, offline: bool = False) -> Path:
    """A folder with the files of a repository's tokenizer, as far as it has them. Raises as `fetch` does."""
    library = _library(Name(repository))
    cached = _cached(library, repository, revision)
    if cached is not None and location.tokenizer_in(cached):  # a tokenizer does not change: the hub is not asked again
        return cached
    if offline or library.constants.HF_HUB_OFFLINE:
        raise UnavailableError(f"{repository}: is not in the hub's cache, and the network is not to be used")
    return _download(library, Name(repository), revision, TOKENIZER_FILES)


def _library(name: Name) -> Any:
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        raise UnavailableError(
            f"{name}: no such file or folder, and names on the hub need huggingface_hub: pip install 'fastsedd[hub]'"
        ) from None
    return huggingface_hub


def _cached(library: Any, repository: str, revision: str | None) -> Path | None:
    """The newest state of a repository's revision that has been fetched, whole or in part.

    The library's own `snapshot_download(local_files_only=True)` refuses, since its version 2, what was fetched in part.
    """
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
        raise CheckpointError(f"{name}: is not in the hub's cache, or not in the repository")
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
        weights = PurePosixPath(prefix + location.choose_weights(str(name), below))
    beside = (*TOKENIZER_FILES, *mask.FILES, mask.GENERATION_CONFIG, CHAT_TEMPLATE, grid_json.NAME)
    others = map(str, [*location.configs(weights), *(weights.parent / each for each in beside)])
    return [str(weights), *(file for file in others if file in files)]


def _download(library: Any, name: Name, revision: str | None, files: Sequence[str]) -> Path:
    patterns = [escape(file) for file in files]
    with _errors(library, name, revision):
        return Path(library.snapshot_download(name.repository, revision=revision, allow_patterns=patterns))


@contextmanager
def _errors(library: Any, name: Name, revision: str | None) -> Iterator[None]:
    """An exception of the hub's library, in one line."""
    errors = library.errors
    try:
        yield
    except errors.GatedRepoError:
        raise CheckpointError(f"{name.repository}: is gated: accept its terms on the hub and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{name}: no such file or folder, and on the hub no repository {name.repository}, or a private one: "
            "set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{name.repository}: has no revision {revision!r}") from None
    except errors.HFValidationError as error:
        raise CheckpointError(f"{name}: {_first_line(error)}") from None
    except Exception as error:  # whatever the HTTP library raises of which that library happens to be made
        if (refused := _refused_file(error)) is not None:
            raise UnavailableError(
                f"{name}: cannot be kept in the hub's cache, {library.constants.HF_HUB_CACHE}: {refused}"
            ) from None
        raise UnavailableError(
            f"{name}: no such file or folder, and the hub cannot be reached: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from None


def _refused_file(error: BaseException | None) -> str | None:
    """Why a file could not be written: a full disk, a folder that may not be written to. None for other errors."""
    while error is not None:
        network = isinstance(error, (ConnectionError, TimeoutError, socket.gaierror))
        # HTTP libraries' errors are OSErrors too, of types of their own.
        if isinstance(error, OSError) and type(error).__module__ == "builtins" and not network:
            return None if error.errno is None or error.errno in _NETWORK else os.strerror(error.errno)
        if f"os error {errno.ENOSPC})" in str(error):  # of the transfers that are written in Rust
            return os.strerror(errno.ENOSPC)
        error = error.__cause__
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
