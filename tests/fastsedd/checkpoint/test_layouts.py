"""Language models as uploads and trainers leave them: names before names, formats, shards; a table of what loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import masked_models
import numpy as np
import pytest
from safetensors.numpy import save_file

from fastsedd import CheckpointError, checkpoint
from fastsedd.checkpoint.stored import StoredTensor

Tensors = dict[str, np.ndarray]
LAYOUTS: dict[str, Callable[[str], str]] = {
    "as published": lambda name: name,
    "DistributedDataParallel": lambda name: f"module.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "a trainer's module": lambda name: f"model.{name}",
    "DeepSpeed within Lightning": lambda name: f"_forward_module.model.{name}",
    "compiled layers": lambda name: name.replace(".0.", ".0._orig_mod."),
    "without its head's class": lambda name: name.removeprefix("model."),
}


def as_safetensors(folder: Path, tensors: Tensors) -> None:
    save_file(tensors, folder / "model.safetensors")


def as_shards(folder: Path, tensors: Tensors) -> None:
    files = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def as_bin(folder: Path, tensors: Tensors) -> None:
    torch = pytest.importorskip("torch")
    torch.save({name: torch.tensor(tensor) for name, tensor in tensors.items()}, folder / "pytorch_model.bin")


def as_training_run(folder: Path, tensors: Tensors) -> None:
    torch = pytest.importorskip("torch")
    state = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "checkpoint.pth")


FORMATS = {"safetensors": as_safetensors, "shards": as_shards, "bin": as_bin, "training run": as_training_run}
FAMILIES = ("a2d-qwen3", "Dream", "llama", "llada", "gpt2", "smdm", "bd3lm")  # one of each set of names
TABLE = [
    *((layout, "safetensors", family) for layout in LAYOUTS for family in FAMILIES),
    *((layout, form, family) for layout in ("as published", "both") for form in FORMATS if form != "safetensors"
      for family in ("Dream", "llada", "smdm", "bd3lm")),
]  # fmt: skip


def written(folder: Path, family: str, form: str, rename: Callable[[str], str], **changes: object) -> Tensors:
    """A folder in some format, its tensors renamed; what they were."""
    folder.mkdir()
    config = masked_models.config(family, **changes)
    tensors = masked_models.tensors(config)
    (folder / "config.json").write_text(json.dumps(masked_models.document(family, **changes)))
    FORMATS[form](folder, {rename(name): tensor for name, tensor in tensors.items()})
    return tensors


@pytest.mark.parametrize(("layout", "form", "family"), dict.fromkeys(TABLE))
def test_it_loads_the_same_numbers(tmp_path: Path, layout: str, form: str, family: str) -> None:
    expected = written(tmp_path / "model", family, form, LAYOUTS[layout])
    read = checkpoint.read(tmp_path / "model")
    assert read.stored.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(read.tensors[name], tensor)


@pytest.mark.parametrize("family", ["Dream", "a2d-qwen3"])
def test_a_tied_embedding_may_be_stored_as_the_head(tmp_path: Path, family: str) -> None:
    rename = {"model.embed_tokens.weight": "lm_head.weight"}
    expected = written(tmp_path / "model", family, "safetensors", lambda name: rename.get(name, name))
    read = checkpoint.read(tmp_path / "model")
    found = read.tensors["model.embed_tokens.weight"]
    np.testing.assert_array_equal(found, expected["model.embed_tokens.weight"])


def test_a_tensor_that_fits_no_name_is_told_by_its_own(tmp_path: Path) -> None:
    tensors = written(tmp_path / "model", "Dream", "safetensors", LAYOUTS["torch.compile"])
    wrapped = {f"_orig_mod.{name}": each for name, each in tensors.items()}
    as_safetensors(tmp_path / "model", wrapped | {"a.b": np.ones(1)})
    with pytest.raises(CheckpointError, match=r"'a\.b': not expected in the Dream architecture"):
        checkpoint.read(tmp_path / "model")


def test_names_that_fit_twice_are_left_alone(tmp_path: Path) -> None:
    tensors = written(tmp_path / "model", "Dream", "safetensors", LAYOUTS["as published"])
    name = next(iter(tensors))
    both = {f"module.{each}": tensor for each, tensor in tensors.items()} | {f"_orig_mod.{name}": tensors[name]}
    as_safetensors(tmp_path / "model", both)
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        checkpoint.read(tmp_path / "model")


def test_looking_for_names_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: StoredTensor, name: str) -> np.ndarray:
        raise AssertionError(name)

    written(tmp_path / "model", "llada", "safetensors", LAYOUTS["both"])
    monkeypatch.setattr(StoredTensor, "read", refuse)
    assert checkpoint.read(tmp_path / "model").config.architecture == "llada"
