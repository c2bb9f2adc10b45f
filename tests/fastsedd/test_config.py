"""Configs: what they derive, and one line for every value that is refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastsedd.architectures import registry
from fastsedd.architectures.base import ModelConfig
from fastsedd.config import FREQUENCIES, MAX_PARAMETERS, GenerationConfig, NoiseConfig

MakeConfig = Callable[..., ModelConfig]


def refusal(build: Callable[..., object], *arguments: object, **fields: object) -> str:
    with pytest.raises(ValueError) as caught:
        build(*arguments, **fields)
    message = str(caught.value)
    assert "\n" not in message and "allowed" in message
    return message


def test_absorb_adds_the_mask(make_config: MakeConfig) -> None:
    absorb, uniform = make_config(graph="absorb"), make_config(graph="uniform")
    assert (absorb.tokens, absorb.vocab_size, absorb.mask_id) == (5, 6, 5)
    assert (uniform.tokens, uniform.vocab_size, uniform.mask_id) == (5, 5, None)


def test_head_dim(make_config: MakeConfig) -> None:
    assert make_config(width=48, heads=6).head_dim == 8


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(
        [
            ("annotated", "absorb"),
            ("annotated", "uniform"),
            ("ddit", "absorb"),
            ("ddit", "uniform"),
            ("mdlm", "absorb"),
            ("radd", "absorb"),
        ]
    ),
    sizes=st.fixed_dictionaries(
        {name: st.integers(2, 40) for name in ("tokens", "blocks", "cond_dim", "length")}
        | {"width": st.sampled_from([8, 24, 64])}
    ),
)
def test_parameters_are_those_of_the_sizes(
    make_config: MakeConfig, kind: tuple[str, str], sizes: dict[str, int]
) -> None:
    config = make_config(*kind, characters=None, **sizes)
    assert config.parameters == parameters_by_formula(config)


def parameters_by_formula(config: ModelConfig) -> int:
    """Counted from the sizes, without a list of tensors."""
    width, conditioned = config.width, config.architecture != "radd"
    modulations = (6 * config.blocks + 2) * width * (config.cond_dim + 1)
    sigma_map = config.cond_dim * (FREQUENCIES + 1) + config.cond_dim * (config.cond_dim + 1)
    block, head = 2 * width + 12 * width**2, width + config.vocab_size * (width + 1)
    embedding = config.vocab_size * width
    if config.architecture == "annotated":
        embedding += config.length * width + width  # positions, and the norm after the last block
    else:
        block += 5 * width  # the biases of the MLP
    if not conditioned:
        block, head = block + 2 * width, head + width  # the biases of the norms
    return embedding + config.blocks * block + head + (modulations + sigma_map if conditioned else 0)


@pytest.mark.parametrize(
    ("architecture", "graph", "tokens", "width", "blocks", "cond_dim", "length", "millions"),
    [
        ("annotated", "uniform", 65, 384, 6, 64, 256, 11.64),
        ("ddit", "absorb", 50257, 768, 12, 128, 1024, 169.6),
        ("ddit", "absorb", 50257, 1024, 24, 128, 1024, 424.5),
    ],
)
def test_parameters_of_the_published_models(
    make_config: MakeConfig,
    architecture: str,
    graph: str,
    tokens: int,
    width: int,
    blocks: int,
    cond_dim: int,
    length: int,
    millions: float,
) -> None:
    config = make_config(
        architecture, graph, tokens=tokens, width=width, blocks=blocks, cond_dim=cond_dim, length=length,
        heads=width // 64, characters=None,
    )  # fmt: skip
    assert config.parameters / 1e6 == pytest.approx(millions, abs=0.1)


def test_parameters_are_bounded(make_config: MakeConfig) -> None:
    message = refusal(make_config, width=1 << 15, blocks=512)
    assert "parameters is" in message and str(MAX_PARAMETERS) in message


def test_configs_are_frozen(make_config: MakeConfig) -> None:
    for config, field in [(make_config(), "width"), (NoiseConfig("loglinear"), "type"), (GenerationConfig(), "steps")]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"graph": "ring\n"}, "graph is 'ring\\n'"),
        ({"tokens": 1, "characters": None}, "tokens is 1"),
        ({"tokens": (1 << 20) + 1, "characters": None}, "tokens is 1048577"),
        ({"width": 0}, "width is 0"),
        ({"width": (1 << 15) + 2}, "width is 32770"),
        ({"blocks": 0}, "blocks is 0"),
        ({"blocks": 513}, "blocks is 513"),
        ({"heads": 0}, "heads is 0"),
        ({"heads": 3}, "heads is 3"),
        ({"heads": 16}, "heads is 16"),
        ({"width": True}, "width is True"),
        ({"width": "768"}, "width is '768'"),
        ({"blocks": 2.0}, "blocks is 2.0"),
        ({"length": math.nan}, "length is nan"),
        ({"cond_dim": 0}, "cond_dim is 0"),
        ({"length": 0}, "length is 0"),
        ({"length": (1 << 17) + 1}, "length is 131073"),
        ({"characters": "abcd"}, "characters has 4"),
        ({"characters": "abcda"}, "5 distinct"),
        ({"architecture": "annotated", "scale_by_sigma": True}, "scale_by_sigma is true"),
    ],
)
def test_fields_that_are_refused(make_config: MakeConfig, changes: dict[str, Any], words: str) -> None:
    assert words in refusal(make_config, **changes)


@pytest.mark.parametrize(
    ("sigma_min", "sigma_max"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0)]
)
def test_sigmas_matter_to_geometric_noise_only(sigma_min: float, sigma_max: float) -> None:
    assert "noise.sigma_min" in refusal(NoiseConfig, "geometric", sigma_min, sigma_max)
    assert NoiseConfig("loglinear", sigma_min, sigma_max).type == "loglinear"


@pytest.mark.parametrize("value", ["1", None, True, [1.0]])
def test_values_that_are_not_numbers(value: Any) -> None:
    assert "noise.sigma_max is" in refusal(NoiseConfig, "geometric", 1e-4, value)
    assert "generation.temperature is" in refusal(GenerationConfig, 8, value)


def test_noise_of_another_type() -> None:
    assert "noise.type is 'cosinesqr'" in refusal(NoiseConfig, "cosinesqr")


@pytest.mark.parametrize("steps", [0, -1, 1 << 16])
def test_steps_that_are_refused(steps: int) -> None:
    assert f"generation.steps is {steps}" in refusal(GenerationConfig, steps=steps)


@pytest.mark.parametrize("temperature", [-1.0, math.inf, math.nan])
def test_temperatures_that_are_refused(temperature: float) -> None:
    assert "generation.temperature is" in refusal(GenerationConfig, temperature=temperature)


def test_a_temperature_of_0_is_for_masked_language_models(make_config) -> None:
    assert "generation.temperature is 0" in refusal(make_config, generation=GenerationConfig(temperature=0.0))


def test_networks_that_predict_the_clean_token_are_absorbing(make_config: MakeConfig) -> None:
    assert make_config("mdlm").normalised and make_config("radd").normalised and not make_config("ddit").normalised
    assert "graph is 'uniform'" in refusal(make_config, "mdlm", "uniform")
    assert "time_conditioning is false" in refusal(make_config, "ddit", time_conditioning=False)


def test_an_architecture_that_there_is_not() -> None:
    with pytest.raises(
        ValueError, match=r"^architecture is 'gpt', allowed: 'mdlm', .*'sdar', .*'radd', 'annotated', 'ddit'$"
    ):
        registry.find("gpt")
