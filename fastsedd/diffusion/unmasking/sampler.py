"""The sampler of masked language models: blocks from left to right, in each of them steps that commit to some masks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from fastsedd_kernels import uniform
from numpy.typing import NDArray

from fastsedd.block_layout import BlockLayout
from fastsedd.diffusion.sampler import FREE, Batch, StepRecord
from fastsedd.diffusion.unmasking.choice import chosen
from fastsedd.diffusion.unmasking.proposal import Draws, Proposal
from fastsedd.diffusion.unmasking.quota import quotas, share
from fastsedd.diffusion.unmasking.settings import MAX_STEPS, Settings

ROWS = 64  # of logits at a time


class Network(Protocol):
    """A network as this sampler runs it, for a batch of texts that goes from left to right."""

    def run(self, tokens: NDArray[np.int32], first: int, last: int) -> None:
        """Run at a state, int32 [B, L]: all before `first` is final, and rows from there to `last` are asked about."""

    def logits(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Logits float32 [n, V] of the tokens at some positions of that state, as if the B texts were one; to be
        overwritten by the caller and by the next call. rows : intp [n], from `first` to `last` of their texts"""


@dataclass(frozen=True)
class Stopping:
    """When an answer has ended before the text's last position, and what then fills the rest.

    ended : called with the tokens from `begin` to the end of a finished block, int32 [n]
    """

    begin: int
    ended: Callable[[NDArray[np.int32]], bool]
    fill: int


@dataclass(frozen=True)
class UnmaskingSampler:
    """Masks are proposed tokens for, all at once, and some of them are committed to; block after block.

    mask : id of the mask, which is never proposed; blocks : that texts are written in; stopping : None for never
    """

    mask: int
    blocks: BlockLayout
    settings: Settings
    stopping: Stopping | None = None

    def plan(self, given: NDArray[np.int32]) -> list[tuple[int, int, list[int]]]:
        """Each block with something to write: its first position, its end, and the quotas of its steps.

        In parallel decoding a step commits to 1 at least. Raises ValueError where there are too many steps.
        """
        free = np.flatnonzero(given == FREE)
        if not len(free):
            return []
        spans = self.blocks.spans(self.blocks.begin(int(free[0])), len(given))
        held = [(first, last, int((given[first:last] == FREE).sum())) for first, last in spans]
        held = [span for span in held if span[2]]
        steps = math.ceil(self.settings.steps / len(held))
        found = []
        for first, last, masks in held:
            counts = [1] * masks if self.settings.parallel else quotas(self.settings.quota, masks, steps)
            every = self.settings.order in ("p2", "independent")
            found.append((first, last, [1] * steps if every else counts))
        total = sum(len(counts) for _, _, counts in found)
        if total > MAX_STEPS:
            raise ValueError(f"steps is {self.settings.steps}, which makes {total} in all, allowed: {MAX_STEPS}")
        return found

    def run(self, network: Network, batch: Batch, after: StepRecord | None = None) -> Iterator[StepRecord]:
        """One record per step, of which some may be left out; see `Sampler`.

        network : for as many texts as the batch has, or twice as many under guidance; run once per step
        batch : of texts that have their gaps in the same places
        """
        free = batch.given == FREE
        tokens = np.where(free, self.mask, batch.given).astype(np.int32) if after is None else after.tokens
        plan = self.plan(batch.given[0])
        steps = max(1, sum(len(counts) for _, _, counts in plan))
        if not plan:
            yield StepRecord(steps, steps, tokens, 0.0)
        open_texts = np.ones(len(tokens), bool)
        done, before = 0, 0 if after is None else after.step
        for number, (first, last, counts) in enumerate(plan):
            for j, count in enumerate(counts):
                started = time.perf_counter()
                window = np.zeros(tokens.shape, bool)
                window[open_texts, first:last] = free[open_texts, first:last]
                at = (j, len(counts), count, done + j + 1)
                anew = at[-1] > before
                if anew:
                    self._step(network, batch, tokens, (first, last), window, at)
                whole = not (window & (tokens == self.mask)).any()
                over = whole and (self.settings.order != "p2" or j + 1 == len(counts))
                if over:
                    open_texts &= ~self._close(batch.given[0], tokens, last)
                finished = over and (number + 1 == len(plan) or not open_texts.any())
                if anew or finished:
                    yield StepRecord(steps if finished else at[-1], steps, tokens, time.perf_counter() - started)
                if finished:
                    return
                if over:
                    break
            done += len(counts)

    def _step(
        self, network: Network, batch: Batch, tokens: NDArray[np.int32], span: tuple[int, int],
        window: NDArray[np.bool_], at: tuple[int, int, int, int],
    ) -> None:  # fmt: skip
        """Commit to some masks of a block, in place.

        window : bool [B, L], positions of the block that are to be written
        at : the step's number in the block, how many these are, its quota, and its number in the whole text
        """
        j, steps, count, number = at
        asked = window if self.settings.order == "p2" else window & (tokens == self.mask)
        if self.settings.order == "independent":
            numbers = uniform(batch.seeds_of_draws(), batch.order_streams(number))
            asked = asked & (numbers < share(self.settings.quota, j, steps))
            if not asked.any():
                return
        if self.settings.order == "random" and not self.settings.parallel:  # the order is known before any proposal
            asked = _largest(uniform(batch.seeds_of_draws(), batch.order_streams(number)), asked, count)
        rows = np.flatnonzero(asked)
        seeds = batch.seeds_of_draws().reshape(-1)[rows]
        proposal = self._propose(network, batch, tokens, span, rows, (seeds, batch.streams(number).reshape(-1)[rows]))
        score = self._score(proposal, (seeds, batch.order_streams(number).reshape(-1)[rows]))
        flat = tokens.reshape(-1)
        confidence = None if batch.confidence is None else batch.confidence.reshape(-1)
        texts = rows // tokens.shape[1]
        for text in np.unique(texts):
            own = np.flatnonzero(texts == text)
            if self.settings.order == "p2":
                kept = math.floor(len(own) * (1 - (j + 1) / steps))
                behind = own[np.argsort(score[own], kind="stable")[:kept]]
                flat[rows[own]] = proposal.tokens[own]
                flat[rows[behind]] = self.mask
                taken = own
            else:
                every = self.settings.order == "independent"
                taken = own if every else own[chosen(self.settings, proposal, score, own, count)]
                flat[rows[taken]] = proposal.tokens[taken]
            if confidence is not None:
                confidence[rows[taken]] = proposal.confidence[taken]

    def _propose(
        self, network: Network, batch: Batch, tokens: NDArray[np.int32], span: tuple[int, int],
        rows: NDArray[np.intp], draws: Draws,
    ) -> Proposal:  # fmt: skip
        guided = self.settings.cfg_scale > 0.0
        if guided:
            blind = np.where(batch.given == FREE, tokens, self.mask).astype(np.int32)
            network.run(np.concatenate([tokens, blind]), *span)
        else:
            network.run(tokens, *span)
        proposal = Proposal.empty(len(rows))
        current = tokens.reshape(-1)[rows]
        committed = np.where(current == self.mask, -1, current).astype(np.int32)
        for first in range(0, len(rows), ROWS):
            part = slice(first, min(first + ROWS, len(rows)))
            logits = network.logits(rows[part])
            if guided:
                logits = logits.copy()
                blind_logits = network.logits(rows[part] + tokens.size)
                logits = blind_logits + np.float32(self.settings.cfg_scale + 1.0) * (logits - blind_logits)
            logits[:, self.mask] = -np.inf
            proposal.fill(first, logits, self.settings, (draws[0][part], draws[1][part]), committed[part])
        return proposal

    def _score(self, proposal: Proposal, draws: Draws) -> NDArray[np.float64]:
        """Scores that positions are ordered by, the highest first: float64 [n]."""
        if self.settings.order == "random":
            return uniform(*draws)
        score = proposal.score.astype(np.float64)
        if self.settings.order_temperature > 0.0:
            noise = np.maximum(uniform(*draws), 2.0**-54)
            score = score / self.settings.order_temperature - np.log(-np.log(noise))
        return score

    def _close(self, given: NDArray[np.int32], tokens: NDArray[np.int32], last: int) -> NDArray[np.bool_]:
        """Fill the texts that have ended with a block; which these are, bool [B]."""
        if self.stopping is None or (given[last:] != FREE).any():
            return np.zeros(len(tokens), bool)
        ended = np.array([self.stopping.ended(row[self.stopping.begin : last]) for row in tokens])
        tokens[ended, last:] = self.stopping.fill
        return ended


def _largest(numbers: NDArray[np.float64], among: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """The places of the largest numbers of each row, `count` of those that are among these: bool [B, L]."""
    found = np.zeros_like(among)
    order = np.argsort(-np.where(among, numbers, -1.0), axis=-1, kind="stable")[:, :count]
    np.put_along_axis(found, order, True, axis=-1)
    return found & among
