"""Names on the hub, from a hub on the loopback address, each in a process of its own: its library reads the
environment when it is imported."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fastsedd import checkpoint
from fastsedd.checkpoint import hub as hubs
from fastsedd.errors import CheckpointError

pytest.importorskip("huggingface_hub")


@dataclass
class Client:
    """The command line with a cache of its own, which the next call finds again."""

    folder: Path
    environment: dict[str, str]

    def convert(self, name: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`fastsedd convert`, which compiles nothing; its result is in `self.result`."""
        self.result = self.folder / f"result-{len(list(self.folder.iterdir()))}"
        return self.run("convert", name, str(self.result), *options, **environment)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fastsedd", *arguments],
            capture_output=True, text=True, timeout=300, env=self.environment | environment, cwd=self.folder,
        )  # fmt: skip


@pytest.fixture
def client(tmp_path: Path, hub: Any) -> Client:
    foreign = re.compile(r"hf_|.*proxy", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not foreign.match(name)}
    return Client(tmp_path, kept | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache")})


@pytest.fixture
def published(hub: Any, tmp_path: Path, make_config: Any, make_tensors: Any, torch_file: Callable[..., Path]) -> Any:
    """owner/sedd, as the authors' repositories are: pytorch_model.bin and config.json, and files that do not matter."""
    config = make_config(characters=None)
    folder = tmp_path / "published"
    folder.mkdir()
    torch_file(folder / "pytorch_model.bin", make_tensors(config) | {"rotary_emb.inv_freq": np.ones(4, np.float32)})
    document = {
        "graph": {"type": "absorb", "file": "data", "report_all": False}, "tokens": 5, "ngpus": 8,
        "noise": {"type": "loglinear", "sigma_min": 0.0001, "sigma_max": 20},
        "model": {
            "name": "small", "type": "ddit", "hidden_size": 16, "cond_dim": 8, "length": 12,
            "n_blocks": 2, "n_heads": 2, "scale_by_sigma": True, "dropout": 0.1,
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(document))
    (folder / "README.md").write_text("not needed")
    hub.add("owner/sedd", folder)
    return config


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1, done
    return done.stderr


def test_a_published_model(client: Client, hub: Any, published: Any, make_tensors: Any) -> None:
    done = client.convert("owner/sedd")
    assert done.returncode == 0 and done.stderr == "", done
    found = checkpoint.read(client.result)
    assert found.config == published
    for name, tensor in make_tensors(published).items():
        np.testing.assert_array_equal(found.tensors[name], tensor)
    assert not any("README" in request for request in hub.requests)


def test_fetched_files_are_used_offline(client: Client, hub: Any, published: Any) -> None:
    assert "not in the hub's cache" in refusal(client.convert("owner/sedd", "--offline"))
    assert hub.requests == []
    assert client.convert("owner/sedd").returncode == 0
    seen = len(hub.requests)
    assert client.convert("owner/sedd", "--offline").returncode == 0
    assert client.convert("owner/sedd", HF_HUB_OFFLINE="1").returncode == 0
    assert len(hub.requests) == seen
    assert client.convert("owner/sedd", HF_ENDPOINT="http://127.0.0.1:9").returncode == 0  # the network is down
    assert refusal(client.convert("owner/sedd", "--offline", HF_HUB_CACHE=str(client.folder / "other")))


def test_a_hub_that_is_out_of_reach(client: Client) -> None:
    assert "the hub cannot be reached" in refusal(client.convert("owner/sedd", HF_ENDPOINT="http://127.0.0.1:9"))


def test_revisions(client: Client, published: Any) -> None:
    assert client.convert("owner/sedd", "--revision", "v1").returncode == 0
    assert client.convert("owner/sedd", "--revision", "v1", "--offline").returncode == 0
    assert client.convert("owner/sedd", "--revision", "2" * 40, "--offline").returncode == 0
    assert "not in the hub's cache" in refusal(client.convert("owner/sedd", "--offline"))
    assert "has no revision 'v7'" in refusal(client.convert("owner/sedd", "--revision", "v7"))
    assert "not a name on the hub" in refusal(client.convert(str(client.folder), "--revision", "v1"))


def test_private_and_gated_repositories(client: Client, hub: Any, published: Any) -> None:
    hub.private.add("owner/sedd")
    assert "set HF_TOKEN" in refusal(client.convert("owner/sedd"))
    assert client.convert("owner/sedd", HF_TOKEN=hub.token).returncode == 0
    hub.gated.add("owner/gated")
    assert "gated" in refusal(client.convert("owner/gated"))


def test_missing_repositories_and_files(client: Client, hub: Any, published: Any) -> None:
    said = refusal(client.convert("owner/nothing/inside"))
    assert "owner/nothing/inside: no such file or folder, and on the hub no repository owner/nothing" in said
    assert "has no file or folder 'nothing.bin'" in refusal(client.convert("owner/sedd/nothing.bin"))
    hub.repositories["owner/empty"] = {"README.md": b""}
    assert "holds no file of weights" in refusal(client.convert("owner/empty"))


@pytest.mark.parametrize("name", ["", "/converted_safetensors", "/converted_safetensors/model_epoch_25.safetensors"])
def test_a_file_inside_a_repository_without_a_config(
    client: Client, hub: Any, make_config: Any, make_tensors: Any, name: str
) -> None:
    """The article's."""
    config = make_config("annotated", "uniform", tokens=65, width=128, characters=None)
    save_file(make_tensors(config), client.folder / "x.safetensors")
    weights = (client.folder / "x.safetensors").read_bytes()
    hub.repositories["owner/articles"] = {
        "README.md": b"", "src/model.c": b"", "converted_safetensors/model_epoch_25.safetensors": weights,
    }  # fmt: skip
    assert "does not say how many heads" in refusal(client.convert(f"owner/articles{name}"))
    assert client.convert(f"owner/articles{name}", "--heads", "2").returncode == 0
    assert client.convert(f"owner/articles{name}", "--offline", "--heads", "2").returncode == 0
    assert checkpoint.read(client.result).config.architecture == "annotated"
    hub.repositories["owner/articles"]["converted_safetensors/model_epoch_24.safetensors"] = weights
    if not name.endswith("25.safetensors"):
        assert "name one of" in refusal(client.convert(f"owner/articles{name}"))


def test_a_training_run_on_the_hub(
    client: Client, hub: Any, published: Any, make_tensors: Any, torch_file: Callable[..., Path]
) -> None:
    """Its config lies beside the folder of the weights, and is fetched too."""
    tensors = make_tensors(published)
    averaged = {name: 2 * tensor for name, tensor in tensors.items()}
    run = {"model": tensors, "ema": {"shadow_params": list(averaged.values())}}
    weights = torch_file(client.folder / "x.pth", run).read_bytes()
    config = hub.repositories["owner/sedd"]["config.json"]
    hub.repositories["owner/run"] = {"checkpoints-meta/checkpoint.pth": weights, ".hydra/config.yaml": config}
    assert client.convert("owner/run").returncode == 0
    assert client.convert("owner/run/checkpoints-meta/checkpoint.pth", "--offline").returncode == 0
    for name, tensor in load_file(client.result / "model.safetensors").items():
        np.testing.assert_array_equal(tensor, averaged[name])


def test_shared_out_weights(client: Client, hub: Any, published: Any, make_tensors: Any) -> None:
    files = hub.repositories["owner/sedd"]
    del files["pytorch_model.bin"]
    names = list(make_tensors(published))
    weight_map = {name: f"model-0000{1 + i % 3}-of-00003.safetensors" for i, name in enumerate(names)}
    for shard in set(weight_map.values()):
        part = {name: tensor for name, tensor in make_tensors(published).items() if weight_map[name] == shard}
        save_file(part, client.folder / "x.safetensors")
        files[shard] = (client.folder / "x.safetensors").read_bytes()
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    assert client.convert("owner/sedd").returncode == 0
    converted = load_file(client.result / "model.safetensors")
    assert converted.keys() == published.tensor_shapes.keys()


def test_gpt2s_tokenizer_comes_from_the_hub(
    client: Client, hub: Any, make_config: Any, write_checkpoint: Callable[..., Path]
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {character: i for i, character in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    model = tokenizers.models.BPE({**vocabulary, "<|endoftext|>": 50256}, [])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    hub.repositories["gpt2"] = {"tokenizer.json": tokenizer.to_str().encode(), "model.safetensors": b"large"}
    folder = write_checkpoint(make_config(tokens=50257, characters=None, width=4, heads=2, blocks=1))
    arguments = ["generate", "--model", str(folder), "--prefix", "Hé!", "--steps", "1", "--seed", "3", "--json"]

    without = client.run(*arguments, "--offline")
    assert without.returncode == 1 and "token ids, for want of a tokenizer: gpt2: is not in" in without.stderr
    assert client.run(*arguments, "--offline", "--tokenizer", "owner/other").returncode == 1
    done = client.run(*arguments)
    assert done.returncode == 0, done
    sample = json.loads(done.stdout)
    assert sample["text"].startswith("Hé!") and sample["tokens"][:4] == [vocabulary[c] for c in "HÃ©!"]
    assert not any("safetensors" in request for request in hub.requests)
    seen = len(hub.requests)
    assert client.run(*arguments).stdout.split('"seconds"')[0] == done.stdout.split('"seconds"')[0]
    assert len(hub.requests) == seen  # it does not change: the hub is not asked again


def test_without_the_library(client: Client) -> None:
    program = (
        "import sys; sys.modules['huggingface_hub'] = sys.modules['huggingface_hub.constants'] = None;"
        "from fastsedd.cli import main; main(['convert', 'owner/sedd', 'x'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=client.environment, cwd=client.folder
    )
    assert "pip install 'fastsedd[hub]'" in refusal(done)


def test_a_path_is_never_taken_for_a_name(client: Client, hub: Any, write_checkpoint: Any, make_config: Any) -> None:
    (client.folder / "owner").mkdir()
    write_checkpoint(make_config()).rename(client.folder / "owner" / "sedd")
    assert client.convert("owner/sedd").returncode == 0
    assert hub.requests == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", ("owner/name", "")),
        ("owner/name-1.5_b", ("owner/name-1.5_b", "")),
        ("owner/name/folder", ("owner/name", "folder")),
        ("owner/name/folder/x.bin", ("owner/name", "folder/x.bin")),
        ("gpt2", None),
        ("/owner/name", None),
        ("./owner/name", None),
        ("~/name", None),
        ("owner/..", None),
        ("owner/name/../x", None),
        ("owner//name", None),
        ("owner/name/", ("owner/name", "")),
        ("owner/name/folder/", ("owner/name", "folder")),
        ("owner/name//", None),
        ("folder/model.safetensors", None),
        ("folder/model.safetensors.index.json", None),
        ("owner/näme", None),
        ("owner/name\n", None),
        ("o/" + "x" * 5000, None),
    ],
)
def test_names_on_the_hub(text: str, expected: tuple[str, str] | None) -> None:
    assert hubs.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", None),
        ("/owner/name", None),
        ("C:/owner/name", None),
        ("https://huggingface.co/owner/name", ("owner/name", None)),
        (" https://huggingface.co/owner/name/\n", ("owner/name", None)),
        ("HTTPS://huggingface.co/owner/name", ("owner/name", None)),
        ("https://huggingface.co/owner/name/tree/main", ("owner/name", "main")),
        ("https://huggingface.co/owner/name/tree/v1/sub/dir?x=1#y", ("owner/name/sub/dir", "v1")),
        ("https://huggingface.co/owner/name/resolve/main/x.bin?download=true", ("owner/name/x.bin", "main")),
        ("https://huggingface.co/owner/name/blob/main/x.bin", ("owner/name/x.bin", "main")),
        ("https://huggingface.co/owner/name/commit/abc", ("owner/name", "abc")),
        ("https://huggingface.co/owner/name/tree/refs%2Fpr%2F1", ("owner/name", "refs/pr/1")),
        ("hf://owner/name@refs%2Fpr%2F1", ("owner/name", "refs/pr/1")),
        ("huggingface.co/owner/name", ("owner/name", None)),
        ("hf.co/owner/name/tree/v1", ("owner/name", "v1")),
        ("hf://owner/name", ("owner/name", None)),
        ("hf://owner/name@v1/x.bin", ("owner/name/x.bin", "v1")),
        ("hf://models/owner/name", ("owner/name", None)),
        ("https://huggingface.co/gpt2", ("gpt2", None)),
        ("http://hub.example:8080/owner/name", ("owner/name", None)),
    ],
)
def test_addresses(monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, str | None] | None) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example:8080")
    assert hubs.address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/datasets/owner/name",
        "https://huggingface.co/spaces/owner/name",
        "https://huggingface.co/",
        "https://huggingface.co",
        "https://example.com/owner/name",
        "https://huggingface.co.example.com/owner/name",
        "https://[",
        "s3://bucket/name",
        "file:///tmp/x.safetensors",
        "hf://",
        "hf://datasets/owner/name",
    ],
)
def test_addresses_of_something_else(text: str) -> None:
    with pytest.raises(CheckpointError, match="allowed: ") as caught:
        checkpoint.read(text)
    assert str(caught.value).startswith(text) and "no such file" not in str(caught.value)


def test_an_address_is_fetched_like_the_name_in_it(client: Client, hub: Any, published: Any) -> None:
    assert client.convert(f"{hub.endpoint}/owner/sedd/tree/v1").returncode == 0
    assert client.convert("owner/sedd/", "--revision", "v1", "--offline").returncode == 0
    assert "names the revision 'v1', but 'main' was requested" in refusal(
        client.convert(f"{hub.endpoint}/owner/sedd/tree/v1", "--revision", "main")
    )


def test_a_disk_that_is_full_is_not_told_as_a_hub_out_of_reach(client: Client, published: Any) -> None:
    """A limit on the size of files: what the operating system then refuses is what a full disk is, a write."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192));"
        "from fastsedd.cli import main; main(['convert', 'owner/sedd', 'x'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=client.environment, cwd=client.folder
    )
    assert f"cannot be kept in the hub's cache, {client.folder}" in done.stderr and "File too large" in done.stderr
    assert done.returncode == 1 and "cannot be reached" not in done.stderr
    (client.folder / "file").write_text("")
    done = client.convert("owner/sedd", HF_HUB_CACHE=str(client.folder / "file" / "x"))
    assert done.returncode == 1 and "Not a directory" in done.stderr.splitlines()[-1]  # before it, the library's own


def test_errors_of_files_and_of_networks() -> None:
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        assert hubs._refused_file(OSError(code, os.strerror(code))) == os.strerror(code)
    wrapped = RuntimeError("could not be stored")
    wrapped.__cause__ = OSError(errno.ENOSPC, "full")
    assert hubs._refused_file(wrapped) == os.strerror(errno.ENOSPC)
    assert hubs._refused_file(RuntimeError("IO error: No space left on device (os error 28)")) is not None
    for error in (
        ConnectionRefusedError(errno.ECONNREFUSED, "x"), TimeoutError("x"), socket.gaierror(-2, "x"),
        OSError(errno.ENETUNREACH, "x"), OSError("x"), RuntimeError("x"),
    ):  # fmt: skip
        assert hubs._refused_file(error) is None
