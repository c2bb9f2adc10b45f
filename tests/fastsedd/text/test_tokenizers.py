"""Tokenizers: what is encoded is decoded, and what cannot be is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsedd import text
from fastsedd.text.characters import TINY_SHAKESPEARE


@given(st.text(alphabet=TINY_SHAKESPEARE))
def test_characters_round_trip(given_text: str) -> None:
    tokenizer = text.CharacterTokenizer(TINY_SHAKESPEARE)
    tokens = tokenizer.encode(given_text)
    assert tokens.dtype == np.int32 and tokens.shape == (len(given_text),)
    assert tokenizer.decode(tokens) == given_text


def test_the_table_is_sorted_and_has_65() -> None:
    assert len(TINY_SHAKESPEARE) == 65 and sorted(set(TINY_SHAKESPEARE)) == list(TINY_SHAKESPEARE)


def test_the_mask_is_shown() -> None:
    tokenizer = text.CharacterTokenizer("abc")
    assert tokenizer.decode(np.array([0, 3, 2], np.int32)) == "a_c"
    assert tokenizer.decode(np.array([0, 3, 2], np.int32), mask="·") == "a·c"


def test_an_unknown_character_is_named_with_its_position() -> None:
    with pytest.raises(ValueError, match=r"character 'é' at position 3") as caught:
        text.CharacterTokenizer(TINY_SHAKESPEARE).encode("Cafés")
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(0, 99)))
def test_token_ids_round_trip(ids: list[int]) -> None:
    tokenizer = text.TokenIds(100)
    assert tokenizer.encode(tokenizer.decode(np.array(ids, np.int32))).tolist() == ids


@pytest.mark.parametrize("word", ["100", "-1", "x", "1.5", "٣", "9" * 5000])
def test_words_that_are_not_token_ids(word: str) -> None:
    with pytest.raises(ValueError, match="not a token id"):
        text.TokenIds(100).encode(f"1 {word}")


def test_a_config_chooses(make_config) -> None:
    assert isinstance(text.choose(make_config()), text.CharacterTokenizer)
    assert isinstance(text.choose(make_config(characters=None)), text.TokenIds)
