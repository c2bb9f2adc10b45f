"""Unmasking of one text at temperature 0, position by position as the formulas read: the truth for tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsedd.diffusion.unmasking.settings import Settings

Numbers = Callable[[int, int], float]
Logits = Callable[[list[int]], NDArray[np.float32]]


def unmask(
    logits: Logits, given: Sequence[int], mask: int, spans: Sequence[tuple[int, int]], settings: Settings,
    numbers: Numbers = lambda step, position: 0.0,
) -> Iterator[list[int]]:  # fmt: skip
    """The text after each step.

    given : tokens, -1 where free; logits : of a text, to [L, V]; spans : its blocks
    numbers : a random one, 0 to 1, of a step, from 1 on, and a position: of the order "independent"
    """
    tokens = [mask if token < 0 else token for token in given]
    free = [i for i, token in enumerate(given) if token < 0]
    blocks = [span for span in spans if any(span[0] <= i < span[1] for i in free)]
    steps = math.ceil(settings.steps / len(blocks))
    done = 0
    for first, last in blocks:
        own = [i for i in free if first <= i < last]
        for j in range(len(own) if settings.parallel else steps):
            masked = [i for i in own if tokens[i] == mask]
            count = 1 if settings.parallel else _quota(settings, len(own), len(masked), j, steps)
            if not masked and settings.order != "p2":
                break
            if settings.order == "independent":
                share = _share(settings, j, steps)
                masked = [i for i in masked if numbers(done + j + 1, i) < share]
                count = len(masked)
            if count == 0 and settings.order != "p2":
                if settings.order == "independent":
                    yield list(tokens)
                continue
            rows = _guided(logits, tokens, given, mask, settings)
            rows[:, mask] = -math.inf
            best = {i: int(np.argmax(rows[i])) if tokens[i] == mask else tokens[i] for i in own}
            told = {i: _measure(rows[i], best[i], settings) for i in own}
            if settings.order == "p2":
                kept = math.floor(len(own) * (1 - (j + 1) / steps))
                behind = sorted(own, key=lambda i, told=told: (told[i]["confidence"], i))[:kept]  # type: ignore[misc]
                tokens = [mask if i in behind else best.get(i, token) for i, token in enumerate(tokens)]
            else:
                taken = masked if settings.order == "independent" else _chosen(settings, masked, told, count)
                for i in taken:
                    tokens[i] = best[i]
            yield list(tokens)
        done += steps


def _quota(settings: Settings, masks: int, left: int, j: int, steps: int) -> int:
    if settings.quota == "llada":
        return masks // steps + (1 if j < masks % steps else 0)
    if settings.quota == "dllm":
        return int(np.rint(left * _share(settings, j, steps)))
    return math.floor(left * _share(settings, j, steps))


def _share(settings: Settings, j: int, steps: int) -> float:
    if settings.quota in ("dllm", "llada"):
        t, s = (steps - j) / steps, (steps - j - 1) / steps
        return 1 - s / t
    if j == steps - 1:
        return 1.0
    end = 1e-3 if settings.quota == "dream" else 1e-5
    t, s = 1 - j * (1 - end) / steps, 1 - (j + 1) * (1 - end) / steps
    return 1 - s / t


def _guided(
    logits: Logits, tokens: list[int], given: Sequence[int], mask: int, settings: Settings
) -> NDArray[np.float32]:
    rows = logits(tokens).copy()
    if settings.cfg_scale == 0.0:
        return rows
    blind = logits([token if known < 0 else mask for token, known in zip(tokens, given, strict=True)])
    return blind + np.float32(settings.cfg_scale + 1.0) * (rows - blind)


def _measure(row: NDArray[Any], token: int, settings: Settings) -> dict[str, float]:
    weights = [math.exp(float(each) - float(max(row))) for each in row]
    if settings.of_draws:
        weights = _truncated(weights, settings)
    probabilities = [weight / math.fsum(weights) for weight in weights]
    likeliest = sorted(probabilities, reverse=True)
    entropy = -math.fsum(p * math.log(p + 1e-10) for p in probabilities)
    found = {
        "confidence": probabilities[token], "margin": likeliest[0] - likeliest[1], "entropy": entropy,
    }  # fmt: skip
    return {name: float(np.float32(value)) for name, value in found.items()}


def _truncated(weights: list[float], settings: Settings) -> list[float]:
    """The k largest, then the largest with the share p, and what is as large as the least of them."""
    kept = sorted(weights, reverse=True)[: settings.top_k or len(weights)]
    kept = [weight for weight in weights if weight >= kept[-1]]
    total, least, summed = math.fsum(kept), 0.0, 0.0
    for weight in sorted(kept, reverse=True):
        summed, least = summed + weight, weight
        if summed >= settings.top_p * total:
            break
    return [weight if weight >= least else 0.0 for weight in weights]


def _chosen(settings: Settings, masked: list[int], told: dict[int, dict[str, float]], count: int) -> list[int]:
    """The masks that are committed to; of equal ones the first."""
    sign = -1.0 if settings.order == "entropy" else 1.0
    ordered = sorted(masked, key=lambda i: (-sign * told[i][settings.order], i))
    if settings.threshold is not None:
        sure = [i for i in masked if told[i]["confidence"] >= np.float32(settings.threshold)]
        return sorted({ordered[0], *sure})
    if settings.factor is not None:
        ordered = sorted(masked, key=lambda i: (-told[i]["confidence"], i))
        most = [
            r
            for r in range(1, len(ordered) + 1)
            if (r + 1) * (1 - told[ordered[r - 1]]["confidence"]) < settings.factor
        ]
        return ordered[: max([1, *most])]
    if settings.entropy_bound is not None:
        ordered = sorted(masked, key=lambda i: (told[i]["entropy"], i))
        sums = [sum(told[i]["entropy"] for i in ordered[:r]) for r in range(1, len(ordered) + 1)]
        return ordered[: max(1, sum(total < settings.entropy_bound for total in sums))]
    return ordered[:count]
