"""The positions that a step commits to, of those with a proposal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fastsedd.diffusion.unmasking.proposal import Proposal
from fastsedd.diffusion.unmasking.settings import Settings


def chosen(
    settings: Settings, proposal: Proposal, score: NDArray[np.float64], own: NDArray[np.intp], count: int
) -> NDArray[np.intp]:
    """Places within `own` that are committed to, 1 at least; of equal ones the first.

    own : intp [m], m at least 1: which proposals are one text's; score : float64 [n], by which they are ordered
    count : the step's quota, which parallel decoding does not use
    """
    if settings.threshold is not None:
        taken = proposal.confidence[own] >= np.float32(settings.threshold)
        taken[score[own].argmax()] = True
        return np.flatnonzero(taken)
    if settings.factor is not None:
        order = np.argsort(-proposal.confidence[own], kind="stable")
        sorted_confidence = proposal.confidence[own][order].astype(np.float64)
        within = (np.arange(1, len(own) + 1) + 1) * (1 - sorted_confidence) < settings.factor
        return order[: max(1, _leading(within))]
    if settings.entropy_bound is not None:
        order = np.argsort(proposal.entropy[own], kind="stable")
        sums = np.cumsum(proposal.entropy[own][order], dtype=np.float64)
        return order[: max(1, _leading(sums < settings.entropy_bound))]
    return np.argsort(-score[own], kind="stable")[:count]


def _leading(flags: NDArray[np.bool_]) -> int:
    """The number of true flags before the first false one."""
    return len(flags) if flags.all() else int(flags.argmin())
