"""Files and answers as PyTorch and the hub produce them, without either: torch.save's files, a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

STORAGES = {
    "float32": "FloatStorage", "float16": "HalfStorage", "uint16": "BFloat16Storage", "float64": "DoubleStorage",
    "int64": "LongStorage",
}  # fmt: skip


class Raw(bytes):
    """Pickle instructions that are written as they are."""


class TorchFile:
    """The layout of torch.save: protocol 2, one persistent id a storage. uint16 arrays stand for bfloat16."""

    def __init__(self) -> None:
        self.storages: list[bytes] = []

    def pickle(self, document: Any) -> bytes:
        return b"\x80\x02" + self._emit(document) + b"."

    def write(self, path: Path, document: Any, **zip_options: Any) -> Path:
        """document : what to save; Raw is a whole pickle."""
        pickled = bytes(document) if isinstance(document, Raw) else self.pickle(document)
        with zipfile.ZipFile(path, "w", **zip_options) as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/byteorder", b"little")
            for key, storage in enumerate(self.storages):
                archive.writestr(f"archive/data/{key}", storage)
            archive.writestr("archive/version", b"3\n")
        return path

    def _emit(self, value: Any) -> bytes:
        if isinstance(value, Raw):
            return bytes(value)
        if isinstance(value, np.ndarray):
            return self._tensor(value)
        if value is None or isinstance(value, bool):
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        if isinstance(value, int):
            return b"\x8a\x08" + struct.pack("<q", value)
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        items = b"".join(map(self._emit, value))
        if isinstance(value, dict):
            start = b"ccollections\nOrderedDict\n)R" if isinstance(value, OrderedDict) else b"}"
            return start + b"(" + b"".join(self._emit(key) + self._emit(each) for key, each in value.items()) + b"u"
        return b"](" + items + b"e" if isinstance(value, list) else b"(" + items + b"t"

    def _tensor(self, array: np.ndarray) -> bytes:
        key = str(len(self.storages))
        self.storages.append(array.tobytes())
        strides = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides[: array.ndim])
        storage = ("storage", Raw(f"ctorch\n{STORAGES[array.dtype.name]}\n".encode()), key, "cpu", array.size)
        arguments = (Raw(self._emit(storage) + b"Q"), 0, array.shape, strides, False, OrderedDict())
        return b"ctorch._utils\n_rebuild_tensor_v2\n" + self._emit(arguments) + b"R"


@pytest.fixture
def torch_file() -> Callable[..., Path]:
    """torch_file(path, document) -> the file that torch.save would write."""
    return lambda path, document, **options: TorchFile().write(path, document, **options)


@pytest.fixture
def raw() -> type[Raw]:
    return Raw


@dataclass
class Hub:
    """Repositories by name, each a dict from paths to contents; those in `private` need `token`."""

    endpoint: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    revisions: dict[str, str] = field(default_factory=lambda: {"main": "1" * 40, "v1": "2" * 40})
    token: str = "hf_secret"
    requests: list[str] = field(default_factory=list)

    def add(self, repository: str, folder: Path) -> None:
        files = [path for path in folder.rglob("*") if path.is_file()]
        self.repositories[repository] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    def answer(self, path: str, token: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, body."""
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            return self._about(parts[2:], token)
        cut = parts.index("resolve")
        repository, revision, file = "/".join(parts[:cut]), parts[cut + 1], "/".join(parts[cut + 2 :])
        refusal = self._refusal(repository, revision, token)
        if refusal:
            return refusal
        if file not in self.repositories[repository]:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        content = self.repositories[repository][file]
        commit = self.revisions.get(revision, revision)
        return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}, content

    def _about(self, parts: list[str], token: str) -> tuple[int, dict[str, str], bytes]:
        cut = next((i for i, part in enumerate(parts) if part in ("revision", "tree")), len(parts))
        repository, revision = "/".join(parts[:cut]), parts[cut + 1] if cut < len(parts) else "main"
        refusal = self._refusal(repository, revision, token)
        if refusal:
            return refusal
        files = self.repositories[repository]
        if parts[cut : cut + 1] == ["tree"]:
            tree = [{"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40} for name in files]
            return 200, {}, json.dumps(tree).encode()
        about = {
            "id": repository, "sha": self.revisions.get(revision, revision), "private": False, "tags": [],
            "siblings": [{"rfilename": name} for name in files],
        }  # fmt: skip
        return 200, {}, json.dumps(about).encode()

    def _refusal(self, repository: str, revision: str, token: str) -> tuple[int, dict[str, str], bytes] | None:
        if repository in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if repository not in self.repositories or (repository in self.private and token != f"Bearer {self.token}"):
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in {*self.revisions, *self.revisions.values()}:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        return None


@pytest.fixture
def hub() -> Iterator[Hub]:
    """An empty hub that listens on the loopback address."""
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.requests.append(f"{self.command} {self.path}")
            status, headers, body = served.answer(self.path, self.headers.get("Authorization", ""))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()
    thread.join()
