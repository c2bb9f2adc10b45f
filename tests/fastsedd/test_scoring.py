"""Networks against the float64 reference: the article's shapes, and the others' layouts, over all of the noise."""

from __future__ import annotations

import fastsedd_kernels as fk
import numpy as np
import pytest
import reference_scores
from fastsedd_kernels.sampling import reference as sampling

from fastsedd import models
from fastsedd.diffusion.sampler import FREE, Batch
from fastsedd.diffusion_process import DiffusionProcess
from fastsedd.models import reference as networks
from fastsedd.request import Request
from fastsedd.scoring import Scoring

ARTICLE = {"tokens": 65, "width": 384, "heads": 6, "cond_dim": 64, "length": 256, "characters": None}
CASES = {
    "annotated": ("annotated", "uniform", {**ARTICLE, "blocks": 6}),
    "ddit absorb": ("ddit", "absorb", {**ARTICLE, "blocks": 2}),
    "ddit absorb unscaled": ("ddit", "absorb", {**ARTICLE, "blocks": 1, "scale_by_sigma": False}),
    "ddit uniform": ("ddit", "uniform", {**ARTICLE, "blocks": 1}),
    "ddit uniform scaled": ("ddit", "uniform", {**ARTICLE, "blocks": 1, "scale_by_sigma": True}),
    "mdlm": ("mdlm", "absorb", {**ARTICLE, "blocks": 1}),
    "mdlm told the noise": ("mdlm", "absorb", {**ARTICLE, "blocks": 1, "time_conditioning": True}),
    "udlm": ("udlm", "uniform", {**ARTICLE, "blocks": 1}),
    "udlm not told the noise": ("udlm", "uniform", {**ARTICLE, "blocks": 1, "time_conditioning": False}),
    "duo": ("duo", "uniform", {**ARTICLE, "blocks": 2}),
    "radd": ("radd", "absorb", {**ARTICLE, "blocks": 2}),
    "tiny": ("ddit", "absorb", {}),
}


def poisoned(network: models.Network, batch: int, length: int, sigmas: int = 1) -> Scoring:
    scoring = Scoring.of(network, batch, length, sigmas)
    poison(scoring)
    return scoring


def poison(scoring: Scoring) -> None:
    for array in vars(scoring.forward.scratch).values():
        array.fill(np.nan if array.dtype.kind == "f" else -1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", [1, 3])
def test_parity(make_config, make_tensors, case: str, batch: int) -> None:
    architecture, graph, changes = CASES[case]
    config = make_config(architecture, graph, **changes)
    tensors = make_tensors(config)
    network = models.build(config, tensors)
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, config.vocab_size, (batch, config.length)).astype(np.int32)
    scoring = poisoned(network, batch, config.length, batch)
    for sigmas in ([1e-4], [0.5, 3.0, 1e-3], [6.9], [20.0]):  # the first is recorded, the others are replayed
        sigma = np.resize(sigmas, batch).astype(np.float64)
        poison(scoring)
        result = scoring(tokens, sigma)
        expected = reference_scores.log_score(config, tensors, tokens, sigma)
        possible = np.isfinite(expected)
        assert possible.all() or config.normalised
        np.testing.assert_array_equal(result[~possible], expected[~possible])
        assert np.abs(result[possible] - expected[possible]).max() < 1e-4
        assert not np.take_along_axis(result, tokens[..., None], -1).any()


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.02), ("int8", 0.04)])
@pytest.mark.parametrize("case", CASES)
def test_shorter_numbers_are_near(make_config, make_tensors, case: str, dtype: str, tolerance: float) -> None:
    architecture, graph, changes = CASES[case]
    config = make_config(architecture, graph, **changes)
    tensors = make_tensors(config)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (2, config.length)).astype(np.int32)
    result = poisoned(models.build(config, tensors, dtype), 2, config.length)(tokens, np.array([0.5]))
    expected = reference_scores.log_score(config, tensors, tokens, np.array([0.5, 0.5]))
    result, expected = (each[np.isfinite(expected)] for each in (result, expected))
    assert 0 < np.linalg.norm(result - expected) < tolerance * np.linalg.norm(expected)


def asked_about(config, tokens: np.ndarray) -> np.ndarray:
    """Some positions, masks under absorb."""
    may = np.flatnonzero(tokens == config.mask_id) if config.mask_id else np.arange(tokens.size)
    return may[np.random.default_rng(4).permutation(len(may))[: max(1, len(may) // 2)]]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_log_scores_are_those_of_all(make_config, make_tensors, case: str, dtype: str) -> None:
    """To the bit: a position's result depends on nothing but the text, whichever others are asked about."""
    architecture, graph, changes = CASES[case]
    config = make_config(architecture, graph, **changes)
    network = models.build(config, make_tensors(config), dtype)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (2, config.length)).astype(np.int32)
    tokens[:, ::2] = config.vocab_size - 1
    whole = poisoned(network, 2, config.length)(tokens, np.array([0.7])).reshape(-1, config.vocab_size)
    rows = asked_about(config, tokens)
    scoring = poisoned(network, 2, config.length)
    seen = np.zeros(len(rows), bool)
    for part, scores in scoring.log_scores(tokens, 0.7, rows):
        assert len(scores) <= models.forward.BLOCK
        np.testing.assert_array_equal(scores, whole[rows[part]])
        seen[part] = True
    assert seen.all()


@pytest.mark.parametrize("case", CASES)
def test_draws_are_made_from_the_log_scores(make_config, make_tensors, one_thread, case: str) -> None:
    """Draws are the kernel's from the reference's log scores, or, uniform-state, logits: no array of these is made."""
    architecture, graph, changes = CASES[case]
    config = make_config(architecture, graph, **changes)
    tensors = make_tensors(config)
    network = models.build(config, tensors)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (2, config.length)).astype(np.int32)
    tokens[:, ::2] = config.vocab_size - 1
    rows = asked_about(config, tokens)
    scoring = poisoned(network, 2, config.length)
    of_logits = config.normalised and graph == "uniform"
    law = fk.Law(stay=65.0, relative=1.0) if of_logits else fk.Law(stay=0.0 if config.normalised else 3.0)
    reference = networks.logits if of_logits else reference_scores.log_score
    # Another number of rows, a replay, and a number of threads: what is drawn is the same.
    for sigma, seed in ((0.7, 1), (3.0, 2), (0.7, 3)):
        score = reference(config, tensors, tokens, np.array([sigma, sigma])).reshape(-1, config.vocab_size)
        streams = np.arange(len(rows), dtype=np.uint64) + np.uint64(seed)
        seeds = np.full(len(rows), seed, np.uint64)
        current = tokens.reshape(-1)[rows]
        poison(scoring)
        drawn = scoring.draw(tokens, sigma, rows, law, seeds, streams).copy()
        logits = score[rows][:, : config.tokens]
        expected = sampling.sample_law(logits, current, law, seed, streams)
        assert (drawn != expected).mean() <= 0.02
        some = slice(1, 1 + len(rows) // 2)
        if len(rows) > 2:
            part = scoring.draw(tokens, sigma, rows[some], law, seeds[some], streams[some]).copy()
            np.testing.assert_array_equal(part, drawn[some])
        with one_thread():
            np.testing.assert_array_equal(scoring.draw(tokens, sigma, rows, law, seeds, streams), drawn)


def test_a_sample_does_not_depend_on_its_batch(make_config, make_tensors) -> None:
    config = make_config(**ARTICLE, blocks=1)
    network = models.build(config, make_tensors(config))
    tokens = np.random.default_rng(2).integers(0, 66, (4, 100)).astype(np.int32)
    whole = poisoned(network, 4, 100)(tokens, np.array([0.7]))
    for i in range(4):
        alone = poisoned(network, 1, 100)(tokens[i : i + 1], np.array([0.7]))
        np.testing.assert_array_equal(alone[0], whole[i])


@pytest.mark.parametrize("architecture", ["annotated", "ddit"])
def test_a_replay_is_the_pass_itself(make_config, make_tensors, architecture: str) -> None:
    """Other tokens, other noise and another number of threads: to the bit what a first call gives."""
    config = make_config(architecture, **ARTICLE, blocks=1)
    network = models.build(config, make_tensors(config))
    rng = np.random.default_rng(3)
    threads = fk.get_num_threads()
    for sigmas in (1, 2):
        scoring = poisoned(network, 2, 70, sigmas)
        for used in (threads, 1, 1, threads, threads):
            fk.set_num_threads(used)
            try:
                tokens = rng.integers(0, config.vocab_size, (2, 70)).astype(np.int32)
                sigma = rng.uniform(0.01, 5.0, sigmas)
                poison(scoring)
                expected = poisoned(network, 2, 70, sigmas)(tokens, sigma)
                np.testing.assert_array_equal(scoring(tokens, sigma), expected)
            finally:
                fk.set_num_threads(threads)


def test_parity_with_pytorch(make_config, make_tensors) -> None:
    """The trainer's networks, which are written for themselves, compute the same."""
    torch = pytest.importorskip("torch", reason="PyTorch is an extra: the trainer's")
    from training import model as trained

    for architecture, graph in (("annotated", "uniform"), ("ddit", "absorb"), ("ddit", "uniform")):
        config = make_config(architecture, graph)
        tensors = make_tensors(config)
        document = {
            "tokens": config.tokens,
            "graph": {"type": graph},
            "model": {
                "type": architecture, "hidden_size": 16, "n_blocks": 2, "n_heads": 2, "cond_dim": 8, "length": 12,
                "dropout": 0.0, "scale_by_sigma": config.scale_by_sigma,
            },
        }  # fmt: skip
        network = trained.build(document).eval()
        network.load_state_dict({name: torch.tensor(tensor) for name, tensor in tensors.items()})
        tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 12))
        sigma = np.array([0.3, 2.0])
        with torch.no_grad():
            expected = network(torch.tensor(tokens), torch.tensor(sigma, dtype=torch.float32)).numpy()
        result = poisoned(models.build(config, tensors), 2, 12, 2)(tokens, sigma)
        np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("top_k", [0, 3], ids=["by the law", "by rows"])
@pytest.mark.parametrize("case", ["tiny", "tiny uniform", "tiny radd"])
def test_confidence_is_the_references_when_a_token_was_drawn(make_config, make_tensors, case: str, top_k: int) -> None:
    """Of all tokens that a position might have become; given ones have none, and texts are those without it."""
    graph = "uniform" if "uniform" in case else "absorb"
    config = make_config("radd" if "radd" in case else "ddit", graph)
    tensors = make_tensors(config)
    network = Scoring.of(models.build(config, tensors), 2, config.length)
    request = Request.of(steps=5, seed=4, top_k=top_k, temperature=0.8)
    sampler = DiffusionProcess.of(config).sampler(request)
    given = np.full((2, config.length), FREE, np.int32)
    given[1, 3:5] = 2
    batch = Batch.of([0, 1], [4, 4], list(given), confident=True)
    before = np.where(given == FREE, config.tokens, given) if graph == "absorb" else None
    expected = np.full(given.shape, np.nan)
    for record, at in zip(sampler.run(network, batch), (*sampler.grid.predictor, sampler.grid.denoiser), strict=True):
        if before is not None:
            scores = reference_scores.log_score(config, tensors, before.astype(np.int32), np.full(2, at.sigma))
            for text, position in np.argwhere(record.tokens != before):
                row = scores[text, position].astype(np.float64)
                row[before[text, position]] = -np.inf
                expected[text, position] = np.exp(row - np.logaddexp.reduce(row))[record.tokens[text, position]]
            known = ~np.isnan(expected)
            np.testing.assert_allclose(batch.confidence[known], expected[known], atol=1e-4)
        before = record.tokens.copy()
    assert graph == "uniform" or (np.isnan(batch.confidence) == (given != FREE)).all()
    assert np.isnan(batch.confidence[1, 3:5]).all() and np.nanmax(batch.confidence) < 1.0
    plain = [*sampler.run(network, Batch.of([0, 1], [4, 4], list(given)))][-1]
    np.testing.assert_array_equal(plain.tokens, before)
