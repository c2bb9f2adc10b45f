"""The measurements of `fastsedd bench`: this machine's limits, and how near the kernels come to them."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import fastsedd_kernels as fk
import numpy as np
from fastsedd_kernels.runtime.timing import median_seconds

from fastsedd.engine import Model

# Tokens, inputs and outputs of the linear layers of the article's model, and of Lou et al.'s small one.
LAYERS = (
    (256, 384, 1152), (256, 384, 384), (256, 384, 1536), (256, 1536, 384),
    (1024, 768, 2304), (1024, 768, 768), (1024, 768, 3072), (1024, 3072, 768),
)  # fmt: skip

_ROUNDS = 5
_PAUSE = 0.03  # seconds, until the threads of the previous call sleep
_MIN_TURN = 0.005  # seconds


@dataclass(frozen=True)
class Layer:
    """A linear layer: [tokens, inputs] times a packed [outputs, inputs]. Medians over rounds; ratios within a round."""

    tokens: int
    inputs: int
    outputs: int
    gflops: float
    of_peak: float
    numpy_over_ours: float


@dataclass(frozen=True)
class Measurements:
    """peak_gflops: multiply-adds in registers; bandwidth_gbs: reading 64 MiB; forward_ms: the model's, batch 1."""

    cpu: str
    isa: str
    threads: int
    peak_gflops: float
    bandwidth_gbs: float
    layers: tuple[Layer, ...]
    forward_ms: float
    forward_length: int


# The parts of a forward that kernels belong to, by name; the others are the rest.
_PARTS = {"multiply_rectangle": "GEMM", "attend": "attention", "layer_norm_rows": "norm", "rms_norm_rows": "norm"}


@dataclass(frozen=True)
class Profile:
    """The time of a forward of one text, in milliseconds, by part.

    parts : its kernels, called one by one: GEMM, attention, norm, rest; forward : all of it, as a sampler runs it
    """

    parts: dict[str, float]
    forward: float
    length: int


def profile(model: Model) -> Profile:
    """Measure where the time of a forward goes; about a second for a small model."""
    parts = dict.fromkeys([*_PARTS.values(), "rest"], 0.0)
    for kernel, seconds in model.profile().items():
        parts[_PARTS.get(kernel, "rest")] += 1e3 * seconds
    return Profile(parts, _forward_ms(model, 0.5), model.config.length)


def _forward_ms(model: Model, seconds: float) -> float:
    tokens = np.zeros((1, model.config.length), np.int32)
    return _median_call(lambda: model.log_score(tokens, [1.0]), seconds) * 1e3


def run(
    model: Model, seconds: float = 10.0, progress: Callable[[int, int], None] = lambda done, total: None
) -> Measurements:
    """Measure kernels and the model's forward, for about `seconds`; `progress(done, total)` after each layer."""
    turn = max(_MIN_TURN, seconds / (len(LAYERS) + 2) / _ROUNDS / 3 - _PAUSE)
    layers = []
    for layer in LAYERS:
        layers.append(_measure_layer(*layer, turn))
        progress(len(layers), len(LAYERS))
    cpu = fk.cpu_info()
    return Measurements(
        cpu.name,
        cpu.isa,
        fk.get_num_threads(),
        fk.peak_flops(seconds=turn) / 1e9,
        fk.read_bandwidth(seconds=turn) / 1e9,
        tuple(layers),
        _forward_ms(model, 3 * turn),
        model.config.length,
    )


def _measure_layer(tokens: int, inputs: int, outputs: int, turn: float) -> Layer:
    random = np.random.default_rng(0)
    x = random.standard_normal((tokens, inputs), dtype=np.float32)
    weight = random.standard_normal((outputs, inputs), dtype=np.float32)
    packed = fk.pack(weight)
    out, other = (np.empty((tokens, outputs), np.float32) for _ in range(2))
    rounds = [
        (
            _median_call(lambda: fk.linear(x, packed, out=out), turn),
            _median_call(lambda: np.matmul(x, weight.T, out=other), turn),
            fk.peak_flops(seconds=turn / 2),
        )
        for _ in range(_ROUNDS)
    ]
    np.testing.assert_allclose(out, other, atol=1e-3 * np.sqrt(inputs))
    flops = 2 * tokens * inputs * outputs
    return Layer(
        tokens,
        inputs,
        outputs,
        flops / statistics.median(ours for ours, _, _ in rounds) / 1e9,
        statistics.median(flops / ours / peak for ours, _, peak in rounds),
        statistics.median(numpy / ours for ours, numpy, _ in rounds),
    )


def _median_call(call: Callable[[], object], seconds: float) -> float:
    return median_seconds(call, seconds, warm_up=seconds / 3, pause=_PAUSE)
