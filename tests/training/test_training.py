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
from training import corpus, export, loss, memorisation, optimizer, pieces, plays, train  # noqa: E402
from training import run as trained  # noqa: E402

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


ARCHITECTURES = [("radd", "absorb"), ("ddit", "absorb"), ("ddit", "uniform"), ("annotated", "uniform")]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("abcd efgh\n\n" * 400)
    return path


def run(text: Path, folder: Path, minutes: float, *more: str) -> str:
    arguments = [
        str(text), str(folder), "--minutes", str(minutes), "--tokens", "10", "--length", "64", "--width", "16",
        "--heads", "2", "--blocks", "1", "--batch", "2", "--device", "cpu", "--float32", *more,
    ]  # fmt: skip
    done = CliRunner().invoke(train.main, arguments)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(("architecture", "graph"), ARCHITECTURES)
def test_a_run_trains_resumes_and_is_read(tmp_path: Path, text: Path, architecture: str, graph: str) -> None:
    folder = tmp_path / "run"
    kind = ("--architecture", architecture, "--graph", graph)
    first = run(text, folder, 0.005, *kind)
    assert "from step 0" in first and "nats per character" in first
    assert "from step 0" not in run(text, folder, 0.01, *kind)
    model = fastsedd.load(folder)
    assert (model.config.architecture, model.config.graph) == (architecture, graph)
    assert set(model.generate(steps=2, seed=0).texts[0]) <= set("abcdefgh \n")
    assert json.loads((folder / "config.json").read_text())["tokens"] == 10


def test_a_run_with_merges_and_more_text_is_annealed_and_exported(tmp_path: Path, text: Path) -> None:
    """The annealed run is another one: that which it begins from is left as it was."""
    more = tmp_path / "more.txt"
    more.write_text("efgh abcd abcd\n\n" * 200)
    folder, annealed = tmp_path / "run", tmp_path / "annealed"
    run(text, folder, 0.005, "--tokens", "16", "--extra", str(more))
    before = (folder / "state.pt").read_bytes()
    run(text, folder, 0.005, "--tokens", "16", "--extra", str(more), "--anneal", str(annealed))
    assert (folder / "state.pt").read_bytes() == before
    arguments = [str(text), str(annealed), str(tmp_path / "out"), "--steps", "4", "--count", "2", "--times", "1"]
    done = CliRunner().invoke(export.main, arguments)
    assert done.exit_code == 0, done.output
    model = fastsedd.load(tmp_path / "out")
    assert model.config.tokens == 16 and len(model.config.merges) == 6
    assert model.tokenizer.decode(model.tokenizer.encode("abcd efgh\n")) == "abcd efgh\n"
    assert "nats per character" in (tmp_path / "out" / "README.md").read_text()


def test_a_step_after_a_resumption_is_the_same_step(tmp_path: Path, text: Path) -> None:
    """Weights, optimizers' states, the average and the random numbers are all kept."""
    texts = corpus.read(text)
    config = train.describe(corpus.tokenizer(texts, 10), train.Shape("radd", "absorb", 32, 16, 1, 2, 0.1))
    data = corpus.tokenise(texts, config)

    def step(run: trained.Run) -> None:
        run.take_step(corpus.random_batch(data.own, 4, 32), 1.0)

    torch.manual_seed(0)
    one = trained.Run(tmp_path / "one", config, trained.Rates(), "cpu", bfloat16=False)
    for _ in range(3):
        step(one)
    one.save()
    other = trained.Run(tmp_path / "other", config, trained.Rates(), "cpu", bfloat16=False)
    other.resume(tmp_path / "one" / "state.pt")
    step(other)
    torch.set_rng_state(torch.load(tmp_path / "one" / "state.pt", weights_only=True)["rng"])
    step(one)
    assert one.step == other.step == 4
    for name, tensor in one.network.state_dict().items():
        torch.testing.assert_close(other.network.state_dict()[name], tensor, rtol=0, atol=0)
        if name in one.average:
            torch.testing.assert_close(other.average[name], one.average[name], rtol=0, atol=0)


def test_the_any_order_bound_is_that_of_the_engine(tmp_path: Path, text: Path) -> None:
    """The training loss of networks without noise is the likelihood bound that fastsedd evaluates."""
    torch.manual_seed(0)
    texts = corpus.read(text)
    config = train.describe(corpus.tokenizer(texts, 10), train.Shape("radd", "absorb", 16, 16, 1, 2, 0.0))
    made = trained.Run(tmp_path / "run", config, trained.Rates(), "cpu", bfloat16=False)
    torch.nn.init.normal_(made.network.output_layer.linear.weight, std=0.5)
    made.average = {name: tensor.detach().clone() for name, tensor in made.network.named_parameters()}
    made.save()
    windows = corpus.windows(corpus.tokenise(texts, config).validation, 16)
    network = made.averaged()
    with torch.no_grad():
        values = torch.cat(
            [loss.any_order_bound(network, config, windows, loss.stratified_times(len(windows))) for _ in range(64)]
        )
    evaluated = fastsedd.load(tmp_path / "run").evaluate(texts.validation[: 16 * len(windows)], times=64)
    error = float(values.std() / len(values) ** 0.5) + (evaluated.nats_error or 0.0)
    assert abs(float(values.mean()) - evaluated.nats) < 5 * error


def test_corpus_is_split(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("ba" * 50)
    texts = corpus.read(path)
    assert texts.characters == "ab" and len(texts.own) == 90 and len(texts.validation) == 10
    tokens = corpus.tokenise(texts, {"tokenizer": {"type": "characters", "characters": "ab"}})
    assert tokens.own.tokens[:2].tolist() == [1, 0] and tokens.extra is None
    assert corpus.windows(tokens.own.tokens, 40).shape == (2, 40)


def test_merges_are_learnt_of_the_most_frequent_pairs() -> None:
    assert pieces.learn("ab ab abab cd", " abcd", 8) == [(1, 2), (0, 5)]
    assert pieces.learn("ab cd", " abcd", 99) == []  # no pair occurs twice


PLAY = """# A Play

## Act 1

**FIRST LORD**
The quality of mercy is not strained, _Aside._ it droppeth
as the gentle rain

**SECOND LORD**
_Exit_

**FIRST LORD**
O brave new world that has such people in it, and more of it
"""


def test_plays_are_rendered_without_what_is_known_already() -> None:
    found = list(plays.speeches(PLAY))
    assert [each.speaker for each in found] == ["FIRST LORD", "FIRST LORD"]
    assert found[0].text == ("FIRST LORD:\nThe quality of mercy is not strained,  it droppeth\nas the gentle rain")
    known = plays.windows("O, BRAVE new world; that has such people in it, and more of it!")
    assert plays.overlap(found[1], known) and not plays.overlap(found[0], known)
    assert plays.without_overlap(found, known) == found[:1]
    assert plays.without_overlap(found[1:], known) == []


def test_the_longest_shared_run() -> None:
    assert memorisation.longest_shared_run("xxabcabcdzz", "--abcd--abcab") == "abcab"
    assert memorisation.longest_shared_run("xyz", "abc") == ""
    assert memorisation.side_by_side("abcdefgh", 3) == ["abc", "def"]
    read = corpus.Texts("the king is dead", "long live", "the queen is")
    assert memorisation.table(["king is", "quux"], read).splitlines()[2:] == [
        "| generated, 2 | 7 | 7 | 7 | 7 |",
        "| real, 2 | 4 | 4 | 4 | 4 |",
    ]
