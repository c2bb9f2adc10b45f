"""Networks against the float64 reference: the article's shapes, and ddit with both graphs, over all of the noise."""

from __future__ import annotations

import numpy as np
import pytest

from fastsedd import models
from fastsedd.models import reference

ARTICLE = {"tokens": 65, "width": 384, "heads": 6, "cond_dim": 64, "length": 256, "characters": None}
CASES = {
    "annotated": ("annotated", "uniform", {**ARTICLE, "blocks": 6}),
    "ddit absorb": ("ddit", "absorb", {**ARTICLE, "blocks": 2}),
    "ddit absorb unscaled": ("ddit", "absorb", {**ARTICLE, "blocks": 1, "scale_by_sigma": False}),
    "ddit uniform": ("ddit", "uniform", {**ARTICLE, "blocks": 1}),
    "ddit uniform scaled": ("ddit", "uniform", {**ARTICLE, "blocks": 1, "scale_by_sigma": True}),
    "tiny": ("ddit", "absorb", {}),
}


def poisoned_workspace(config, batch: int, length: int) -> models.Workspace:
    scratch = models.Workspace.allocate(config, batch, length)
    for array in vars(scratch).values():
        array.fill(np.nan)
    return scratch


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", [1, 3])
def test_parity(make_config, make_tensors, case: str, batch: int) -> None:
    architecture, graph, changes = CASES[case]
    config = make_config(architecture, graph, **changes)
    tensors = make_tensors(config)
    network = models.build(config, tensors)
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, config.vocab_size, (batch, config.length)).astype(np.int32)
    scratch = poisoned_workspace(config, batch, config.length)
    for sigmas in ([1e-4], [0.5, 3.0, 1e-3], [20.0]):
        sigma = np.resize(sigmas, batch).astype(np.float64)
        result = network.log_score(tokens, sigma, scratch)
        assert np.isfinite(result).all()
        expected = reference.log_score(config, tensors, tokens, sigma)
        assert np.abs(result - expected).max() < 1e-4
        assert not np.take_along_axis(result, tokens[..., None], -1).any()


def test_a_sample_does_not_depend_on_its_batch(make_config, make_tensors) -> None:
    config = make_config(**ARTICLE, blocks=1)
    network = models.build(config, make_tensors(config))
    tokens = np.random.default_rng(2).integers(0, 66, (4, 100)).astype(np.int32)
    whole = network.log_score(tokens, np.full(4, 0.7), poisoned_workspace(config, 4, 100))
    for i in range(4):
        alone = network.log_score(tokens[i : i + 1], np.full(1, 0.7), poisoned_workspace(config, 1, 100))
        np.testing.assert_array_equal(alone[0], whole[i])


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
        result = models.build(config, tensors).log_score(
            tokens.astype(np.int32), sigma, poisoned_workspace(config, 2, 12)
        )
        np.testing.assert_allclose(result, expected, atol=1e-5)
