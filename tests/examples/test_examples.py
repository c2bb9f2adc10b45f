"""The examples give what transformers gives, from the folders that it writes."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.03, "int8": 0.06}  # relative to the result's norm


def of_transformers(kind: str, config: str, folder: Path, **sizes: Any) -> Any:
    """A model of transformers with random weights, written to the folder."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**sizes)).eval()
    for parameter in model.parameters():  # biases and norms as they are made would not show
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(folder)
    return model


def result(model: Any, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(tokens))[0])


def check(found: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= TOLERANCE[dtype] * np.linalg.norm(expected)
    if dtype == "float32":
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gpt2(dtype: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": 101, "n_embd": 60, "n_layer": 3, "n_head": 5, "n_positions": 40}
    model = of_transformers("GPT2LMHeadModel", "GPT2Config", tmp_path, **sizes)
    tokens = np.random.default_rng(0).integers(0, 101, (2, 33))
    ours = runpy.run_path(str(EXAMPLES / "gpt2.py"))["GPT2"](tmp_path, dtype)
    check(ours(tokens), result(model, tokens), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_bert(dtype: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": 101, "hidden_size": 60, "num_hidden_layers": 3, "num_attention_heads": 5}
    model = of_transformers("BertModel", "BertConfig", tmp_path, **sizes, intermediate_size=100)
    tokens = np.random.default_rng(0).integers(0, 101, (2, 33))
    ours = runpy.run_path(str(EXAMPLES / "bert.py"))["Bert"](tmp_path, dtype)
    check(ours(tokens), result(model, tokens), dtype)


def test_gpt2_continues_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"vocab_size": 101, "n_embd": 60, "n_layer": 2, "n_head": 5, "n_positions": 40}
    model = of_transformers("GPT2LMHeadModel", "GPT2Config", tmp_path, **sizes)
    monkeypatch.setattr(sys, "argv", ["gpt2.py", str(tmp_path), "3", "1", "4", "--new", "5"])
    runpy.run_path(str(EXAMPLES / "gpt2.py"), run_name="__main__")
    tokens = [3, 1, 4]
    for _ in range(5):
        tokens.append(int(result(model, np.array([tokens]))[0, -1].argmax()))
    assert capsys.readouterr().out.splitlines()[0] == " ".join(map(str, tokens))


def test_bert_gives_a_texts_vector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"vocab_size": 101, "hidden_size": 60, "num_hidden_layers": 2, "num_attention_heads": 5}
    model = of_transformers("BertModel", "BertConfig", tmp_path, **sizes, intermediate_size=100)
    monkeypatch.setattr(sys, "argv", ["bert.py", str(tmp_path), "3", "1", "4"])
    runpy.run_path(str(EXAMPLES / "bert.py"), run_name="__main__")
    vector = np.array(capsys.readouterr().out.split(), float)
    np.testing.assert_allclose(vector, result(model, np.array([[3, 1, 4]]))[0].mean(axis=0), atol=1e-4)
