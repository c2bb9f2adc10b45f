"""Bounds on -log p(x) in nats per token: score entropy (Lou et al. 2024, section 3) for both graphs, and the cross
entropy of masked tokens (Ou et al. 2024) for networks that predict the clean one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOGLINEAR_EPS = 1e-3


def total_noise(config: dict, t: Tensor) -> tuple[Tensor, Tensor]:
    """Total noise sigma(t) and its rate, [B] each."""
    noise = config["noise"]
    if noise["type"] == "loglinear":
        remaining = 1 - (1 - LOGLINEAR_EPS) * t
        return -remaining.log(), (1 - LOGLINEAR_EPS) / remaining
    ratio = noise["sigma_max"] / noise["sigma_min"]
    sigma = noise["sigma_min"] * ratio**t
    return sigma, sigma * math.log(ratio)


def stratified_times(
    batch: int, generator: torch.Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """One time per sample, each from its own 1/batch of (0, 1): the loss varies far less than otherwise."""
    t = (torch.arange(batch, device=device) + _uniform((batch,), device, generator)) / batch
    return t.clamp(1e-5, 1.0)


def _uniform(shape: tuple[int, ...], device: torch.device | None, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers on a device. A generator is the CPU's: what it draws is the same for every device."""
    if generator is None:
        return torch.rand(shape, device=device)
    return torch.rand(shape, generator=generator).to(device)


def absorb_entropy(log_score: Tensor, sigma: Tensor, clean: Tensor, masked: Tensor) -> Tensor:
    """Score entropy of the absorbing graph, [B, L]; zero where nothing is masked."""
    esigm1 = sigma.expm1()[:, None]
    negative = log_score.gather(-1, clean[..., None])[..., 0] / esigm1
    positive = log_score[..., :-1].exp().sum(-1)
    constant = (-esigm1.log() - 1) / esigm1
    return torch.where(masked, positive - negative + constant, 0.0)


def uniform_entropy(log_score: Tensor, sigma: Tensor, clean: Tensor, noisy: Tensor) -> Tensor:
    """Score entropy of the uniform graph, [B, L]."""
    vocab_size = log_score.shape[-1]
    esigm1 = sigma.expm1()[:, None]
    ratio = 1 - vocab_size / (esigm1 + vocab_size)
    stayed = noisy == clean
    own = noisy[..., None]
    negative = log_score.mean(-1) - log_score.gather(-1, own)[..., 0] / vocab_size
    origin = log_score.gather(-1, clean[..., None])[..., 0]
    negative = torch.where(stayed, ratio * negative, origin / esigm1 + negative)
    constant = torch.where(
        stayed,
        (vocab_size - 1) / vocab_size * ratio * (ratio.log() - 1),
        ((-ratio.log() - 1) / ratio - (vocab_size - 2)) / vocab_size,
    )
    score = log_score.exp()
    positive = score.mean(-1) - score.gather(-1, own)[..., 0] / vocab_size
    return positive - negative + constant


def bound(
    network: nn.Module, config: dict, clean: Tensor, t: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """The diffusion weighted denoising score entropy of each sample, [B], nats per token."""
    sigma, rate = total_noise(config, t)
    moved = _uniform(clean.shape, clean.device, generator) < -(-sigma).expm1()[:, None]
    vocab_size = config["tokens"]
    if config["graph"]["type"] == "absorb":
        noisy = torch.where(moved, vocab_size, clean)
        entropy = absorb_entropy(network(noisy, sigma), sigma, clean, moved)
    else:
        anywhere = (_uniform(clean.shape, clean.device, generator) * vocab_size).long().clamp(max=vocab_size - 1)
        noisy = torch.where(moved, anywhere, clean)
        entropy = uniform_entropy(network(noisy, sigma), sigma, clean, noisy)
    return (rate[:, None] * entropy).mean(-1)


def any_order_bound(
    network: nn.Module, config: dict, clean: Tensor, t: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """The mean cross entropy of each sample's masked tokens, [B], nats per token.

    Of a text of L tokens, k are masked, 1 <= k <= L as likely as each other; t, [B] in (0, 1], is which k. Its
    expectation is the bound of the absorbing graph in continuous time, without the variance of how many are masked.
    """
    batch, length = clean.shape
    count = (t * length).ceil().long().clamp(1, length)
    order = _uniform(clean.shape, clean.device, generator).argsort(-1).argsort(-1)
    masked = order < count[:, None]
    noisy = torch.where(masked, config["tokens"], clean)
    logits = network(noisy)[..., : config["tokens"]].float()
    surprise = F.cross_entropy(logits.flatten(0, 1), clean.flatten(), reduction="none").view(batch, length)
    return torch.where(masked, surprise, 0.0).sum(-1) / count


def of_network(
    network: nn.Module, config: dict, clean: Tensor, t: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """The bound of each sample, [B], nats per token, by the loss that a config's architecture is trained with."""
    chosen = any_order_bound if config["model"]["type"] == "radd" else bound
    return chosen(network, config, clean, t, generator)
