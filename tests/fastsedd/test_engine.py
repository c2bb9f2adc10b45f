"""Requests: deterministic whatever the threads, batches and processes; prefixes kept; bad arguments named."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastsedd


@pytest.fixture(params=[("ddit", "absorb"), ("ddit", "uniform"), ("annotated", "uniform")], ids=lambda p: "-".join(p))
def folder(request, write_checkpoint, make_config):
    return write_checkpoint(make_config(*request.param))


@pytest.fixture
def model(folder):
    return fastsedd.load(folder)


def test_texts_are_of_the_length_and_unmasked(model) -> None:
    result = model.generate(num_samples=3, steps=4, seed=1)
    assert [len(text) for text in result.texts] == [12] * 3
    assert result.tokens.shape == (3, 12) and result.tokens.max() < model.config.tokens
    assert result.texts == [model.tokenizer.decode(row) for row in result.tokens]


def test_the_seed_decides(model) -> None:
    first = model.generate(num_samples=4, steps=5, seed=7)
    assert first.texts == model.generate(num_samples=4, steps=5, seed=7).texts
    assert first.texts != model.generate(num_samples=4, steps=5, seed=8).texts
    assert first.seed == 7
    assert model.generate(steps=2).seed != model.generate(steps=2).seed


def test_batches_do_not_matter(model) -> None:
    whole = model.generate(num_samples=5, steps=5, seed=7, batch_size=5).texts
    for batch_size in (1, 2, 4):
        assert model.generate(num_samples=5, steps=5, seed=7, batch_size=batch_size).texts == whole


def test_threads_do_not_matter(model, one_thread) -> None:
    whole = model.generate(num_samples=2, steps=5, seed=7).texts
    with one_thread():
        assert model.generate(num_samples=2, steps=5, seed=7).texts == whole


def test_processes_do_not_matter(model, folder) -> None:
    code = f"import fastsedd; print(fastsedd.load({str(folder)!r}).generate(steps=5, seed=7).tokens.tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == str(model.generate(steps=5, seed=7).tokens.tolist())


@pytest.mark.parametrize("draw", ["exact", "official"])
def test_prefix_and_suffix_are_kept(model, draw: str) -> None:
    for text in model.generate(prefix="abc", suffix="dd\n", num_samples=3, steps=6, seed=0, draw=draw).texts:
        assert text.startswith("abc") and text.endswith("dd\n")


def test_on_step_sees_every_state(model) -> None:
    seen = []
    model.generate(steps=4, seed=0, length=9, on_step=lambda step, steps, tokens: seen.append((step, steps, tokens)))
    assert [step for step, _, _ in seen] == [1, 2, 3, 4, 5]
    assert all(steps == 5 and tokens.shape == (1, 9) for _, steps, tokens in seen)
    assert seen[-1][2].max() < model.config.tokens


def test_stream_yields_each_batch_when_it_is_done(model) -> None:
    samples = model.stream(num_samples=3, batch_size=2, steps=2, seed=5)
    assert [(s.index, s.seed, s.steps) for s in samples] == [(0, 5, 2), (1, 5, 2), (2, 5, 2)]


def test_samples_are_asked_for_by_index(model) -> None:
    whole = list(model.stream(num_samples=6, steps=3, seed=5))
    some = list(model.stream(num_samples=6, steps=3, seed=5, batch_size=2, indices=[4, 0, 5]))
    assert [(each.index, each.text) for each in some] == [(index, whole[index].text) for index in (4, 0, 5)]
    assert list(model.stream(num_samples=6, indices=[])) == []
    for wrong in (6, -1):
        with pytest.raises(ValueError, match=f"indices holds {wrong}, allowed: 0 to 5"):
            model.stream(num_samples=6, indices=[wrong])


def test_texts_do_not_depend_on_the_sizes_that_are_tried(model, monkeypatch) -> None:
    whole = model.generate(num_samples=40, steps=2, seed=5, batch_size=40).texts
    monkeypatch.setattr(fastsedd.Model, "_checked_batch_size", lambda self, *_: 4)
    assert model.generate(num_samples=40, steps=2, seed=5).texts == whole


def test_the_checkpoints_own_defaults(write_checkpoint, make_config) -> None:
    from fastsedd.config import GenerationConfig

    model = fastsedd.load(write_checkpoint(make_config(generation=GenerationConfig(steps=3, temperature=0.5))))
    steps = []
    result = model.generate(seed=1, on_step=lambda step, total, _: steps.append(total))
    assert steps == [4] * 4
    assert result.texts == model.generate(seed=1, steps=3, temperature=0.5).texts


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 70_000}, "steps is 70000"),
        ({"num_samples": 10**12}, "num_samples is 1000000000000"),
        ({"length": 0}, "length: 0 positions, allowed: 1 to 12"),
        ({"length": 10_000}, "length: 10000 positions"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"draw": "best"}, "draw is 'best'"),
        ({"prefix": "aé"}, "prefix: character 'é' at position 1"),
        ({"suffix": "?"}, "suffix: character '?'"),
        ({"prefix": "a" * 13}, "prefix and suffix have 13 and 0 tokens"),
        ({"prefix": "a" * 7, "suffix": "b" * 6}, "prefix and suffix have 7 and 6 tokens"),
    ],
)
def test_bad_arguments(model, arguments: dict, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        model.stream(**arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_log_score(model) -> None:
    tokens = np.zeros((2, 7), np.int64)
    result = model.log_score(tokens, np.array([0.5, 1.0]))
    assert result.shape == (2, 7, model.config.vocab_size) and result.dtype == np.float32
    assert not result[..., 0].any()


def test_log_scores_are_the_callers_own(model) -> None:
    """Memory is used again for a call of the same shape: not what was returned, and by one thread at a time."""
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (8, 2, 7))
    expected = [model.log_score(each, [0.5, 1.0]) for each in tokens]
    kept = [each.copy() for each in expected]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            results = pool.map(lambda each: model.log_score(each, [0.5, 1.0]), tokens)
            for result, before in zip(results, kept, strict=True):
                np.testing.assert_array_equal(result, before)
    np.testing.assert_array_equal(expected, kept)


@pytest.mark.parametrize(
    ("tokens", "sigma", "words"),
    [
        (np.zeros((1, 13), int), [1.0], "13 positions"),
        (np.zeros(4, int), [1.0], "tokens is"),
        (np.zeros((1, 4)), [1.0], "tokens is float64"),
        (np.full((1, 4), 6), [1.0], "tokens has values outside"),
        (np.full((1, 4), -1), [1.0], "tokens has values outside"),
        (np.zeros((1, 4), int), [1.0, 2.0], "sigma has shape"),
        (np.zeros((1, 4), int), [0.0], "sigma"),
        (np.zeros((1, 4), int), [np.nan], "sigma"),
    ],
)
def test_log_score_refuses(model, tokens, sigma, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model.log_score(tokens, np.array(sigma))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_shorter_numbers_write_the_same_text_however_it_is_asked_for(folder, one_thread, dtype: str) -> None:
    model = fastsedd.load(folder, dtype)
    texts = model.generate(num_samples=5, steps=4, seed=7).texts
    assert model.generate(num_samples=5, batch_size=2, steps=4, seed=7).texts == texts
    with one_thread():
        assert model.generate(num_samples=5, steps=4, seed=7).texts == texts


def test_load_refuses_other_dtypes(folder) -> None:
    with pytest.raises(ValueError, match="dtype is 'float64'"):
        fastsedd.load(folder, dtype="float64")


def test_generate_in_one_call(folder) -> None:
    assert fastsedd.generate(folder, steps=2, seed=3).texts == fastsedd.load(folder).generate(steps=2, seed=3).texts
