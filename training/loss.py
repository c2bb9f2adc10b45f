"""Score entropy (Lou et al. 2024, section 3) for both graphs, as a bound on -log p(x) in nats a token."""

from __future__ import annotations

import math

import torch
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


def stratified_times(batch: int, generator: torch.Generator | None = None) -> Tensor:
    """One time a sample, each from its own 1/batch of (0, 1): the loss varies far less than with independent times."""
    t = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    return t.clamp(1e-5, 1.0)


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
    """The diffusion weighted denoising score entropy of each sample, [B], nats a token."""
    sigma, rate = total_noise(config, t)
    moved = torch.rand(clean.shape, generator=generator) < -(-sigma).expm1()[:, None]
    moved, sigma, rate = moved.to(clean.device), sigma.to(clean.device), rate.to(clean.device)
    vocab_size = config["tokens"]
    if config["graph"]["type"] == "absorb":
        noisy = torch.where(moved, vocab_size, clean)
        entropy = absorb_entropy(network(noisy, sigma), sigma, clean, moved)
    else:
        anywhere = torch.randint(0, vocab_size, clean.shape, generator=generator).to(clean.device)
        noisy = torch.where(moved, anywhere, clean)
        entropy = uniform_entropy(network(noisy, sigma), sigma, clean, noisy)
    return (rate[:, None] * entropy).mean(-1)
