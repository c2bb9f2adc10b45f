"""Measures of texts beside the same measures of real text, each with its standard error over the texts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsedd.quality.kneser_ney import KneserNey

TRAINING_SHARE = 0.9  # of a reference text: the rest is what real text is measured on
ORDER = 5
DISTINCT = (2, 3, 4)

_WORD = re.compile(r"(?:[^\W\d_]|')+")


@dataclass(frozen=True)
class Estimate:
    """A measure and its standard error over texts, None where there is only one text."""

    value: float
    error: float | None


@dataclass(frozen=True)
class Measures:
    """Measures of a set of texts.

    words : share of their words that the training text holds; a word is a run of letters and apostrophes, in any case
    perplexity : a character's, under the n-gram model
    distinct : of each n in DISTINCT, the share of a text's character n-grams that it does not hold twice
    entropy : of the characters within a text, nats
    """

    texts: int
    words: Estimate
    perplexity: Estimate
    distinct: tuple[Estimate, ...]
    entropy: Estimate

    def named(self) -> list[tuple[str, Estimate]]:
        """Every measure, with its name."""
        distinct = [(f"distinct {n}-grams", each) for n, each in zip(DISTINCT, self.distinct, strict=True)]
        return [
            ("real words", self.words),
            (f"{ORDER}-gram perplexity", self.perplexity),
            *distinct,
            ("entropy, nats", self.entropy),
        ]


@dataclass(frozen=True)
class Quality:
    """The texts, and real text in windows as long as they are. unmeasured : how many texts had no characters."""

    samples: Measures
    real: Measures
    unmeasured: int


class Reference:
    """A text to measure others by: its beginning trains a word list and an n-gram model, its end is real text."""

    def __init__(self, text: str) -> None:
        """Raises ValueError for a text that is too short to be split."""
        split = int(TRAINING_SHARE * len(text))
        if split == 0:
            raise ValueError(f"reference is {text!r}, allowed: 2 characters or more")
        self._real = text[split:]
        self._words = frozenset(_words(text[:split]))
        self._model = KneserNey(text[:split], ORDER)

    def measure(self, texts: Iterable[str]) -> Quality:
        """Measure texts, those without characters left out, and real text beside them.

        Distinct n-grams and entropy depend on a text's length: real text is cut into windows of the median length.
        Raises ValueError where no text has characters.
        """
        given = list(texts)
        full = [text for text in given if text]
        if not full:
            raise ValueError(f"texts has {len(given)} without characters, allowed: 1 or more with characters")
        length = min(int(np.median([len(text) for text in full])), len(self._real))
        starts = range(0, len(self._real) // length * length, length)
        real = [self._real[start : start + length] for start in starts]
        return Quality(self._measures(full), self._measures(real), len(given) - len(full))

    def _measures(self, texts: Sequence[str]) -> Measures:
        words = [_words(text) for text in texts]
        surprise = [-each.sum() for each in self._model.log_probabilities(texts)]
        nats = ratio(surprise, [len(text) for text in texts])
        perplexity = math.exp(nats.value)
        return Measures(
            texts=len(texts),
            words=ratio([sum(word in self._words for word in each) for each in words], [len(each) for each in words]),
            perplexity=Estimate(perplexity, None if nats.error is None else perplexity * nats.error),
            distinct=tuple(_distinct(texts, n) for n in DISTINCT),
            entropy=ratio([_entropy(text) for text in texts], [1] * len(texts)),
        )


def ratio(parts: Sequence[float], wholes: Sequence[float]) -> Estimate:
    """Sum of `parts` over sum of `wholes`, with its standard error over texts (Cochran 1977, section 2.11).

    Where the wholes are all 1 these are the mean and its standard error. NaN where they are all 0.
    """
    part, whole = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    total, count = float(whole.sum()), len(whole)
    if total == 0.0:
        return Estimate(math.nan, None)
    value = float(part.sum()) / total
    if count == 1:
        return Estimate(value, None)
    residual: NDArray[np.float64] = part - value * whole
    return Estimate(value, math.sqrt(count / (count - 1) * float(residual @ residual)) / total)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _distinct(texts: Sequence[str], n: int) -> Estimate:
    grams = [[text[i : i + n] for i in range(len(text) - n + 1)] for text in texts]
    return ratio([len(set(each)) for each in grams], [len(each) for each in grams])


def _entropy(text: str) -> float:
    counts = np.unique(list(text), return_counts=True)[1]
    share = counts / len(text)
    return float(-(share * np.log(share)).sum())
