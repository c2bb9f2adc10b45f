"""A file of weights on its own: what its shapes tell, what it may state itself, and what is assumed or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import fastsedd
from fastsedd import checkpoint, cli
from fastsedd.architectures.base import ModelConfig
from fastsedd.errors import CheckpointError

PUBLISHED = {"tokens": 65, "width": 384, "blocks": 6, "cond_dim": 64, "length": 256}


@pytest.fixture
def bare(tmp_path: Path, make_config: Any, make_tensors: Any) -> Callable[..., Path]:
    """bare(metadata, **sizes) -> a file of the annotated architecture, of width 128 and with 65 tokens."""

    def write(metadata: dict[str, str] | None = None, **sizes: Any) -> Path:
        config = make_config("annotated", "uniform", characters=None, **{"tokens": 65, "width": 128, **sizes})
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        save_file(make_tensors(config), path, metadata=metadata)
        return path

    return write


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(path, **options)
    assert str(caught.value).isprintable() and str(caught.value).startswith(str(path))
    return str(caught.value)


def test_the_published_sizes_are_taken_for_the_published_model(bare: Any) -> None:
    """Nothing beside it: sizes from the shapes, 65 characters from the table, and 6 heads, which is said."""
    path = bare(**PUBLISHED)
    found = checkpoint.read(path)
    config = found.config
    assert {name: getattr(config, name) for name in PUBLISHED} == PUBLISHED
    assert (config.architecture, config.heads, config.graph) == ("annotated", 6, "uniform")
    assert (config.noise.type, config.noise.sigma_min, config.noise.sigma_max) == ("geometric", 1e-4, 20.0)
    assert config.characters is not None and len(config.characters) == 65
    assert found.assumed == f"6 heads of 64, the published model's: {path} does not say (--heads N)"
    told = checkpoint.read(path, heads=12)
    assert told.config.heads == 12 and told.assumed == ""


@pytest.mark.parametrize("width", [32, 64, 96, 128, 384])
def test_other_sizes_are_refused_until_the_heads_are_given(bare: Any, width: int) -> None:
    path = bare(width=width, heads=2)
    words = refusal(path)
    assert f"does not say how many heads share its width of {width}" in words and "--heads N" in words
    if width % 64 == 0:
        assert f"{width // 32} of 32, {width // 64} of 64" in words
    assert checkpoint.read(path, heads=2).config.heads == 2
    assert "heads is 5" in refusal(path, heads=5)


@pytest.mark.parametrize("name", ["n_head", "n_heads", "num_heads", "heads", "num_attention_heads"])
@pytest.mark.parametrize("place", ["", "config", "model_args"])
def test_heads_that_a_safetensors_file_states(bare: Any, name: str, place: str) -> None:
    metadata = {name: "4"} if not place else {place: json.dumps({name: 4, "n_embd": 128, "n_layer": 2})}
    path = bare(metadata | {"format": "pt"})
    found = checkpoint.read(path)
    assert found.config.heads == 4 and found.assumed == ""
    assert checkpoint.read(path, heads=4).config.heads == 4
    assert "states 4 heads, but 2 were requested" in refusal(path, heads=2)


@pytest.mark.parametrize("place", ["config", "model_args", "hyper_parameters"])
def test_heads_that_a_pytorch_file_states(
    tmp_path: Path, make_config: Any, make_tensors: Any, torch_file: Any, place: str
) -> None:
    config = make_config("annotated", "uniform", characters=None, tokens=65, width=128, heads=4)
    beside = {
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 128,
        "block_size": 12,
        "bias": False,
        "vocab_size": 65,
        "dropout": 0.2,
    }
    document = {"model": make_tensors(config), "iter_num": 5000, "tokens": 10**9, place: beside}
    assert checkpoint.read(torch_file(tmp_path / "x.pt", document)).config.heads == 4
    document[place] = beside | {"n_embd": 64}
    assert "states width 64, but its tensors have 128" in refusal(torch_file(tmp_path / "x.pt", document))
    del document[place]
    assert "does not say how many heads" in refusal(torch_file(tmp_path / "x.pt", document))
    assert "does not say" in refusal(torch_file(tmp_path / "x.pt", make_tensors(config)))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"n_head": "4", "n_heads": "2"}, "states n_heads 2 and n_head 4"),
        ({"config": '{"n_head": 4.0}'}, "states n_head as a float"),
        ({"config": '{"n_head": true}'}, "states n_head as a bool"),
        ({"n_head": "four"}, "states n_head as a str"),
        ({"n_head": "0"}, "heads is 0"),
        ({"n_head": "3"}, "heads is 3"),
        ({"n_head": "4", "n_layer": "7"}, "states blocks 7, but its tensors have 2"),
        ({"n_head": "4", "vocab_size": "66"}, "states tokens 66, but its tensors have 65"),
        ({"n_head": "4", "sigma_min": "30"}, "sigma_min is 30.0"),
        ({"n_head": "4", "sigma_min": "x"}, "could not convert"),
        ({"config": "{"}, "does not say how many heads"),
        ({"config": "[" * 5000}, "does not say how many heads"),
        ({"config": "small.yaml"}, "does not say how many heads"),
        ({"config": json.dumps({"tokens": 65, "model": {"hidden_size": 7}})}, "cond_dim"),
    ],
)
def test_statements_that_a_file_may_not_make(bare: Any, metadata: dict[str, str], words: str) -> None:
    assert words in refusal(bare(metadata))


def test_noise_that_a_file_states(bare: Any) -> None:
    noise = checkpoint.read(bare({"n_head": "4", "sigma_min": "1e-3", "sigma_max": "10"})).config.noise
    assert (noise.type, noise.sigma_min, noise.sigma_max) == ("geometric", 1e-3, 10.0)


@pytest.mark.parametrize("architecture", ["annotated", "ddit", "mdlm"])
def test_a_whole_config_in_a_file(
    tmp_path: Path, make_config: Any, make_tensors: Any, make_document: Any, torch_file: Any, architecture: str
) -> None:
    """A config of any architecture: the file then needs nothing beside it."""
    config: ModelConfig = make_config(architecture, "uniform" if architecture == "annotated" else "absorb")
    document = make_document(config)
    save_file(make_tensors(config), tmp_path / "x.safetensors", metadata={"config": json.dumps(document)})
    torch_file(tmp_path / "x.pt", {"state_dict": make_tensors(config), "config": document})
    for name in ("x.safetensors", "x.pt"):
        assert checkpoint.read(tmp_path / name).config == config
        assert "heads, but 8 were requested" in refusal(tmp_path / name, heads=8)


def test_a_config_beside_the_file_comes_first(write_checkpoint: Any, make_config: Any) -> None:
    folder = write_checkpoint(make_config())
    assert checkpoint.read(folder, heads=2).config == make_config()
    with pytest.raises(CheckpointError, match=r"config\.json: states 2 heads, but 4 were requested"):
        checkpoint.read(folder, heads=4)


def test_heads_change_the_scores(bare: Any) -> None:
    path = bare(width=64)
    tokens = np.arange(12)[None]
    scores = [fastsedd.load(path, heads=heads).log_score(tokens, [1.0]) for heads in (1, 2, 1)]
    assert np.array_equal(scores[0], scores[2]) and not np.allclose(scores[0], scores[1])


def test_assumed_heads_are_said_once_and_in_inspect(bare: Any, tmp_path: Path) -> None:
    path = bare(**PUBLISHED)
    result = CliRunner().invoke(cli.main, ["inspect", str(path)])
    assert result.exit_code == 0 and "6 of 64, assumed: the file does not say (--heads N)" in result.stdout
    assert [line for line in result.stderr.splitlines() if "assumed" in line] == [
        f"assumed: 6 heads of 64, the published model's: {path} does not say (--heads N)"
    ]
    result = CliRunner().invoke(cli.main, ["inspect", str(path), "--heads", "12"])
    assert result.exit_code == 0 and "12 of 32" in result.stdout and "assumed:" not in result.output
    result = CliRunner().invoke(cli.main, ["convert", str(path), str(tmp_path / "out")])
    assert result.exit_code == 0 and result.stderr.count("assumed: 6 heads") == 1
    assert checkpoint.read(tmp_path / "out").assumed == ""
