"""Graphs: how tokens jump under noise, uniformly or into a mask, and the reverse step that follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from fastsedd_kernels import Law, uniform
from numpy.typing import NDArray


class Graph(Protocol):
    """A transition graph over V states (Lou et al. 2024, section 3.3). It is frozen and may be shared.

    A reverse step has two forms: a transition, for rows of log scores that lie in memory, and a law, for rows that are
    drawn from while the network makes them. They are equal.

    Throughout, leading axes are free and V comes last. ``tokens`` are int32 state ids, the current x. ``score`` holds
    p(y) / p(x) for each state y at total noise sigma, and ``log_score`` its logarithm. ``dsigma`` > 0 is the noise
    that one step takes away.
    """

    @property
    def tokens(self) -> int:
        """Number of tokens that a text is made of; their ids are 0 ... tokens - 1."""

    @property
    def vocab_size(self) -> int:
        """Number of states V: the tokens, and the mask where the graph has one."""

    def sample_limit(self, seeds: NDArray[np.uint64], streams: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Draw from the distribution at infinite noise: int32 shaped as ``streams``, one counter stream per position.

        seeds : uint64 shaped as ``streams``
        """

    def transp_transition(self, tokens: NDArray[np.int32], dsigma: float) -> NDArray[np.float64]:
        """Probability that noise dsigma moves y to x, for each state y: int32 [...] to float64 [..., V]."""

    def transition(self, tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float64]:
        """Probability that noise sigma >= 0 moves x to y, for each state y: int32 [...] to float64 [..., V]."""

    def reverse_transition(
        self, log_score: NDArray[np.float32], tokens: NDArray[np.int32], dsigma: float
    ) -> NDArray[np.float32]:
        """staggered_score(exp(log_score)) * transp_transition(tokens), clamped at 0, unnormalised (equation 19).

        log_score : float32 [..., V], 0 at each current token. It is overwritten with the result and returned.
        tokens : int32 [...]
        Each row has a scale of its own, chosen so that nothing overflows and some entry is positive. Temporaries are
        the size of ``tokens``.
        """

    def denoising_transition(
        self, log_score: NDArray[np.float32], tokens: NDArray[np.int32], dsigma: float
    ) -> NDArray[np.float32]:
        """``reverse_transition`` for the last step, dsigma = sigma, after which every state is a token."""

    def euler_transition(
        self, log_score: NDArray[np.float32], tokens: NDArray[np.int32], rate_dt: float
    ) -> NDArray[np.float32]:
        """The current token plus ``rate_dt`` times the reverse rates, clamped at 0, unnormalised (equation 17).

        Arguments and result are those of ``reverse_transition``.
        """

    def changing(self, tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        """True if a reverse step can change a token, shaped as ``tokens``: of no other one is the score ever asked."""

    def reverse_law(self, dsigma: float) -> Law:
        """``reverse_transition`` of a changing token in closed form: what its log scores weigh, whatever they are."""

    def denoising_law(self, dsigma: float) -> Law:
        """``denoising_transition`` likewise."""

    def euler_law(self, rate_dt: float) -> Law:
        """``euler_transition`` likewise."""

    def sample_transition(
        self, clean: NDArray[np.int32], sigma: NDArray[np.float64], uniform: NDArray[np.float64]
    ) -> NDArray[np.int32]:
        """Clean tokens after noise ``sigma``: int32, shaped as ``clean``.

        sigma : > 0, broadcasts with ``clean``
        uniform : 0 <= u < 1, shaped as ``clean``: the one number that decides at its position
        """

    def score_entropy(
        self, log_score: NDArray[Any], tokens: NDArray[np.int32], clean: NDArray[np.int32], sigma: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Denoising score entropy of each position, >= 0, float64 [...]; 0 at the ratios that ``clean`` implies.

        The sum over states y != x of rate(y to x) (s_y - r_y log s_y + r_y log r_y - r_y), where r is the ratio
        p(y | clean) / p(x | clean) (definition 3.1 and theorem 3.4).
        log_score : float32 or float64 [..., V], 0 at each current token. It is overwritten.
        tokens, clean : the current tokens, and what they were before the noise
        sigma : > 0, broadcasts with ``tokens``
        Sums over V are float64. Temporaries are the size of ``tokens``.
        """

    def information(self, sigma: float) -> float:
        """Mutual information, in nats, of a token drawn uniformly and what noise sigma >= 0 makes of it."""


@dataclass(frozen=True)
class Uniform:
    """Every token jumps to every token at rate 1/V (equation 15, scaled by 1/V). Raises ValueError for tokens < 1."""

    tokens: int

    def __post_init__(self) -> None:
        _check_tokens(self.tokens)

    @property
    def vocab_size(self) -> int:
        return self.tokens

    def sample_limit(self, seeds: NDArray[np.uint64], streams: NDArray[np.uint64]) -> NDArray[np.int32]:
        return (uniform(seeds, streams) * self.tokens).astype(np.int32)

    def transp_transition(self, tokens: NDArray[np.int32], dsigma: float) -> NDArray[np.float64]:
        jump = self._jump_probability(dsigma)
        transition = np.full((*tokens.shape, self.vocab_size), jump)
        np.put_along_axis(transition, tokens[..., None], jump + math.exp(-dsigma), axis=-1)
        return transition

    def transition(self, tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float64]:
        return self.transp_transition(tokens, sigma)  # which is symmetric

    def reverse_transition(
        self, log_score: NDArray[np.float32], tokens: NDArray[np.int32], dsigma: float
    ) -> NDArray[np.float32]:
        # The result is linear in the score, so the scale is free: divided by the row's largest score, by e^dsigma and
        # by the jump probability, it is score + expm1(-dsigma) mean(score), and only the current token needs a factor.
        log_score -= log_score.max(axis=-1, keepdims=True)
        staggered = np.exp(log_score, out=log_score)
        # At large dsigma the two terms nearly cancel: a float64 mean keeps what is left of the largest score positive.
        staggered += math.expm1(-dsigma) * staggered.mean(axis=-1, keepdims=True, dtype=np.float64)
        probabilities = np.maximum(staggered, 0.0, out=staggered)
        stay_over_jump = 1.0 + math.exp(-dsigma) / self._jump_probability(dsigma)
        current = tokens[..., None]
        stay = np.take_along_axis(probabilities, current, axis=-1) * stay_over_jump
        np.put_along_axis(probabilities, current, stay, axis=-1)
        return probabilities

    def denoising_transition(
        self, log_score: NDArray[np.float32], tokens: NDArray[np.int32], dsigma: float
    ) -> NDArray[np.float32]:
        return self.reverse_transition(log_score, tokens, dsigma)

    def euler_transition(
        self, log_score: NDArray[np.float32], tokens: NDArray[np.int32], rate_dt: float
    ) -> NDArray[np.float32]:
        return _first_order(log_score, tokens, rate_dt / self.vocab_size)

    def changing(self, tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        return np.ones(tokens.shape, np.bool_)

    def reverse_law(self, dsigma: float) -> Law:
        # As in `reverse_transition`; the mean of the scores is (1 + A) / V, where A is what the others add up to.
        floor = -math.expm1(-dsigma) / self.vocab_size
        stay_over_jump = 1.0 + math.exp(-dsigma) / floor
        return Law(floor=floor, stay=stay_over_jump * (1.0 - floor), slope=stay_over_jump * floor)

    def denoising_law(self, dsigma: float) -> Law:
        return self.reverse_law(dsigma)

    def euler_law(self, rate_dt: float) -> Law:
        return Law(stay=self.vocab_size / rate_dt, slope=1.0)

    def sample_transition(
        self, clean: NDArray[np.int32], sigma: NDArray[np.float64], uniform: NDArray[np.float64]
    ) -> NDArray[np.int32]:
        moved = -np.expm1(-sigma)
        # Below `moved` the number is uniform there, and says where to.
        target = np.minimum(uniform / moved * self.tokens, self.tokens - 1).astype(np.int32)
        return np.where(uniform < moved, target, clean)

    def score_entropy(
        self, log_score: NDArray[Any], tokens: NDArray[np.int32], clean: NDArray[np.int32], sigma: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        # The clean token is likelier than each other one by the factor e^surplus; these are equally likely.
        surplus = np.log1p(self.tokens * np.exp(-sigma) / -np.expm1(-sigma))
        origin = np.take_along_axis(log_score, clean[..., None], axis=-1)[..., 0].astype(np.float64)
        log_sum = log_score.sum(axis=-1, dtype=np.float64)  # the current token's is 0
        score_sum = np.exp(log_score, out=log_score).sum(axis=-1, dtype=np.float64) - 1.0
        stayed = np.exp(-surplus) * (log_sum + (self.tokens - 1) * (1.0 + surplus))
        moved = log_sum - origin + (self.tokens - 2) + np.exp(surplus) * (1.0 + origin - surplus)
        entropy: NDArray[np.float64] = (score_sum - np.where(tokens == clean, stayed, moved)) / self.tokens
        return entropy

    def information(self, sigma: float) -> float:
        moved, others = -math.expm1(-sigma), self.tokens - 1
        stay = 1.0 + others * math.exp(-sigma)  # both are V times a probability
        jump = moved * math.log(moved) if moved > 0.0 else 0.0
        return (stay * math.log(stay) + others * jump) / self.tokens

    def _jump_probability(self, dsigma: float) -> float:
        return -math.expm1(-dsigma) / self.vocab_size


@dataclass(frozen=True)
class Absorb:
    """Every token jumps to the mask at rate 1 and stays there (equation 16). Raises ValueError for tokens < 1.

    A position that is not masked never changes again, so its log scores are not read: they may hold anything.
    """

    tokens: int

    def __post_init__(self) -> None:
        _check_tokens(self.tokens)

    @property
    def vocab_size(self) -> int:
        return self.tokens + 1

    @property
    def mask(self) -> int:
        """Id of the mask, the last state."""
        return self.tokens

    def sample_limit(self, seeds: NDArray[np.uint64], streams: NDArray[np.uint64]) -> NDArray[np.int32]:
        return np.full(streams.shape, self.mask, dtype=np.int32)

    def transp_transition(self, tokens: NDArray[np.int32], dsigma: float) -> NDArray[np.float64]:
        transition = np.zeros((*tokens.shape, self.vocab_size))
        transition[tokens == self.mask] = -math.expm1(-dsigma)
        stay = np.where(tokens == self.mask, 1.0, math.exp(-dsigma))
        np.put_along_axis(transition, tokens[..., None], stay[..., None], axis=-1)
        return transition

    def transition(self, tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float64]:
        transition = np.zeros((*tokens.shape, self.vocab_size))
        np.put_along_axis(transition, tokens[..., None], math.exp(-sigma), axis=-1)
        transition[..., self.mask] -= math.expm1(-sigma)  # of a mask 1 in all
        return transition

    def reverse_transition(
        self, log_score: NDArray[np.float32], tokens: NDArray[np.int32], dsigma: float
    ) -> NDArray[np.float32]:
        # In a masked row p_y = s_y (e^dsigma - 1), and p_mask is what these leave of 1. The large score meets the
        # small factor while both are logarithms, and the row is scaled by the largest p_y where that is above 1.
        masked = tokens == self.mask
        log_score[~masked] = -np.inf
        log_jump = dsigma + math.log(-math.expm1(-dsigma))
        log_scale = np.maximum(log_score[..., : self.mask].max(axis=-1) + log_jump, 0.0)
        log_score += (log_jump - log_scale)[..., None]
        probabilities = np.exp(log_score, out=log_score)
        leave = probabilities[..., : self.mask].sum(axis=-1, dtype=np.float64)
        stay = np.where(masked, np.maximum(np.exp(-log_scale) - leave, 0.0), 1.0)
        np.put_along_axis(probabilities, tokens[..., None], stay[..., None], axis=-1)
        return probabilities

    def denoising_transition(
        self, log_score: NDArray[np.float32], tokens: NDArray[np.int32], dsigma: float
    ) -> NDArray[np.float32]:
        # Without the mask column a row is s_y times one factor, so dsigma drops out.
        masked = tokens == self.mask
        log_score[~masked] = -np.inf
        log_score[..., self.mask] = -np.inf
        log_score -= np.where(masked, log_score.max(axis=-1), np.float32(0.0))[..., None]
        probabilities = np.exp(log_score, out=log_score)
        stay = np.where(masked, 0.0, 1.0)
        np.put_along_axis(probabilities, tokens[..., None], stay[..., None], axis=-1)
        return probabilities

    def euler_transition(
        self, log_score: NDArray[np.float32], tokens: NDArray[np.int32], rate_dt: float
    ) -> NDArray[np.float32]:
        log_score[tokens != self.mask] = -np.inf
        return _first_order(log_score, tokens, rate_dt)

    def changing(self, tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        masked: NDArray[np.bool_] = tokens == self.mask
        return masked

    def reverse_law(self, dsigma: float) -> Law:
        return Law(stay=1.0 / math.expm1(dsigma), slope=1.0)

    def denoising_law(self, dsigma: float) -> Law:
        return Law()

    def euler_law(self, rate_dt: float) -> Law:
        return Law(stay=1.0 / rate_dt, slope=1.0)

    def sample_transition(
        self, clean: NDArray[np.int32], sigma: NDArray[np.float64], uniform: NDArray[np.float64]
    ) -> NDArray[np.int32]:
        return np.where(uniform < -np.expm1(-sigma), np.int32(self.mask), clean)

    def score_entropy(
        self, log_score: NDArray[Any], tokens: NDArray[np.int32], clean: NDArray[np.int32], sigma: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        # Of a mask only the clean token can be the origin; its ratio is 1 / (e^sigma - 1).
        masked = tokens == self.mask
        log_ratio = -(sigma + np.log(-np.expm1(-sigma)))
        origin = np.take_along_axis(log_score, clean[..., None], axis=-1)[..., 0]
        log_score[~masked] = -np.inf
        log_score[..., self.mask] = -np.inf
        score_sum = np.exp(log_score, out=log_score).sum(axis=-1, dtype=np.float64)
        surprise = np.where(masked, origin, 0.0) - log_ratio
        return np.where(masked, score_sum - np.exp(log_ratio) * (1.0 + surprise), 0.0)

    def information(self, sigma: float) -> float:
        return math.exp(-sigma) * math.log(self.tokens)


def _first_order(log_score: NDArray[np.float32], tokens: NDArray[np.int32], factor: float) -> NDArray[np.float32]:
    """factor times each score but the current token's, whose entry is what these leave of 1, at least 0.

    A row is divided by its largest entry where that is above 1.
    """
    current = tokens[..., None]
    np.put_along_axis(log_score, current, -np.inf, axis=-1)
    log_scale = np.maximum(log_score.max(axis=-1) + math.log(factor), 0.0)
    log_score += (math.log(factor) - log_scale).astype(np.float32)[..., None]
    probabilities = np.exp(log_score, out=log_score)
    leave = probabilities.sum(axis=-1, dtype=np.float64)
    np.put_along_axis(probabilities, current, np.maximum(np.exp(-log_scale) - leave, 0.0)[..., None], axis=-1)
    return probabilities


def _check_tokens(tokens: int) -> None:
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}, allowed: 1 or more")
