"""Requests: deterministic whatever the threads, batches and processes; prefixes kept; bad arguments named."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from processes import run_python

import fastsedd
from fastsedd.diffusion import grid_sampler
from fastsedd.diffusion.sampler import FREE, Batch, StepRecord
from fastsedd.diffusion_process import DiffusionProcess
from fastsedd.score_model import ScoreModel

MODELS = [("ddit", "absorb"), ("ddit", "uniform"), ("annotated", "uniform"), ("mdlm", "absorb"), ("radd", "absorb")]


@pytest.fixture(params=MODELS, ids="-".join)
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
    assert run_python(code).strip() == str(model.generate(steps=5, seed=7).tokens.tolist())


@pytest.mark.parametrize("layer", ["omp", "tbb", "workqueue"])
def test_threading_layers_do_not_matter(write_checkpoint, make_config, layer: str) -> None:
    """Nor a restart: each is a process of its own. Where a layer is not installed, another one takes its place."""
    folder, dtypes = write_checkpoint(make_config()), ["float32", "bfloat16", "int8"]
    code = f"""
import fastsedd
for dtype in {dtypes}:
    print(fastsedd.load({str(folder)!r}, dtype).generate(steps=5, seed=7).tokens.tolist())
"""
    expected = [str(fastsedd.load(folder, dtype).generate(steps=5, seed=7).tokens.tolist()) for dtype in dtypes]
    assert run_python(code, NUMBA_THREADING_LAYER=layer).splitlines() == expected


@pytest.mark.parametrize("draw", ["exact", "official"])
def test_prefix_and_suffix_are_kept(model, draw: str) -> None:
    for text in model.generate(prefix="abc", suffix="dd\n", num_samples=3, steps=6, seed=0, draw=draw).texts:
        assert text.startswith("abc") and text.endswith("dd\n")


OPTIONS = [
    {},
    {"draw": "official"},
    {"predictor": "euler"},
    {"top_k": 2},
    {"top_p": 0.7, "temperature": 0.8},
    {"temperature": 1.5, "batch_size": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_given_characters_stay_in_their_places(model, options: dict) -> None:
    """In every state: what is given is never noise, and what is not is a token in the end."""
    ids = {character: i for i, character in enumerate(model.config.characters)}
    given = {0: "a", 3: "d", 4: "d", 11: "\n"}
    fixed = {position: ids[character] for position, character in given.items()}
    states: list[np.ndarray] = []
    result = model.generate(
        fixed=fixed,
        num_samples=3,
        steps=6,
        seed=0,
        on_step=lambda step, steps, tokens: states.append(tokens),
        **options,
    )
    for tokens in (*states, result.tokens):
        assert (tokens[:, list(fixed)] == list(fixed.values())).all()
    array = np.full(12, -1)
    array[list(fixed)] = list(fixed.values())
    assert model.generate(fixed=array, num_samples=3, steps=6, seed=0, **options).texts == result.texts
    filled = model.generate(template="a{{2}}dd{{}}\n", num_samples=3, steps=6, seed=0, **options)
    assert filled.texts == result.texts


def test_a_template_without_an_open_gap_decides_the_length(model) -> None:
    (text,) = model.generate(template="ab{{3}}c", steps=2, seed=1).texts
    assert len(text) == 6 and text.startswith("ab") and text.endswith("c")
    (whole,) = model.generate(template="abcd", steps=2).texts
    assert whole == "abcd"


def test_predictors_and_truncation_are_the_requests_own(model) -> None:
    def texts(**options: object) -> list[str]:
        return model.generate(num_samples=8, steps=6, seed=2, **options).texts

    assert texts(top_k=model.config.tokens, draw="exact") != texts(top_k=1)
    assert texts(top_k=2, batch_size=3) == texts(top_k=2)
    if model.config.noise.type != "loglinear":  # under which both take the same step from a calibrated network
        assert texts(predictor="euler") != texts(predictor="analytic")
    default = "ddpm" if model.config.architecture == "mdlm" else "analytic"
    assert texts() == texts(predictor=default)


def test_ddpm_is_for_networks_that_predict_the_clean_token(model) -> None:
    if model.config.normalised:
        model.generate(predictor="ddpm", steps=2, seed=0)
    else:
        with pytest.raises(ValueError, match="predictor is 'ddpm', allowed for this model: 'analytic', 'euler'"):
            model.stream(predictor="ddpm")


def test_on_step_sees_every_state(model) -> None:
    seen = []
    model.generate(steps=4, seed=0, length=9, on_step=lambda step, steps, tokens: seen.append((step, steps, tokens)))
    assert [step for step, _, _ in seen] == [1, 2, 3, 4, 5]
    assert all(steps == 5 and tokens.shape == (1, 9) for _, steps, tokens in seen)
    assert seen[-1][2].max() < model.config.tokens


def test_stream_yields_each_batch_when_it_is_done(model) -> None:
    samples = model.stream(num_samples=3, batch_size=2, steps=2, seed=5)
    assert [(s.index, s.seed, s.steps) for s in samples] == [(0, 5, 2), (1, 5, 2), (2, 5, 2)]


def test_samples_are_requested_by_index(model) -> None:
    whole = list(model.stream(num_samples=6, steps=3, seed=5))
    some = list(model.stream(num_samples=6, steps=3, seed=5, batch_size=2, indices=[4, 0, 5]))
    assert [(each.index, each.text) for each in some] == [(index, whole[index].text) for index in (4, 0, 5)]
    assert list(model.stream(num_samples=6, indices=[])) == []
    with pytest.raises(ValueError, match="indices holds nothing"):
        model.generate(num_samples=6, indices=[])
    for wrong in (6, -1):
        with pytest.raises(ValueError, match=f"indices holds {wrong}, allowed: 0 to 5"):
            model.stream(num_samples=6, indices=[wrong])


def test_texts_do_not_depend_on_the_sizes_that_are_tried(model, monkeypatch) -> None:
    whole = model.generate(num_samples=40, steps=2, seed=5, batch_size=40).texts
    monkeypatch.setattr(ScoreModel, "_batch_size", lambda self, *_: 4)
    assert model.generate(num_samples=40, steps=2, seed=5).texts == whole


@dataclass(frozen=True)
class MostConfidentFirst:
    """A sampler of the other kind: at every step each text commits to the token that the network is surest of."""

    mask: int

    def run(self, network, batch: Batch) -> Iterator[StepRecord]:
        tokens = np.where(batch.given == FREE, self.mask, batch.given).astype(np.int32)
        steps = int((batch.given[0] == FREE).sum())
        for step in range(1, steps + 1):
            started = time.perf_counter()
            rows = np.flatnonzero(tokens == self.mask)
            scores = np.concatenate([block.copy() for _, block in network.log_scores(tokens, 1.0, rows)])
            texts, likeliest = rows // batch.given.shape[1], scores[:, : self.mask]
            for text in range(len(tokens)):
                own = np.flatnonzero(texts == text)
                best = own[likeliest[own].max(axis=1).argmax()]
                tokens.reshape(-1)[rows[best]] = likeliest[best].argmax()
            yield StepRecord(step, steps, tokens, time.perf_counter() - started)


def test_an_order_of_commitment_is_a_sampler_too(monkeypatch, write_checkpoint, make_config) -> None:
    model = fastsedd.load(write_checkpoint(make_config("mdlm", "absorb")))
    monkeypatch.setattr(DiffusionProcess, "sampler", lambda self, request: MostConfidentFirst(self.config.mask_id))
    states: list[np.ndarray] = []
    result = model.generate(
        "abc", suffix="d", num_samples=3, seed=1, on_step=lambda step, steps, tokens: states.append(tokens)
    )
    assert all(text.startswith("abc") and text.endswith("d") and len(text) == 12 for text in result.texts)
    assert [int((tokens == model.config.mask_id).sum(axis=1).max()) for tokens in states] == list(range(7, -1, -1))
    assert model.generate("abc", suffix="d", num_samples=3, seed=1, batch_size=1).texts == result.texts


def test_a_slow_look_at_the_states_is_not_the_models_time(model, monkeypatch) -> None:
    """With a clock that only the look moves, the model takes no time at all."""
    now = [0.0]
    monkeypatch.setattr(grid_sampler.time, "perf_counter", lambda: now[0])

    def look(step: int, steps: int, tokens: np.ndarray) -> None:
        now[0] += 1.0

    (sample,) = model.stream(steps=3, seed=1, on_step=look)
    assert (sample.seconds, now[0]) == (0.0, 4.0)


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
        ({"length": 0}, "length is 0, allowed: 1 to 12"),
        ({"length": 10_000}, "length is 10000, allowed: 1 to 12"),
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
        ({"template": "a{{20}}"}, "template has a gap of 20 tokens, allowed: 12"),
        ({"template": "ab{{6}}cd{{6}}"}, "template has 16 tokens, allowed: 1 to 12"),
        ({"template": "ab{{3}}", "length": 9}, "template has 5 tokens, allowed: 9, the length, or a gap {{}}"),
        ({"template": "{{}}a{{}}"}, "template has 2 gaps {{}}"),
        ({"template": ""}, "template has 0 tokens"),
        ({"template": "a?{{}}"}, "template: character '?'"),
        ({"template": "a{{}}", "suffix": "b"}, "template is given with a prefix or a suffix"),
        ({"fixed": {12: 0}}, "fixed has position 12, allowed: 0 to 11"),
        ({"fixed": {1: 5}}, "fixed has token 5, allowed: 0 to 4"),
        ({"fixed": np.zeros(3, int)}, "fixed has 3 positions, allowed: 12, the length"),
        ({"fixed": np.zeros(12)}, "fixed is float64 (12,), must be integers"),
        ({"fixed": np.zeros((3, 4), int)}, "fixed is int64 (3, 4), must be integers"),
        ({"fixed": {1: 1.5}}, "fixed holds 1.5, allowed: integers"),
        ({"fixed": {1: -2}}, "fixed has token -2, allowed: 0 to 4, or -1 where free"),
        ({"fixed": {0: 2}, "prefix": "a"}, "fixed has token 2 at position 0, where the text has 1"),
        ({"predictor": "tweedie"}, "predictor is 'tweedie'"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
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
        (np.zeros((1, 13), int), [1.0], "tokens has 13 positions, allowed: 1 to 12"),
        (np.zeros(4, int), [1.0], "tokens is"),
        (np.zeros((1, 4)), [1.0], "tokens is float64"),
        (np.full((1, 4), 6), [1.0], "tokens has 6, allowed: 0 to "),
        (np.full((1, 4), -1), [1.0], "tokens has -1, allowed: 0 to "),
        (np.zeros((1, 4), int), [1.0, 2.0], "sigma has shape"),
        (np.zeros((1, 4), int), [0.0], "sigma"),
        (np.zeros((1, 4), int), [np.nan], "sigma"),
    ],
)
def test_log_score_refuses(model, tokens, sigma, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model.log_score(tokens, np.array(sigma))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int4"])
def test_low_precision_depends_on_neither_batches_nor_threads(folder, one_thread, dtype: str) -> None:
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


def test_a_request_gives_its_memory_back_at_once(write_checkpoint, make_config) -> None:
    """Not when the garbage collector happens to run: threads would pile up what dozens of requests have left."""
    model = fastsedd.load(write_checkpoint(make_config("ddit", "absorb")))
    gc.collect()
    gc.disable()
    try:
        model.generate(steps=3)
        model.log_score(np.zeros((1, model.config.length), np.int32), [1.0])
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert [each for each in gc.garbage if type(each).__module__.startswith("fastsedd")] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_log_scores_at_sigmas_beyond_floats() -> None:
    """e^720 is no float64: the shipped model's log odds of a mask are sigma itself there."""
    shipped = fastsedd.load()
    tokens = np.array([[1, 2048]])
    near, far = (shipped.log_score(tokens, np.array([sigma])) for sigma in (690.0, 720.0))
    finite = np.isfinite(near)
    np.testing.assert_array_equal(np.isfinite(far), finite)
    np.testing.assert_allclose(np.abs(far[finite] - near[finite]).max(), 30.0, atol=0.1)
