"""The n-gram model: a tiny one by hand, and what holds for every one."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsedd.quality.kneser_ney import KneserNey

TEXTS = st.text("abc é😀", min_size=1, max_size=60)


def probability(model: KneserNey, text: str) -> float:
    """Probability of the last character, given the others."""
    return math.exp(model.log_probabilities([text])[0][-1])


def test_a_bigram_model_by_hand() -> None:
    """abacab: bigrams ab 2, ba 1, ac 1, ca 1; so the discount of bigrams is 3 / (3 + 2).

    Unigrams count the characters they follow: a after b and c 2, b after a 1, c after a 1; discount 2 / (2 + 2).
    """
    model = KneserNey("abacab", order=2)
    rest = 0.5 * 3 / 4 / 4  # what unigrams leave to each of a, b, c and the unknown one
    one = {"a": 1.5 / 4 + rest, "b": 0.5 / 4 + rest, "c": 0.5 / 4 + rest, "?": rest}
    for character, expected in one.items():
        assert probability(model, character) == pytest.approx(expected, rel=1e-14)
    after_a = {"a": 0.0, "b": 2 - 0.6, "c": 1 - 0.6, "?": 0.0}  # of 3, in 2 kinds
    for character, left in after_a.items():
        expected = (left + 0.6 * 2 * one[character]) / 3
        assert probability(model, f"a{character}") == pytest.approx(expected, rel=1e-14)
    assert probability(model, "?a") == pytest.approx(one["a"], rel=1e-14)  # no such context
    assert model.vocab_size == 4


@given(training=TEXTS, context=TEXTS, order=st.integers(1, 6))
def test_probabilities_sum_to_one(training: str, context: str, order: int) -> None:
    model = KneserNey(training, order)
    characters = [*sorted(set(training)), "\N{SNOWMAN}"]
    total = math.fsum(probability(model, context + character) for character in characters)
    assert total == pytest.approx(1.0, abs=1e-12)


@given(training=TEXTS, text=TEXTS, order=st.integers(1, 6))
def test_it_is_the_textbook_recursion(training: str, text: str, order: int) -> None:
    """One character at a time, in dictionaries."""
    model = KneserNey(training, order)
    for i, found in enumerate(model.log_probabilities([text])[0]):
        context = text[max(0, i - order + 1) : i]
        assert math.exp(found) == pytest.approx(textbook(training, order, context, text[i]), rel=1e-12)


def textbook(training: str, order: int, context: str, character: str) -> float:
    order = min(order, len(training))
    context = context[max(0, len(context) - order + 1) :]
    probability = 1.0 / (len(set(training)) + 1)
    for n in range(1, len(context) + 2):
        seen = counts(training, order, n)
        values = Counter(seen.values())
        discount = values[1] / (values[1] + 2 * values[2]) if values[1] else 0.5
        given_this = context[len(context) - n + 1 :]
        following = {gram: count for gram, count in seen.items() if gram[:-1] == given_this}
        if following:
            own = max(following.get(given_this + character, 0) - discount, 0.0)
            probability = (own + discount * len(following) * probability) / sum(following.values())
    return probability


def counts(training: str, order: int, n: int) -> Counter[str]:
    """Counts of each n-gram or, below the highest order, of the characters that it followed."""
    grams = [training[i : i + n] for i in range(len(training) - n + 1)]
    if n == order:
        return Counter(grams)
    return Counter(gram[1:] for gram in {training[i : i + n + 1] for i in range(len(training) - n)})


@given(training=TEXTS, texts=st.lists(st.text("abx", max_size=12), min_size=1, max_size=5))
def test_texts_do_not_see_each_other(training: str, texts: list[str]) -> None:
    model = KneserNey(training)
    together = model.log_probabilities(texts)
    assert [len(each) for each in together] == [len(text) for text in texts]
    for text, found in zip(texts, together, strict=True):
        np.testing.assert_array_equal(found, model.log_probabilities([text])[0])


@pytest.mark.parametrize(("arguments", "words"), [(("", 5), "text has no characters"), (("a", 0), "order is 0")])
def test_bad_arguments(arguments: tuple[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        KneserNey(*arguments)
