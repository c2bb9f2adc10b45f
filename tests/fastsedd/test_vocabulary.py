"""A mask anywhere in the vocabulary: numbers and texts as if it were the last id, in the file's own ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastsedd
from fastsedd.models import reference
from fastsedd.vocabulary import Vocabulary

SIZE = 7
FAMILIES = [("ddit", True), ("ddit", False), ("mdlm", False), ("radd", False)]


def with_mask_last(tensors: dict[str, np.ndarray], mask: int) -> dict[str, np.ndarray]:
    """The same model with its rows in another order: the mask's at the end."""
    order = [*(i for i in range(SIZE) if i != mask), mask]
    return {name: tensor[order] if tensor.shape[0] == SIZE else tensor for name, tensor in tensors.items()}


@pytest.fixture
def both(write_checkpoint: Any, make_config: Any, make_tensors: Any) -> Any:
    """Two folders of one model, the mask at an id and at the end, its config and its tensors."""

    def make(architecture: str, scaled: bool, mask: int) -> tuple[Path, Path, Any, dict[str, np.ndarray]]:
        config = make_config(architecture, "absorb", tokens=SIZE - 1, characters=None, scale_by_sigma=scaled)
        tensors = make_tensors(config)
        anywhere, last = write_checkpoint(config, tensors), write_checkpoint(config, with_mask_last(tensors, mask))
        document = json.loads((anywhere / "config.json").read_text())
        (anywhere / "config.json").write_text(json.dumps(document | {"mask_token_id": mask}))
        return anywhere, last, config, tensors

    return make


@pytest.mark.parametrize("mask", [0, 3, SIZE - 1])
@pytest.mark.parametrize(("architecture", "scaled"), FAMILIES)
def test_log_scores_are_those_of_the_reference(both: Any, architecture: str, scaled: bool, mask: int) -> None:
    """Against the networks' float64 reference on the file's own tensors, with the mask where it is."""
    folder, _, config, tensors = both(architecture, scaled, mask)
    model = fastsedd.load(folder)
    assert model.config.mask_id == mask and model.config.vocab_size == SIZE
    tokens = np.random.default_rng(0).integers(0, SIZE, (3, 12))
    sigma = np.array([0.1, 1.0, 4.0])
    logits = reference.logits(config, tensors, tokens, sigma)
    odds = np.log(np.expm1(sigma))[:, None]
    if config.normalised:
        text = np.delete(np.exp(logits), mask, axis=-1).sum(axis=-1, keepdims=True)
        expected = np.where((tokens == mask)[..., None], logits - np.log(text) - odds[..., None], -np.inf)
        expected[..., mask] = odds
    else:
        expected = logits - (odds + np.log(SIZE - 1))[..., None] if scaled else logits
    np.put_along_axis(expected, tokens[..., None], 0.0, axis=-1)
    np.testing.assert_allclose(model.log_score(tokens, sigma), expected, atol=1e-4)


@pytest.mark.parametrize("mask", [0, 3])
@pytest.mark.parametrize(("architecture", "scaled"), FAMILIES)
def test_texts_are_those_of_a_mask_at_the_end(both: Any, architecture: str, scaled: bool, mask: int) -> None:
    folder, other, config, _ = both(architecture, scaled, mask)
    anywhere, last = fastsedd.load(folder), fastsedd.load(other)
    ids = np.array([*(i for i in range(SIZE) if i != mask), mask])  # of the other model's
    for options in ({}, {"top_k": 3}, {"predictor": "euler"}, {"draw": "official"}):
        states: dict[str, list[np.ndarray]] = {"anywhere": [], "last": []}

        def keep(step: int, steps: int, tokens: np.ndarray, name: str = "anywhere", states: Any = states) -> None:
            states[name].append(tokens)

        first = anywhere.generate(num_samples=3, seed=5, steps=9, fixed={2: int(ids[4])}, on_step=keep, **options)
        second = last.generate(
            num_samples=3, seed=5, steps=9, fixed={2: 4},
            on_step=lambda *step, keep=keep: keep(*step, name="last"), **options,
        )  # fmt: skip
        np.testing.assert_array_equal(first.tokens, ids[second.tokens])
        assert (first.tokens != mask).all() and (first.tokens[:, 2] == ids[4]).all()
        for one, two in zip(states["anywhere"], states["last"], strict=True):
            np.testing.assert_array_equal(one, ids[two])
        if config.output != "score":  # random scores as large leave no mask behind the first step
            assert (states["anywhere"][0] == mask).any()
        assert first.texts[0].split() == [str(token) for token in first.tokens[0]]
    text = " ".join(str(token) for token in first.tokens.reshape(-1))
    theirs = " ".join(str(token) for token in second.tokens.reshape(-1))
    assert anywhere.evaluate(text, seed=1).nats == last.evaluate(theirs, seed=1).nats


def test_the_mask_itself_is_not_given_text(both: Any) -> None:
    model = fastsedd.load(both("mdlm", False, 3)[0])
    with pytest.raises(ValueError, match=r"prefix: '3' is not a token id, allowed: 0 to 6 but the mask, 3"):
        model.generate(prefix="1 3")
    with pytest.raises(ValueError, match=r"fixed has token 3, allowed: 0 to 6 but the mask, 3, or -1 where free"):
        model.generate(fixed={0: 3})
    with pytest.raises(ValueError, match=r"fixed has token 7"):
        model.generate(fixed={0: 7})
    assert model.generate(prefix="6", seed=0).tokens[0, 0] == 6


def test_convert_keeps_the_mask(both: Any, tmp_path: Path) -> None:
    folder, _, _, _ = both("mdlm", False, 3)
    fastsedd.convert(folder, tmp_path / "converted")
    model = fastsedd.load(tmp_path / "converted")
    assert model.config.mask_id == 3
    np.testing.assert_array_equal(
        model.generate(seed=1, steps=4).tokens, fastsedd.load(folder).generate(seed=1, steps=4).tokens
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int64", "uint64"])
def test_ids_of_every_dtype_have_the_same_scores(write_checkpoint: Any, make_config: Any, dtype: str) -> None:
    """The mask's state, 299, fits neither int8 nor uint8, although each of the ids does."""
    config = make_config("mdlm", "absorb", tokens=299, characters=None)
    folder = write_checkpoint(config)
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | {"mask_token_id": 103}))
    model = fastsedd.load(folder)
    ids = np.array([[103, 5, 110, 103, 7]], np.int32)
    expected = model.log_score(ids, [1.0])
    assert np.isfinite(expected[0, 0]).all() and np.isneginf(expected[0, 1]).any()
    np.testing.assert_array_equal(model.log_score(ids.astype(dtype), [1.0]), expected)


def test_a_word_piece_tokenizer_with_its_mask_among_the_words(write_checkpoint: Any, make_config: Any) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", "[MASK]", "hello", "world", *(f"w{i}" for i in range(8))]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    tokenizer.add_special_tokens(words[:3])
    folder = write_checkpoint(make_config("mdlm", "absorb", tokens=len(words) - 1, characters=None))
    tokenizer.save(str(folder / "tokenizer.json"))
    model = fastsedd.load(folder)
    assert model.config.mask_id == 2
    states: list[np.ndarray] = []
    result = model.generate(
        prefix="hello w7", suffix="world", steps=4, seed=1, on_step=lambda step, steps, tokens: states.append(tokens)
    )
    assert result.tokens[0, [0, 1, -1]].tolist() == [3, 12, 4] and (result.tokens != 2).all()
    assert result.texts[0].startswith("hello w7 ") and result.texts[0].endswith(" world")
    assert model.tokenizer.decode(states[0][0]).count("_") == (states[0] == 2).sum() > 0
    with pytest.raises(ValueError, match="prefix: a piece of the text is the mask, token 2"):
        model.generate(prefix="hello [MASK]")


@pytest.mark.parametrize("mask", [None, 0, 2, 4])
def test_translation_is_undone(mask: int | None) -> None:
    vocabulary = Vocabulary(4, mask)
    ids = np.arange(-1, 5, dtype=np.int32)
    states = vocabulary.to_states(ids)
    assert states.dtype == np.int32 and sorted(states) == sorted(ids) and states[0] == -1
    np.testing.assert_array_equal(vocabulary.to_ids(states)[1:], ids[1:])
    if mask is not None:
        assert states[mask + 1] == 4
        rows = np.arange(10, dtype=np.float32).reshape(5, 2)
        np.testing.assert_array_equal(vocabulary.columns_by_id(vocabulary.rows_by_state(rows).T), rows.T)
