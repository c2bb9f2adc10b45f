"""Conversion: the same values in a folder that is whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

import fastsedd
from fastsedd import checkpoint, cli
from fastsedd.checkpoint import safetensors_file


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("architecture", "graph"), [("annotated", "uniform"), ("ddit", "absorb")])
def test_every_value_is_kept(
    tmp_path: Path, write_checkpoint: Any, make_config: Any, make_tensors: Any, architecture: str, graph: str,
    dtype: Any,
) -> None:  # fmt: skip
    config = make_config(architecture, graph)
    target = fastsedd.convert(write_checkpoint(config, dtype=dtype), tmp_path / "converted")
    assert checkpoint.read(target).config == config
    for name, tensor in load_file(target / "model.safetensors").items():  # as the format's own library reads it
        assert tensor.dtype == dtype
        np.testing.assert_array_equal(tensor, make_tensors(config)[name].astype(dtype))


def test_bfloat16_and_mixed_dtypes_from_pytorch(
    tmp_path: Path, make_config: Any, make_tensors: Any, make_document: Any, torch_file: Callable[..., Path]
) -> None:
    config = make_config("annotated", "uniform", tokens=65, width=128, cond_dim=3, characters=None)
    tensors = make_tensors(config)
    stored = {
        name: (each.view(np.uint32) >> 16).astype(np.uint16) if each.ndim == 2 else each
        for name, each in tensors.items()
    }
    torch_file(tmp_path / "model.pth", stored)
    progress: list[tuple[int, int]] = []
    target = fastsedd.convert(
        tmp_path / "model.pth",
        tmp_path / "converted",
        heads=2,
        progress=lambda done, total: progress.append((done, total)),
    )
    assert progress == [(i + 1, len(tensors)) for i in range(len(tensors))]
    found = checkpoint.read(target)
    assert found.stored_dtype == "bfloat16" and found.config.characters is not None
    for name, bits in stored.items():
        expected = (bits.astype(np.uint32) << 16).view(np.float32) if bits.dtype == np.uint16 else bits
        np.testing.assert_array_equal(found.tensors[name], expected)
    text = fastsedd.load(target).generate(steps=2, seed=1).texts
    assert text == fastsedd.load(tmp_path / "model.pth", heads=2).generate(steps=2, seed=1).texts


def test_the_tokenizer_goes_along(tmp_path: Path, write_checkpoint: Any, make_config: Any) -> None:
    folder = write_checkpoint(make_config(characters=None))
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_text("{}")
    target = fastsedd.convert(folder, tmp_path / "converted")
    assert {path.name for path in target.iterdir()} == {"model.safetensors", "config.json", "vocab.json", "merges.txt"}


def test_an_empty_folder_is_filled_and_another_kept(tmp_path: Path, write_checkpoint: Any, make_config: Any) -> None:
    source = write_checkpoint(make_config())
    (tmp_path / "empty").mkdir()
    assert CliRunner().invoke(cli.main, ["convert", str(source), str(tmp_path / "empty")]).exit_code == 0
    assert checkpoint.read(tmp_path / "empty").config == make_config()
    before = (source / "model.safetensors").read_bytes()
    result = CliRunner().invoke(cli.main, ["convert", str(source), str(source)])
    assert result.exit_code == 1 and "exists already" in result.stderr
    assert (source / "model.safetensors").read_bytes() == before
    result = CliRunner().invoke(cli.main, ["convert", str(source), str(source / "config.json")])
    assert result.exit_code == 1 and "exists already, allowed: a new or an empty folder" in result.stderr


@pytest.mark.parametrize("fails", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, write_checkpoint: Any, make_config: Any, fails: BaseException
) -> None:
    source = write_checkpoint(make_config())

    def fail(done: int, total: int) -> None:
        if done == 5:
            raise fails

    with pytest.raises(type(fails)):
        fastsedd.convert(source, tmp_path / "converted", progress=fail)
    assert list(tmp_path.iterdir()) == [source]


def test_a_faulty_source_leaves_nothing(
    tmp_path: Path, write_checkpoint: Any, make_config: Any, make_tensors: Any
) -> None:
    tensors = make_tensors(make_config())
    tensors["blocks.1.norm2.weight"][0] = np.nan
    source = write_checkpoint(make_config(), tensors)
    result = CliRunner().invoke(cli.main, ["convert", str(source), str(tmp_path / "converted")])
    assert result.exit_code == 1 and "NaN" in result.stderr
    assert list(tmp_path.iterdir()) == [source]


def test_a_folder_that_cannot_be_made(tmp_path: Path, write_checkpoint: Any, make_config: Any) -> None:
    result = CliRunner().invoke(cli.main, ["convert", str(write_checkpoint(make_config())), str(tmp_path / "no" / "x")])
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1


def test_one_tensor_is_in_memory_at_a_time(
    tmp_path: Path, write_checkpoint: Any, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tracemalloc

    config = make_config(width=256, heads=4, blocks=4)
    source = checkpoint.read(write_checkpoint(config))
    largest = 4 * 256 * 4 * 256
    tracemalloc.start()
    try:
        safetensors_file.write(tmp_path / "x.safetensors", source.stored, lambda done, total: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < largest + (3 << 20) < 4 * config.parameters
