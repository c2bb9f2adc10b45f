"""BD3-LM: logits of its reference, in a window that slides, texts by its authors' loop, files as they leave them."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import masked_models
import numpy as np
import pytest
from click.testing import CliRunner
from fastsedd_kernels import uniform
from safetensors.numpy import load_file, save_file

import fastsedd
from fastsedd import CheckpointError, checkpoint, cli, models
from fastsedd.block_layout import BlockLayout
from fastsedd.checkpoint import config_json
from fastsedd.diffusion.sampler import FREE, Batch
from fastsedd.models.backbone import session
from fastsedd.models.backbone.memory import weight_bytes
from fastsedd.models.backbone.session import Session
from fastsedd.models.bd3lm import reference

START, MASK, END = 256, 259, masked_models.END
LAYOUTS = {"blocks": BlockLayout(4), "a window": BlockLayout(4, 0, 12), "one block": BlockLayout(32), "full": None}


def poisoned(*arguments: Any, **options: Any) -> Session:
    """A session whose memory is all NaN."""
    made = Session(*arguments, **options)
    for value in vars(made).values():
        if isinstance(value, np.ndarray) and value.dtype == np.float32:
            value[...] = np.nan
    return made


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert (np.abs(found - expected) <= 1e-4 * (1 + np.abs(expected))).all()


@pytest.mark.parametrize("adaln", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_the_references(layout: str, adaln: bool) -> None:
    config = masked_models.config("bd3lm", adaln=adaln)
    tensors = masked_models.tensors(config)
    assert any("adaLN" in name for name in tensors) == adaln and "backbone.blocks.0.norm1.bias" not in tensors
    tokens = np.random.default_rng(1).integers(0, 260, (2, 23)).astype(np.int32)
    found = poisoned(models.build(config, tensors), 2, 23, LAYOUTS[layout]).all_logits(tokens)
    close(found, reference.logits(config, tensors, tokens, LAYOUTS[layout]))


@pytest.mark.parametrize("prefill", [6, 256])
def test_a_window_slides_with_a_cache_and_without_to_the_same_bits(
    prefill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PREFILL", prefill)
    config = masked_models.config("bd3lm")
    tensors = masked_models.tensors(config)
    network, layout, length = models.build(config, tensors), BlockLayout(4, 0, 12), 30
    tokens = np.random.default_rng(2).integers(0, 256, (2, length)).astype(np.int32)
    cached, anew = (poisoned(network, 2, length, layout, cached=each, window=4) for each in (True, False))
    for first, last in ((8, 12), (12, 16), (12, 16), (16, 20), (24, 28), (28, 30)):
        state = tokens.copy()
        state[:, first:] = MASK
        rows = np.array([text * length + at for text in (0, 1) for at in range(first, last)])
        for each in (cached, anew):
            each.run(state, first, last)
        found = cached.logits(rows).copy()
        close(found, reference.logits(config, tensors, state, layout).reshape(-1, 260)[rows])
        np.testing.assert_array_equal(anew.logits(rows), found)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_logits_in_fewer_bits_and_their_memory(dtype: str) -> None:
    config = masked_models.config("bd3lm", hidden_dim=384, n_heads=6, vocab_size=1536)
    tensors = masked_models.tensors(config)
    tokens = np.random.default_rng(1).integers(0, 1536, (2, 9)).astype(np.int32)
    expected = reference.logits(config, tensors, tokens, LAYOUTS["blocks"])
    network = models.build(config, tensors, dtype)
    found = Session(network, 2, 9, LAYOUTS["blocks"]).all_logits(tokens)
    assert 0 < np.sqrt(np.mean((found - expected) ** 2)) < 0.15 * expected.std()
    assert network.nbytes == pytest.approx(weight_bytes(config, dtype, narrow=False), rel=0.02)


def written(model: fastsedd.Model, given: list[int], numbers: np.ndarray) -> list[int]:
    """First-hitting of the authors' `_semi_ar_sampler`, likeliest tokens, every block computed anew at every step.

    numbers : of steps, from 1 on, and positions; of a block's masks that with the largest number falls
    """
    config = model.config
    tensors, context = masked_models.tensors(config), config.length
    layout, text, step = BlockLayout(4, 0, context), np.array(given), 0
    text[text == FREE] = MASK
    for first, last in layout.spans(0, len(text)):
        while (masks := first + np.flatnonzero(text[first:last] == MASK)).size:
            step += 1
            place = masks[numbers[step - 1][masks].argmax()]
            state = np.where(np.arange(len(text)) < last, text, MASK)  # blocks behind are not there yet
            row = reference.logits(config, tensors, state[None], layout)[0, place]
            row[MASK] = -math.inf
            text[place] = row.argmax()
    return text.tolist()


@pytest.mark.parametrize("length", [13, 41])
def test_texts_are_those_of_the_authors_loop(tmp_path: Path, length: int) -> None:
    """Within the model's 32 positions, and beyond them."""
    model = fastsedd.load(masked_models.write(tmp_path / "model", "bd3lm"))
    given = [START, *model.tokenizer.encode("To be").tolist()]
    given += [FREE] * (1 + length - len(given))
    batch = Batch.of([0], [5], [np.array(given, np.int32)])
    numbers = np.array([uniform(batch.seeds_of_draws(), batch.order_streams(step))[0] for step in range(1, length)])
    expected = written(model, given, numbers)
    states: list[np.ndarray] = []
    found = model.generate(
        "To be", length=length, temperature=0.0, seed=5, on_step=lambda *at: states.append(at[2][0].copy())
    )
    assert found.tokens[0].tolist() == expected
    assert found.texts[0] == model.tokenizer.decode(np.array(expected[1:]))
    fallen = [(after != before).sum() for before, after in pairwise(states)]
    assert set(fallen) == {1} and len(states) == length - 5


def test_texts_depend_on_their_seed_alone(tmp_path: Path, one_thread: Any) -> None:
    model = fastsedd.load(masked_models.write(tmp_path / "model", "bd3lm"))
    options: dict[str, Any] = {"length": 37, "seed": 3}
    together = model.generate(num_samples=3, **options).tokens
    assert len({tuple(row) for row in together.tolist()}) == 3 and (together != MASK).all()
    for changes in ({"batch_size": 1}, {"batch_size": 2}, {"cache": "off"}):
        np.testing.assert_array_equal(model.generate(num_samples=3, **options, **changes).tokens, together)
    np.testing.assert_array_equal(model.generate(num_samples=3, indices=[2], **options).tokens[0], together[2])
    with one_thread():
        np.testing.assert_array_equal(model.generate(num_samples=3, **options).tokens, together)


def test_defaults_are_the_authors(tmp_path: Path) -> None:
    config = masked_models.config("bd3lm", vocab_size=50258, bos_token_id=None, model_length=1024)
    own = config.backbone.unmasking
    assert (config.mask_id, config.backbone.start, own.max_new_tokens) == (50257, 50256, 1023)
    assert (own.order, own.quota, own.block_length, own.top_p, own.top_p_within) == ("random", "single", 4, 0.9, True)
    assert config.generation.temperature == 1.0 and config.backbone.ends == ()
    bert = masked_models.config(
        "bd3lm", vocab_size=30522, bos_token_id=None, tokenizer_name_or_path="bert-base-uncased"
    )
    assert (bert.mask_id, bert.backbone.start) == (103, 101)
    assert masked_models.config("bd3lm", bos_token_id=None).backbone.start is None


def test_a_text_has_the_models_length_unless_it_is_said(tmp_path: Path) -> None:
    """Given tokens count; behind a prefix longer than the model, as many tokens as a whole text has are written."""
    model = fastsedd.load(masked_models.write(tmp_path / "model", "bd3lm", template=None))
    for prefix, length in (("", 32), ("Hello", 32), ("a" * 30, 32), ("a" * 31, 63), ("a" * 40, 72)):
        assert model.generate(prefix, seed=1, steps=1).tokens.shape == (1, length)
    assert model.generate(prompt="Hello", seed=1, steps=1).tokens.shape == (1, 32)
    assert model.generate(prompt="Hello", seed=1, max_new_tokens=40, stop=["zz", END]).tokens.shape == (1, 46)
    assert model.generate(fixed={7: START}, length=40, seed=1, stop=END).texts[0].count(END) == 0


def test_steps_that_are_asked_for_share_the_masks(tmp_path: Path) -> None:
    model = fastsedd.load(masked_models.write(tmp_path / "model", "bd3lm"))
    for options, count in (({"steps": 8}, 8), ({}, 31), ({"order": "confidence"}, 31), ({"steps": 16}, 16)):
        seen: list[tuple[int, int]] = []
        model.generate(length=31, seed=1, on_step=lambda *at, seen=seen: seen.append(at[:2]), **options)
        assert len(seen) == count and seen[-1] == (count, count)
    text = model.generate(length=31, seed=1, order="independent", steps=64).tokens
    assert (text != MASK).all()


@pytest.mark.parametrize("block", [1, 4])
def test_the_bound_of_one_token_is_its_loss(tmp_path: Path, block: int) -> None:
    """It stands behind the start, in one block with it if the block is longer than that."""
    model = fastsedd.load(masked_models.write(tmp_path / "model", "bd3lm", block_size=block))
    tensors, token = masked_models.tensors(model.config), int(model.tokenizer.encode("a")[0])
    row = reference.logits(model.config, tensors, np.array([[START, MASK]]), BlockLayout(block))[0, 1, :MASK]
    assert model.evaluate("a", times=2).nats == pytest.approx(np.logaddexp.reduce(row) - row[token], abs=1e-5)


def test_the_bound_is_its_definition(tmp_path: Path) -> None:
    """The start counts in the first block, which so has three of the text's tokens: its mean over all their masks."""
    model = fastsedd.load(masked_models.write(tmp_path / "model", "bd3lm"))
    tensors = masked_models.tensors(model.config)
    clean = np.array([START, *model.tokenizer.encode("abc").tolist()])
    losses: dict[int, list[list[float]]] = {}
    for chosen in range(1, 8):
        masks = 1 + np.flatnonzero([(chosen >> i) & 1 for i in range(3)])
        state = clean.copy()
        state[masks] = MASK
        rows = reference.logits(model.config, tensors, state[None], BlockLayout(4))[0, masks, :MASK]
        nats = np.logaddexp.reduce(rows, axis=-1) - rows[np.arange(len(masks)), clean[masks]]
        losses.setdefault(len(masks), []).append([3 / len(masks) * float(nats.sum())])
    expected = np.mean([np.mean(each) for each in losses.values()])
    found = [model.evaluate("abc", times=64, seed=seed).by_window[0] * 3 for seed in range(8)]
    assert model.evaluate("a" * 40).by_window.shape == (1,) and model.evaluate("a" * 40).left_out == 9
    spread = np.std([each[0] for kind in losses.values() for each in kind])
    assert np.mean(found) == pytest.approx(expected, abs=5 * spread / math.sqrt(8 * 64))


def test_it_is_told_written_and_measured_by_the_program(tmp_path: Path) -> None:
    folder = masked_models.write(tmp_path / "model", "bd3lm")
    (tmp_path / "text.txt").write_text("To be.")

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(cli.main, [str(each) for each in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    told = dict(re.split(" {2,}", line, maxsplit=1) for line in run("inspect", folder).splitlines())
    assert told["architecture"] == "bd3lm" and told["ends"] == "none"
    assert told["attention"] == "in blocks of 4 from the first token" and told["length"] == "any, in a window of 32"
    assert told["sampler"] == "order random, one mask at a time, temperature 1"
    text = fastsedd.load(folder).generate("Hello", length=40, seed=3).texts[0]
    assert run("generate", "--model", folder, "--prefix", "Hello", "--length", 40, "--seed", 3) == f"{text}\n"
    assert text.startswith("Hello")
    assert json.loads(run("evaluate", folder, tmp_path / "text.txt", "--times", 2, "--json"))["nats"] > 0
    run("convert", folder, tmp_path / "made")
    assert fastsedd.load(tmp_path / "made").generate("Hello", length=40, seed=3).texts[0] == text


def test_buffers_and_wrappers_of_uploads(tmp_path: Path) -> None:
    folder = masked_models.write(tmp_path / "model", "bd3lm")
    tensors = load_file(folder / "model.safetensors")
    buffers = {"backbone.rotary_emb.inv_freq": np.ones(6, np.float32)}
    buffers |= {f"sampling_eps_{end}": np.ones((), np.float32) for end in ("min", "max")}
    for rename in (
        lambda name: name,
        lambda name: f"module.{name}",
        lambda name: name.replace("backbone.", "backbone._orig_mod."),
        lambda name: name.removeprefix("backbone."),
    ):
        save_file({rename(name): each for name, each in (tensors | buffers).items()}, folder / "model.safetensors")
        found = checkpoint.read(folder)
        assert found.tensors.keys() == tensors.keys()
        for name, tensor in found.tensors.items():
            np.testing.assert_array_equal(tensor, tensors[name])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"block_size": 5}, "block_size is 5, allowed: divisors of model_length, 32"),
        ({"block_size": None}, "block_size"),
        ({"n_heads": 5}, "n_heads is 5, allowed: divisors of hidden_dim, 48"),
        ({"n_heads": 16}, "head_dim is 3, allowed: even"),
        ({"causal": True}, "causal is true, allowed for the bd3lm architecture: false"),
        ({"time_conditioning": True}, "time_conditioning is true, allowed for the bd3lm architecture: false"),
        ({"cross_attn": False}, "cross_attn is false, allowed: true, or one block of model_length, 32"),
        ({"model_length": 0}, "model_length is 0, allowed: 1 to 131072"),
        ({"mask_token_id": 260}, "mask_id is 260, allowed: 0 to 259"),
    ],
)
def test_a_config_that_is_wrong_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        masked_models.config("bd3lm", **changes)
    assert "\n" not in str(caught.value)


def test_a_config_is_written_as_it_is_read() -> None:
    for changes in ({}, {"adaln": False}, {"block_size": 32, "cross_attn": False}, {"mask_token_id": 7}):
        config = masked_models.config("bd3lm", **changes)
        assert config_json.from_document(Path("config.json"), config_json.document(config)) == config
