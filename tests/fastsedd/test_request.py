"""Requests: one list of options, checked where they are built, and the same after a journey to another process."""

from __future__ import annotations

import dataclasses
import inspect
import pickle

import numpy as np
import pytest

import fastsedd
from fastsedd import choices
from fastsedd.config import FittedTimes, GenerationConfig
from fastsedd.request import FixedTokens, Options, Request


def test_options_are_the_fields_of_a_request() -> None:
    fields = [field.name for field in dataclasses.fields(Request)]
    assert ["prefix", "suffix", *Options.__annotations__] == fields
    for function in (fastsedd.Model.generate, fastsedd.Model.stream, fastsedd.generate):
        parameters = inspect.signature(function).parameters
        assert set(fields) <= set(parameters) and all(each.kind is not each.VAR_KEYWORD for each in parameters.values())
        assert parameters["seed"].default is None and parameters["top_p"].default == 1.0


def test_none_stands_for_the_default() -> None:
    assert Request.of(seed=1, steps=None, fixed=None, indices=None, batch_size=None) == Request(seed=1)
    assert Request.of(seed=None).seed != Request.of().seed


def test_numbers_of_numpy_become_pythons() -> None:
    request = Request.of(
        num_samples=np.int64(5), seed=np.uint64(2**64 - 1), steps=np.int32(3), temperature=np.float32(0.5),
        indices=np.array([3, 0]), fixed={np.int64(1): np.int8(2)},
    )  # fmt: skip
    values = (request.num_samples, request.seed, request.steps, request.temperature, *request.wanted)
    assert [type(value) for value in values] == [int, int, int, float, int, int]
    assert request == Request(
        num_samples=5, seed=2**64 - 1, steps=3, temperature=0.5, indices=(3, 0), fixed=FixedTokens(((1, 2),))
    )


def test_a_request_survives_pickling() -> None:
    grid = FittedTimes((1.0, 0.25, 0.0))
    request = Request.of(prefix="a", suffix="b", num_samples=3, seed=7, grid=grid, fixed=[-1, 3, -1], indices=range(2))
    assert pickle.loads(pickle.dumps(request)) == request
    assert request.fixed == FixedTokens(((1, 3),), 3)


def test_a_request_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Request().steps = 3  # type: ignore[misc]


def test_the_checkpoints_own_settings_fill_the_gaps() -> None:
    own = GenerationConfig(steps=9, temperature=0.5)
    assert Request().generation(own) == own
    assert Request(steps=3).generation(own) == GenerationConfig(3, 0.5)
    assert Request(temperature=2.0).choice("ddpm", 0.5) == Request().choice("ddpm", 2.0)
    assert Request(predictor="euler").choice("ddpm", 1.0).predictor == "euler"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_samples": 0}, "num_samples is 0, allowed: 1 to 268435456"),
        ({"num_samples": 2**28 + 1}, "num_samples is 268435457"),
        ({"num_samples": 2.0}, "num_samples is 2.0"),
        ({"num_samples": True}, "num_samples is True"),
        ({"steps": 0}, "steps is 0, allowed: 1 to 65534"),
        ({"steps": 65535}, "steps is 65535"),
        ({"steps": "3"}, "steps is '3'"),
        ({"batch_size": 0}, "batch_size is 0, allowed: 1 or more"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"seed": -1}, "seed is -1, allowed: an integer, 0 <= seed < 2^64"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"prefix": 5}, "prefix is 5, allowed: text"),
        ({"template": b"a"}, "template is b'a', allowed: text"),
        ({"template": "a", "prefix": "b"}, "template is given with a prefix or a suffix"),
        ({"grid": "cosine"}, "grid is 'cosine', allowed: 'uniform', 'log-sigma', 'fitted'"),
        ({"predictor": "tweedie"}, "predictor is 'tweedie', allowed: 'analytic', 'euler', 'ddpm'"),
        ({"draw": "greedy"}, "draw is 'greedy', allowed: 'exact', 'official'"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"top_p": 0}, "top_p is 0, allowed: 0 < top_p <= 1"),
        ({"num_samples": 3, "indices": [3]}, "indices holds 3, allowed: 0 to 2, below num_samples"),
        ({"indices": [-1]}, "indices holds -1"),
        ({"indices": [0.5]}, "indices holds 0.5"),
        ({"fixed": {0: None}}, "fixed holds None, allowed: integers"),
        ({"fixed": [0.5]}, r"fixed is float64 (1,), must be integers"),
        ({"fixed": [[0]]}, r"fixed is int64 (1, 1), must be integers"),
    ],
)
def test_a_bad_option_is_named_in_one_line(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        Request.of(**arguments)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_option_that_does_not_exist_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="temprature"):
        Request.of(temprature=1.0)


@pytest.mark.parametrize("names", [choices.DTYPES, choices.PREDICTORS, choices.DRAWS, choices.GRIDS])
def test_each_list_of_choices_has_its_names_once(names: tuple[str, ...]) -> None:
    assert names and len(set(names)) == len(names)
