"""The trainer: its losses are what the paper says, its optimizer orthogonalises, its runs resume and load."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra: the trainer's")

from click.testing import CliRunner  # noqa: E402

import fastsedd  # noqa: E402
from training import corpus, loss, optimizer, train  # noqa: E402

SIGMA = torch.tensor([0.2, 1.0, 4.0])


def test_absorb_entropy_is_cross_entropy_plus_what_normalisation_lacks() -> None:
    """With score Z q / (e^sigma - 1): (-log q + Z - 1 - log Z) / (e^sigma - 1)."""
    logits = torch.randn(3, 7, 5, dtype=torch.float64).log_softmax(-1)
    clean = torch.randint(0, 5, (3, 7))
    expected = -logits.gather(-1, clean[..., None])[..., 0] / SIGMA.expm1()[:, None]
    for log_z in (0.0, 0.7):
        score = logits + log_z - SIGMA.expm1().log()[:, None, None]
        score = torch.cat([score, torch.zeros(3, 7, 1)], -1)
        result = loss.absorb_entropy(score, SIGMA, clean, torch.ones(3, 7, dtype=torch.bool))
        lacking = (math.exp(log_z) - 1 - log_z) / SIGMA.expm1()[:, None]
        np.testing.assert_allclose(result, expected + lacking, rtol=1e-5)
    assert not loss.absorb_entropy(score, SIGMA, clean, torch.zeros(3, 7, dtype=torch.bool)).any()


def test_uniform_entropy_is_zero_at_the_true_ratio_and_above_it_elsewhere() -> None:
    vocab, clean, noisy = 5, torch.tensor([[2, 2]]), torch.tensor([[2, 4]])  # one token stayed, one jumped
    sigma = torch.tensor([0.8], dtype=torch.float64)
    jump = (1 - torch.exp(-sigma)) / vocab
    given_clean = torch.full((1, 2, vocab), jump.item(), dtype=torch.float64)
    given_clean[..., 2] += torch.exp(-sigma).item()
    ratio = (given_clean / given_clean.gather(-1, noisy[..., None])).log()
    np.testing.assert_allclose(loss.uniform_entropy(ratio, sigma, clean, noisy), 0, atol=1e-12)
    off = ratio + 0.3 * torch.randn(ratio.shape, dtype=torch.float64)
    off = off.scatter(-1, noisy[..., None], 0.0)
    assert (loss.uniform_entropy(off, sigma, clean, noisy) > 0).all()


def test_orthogonalise() -> None:
    for shape in ((8, 8), (4, 12), (12, 4)):
        left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
        spread = left @ torch.diag(torch.linspace(0.2, 3, min(shape))) @ right
        singular = torch.linalg.svdvals(optimizer.orthogonalise(spread))
        assert (singular > 0.6).all()
        assert (singular < 1.25).all()


def test_stratified_times_cover_the_unit_interval() -> None:
    t = loss.stratified_times(64)
    assert ((t * 64).long() == torch.arange(64)).all()


@pytest.mark.parametrize(("architecture", "graph"), [("ddit", "absorb"), ("ddit", "uniform"), ("annotated", "uniform")])
def test_a_run_trains_resumes_and_is_read(tmp_path: Path, architecture: str, graph: str) -> None:
    text = tmp_path / "corpus.txt"
    text.write_text("abcd efgh\n" * 1000)
    folder = tmp_path / "run"

    def run(minutes: float) -> str:
        arguments = [
            str(text), str(folder), "--minutes", str(minutes), "--architecture", architecture, "--graph", graph,
            "--width", "16", "--heads", "2", "--blocks", "1", "--batch", "2", "--no-compile", "--device", "cpu",
        ]  # fmt: skip
        done = CliRunner().invoke(train.main, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    first = run(0.02)
    assert "from step 0" in first and "validation bound" in first
    assert "from step 0" not in run(0.04)
    model = fastsedd.load(folder)
    assert (model.config.architecture, model.config.graph) == (architecture, graph)
    assert set(model.generate(steps=2, seed=0).texts[0]) <= set("abcdefgh \n")
    assert json.loads((folder / "config.json").read_text())["tokens"] == 10


def test_corpus_is_split(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("ba" * 50)
    read = corpus.read(path)
    assert read.characters == "ab" and len(read.train) == 90 and len(read.validation) == 10
    assert read.train[:2].tolist() == [1, 0]
    assert corpus.windows(read.train, 40).shape == (2, 40)
