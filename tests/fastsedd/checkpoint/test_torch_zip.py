"""PyTorch's files: what torch.save writes comes back, from whatever it was called on; a pickle never runs."""

from __future__ import annotations

import json
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastsedd import checkpoint
from fastsedd.checkpoint import torch_zip, unpickler
from fastsedd.errors import CheckpointError

# What louaaron/sedd-small says of itself, with other sizes.
PUBLISHED_CONFIG = {
    "data": {"cache_dir": "data", "train": "openwebtext", "valid": "wikitext103"},
    "eval": {"batch_size": 512, "perplexity": True, "perplexity_batch_size": 32},
    "graph": {"file": "data", "report_all": False, "type": "absorb"},
    "model": {
        "cond_dim": 8, "dropout": 0.1, "hidden_size": 16, "length": 12, "n_blocks": 2, "n_heads": 2, "name": "small",
        "scale_by_sigma": True, "type": "ddit",
    },
    "ngpus": 8,
    "noise": {"sigma_max": 20, "sigma_min": 0.0001, "type": "loglinear"},
    "optim": {"beta1": 0.9, "eps": 1e-08, "grad_clip": 1.0, "optimizer": "AdamW", "weight_decay": 0},
    "sampling": {"noise_removal": True, "predictor": "euler", "steps": 128},
    "tokens": 5,
    "training": {"accum": 1, "ema": 0.9999, "n_iters": 1300001},
}  # fmt: skip

HYDRA_CONFIG = """\
ngpus: 8
tokens: 5
training:
  ema: 0.9999
  snapshot_sampling: true
graph:
  type: absorb
  file: data
noise:
  type: geometric
  sigma_min: 1e-4
  sigma_max: 20
model:
  name: small
  type: ddit
  hidden_size: 16
  cond_dim: 8
  length: 12
  n_blocks: 2
  n_heads: 2
  scale_by_sigma: true
  dropout: 0.1
hydra:
  run:
    dir: exp_local/${data.train}
"""


def published_state(seed: int = 0) -> OrderedDict[str, np.ndarray]:
    """The state dict of Lou et al.'s model, in its order, as FORMATS of the papers' code has it; random."""
    width, cond, vocabulary = 16, 8, 6
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("vocab_embed.embedding", (vocabulary, width)),
        ("sigma_map.mlp.0.weight", (cond, 256)), ("sigma_map.mlp.0.bias", (cond,)),
        ("sigma_map.mlp.2.weight", (cond, cond)), ("sigma_map.mlp.2.bias", (cond,)),
        ("rotary_emb.inv_freq", (width // 4,)),
    ]  # fmt: skip
    for i in range(2):
        shapes += [
            (f"blocks.{i}.norm1.weight", (width,)), (f"blocks.{i}.attn_qkv.weight", (3 * width, width)),
            (f"blocks.{i}.attn_out.weight", (width, width)), (f"blocks.{i}.norm2.weight", (width,)),
            (f"blocks.{i}.mlp.0.weight", (4 * width, width)), (f"blocks.{i}.mlp.0.bias", (4 * width,)),
            (f"blocks.{i}.mlp.2.weight", (width, 4 * width)), (f"blocks.{i}.mlp.2.bias", (width,)),
            (f"blocks.{i}.adaLN_modulation.weight", (6 * width, cond)),
            (f"blocks.{i}.adaLN_modulation.bias", (6 * width,)),
        ]  # fmt: skip
    shapes += [
        ("output_layer.norm_final.weight", (width,)),
        ("output_layer.linear.weight", (vocabulary, width)), ("output_layer.linear.bias", (vocabulary,)),
        ("output_layer.adaLN_modulation.weight", (2 * width, cond)),
        ("output_layer.adaLN_modulation.bias", (2 * width,)),
    ]  # fmt: skip
    rng = np.random.default_rng(seed)
    return OrderedDict((name, rng.standard_normal(shape, dtype=np.float32)) for name, shape in shapes)


def parameters(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: tensor for name, tensor in state.items() if name != "rotary_emb.inv_freq"}


def assert_holds(found: checkpoint.Checkpoint, expected: dict[str, np.ndarray]) -> None:
    assert found.tensors.keys() == parameters(expected).keys()
    for name, tensor in found.tensors.items():
        np.testing.assert_array_equal(tensor, np.asarray(expected[name], np.float32))
        assert tensor.dtype == np.float32 and tensor.flags.c_contiguous and not tensor.flags.writeable


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        torch_zip.read(path)
    assert str(caught.value).isprintable() and str(path) in str(caught.value)
    return str(caught.value)


def test_the_published_layout(tmp_path: Path, torch_file: Callable[..., Path]) -> None:
    torch_file(tmp_path / "pytorch_model.bin", published_state())
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED_CONFIG))
    found = checkpoint.read(tmp_path)
    assert (found.config.architecture, found.config.graph, found.config.vocab_size) == ("ddit", "absorb", 6)
    assert found.config.scale_by_sigma and found.config.noise.type == "loglinear" and found.config.characters is None
    assert found.stored_dtype == "float32"
    assert_holds(found, published_state())


def test_simplex_of_a_third_party_is_uniform(tmp_path: Path, torch_file: Callable[..., Path]) -> None:
    state = published_state()
    for name in ("vocab_embed.embedding", "output_layer.linear.weight", "output_layer.linear.bias"):
        state[name] = state[name][:5]
    torch_file(tmp_path / "pytorch_model.bin", state)
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED_CONFIG | {"graph": {"type": "simplex"}}))
    assert checkpoint.read(tmp_path).config.graph == "uniform"


def test_shorter_dtypes(tmp_path: Path, torch_file: Callable[..., Path]) -> None:
    for dtype in (np.float16, np.uint16):
        state = published_state()
        bits = OrderedDict(
            (name, each.astype(np.float16) if dtype is np.float16 else (each.view(np.uint32) >> 16).astype(np.uint16))
            for name, each in state.items()
        )
        torch_file(tmp_path / "pytorch_model.bin", bits)
        (tmp_path / "config.json").write_text(json.dumps(PUBLISHED_CONFIG))
        found = checkpoint.read(tmp_path)
        assert found.stored_dtype == {np.float16: "float16", np.uint16: "bfloat16"}[dtype]
        exact = {
            name: each if dtype is np.float16 else (each.astype(np.uint32) << 16).view(np.float32)
            for name, each in bits.items()
        }
        assert_holds(found, exact)


@pytest.mark.parametrize("given", ["run", "run/checkpoints-meta", "run/checkpoints-meta/checkpoint.pth"])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.module."])
def test_a_training_run_gives_its_moving_average(
    tmp_path: Path, torch_file: Callable[..., Path], given: str, wrapper: str
) -> None:
    run = tmp_path / "run"
    for folder in ("checkpoints-meta", ".hydra"):
        (run / folder).mkdir(parents=True)
    (run / ".hydra" / "config.yaml").write_text(HYDRA_CONFIG)
    averaged = published_state(seed=1)
    document = {
        "optimizer": {"state": {0: {"step": 3, "exp_avg": np.ones(3, np.float32)}}, "param_groups": [{"lr": 3e-4}]},
        "model": OrderedDict((wrapper + name, tensor) for name, tensor in published_state().items()),
        "ema": {"decay": 0.9999, "num_updates": 3, "shadow_params": list(parameters(averaged).values())},
        "step": 3,
    }
    torch_file(run / "checkpoints-meta" / "checkpoint.pth", document)
    found = checkpoint.read(tmp_path / given)
    assert (found.config.noise.sigma_min, found.config.noise.sigma_max) == (1e-4, 20.0)
    assert_holds(found, averaged)


@pytest.mark.parametrize("change", [lambda shadows: shadows.pop(), lambda shadows: shadows.reverse()])
def test_a_moving_average_of_another_model(tmp_path: Path, torch_file: Callable[..., Path], change: Any) -> None:
    shadows = list(parameters(published_state()).values())
    change(shadows)
    path = torch_file(tmp_path / "x.pth", {"model": published_state(), "ema": {"shadow_params": shadows}})
    assert "ema.shadow_params" in refusal(path)


def test_files_that_pytorch_writes(tmp_path: Path) -> None:
    """torch.save itself: a module's state dict, parameters, views and transposed tensors, an optimizer that has run."""
    torch = pytest.importorskip("torch")
    state = published_state()
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED_CONFIG))

    saved = OrderedDict((name, torch.nn.Parameter(torch.from_numpy(each.copy()))) for name, each in state.items())
    saved["blocks.0.attn_out.weight"] = torch.from_numpy(state["blocks.0.attn_out.weight"].T.copy()).T
    both = torch.from_numpy(np.concatenate([state["blocks.0.norm1.weight"], state["blocks.0.norm2.weight"]]))
    saved["blocks.0.norm1.weight"], saved["blocks.0.norm2.weight"] = both[:16], both[16:]
    saved._metadata = {"": {"version": 1}}
    torch.save(saved, tmp_path / "pytorch_model.bin")
    assert_holds(checkpoint.read(tmp_path), state)

    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    averaged = published_state(seed=1)
    shadows = [torch.from_numpy(tensor) for tensor in parameters(averaged).values()]
    document = {
        "optimizer": optimizer.state_dict(),
        "model": OrderedDict((name, torch.from_numpy(tensor)) for name, tensor in state.items()),
        "ema": {"decay": 0.99, "num_updates": 1, "shadow_params": shadows},
        "step": 1,
    }
    torch.save(document, tmp_path / "checkpoint.pth")
    assert_holds(checkpoint.read(tmp_path / "checkpoint.pth"), averaged)

    torch.save(document, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    assert "format before 1.6" in refusal(tmp_path / "legacy.pth")


def test_this_files_writer_is_pytorchs(tmp_path: Path, torch_file: Callable[..., Path]) -> None:
    torch = pytest.importorskip("torch")
    loaded = torch.load(torch_file(tmp_path / "x.bin", published_state()), weights_only=True)
    assert list(loaded) == list(published_state())
    for name, tensor in published_state().items():
        np.testing.assert_array_equal(loaded[name].numpy(), tensor)


@pytest.mark.parametrize(
    ("instructions", "words"),
    [
        (b"cos\nsystem\n(X\x0c\x00\x00\x00touch MARKERtR", "names 'os.system'"),
        (b"cposix\nsystem\n(X\x0c\x00\x00\x00touch MARKERtR", "names 'posix.system'"),
        (b"c__builtin__\neval\n(X\x15\x00\x00\x00open('MARKER', 'w')  tR", "names '__builtin__.eval'"),
        (b"cbuiltins\nexec\n(X\x15\x00\x00\x00open('MARKER', 'w')  tR", "names 'builtins.exec'"),
        (b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93(X\x0c\x00\x00\x00touch MARKERtR", "names 'os.system'"),
        (b"(S'touch MARKER'\nios\nsystem\n", "the instruction STRING"),
        (b"(X\x0c\x00\x00\x00touch MARKERios\nsystem\n", "the instruction INST"),
        (b"(cos\nsystem\nX\x0c\x00\x00\x00touch MARKERo", "names 'os.system'"),
        (b"ctorch\nload\n(X\x06\x00\x00\x00MARKERtR", "names 'torch.load'"),
        (b"cmodule_that_marks\nrun\n)R", "names 'module_that_marks.run'"),
        (b"cmodule_that_marks\nRun\n)\x81", "names 'module_that_marks.Run'"),
        (b"ccollections\nOrderedDict\n)\x81", "calls something that is not a function"),
        (b"ccollections\nOrderedDict.__reduce__\n)R", "names 'collections.OrderedDict.__reduce__'"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n}X\x04\x00\x00\x00evil\x88sb", "changes a Name"),
        (b"ctorch\nFloatStorage\n)R", "calls something that is not a function"),
        (b"}}b)R", "calls something that is not a function"),
        (b"cevil\x1b[2J\nx\n", "names 'evil\\x1b[2J.x'"),
        (b"\x82\x01", "the instruction EXT1"),
        (b"P0\n", "the instruction PERSID"),
        (b"\x97", "the instruction NEXT_BUFFER"),
    ],
)
def test_a_hostile_pickle_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch_file: Callable[..., Path], raw: type,
    instructions: bytes, words: str,
) -> None:  # fmt: skip
    (tmp_path / "module_that_marks.py").write_text("open('MARKER', 'w')\ndef run(): pass\nclass Run: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = torch_file(tmp_path / "pytorch_model.bin", raw(b"\x80\x02}" + instructions + b"s."))
    assert words in refusal(path)
    assert not (tmp_path / "MARKER").exists()


def test_the_hostile_pickles_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above shows something only if its files are dangerous to whoever unpickles them."""
    import pickle

    monkeypatch.chdir(tmp_path)
    pickle.loads(b"\x80\x02c__builtin__\neval\n(X\x15\x00\x00\x00open('MARKER', 'w')  tR0N.")
    assert (tmp_path / "MARKER").exists()


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"", "ends before"),
        (b"\x80\x02", "ends before"),
        (b".", "pop from empty list"),
        (b"t.", "pop from empty list"),
        (b"q\x01.", "out of range"),
        (b"\xff.", "has the instruction"),
        (b"ctorch\nFloat", "ends in a name"),
        (b"ctorch\n\xff\n.", "broken"),
        (b"h\x07.", "broken"),
        (b"K\x01.", "holds a int"),
        (b"](K\x01e.", "holds a list"),
        (b"}X\x01\x00\x00\x00aK\x01s.", "'a' is a int"),
        (b"}K\x01K\x01s.", "'1' is a int"),
        (b"})K\x01s.", "a key of type tuple"),
        (b"}(K\x01u.", "broken"),
        (b"K\x01K\x02a.", "changes a int"),
        (b"\x8a\x09" + b"\xff" * 8 + b"\x7f.", "more than 64 bits"),
        (b"\x8b\xff\xff\xff\x7f.", "broken"),
        (b"X\xff\xff\xff\x7f.", "broken"),
        (b"}r\xff\xff\xff\x7f.", "holds"),
        (b"(\x8c\x07storagectorch\nFloatStorage\n\x8c\x010\x8c\x03cpuJ\xff\xff\xff\xfftQ.", "not a storage"),
        (b"N" * (unpickler.MAX_INSTRUCTIONS + 1) + b".", "instructions"),
    ],
)  # fmt: skip
def test_a_broken_pickle(
    tmp_path: Path, torch_file: Callable[..., Path], raw: type, pickled: bytes, words: str
) -> None:
    if words == "holds":  # a dict under a huge number in the memo, which costs no memory here
        assert unpickler.loads(pickled) == {}
    else:
        assert words in refusal(torch_file(tmp_path / "x.bin", raw(pickled)))


def test_nested_tuples_cost_nothing() -> None:
    """Each holds the one before twice: whoever walks through them, or hashes them, never comes back."""
    nested = b"\x80\x02)" + b"2\x86" * 200 + b"."
    assert "the instruction DUP" in _pickle_refusal(nested)
    memoised = b"\x80\x02)" + b"".join(b"q\x01h\x01\x86" for _ in range(200))
    assert "a key of type tuple" in _pickle_refusal(memoised + b"q\x01}h\x01K\x01s.")
    assert "not a storage" in _pickle_refusal(
        memoised + b"q\x01}h\x01h\x01h\x01h\x01h\x01(h\x01h\x01h\x01h\x01h\x01tQ."
    )


def _pickle_refusal(pickled: bytes) -> str:
    with pytest.raises(unpickler.PickleError) as caught:
        unpickler.loads(pickled)
    return str(caught.value)


def test_a_compressed_archive(tmp_path: Path, torch_file: Callable[..., Path]) -> None:
    path = torch_file(tmp_path / "x.bin", published_state(), compression=zipfile.ZIP_DEFLATED)
    assert "'data.pkl' is compressed" in refusal(path)


def test_a_compressed_storage(tmp_path: Path, torch_file: Callable[..., Path]) -> None:
    source = torch_file(tmp_path / "x.bin", published_state())
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(tmp_path / "y.bin", "w") as changed:
        for entry in whole.infolist():
            kind = zipfile.ZIP_DEFLATED if entry.filename == "archive/data/3" else zipfile.ZIP_STORED
            changed.writestr(entry.filename, whole.read(entry), kind)
    assert "'data/3' is compressed" in refusal(tmp_path / "y.bin")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entries: entries.update({"archive/constants.pkl": b""}), "TorchScript"),
        (lambda entries: entries.update({"archive/byteorder": b"big"}), "big-endian"),
        (lambda entries: entries.pop("archive/data/2"), "no entry 'data/2'"),
        (lambda entries: entries.update({"archive/data/2": b"1234"}), "has 4 bytes for"),
        (lambda entries: entries.pop("archive/data.pkl"), "0 entries data.pkl"),
        (lambda entries: entries.update({"other/data.pkl": b"N."}), "2 entries data.pkl"),
    ],
)
def test_an_archive_that_is_not_pytorchs(
    tmp_path: Path, torch_file: Callable[..., Path], change: Callable[[dict[str, bytes]], object], words: str
) -> None:
    with zipfile.ZipFile(torch_file(tmp_path / "x.bin", published_state())) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(tmp_path / "y.bin", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert words in refusal(tmp_path / "y.bin")


def test_a_tensor_beyond_its_storage(tmp_path: Path, torch_file: Callable[..., Path]) -> None:
    path = torch_file(tmp_path / "x.bin", {"a": np.zeros((4, 2), np.float32)})
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("archive/data.pkl").replace(b"\x8a\x08\x04" + bytes(7), b"\x8a\x08\x05" + bytes(7))
        storage = archive.read("archive/data/0")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", storage)
    assert "'a' reaches beyond its storage" in refusal(path)


def test_a_truncated_archive(tmp_path: Path, torch_file: Callable[..., Path]) -> None:
    content = torch_file(tmp_path / "whole.bin", published_state()).read_bytes()
    for length in (0, 3, 30, len(content) // 2, len(content) - 1):
        (tmp_path / "x.bin").write_bytes(content[:length])
        assert "not a complete PyTorch file" in refusal(tmp_path / "x.bin")


def test_an_archive_with_a_long_list_of_entries(
    tmp_path: Path, torch_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = torch_file(tmp_path / "x.bin", published_state())
    monkeypatch.setattr(torch_zip, "MAX_DIRECTORY", 100)
    monkeypatch.setattr(torch_zip, "MAX_PICKLE", 100)
    assert "more than 100 bytes" in refusal(path)


def test_other_dtypes_are_named(tmp_path: Path, torch_file: Callable[..., Path]) -> None:
    """The dtype of a tensor that is needed; others may have any."""
    state = published_state() | {"rotary_emb.inv_freq": np.ones(4)}
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED_CONFIG))
    torch_file(tmp_path / "pytorch_model.bin", state)
    assert_holds(checkpoint.read(tmp_path), published_state())
    torch_file(tmp_path / "pytorch_model.bin", state | {"blocks.0.norm1.weight": np.ones(16)})
    with pytest.raises(CheckpointError, match=r"'blocks\.0\.norm1\.weight' has dtype float64, allowed: float32"):
        checkpoint.read(tmp_path)
