"""Evaluation of small models: what the numbers are, what they depend on, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import fastsedd_kernels as fk
import numpy as np
import pytest
import reference_scores
from click.testing import CliRunner, Result

import fastsedd
from fastsedd import cli
from fastsedd.diffusion import likelihood

TEXT = "abcd\nabba\ndada\ncab\nbad\nabcdabcd\n"  # 32 tokens: two windows of 12, and a rest of 8


MODELS = [("ddit", "absorb"), ("ddit", "uniform"), ("annotated", "uniform"), ("mdlm", "absorb"), ("radd", "absorb")]


@pytest.fixture(params=MODELS, ids="-".join)
def config(request, make_config):
    return make_config(*request.param)


@pytest.fixture
def folder(config, write_checkpoint):
    return write_checkpoint(config)


@pytest.fixture
def model(folder):
    return fastsedd.load(folder)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["evaluate", *map(str, arguments)])


def test_windows_lie_side_by_side_and_the_rest_is_left_out(model) -> None:
    result = model.evaluate(TEXT, times=3, seed=5)
    assert (result.windows, result.tokens, result.left_out, result.times, result.seed) == (2, 24, 8, 3, 5)
    np.testing.assert_array_equal(model.evaluate(TEXT[:24], times=3, seed=5).by_window, result.by_window)


def test_a_short_text_is_one_shorter_window(model) -> None:
    result = model.evaluate("abc")
    assert (result.windows, result.tokens, result.left_out) == (1, 3, 0)
    assert result.nats_error is None and result.bits_error is None and result.perplexity_error is None


def test_the_numbers_follow_from_the_windows(model) -> None:
    result = model.evaluate(TEXT * 3, times=2)
    error = np.std(result.by_window, ddof=1) / math.sqrt(8)
    assert result.windows == 8
    assert (result.nats, result.nats_error) == pytest.approx((np.mean(result.by_window), error))
    assert (result.bits, result.bits_error) == pytest.approx((result.nats / math.log(2), error / math.log(2)))
    perplexity = math.exp(result.nats)
    assert (result.perplexity, result.perplexity_error) == pytest.approx((perplexity, perplexity * error))


def test_it_is_the_bound_of_the_reference_network(model, config, make_tensors) -> None:
    """Scale by sigma, mask and masks' rows included: the same noise through the float64 forward."""
    windows = model.tokenizer.encode(TEXT[:24]).reshape(2, 12)
    tensors = make_tensors(config)
    expected = likelihood.bound(
        lambda tokens, sigma: reference_scores.log_score(config, tensors, tokens, sigma),
        model._process.graph, model._process.noise, windows, times=4, seed=0, batch_size=8,
    )  # fmt: skip
    np.testing.assert_allclose(model.evaluate(TEXT, times=4).by_window, expected, rtol=1e-5)


def test_a_model_that_knows_nothing_is_near_a_uniform_guess(make_config, write_checkpoint, make_tensors) -> None:
    """With an empty head and scale by sigma each token's score is 1 / V of the masks': nearly log V per token."""
    config = make_config("ddit", "absorb")
    tensors = make_tensors(config)
    for name in ("output_layer.linear.weight", "output_layer.linear.bias"):
        tensors[name] = np.zeros_like(tensors[name])
    model = fastsedd.load(write_checkpoint(config, tensors))
    result = model.evaluate("abcd\n" * 400, times=16)
    assert abs(result.nats - math.log(5)) < 4 * result.nats_error
    assert result.nats_error < 0.05


def test_batches_do_not_matter(model) -> None:
    whole = model.evaluate(TEXT, times=5).by_window
    for batch_size in (1, 2, 3, 7, 100):
        np.testing.assert_array_equal(model.evaluate(TEXT, times=5, batch_size=batch_size).by_window, whole)


def test_threads_do_not_matter(model) -> None:
    whole = model.evaluate(TEXT, times=5).by_window
    threads = fk.get_num_threads()
    fk.set_num_threads(1)
    try:
        np.testing.assert_array_equal(model.evaluate(TEXT, times=5).by_window, whole)
    finally:
        fk.set_num_threads(threads)


def test_the_seed_decides_and_dtypes_share_the_noise(model, folder) -> None:
    exact = model.evaluate(TEXT, seed=1).by_window
    assert not np.array_equal(model.evaluate(TEXT, seed=2).by_window, exact)
    short = fastsedd.load(folder, "bfloat16").evaluate(TEXT, seed=1).by_window
    np.testing.assert_allclose(short, exact, rtol=0.02)


def test_numbers_of_numpy_will_do(model) -> None:
    found = model.evaluate(TEXT, times=np.int64(2), seed=np.uint64(3), batch_size=np.int32(2))
    np.testing.assert_array_equal(found.by_window, model.evaluate(TEXT, times=2, seed=3).by_window)


def test_progress_counts_noised_windows(model) -> None:
    seen: list[tuple[int, int]] = []
    model.evaluate(TEXT, times=3, batch_size=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 6), (6, 6)]


def test_evaluate_in_one_call(model, folder) -> None:
    for given in (model, folder, str(folder)):
        assert fastsedd.evaluate(given, TEXT, times=2, seed=3).nats == model.evaluate(TEXT, times=2, seed=3).nats


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"text": ""}, "text has no tokens, allowed: 1 or more"),
        ({"text": "abé"}, "text: character 'é' at position 2"),
        ({"times": 0}, "times is 0, allowed: 1 to 65536"),
        ({"times": 2**17}, "times is 131072"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
    ],
)
def test_bad_arguments(model, arguments: dict, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        model.evaluate(**{"text": TEXT, **arguments})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_says_what_it_found(model, folder, file) -> None:
    result = run(folder, file, "--times", 2, "--seed", 3, "--quiet")
    found = model.evaluate(TEXT, times=2, seed=3)
    assert (result.exit_code, result.stderr) == (0, "")
    assert dict(re.split(" {2,}", line, maxsplit=1) for line in result.stdout.splitlines()) == {
        "model": f"{folder}, float32",
        "nats per token": f"at most {found.nats:.4f} ± {found.nats_error:.4f}",
        "nats per character": f"at most {found.nats:.4f} ± {found.nats_error:.4f}",
        "bits per token": f"at most {found.bits:.4f} ± {found.bits_error:.4f}",
        "perplexity": f"at most {found.perplexity:.4f} ± {found.perplexity_error:.4f}",
        "outside schedule": f"{found.ends:.4f} of the nats, which the published code leaves out",
        "tokens": "24, 8 left out",
        "characters": "24",
        "windows": "2, each at 2 times",
        "seed": "3",
    }


def test_the_command_as_json(folder, file) -> None:
    options = ("--times", 2, "--batch-size", 3, "--dtype", "bfloat16", "--json")
    found = fastsedd.load(folder, "bfloat16").evaluate(TEXT, times=2)
    assert json.loads(run(folder, file, *options).stdout) == {
        "model": str(folder), "dtype": "bfloat16",
        "nats": found.nats, "nats_error": found.nats_error,
        "nats_per_character": found.nats, "nats_per_character_error": found.nats_error,
        "bits": found.bits, "bits_error": found.bits_error,
        "perplexity": found.perplexity, "perplexity_error": found.perplexity_error,
        "ends": found.ends, "tokens": 24, "characters": 24, "left_out": 8, "windows": 2, "times": 2, "seed": 0,
    }  # fmt: skip


def test_nats_per_character_of_tokens_of_several_characters(make_config, write_checkpoint) -> None:
    """The bound per token, over the characters that a token stands for."""
    config = make_config("radd", "absorb")
    merges = ((1, 2), (3, 4))  # "ab", "cd"
    merged = dataclasses.replace(config, tokens=config.tokens + len(merges), merges=merges)
    found = fastsedd.load(write_checkpoint(merged)).evaluate("abcd" * 12, times=2)
    assert (found.tokens, found.characters, found.left_out) == (24, 48, 0)
    assert found.nats_per_character == pytest.approx(found.nats / 2)
    assert found.nats_per_character_error == pytest.approx(found.nats_error / 2)


def test_one_window_has_no_error(folder, file) -> None:
    file.write_text("abc")
    assert json.loads(run(folder, file, "--json").stdout)["nats_error"] is None
    result = run(folder, file)
    assert "±" not in result.stdout and "left out" not in result.stdout


def test_without_a_model_it_is_the_shipped_one(file) -> None:
    file.write_text("Speak, speak.\n")
    found = json.loads(run(file, "--times", 1, "--json").stdout)
    assert (found["model"], found["characters"]) == ("shipped model", 14)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ab\xff", "{file}: is not UTF-8: byte 0xff at 2"),
        (b"", "text has no tokens, allowed: 1 or more"),
        ("aé".encode(), "text: character 'é' at position 1 is unknown"),
    ],
)
def test_a_bad_file_is_one_line(folder, file, content: bytes, message: str) -> None:
    file.write_bytes(content)
    result = run(folder, file, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith(f"fastsedd: error: {message.format(file=file)}")


def test_a_missing_file_or_model_is_one_line(folder, file, tmp_path) -> None:
    for paths in ((folder, tmp_path / "none"), (tmp_path / "none", file), (folder, tmp_path)):
        result = run(*paths, "--quiet")
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)


@pytest.mark.parametrize(
    "arguments",
    [[], ["a", "b", "c"], ["a", "--times", "0"], ["a", "--seed", "-1"], ["a", "--batch-size", "0"], ["a", "--what"],
     ["a", "--dtype", "float64"]],
)  # fmt: skip
def test_usage_errors(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage:")


@pytest.mark.parametrize("architecture", ["mdlm", "radd"])
def test_the_bound_of_even_predictions_is_the_surprise_of_any_token(
    write_checkpoint, make_config, make_tensors, architecture: str
) -> None:
    config = make_config(architecture)
    tensors = make_tensors(config)
    for name in tensors:
        if "output_layer.linear" in name:
            tensors[name] = np.zeros_like(tensors[name])
    result = fastsedd.load(write_checkpoint(config, tensors)).evaluate("abcdabcdabcd" * 20, times=64)
    assert abs(result.nats - math.log(5)) < 4 * result.nats_error < 0.2
