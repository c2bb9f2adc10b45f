"""A new architecture is one file in architectures/, one in models/ and a line of the registry: here they are made."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import fastsedd
from fastsedd import architectures, cli, models
from fastsedd.architectures import registry

# A bag of tokens: the mean of the embeddings, and of what is known where.
ARCHITECTURE = '''
from typing import Any

from fastsedd.architectures import documents
from fastsedd.architectures.base import Architecture, ModelConfig, Output, Widths


class Bag(Architecture):
    """Every position sees its own embedding and the mean of all."""

    name = network = "bag"
    states = frozenset({"embedding", "head.weight", "head.bias"})
    Document = documents.Stored

    def recognises(self, model_type: str, inner_type: str) -> bool:
        return inner_type == "bag"

    def config(self, stored: documents.Stored) -> ModelConfig:
        return documents.from_stored(self, stored, documents.stated_graph(stored))

    def document(self, config: ModelConfig) -> dict[str, Any]:
        return documents.document(config)

    def tensor_shapes(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        shape = (config.vocab_size, config.width)
        return {"embedding": shape, "head.weight": shape, "head.bias": shape[:1]}

    def widths(self, config: ModelConfig) -> Widths:
        return Widths(stream=config.width, qkv=config.width, hidden=0, modulation=0)

    def output(self, config: ModelConfig) -> Output:
        return "score"
'''

NETWORK = """
import fastsedd_kernels as fk

from fastsedd.models.layers import Linear


class Bag:
    def __init__(self, config, tensors, precision):
        self.config = config
        self.embedding = tensors["embedding"]
        self.head = Linear.read(tensors, "head", precision.head)

    def trunk(self, scratch):
        fk.embedding(scratch.tokens, self.embedding, out=scratch.x)
        fk.layer_norm(scratch.x, out=scratch.attended)

    def finish(self, scratch, rows):
        return fk.layer_norm(rows.attended, out=rows.normed)


build = Bag
"""


@pytest.fixture
def bag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a checkpoint of the new architecture, which is registered meanwhile."""
    (tmp_path / "architectures").mkdir()
    (tmp_path / "architectures" / "bag.py").write_text(ARCHITECTURE)
    (tmp_path / "models" / "bag").mkdir(parents=True)
    (tmp_path / "models" / "bag" / "__init__.py").write_text("")
    (tmp_path / "models" / "bag" / "network.py").write_text(NETWORK)
    monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(tmp_path / "architectures")])
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path / "models")])
    from fastsedd.architectures.bag import Bag  # type: ignore[import-not-found]

    monkeypatch.setattr(registry, "ARCHITECTURES", [Bag(), *registry.ARCHITECTURES])
    document = {
        "tokens": 5, "graph": {"type": "absorb"}, "noise": {"type": "loglinear"},
        "model": {"type": "bag", "hidden_size": 8, "cond_dim": 1, "length": 12, "n_blocks": 1, "n_heads": 1},
        "tokenizer": {"type": "characters", "characters": "\nabcd"},
    }  # fmt: skip
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(document))
    rng = np.random.default_rng(0)
    shapes = {"embedding": (6, 8), "head.weight": (6, 8), "head.bias": (6,)}
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    yield folder
    for name in ("fastsedd.architectures.bag", "fastsedd.models.bag", "fastsedd.models.bag.network"):
        sys.modules.pop(name, None)


def test_a_new_architecture_writes_and_evaluates(bag: Path, tmp_path: Path) -> None:
    model = fastsedd.load(bag)
    assert (model.config.architecture, model.config.output, model.parameters) == ("bag", "score", 6 * 8 * 2 + 6)
    first, second = (model.generate(prefix="ab", num_samples=2, steps=8, seed=seed).texts for seed in (1, 1))
    assert first == second and all(text.startswith("ab") and len(text) == 12 for text in first)
    assert np.isfinite(model.evaluate("abcd" * 6).nats)
    assert model.log_score([[0, 5, 5]], [1.0]).shape == (1, 3, 6)
    fastsedd.convert(bag, tmp_path / "converted")
    assert fastsedd.load(tmp_path / "converted").generate(prefix="ab", num_samples=2, steps=8, seed=1).texts == first


def test_inspect_shows_it(bag: Path) -> None:
    result = CliRunner().invoke(cli.main, ["inspect", str(bag)])
    shown = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert result.exit_code == 0
    assert (shown["architecture"], shown["predicts"], shown["parameters"]) == ("bag", "score", "102")
    assert shown["vocabulary"] == "5 tokens and a mask, 5"


def test_its_files_are_checked_like_any_others(bag: Path) -> None:
    save_file({"embedding": np.zeros((6, 9), np.float32)}, bag / "model.safetensors")
    with pytest.raises(fastsedd.CheckpointError, match=r"embedding has shape \[6, 9\], expected \[6, 8\]"):
        fastsedd.load(bag)
