"""The transformer of masked language models against its reference: families, blocks, caches, dtypes."""

from __future__ import annotations

import fastsedd_kernels as fk
import masked_models
import numpy as np
import pytest

from fastsedd import models
from fastsedd.block_layout import BlockLayout
from fastsedd.models.backbone import reference, session
from fastsedd.models.backbone.embedding import Embedding
from fastsedd.models.backbone.memory import weight_bytes
from fastsedd.models.backbone.naming import Named
from fastsedd.models.backbone.network import Backbone
from fastsedd.models.backbone.session import Session

LAYOUTS = {
    "full": None,
    "blocks": BlockLayout(4),
    "blocks from a prompt": BlockLayout(8, 5),
    "one block": BlockLayout(64),
}


def poisoned(*arguments, **options) -> Session:
    """A session whose memory is all NaN."""
    made = Session(*arguments, **options)
    for value in vars(made).values():
        if isinstance(value, np.ndarray) and value.dtype == np.float32:
            value[...] = np.nan
    return made


def close(found: np.ndarray, expected: np.ndarray, bound: float) -> None:
    assert (np.abs(found - expected) <= bound * (1 + np.abs(expected))).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", [family for family in masked_models.FAMILIES if family != "gpt2"])
def test_logits_are_the_references(family: str, layout: str) -> None:
    config = masked_models.config(family, rope_scaling={"rope_type": "linear", "factor": 2.0}, attention_bias=None)
    tensors = masked_models.tensors(config)
    network = models.build(config, tensors)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (3, 21)).astype(np.int32)
    expected = reference.logits(config, tensors, tokens, LAYOUTS[layout])
    close(poisoned(network, 3, 21, LAYOUTS[layout]).all_logits(tokens), expected, 1e-4)


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.1), ("int8", 0.15), ("int4", 0.4)])
def test_logits_in_fewer_bits(dtype: str, bound: float) -> None:
    config = masked_models.config("a2d-qwen3")
    tensors = masked_models.tensors(config)
    tokens = np.random.default_rng(1).integers(0, 300, (2, 17)).astype(np.int32)
    expected = reference.logits(config, tensors, tokens)
    found = poisoned(models.build(config, tensors, dtype), 2, 17, None).all_logits(tokens)
    spread = expected.std()
    assert np.sqrt(np.mean((found - expected) ** 2)) < bound * spread
    assert np.abs(found - expected).max() > 0


@pytest.mark.parametrize("prefill", [6, 256])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_text_written_from_left_to_right(
    layout: str, shift: bool, prefill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each state's logits are those of the whole text, with a cache and without one to the same bits."""
    monkeypatch.setattr(session, "PREFILL", prefill)
    config = masked_models.config("sdar")
    tensors = masked_models.tensors(config)
    network = models.build(config, tensors)
    blocks, rng = LAYOUTS[layout], np.random.default_rng(2)
    tokens = rng.integers(0, 300, (2, 29)).astype(np.int32)
    cached, anew = (poisoned(network, 2, 29, blocks, cached=each, shift=shift, window=5) for each in (True, False))
    for first, last in ((14, 16), (14, 16), (16, 21), (21, 24), (21, 24), (24, 25), (26, 29)):
        tokens[:, first:] = 259
        tokens[:, first : last - 1] = rng.integers(0, 300, (2, last - 1 - first))
        rows = np.array([text * 29 + at for at in range(first, last) for text in (0, 1)])
        whole = reference.logits(config, tensors, tokens, blocks)
        if shift:
            whole = np.concatenate([whole[:, :1], whole[:, :-1]], axis=1)
        for each in (cached, anew):
            each.run(tokens, first, last)
        found = cached.logits(rows).copy()
        close(found, whole.reshape(-1, 300)[rows], 1e-4)
        np.testing.assert_array_equal(anew.logits(rows), found)
        np.testing.assert_array_equal(cached.logits(rows[::-1])[::-1], found)
        tokens[:, first:last] = rng.integers(0, 300, (2, last - first))


def test_the_first_position_keeps_its_own_logits_under_the_shift() -> None:
    config = masked_models.config("qwen2")
    network = models.build(config, masked_models.tensors(config))
    tokens = np.full((1, 5), 259, np.int32)
    own = Session(network, 1, 5, None).all_logits(tokens)[0]
    shifted = Session(network, 1, 5, None, shift=True)
    shifted.run(tokens, 0, 5)
    np.testing.assert_array_equal(shifted.logits(np.arange(5)), own[[0, 0, 1, 2, 3]])


def test_a_text_does_not_depend_on_its_batch_or_on_threads(one_thread) -> None:
    config = masked_models.config("Fast_dLLM_Qwen", bd_size=4)
    network = models.build(config, masked_models.tensors(config))
    tokens = np.random.default_rng(3).integers(0, 300, (4, 19)).astype(np.int32)
    together = Session(network, 4, 19, BlockLayout(4)).all_logits(tokens)
    for i in range(4):
        np.testing.assert_array_equal(
            Session(network, 1, 19, BlockLayout(4)).all_logits(tokens[i : i + 1])[0], together[i]
        )
    with one_thread():
        np.testing.assert_array_equal(Session(network, 4, 19, BlockLayout(4)).all_logits(tokens), together)


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_an_embedding_is_kept_in_its_own_bits_and_once(dtype: str, narrow: bool) -> None:
    rng = np.random.default_rng(4)
    name = "model.embed_tokens.weight"
    config = masked_models.config("sdar", vocab_size=77, hidden_size=37, mask_token_id=70, eos_token_id=None)
    weight = rng.standard_normal((77, 37)).astype(np.float32)
    if narrow:
        weight.view(np.uint32)[...] &= 0xFFFF0000
    head = fk.pack(weight, dtype)
    for tied in (head, None):
        embedding = Embedding.read(Named(config, {name: weight}), name, tied)
        out = np.full((5, 37), np.nan, np.float32)
        tokens = np.array([76, 0, 31, 32, 76])
        embedding(tokens, out)
        np.testing.assert_array_equal(out, weight[tokens])
        shared = tied is not None and (dtype == "float32" or (dtype == "bfloat16" and narrow))
        assert embedding.nbytes == (0 if shared else weight.nbytes // (2 if narrow else 1))


def test_rows_of_packed_weights_that_have_none() -> None:
    weight = np.ones((8, 8), np.float32)
    for packed in (fk.pack(weight, "int8"), fk.pack([weight, weight]), fk.pack(weight, strassen=1)):
        with pytest.raises(ValueError, match="allowed: float32, bfloat16"):
            packed.rows(np.array([0]))


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("tied", [True, False])
def test_memory_is_told_before_it_is_taken(tied: bool, dtype: str, narrow: bool) -> None:
    config = masked_models.config(
        "sdar", hidden_size=384, intermediate_size=768, vocab_size=1536, tie_word_embeddings=tied, head_dim=96
    )
    tensors = masked_models.tensors(config)
    if narrow:
        tensors = {name: (each.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, each in tensors.items()}
    network = Backbone(config, tensors, models.Precision(dtype))
    told = weight_bytes(config, dtype, narrow=narrow)
    assert network.nbytes == pytest.approx(told, rel=0.02)
