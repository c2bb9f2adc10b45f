"""A character n-gram model with interpolated Kneser-Ney smoothing, trained and asked in arrays.

Kneser and Ney 1995; Chen and Goodman 1999, section 4.1.6 and equation 26 of their report. One discount an order,
n1 / (n1 + 2 n2), from how many n-grams were seen once and twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Where no n-gram was seen once its count says nothing of a discount.
DEFAULT_DISCOUNT = 0.5

UNSEEN = -1


@dataclass(frozen=True)
class _Order:
    """The n-grams of one length n, numbered in the order of their codes.

    codes : int64 [G], sorted: the number of an n-gram's first n - 1 characters, times the characters, plus its last
    counts : float64 [G]; total, types : float64, of each number of a context, the sum of its counts and how many are
        above 0
    """

    codes: NDArray[np.int64]
    counts: NDArray[np.float64]
    total: NDArray[np.float64]
    types: NDArray[np.float64]
    discount: float

    def find(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of n-grams, UNSEEN where there is none."""
        at = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[at] == codes, at, UNSEEN)


class KneserNey:
    """p(character | the order - 1 before it), of which a text's first characters have fewer.

    Every character that the training text does not hold is one and the same, beyond those that it holds.
    """

    def __init__(self, text: str, order: int = 5) -> None:
        """Train on a text. Raises ValueError for one without characters, and for order < 1."""
        if order < 1:
            raise ValueError(f"order is {order}, allowed: 1 or more")
        if not text:
            raise ValueError("text has no characters, allowed: 1 or more")
        points = _code_points(text)
        self.characters = np.unique(points)
        self.order = order
        self._orders = self._count(self._tokens(points))

    @property
    def vocab_size(self) -> int:
        """The characters of the training text, and the one that stands for all others."""
        return len(self.characters) + 1

    def log_probabilities(self, texts: Sequence[str]) -> list[NDArray[np.float64]]:
        """Natural logarithm of each character's probability, given those before it in its own text: [len(text)]."""
        tokens = self._tokens(_code_points("".join(texts)))
        lengths = [len(text) for text in texts]
        ends = np.cumsum(lengths)
        before = np.arange(len(tokens)) - np.repeat(ends - lengths, lengths)  # characters that precede it in its text
        probability = np.full(len(tokens), 1.0 / self.vocab_size)
        context = np.zeros(len(tokens), np.int64)  # the empty one
        for n, order in enumerate(self._orders, start=1):
            known = (context != UNSEEN) & (before >= n - 1)
            number = np.where(known, order.find(context * self.vocab_size + tokens), UNSEEN)
            at = np.where(known, context, 0)
            count = np.where(number == UNSEEN, 0.0, order.counts[number])
            lower = order.discount * order.types[at] * probability
            seen = known & (order.total[at] > 0.0)
            interpolated = (np.maximum(count - order.discount, 0.0) + lower) / np.where(seen, order.total[at], 1.0)
            probability = np.where(seen, interpolated, probability)
            context = np.concatenate(([UNSEEN], number[:-1]))
        return np.split(np.log(probability), ends[:-1])

    def _tokens(self, points: NDArray[np.int64]) -> NDArray[np.int64]:
        at = np.minimum(np.searchsorted(self.characters, points), len(self.characters) - 1)
        return np.where(self.characters[at] == points, at, len(self.characters))

    def _count(self, tokens: NDArray[np.int64]) -> list[_Order]:
        """All orders: the longest by how often an n-gram was seen, the others by how many characters it was seen after.

        An n-gram is the (n - 1)-gram it begins with and its last character, so one number joins two at each order.
        """
        numbers = np.zeros(len(tokens) + 1, np.int64)  # of the n-gram that begins at each position, n = 0 so far
        contexts = [1]
        codes: list[NDArray[np.int64]] = []
        counts: list[NDArray[np.int64]] = []
        for n in range(1, min(self.order, len(tokens)) + 1):
            found, first, following, seen = np.unique(
                numbers[:-1] * self.vocab_size + tokens[n - 1 :],
                return_index=True, return_inverse=True, return_counts=True,
            )  # fmt: skip
            if n > 1:  # each n-gram is one more character that its last n - 1 were seen after
                counts[-1] = np.bincount(numbers[first + 1], minlength=len(codes[-1]))
            codes.append(found)
            counts.append(seen)
            contexts.append(len(found))
            numbers = following
        return [self._order(*each) for each in zip(codes, counts, contexts[:-1], strict=True)]

    def _order(self, codes: NDArray[np.int64], counts: NDArray[np.int64], contexts: int) -> _Order:
        context = codes // self.vocab_size
        weights = counts.astype(np.float64)
        total = np.bincount(context, weights, minlength=contexts).astype(np.float64)
        types = np.bincount(context, weights > 0.0, minlength=contexts).astype(np.float64)
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        discount = once / (once + 2 * twice) if once else DEFAULT_DISCOUNT
        return _Order(codes, weights, total, types, discount)


def _code_points(text: str) -> NDArray[np.int64]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)
