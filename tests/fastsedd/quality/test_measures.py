"""Measures of texts: their values, their standard errors, and the files they are read from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fastsedd import cli
from fastsedd.output import RULE, read_texts
from fastsedd.quality.measures import Reference, ratio

CORPUS = "The cat sat on the mat, and the cat's hat. " * 40


def test_the_error_of_a_mean() -> None:
    values = np.random.default_rng(0).standard_normal(50)
    found = ratio(list(values), [1.0] * 50)
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_the_error_of_a_ratio_is_how_far_it_varies() -> None:
    rng = np.random.default_rng(1)
    wholes = rng.integers(20, 60, (4000, 100))
    parts = rng.binomial(wholes, 0.7)
    found = [ratio(list(part), list(whole)) for part, whole in zip(parts, wholes, strict=True)]
    spread = np.std([each.value for each in found])
    assert np.mean([each.error for each in found]) == pytest.approx(spread, rel=5 / math.sqrt(2 * len(found)))


def test_one_text_has_no_error_and_no_words_no_share() -> None:
    assert ratio([1.0], [4.0]).error is None
    assert math.isnan(ratio([0.0, 0.0], [0.0, 0.0]).value)


def test_measures_by_hand() -> None:
    found = Reference(CORPUS).measure(["THE cat's dog", "", "aaaa"])
    assert (found.samples.texts, found.unmeasured) == (2, 1)
    assert found.samples.words.value == 2 / 4
    # of "aaaa" one bigram of three, one trigram of two and one of one; of the other text all
    assert [each.value for each in found.samples.distinct] == [13 / 15, 12 / 13, 1.0]
    twice, once = 2 / 13 * math.log(2 / 13), 1 / 13 * math.log(1 / 13)  # the space, and eleven characters
    assert found.samples.entropy.value == pytest.approx(-(twice + 11 * once) / 2)


def test_real_text_is_the_end_in_windows_of_the_texts_length() -> None:
    found = Reference(CORPUS).measure(["abc defg"] * 3)
    assert found.real.texts == (len(CORPUS) - int(0.9 * len(CORPUS))) // 8
    assert found.real.perplexity.value < found.samples.perplexity.value
    assert found.real.words.value > found.samples.words.value
    assert found.samples.perplexity.error == pytest.approx(0.0, abs=1e-12)


def test_perplexity_is_that_of_all_characters_together() -> None:
    reference = Reference(CORPUS)
    texts = ["the cat", "a hat, a mat"]
    nats = -np.concatenate(reference._model.log_probabilities(texts))
    found = reference.measure(texts).samples.perplexity
    assert found.value == pytest.approx(math.exp(nats.mean()))
    own = [nats[:7], nats[7:]]
    apart = [each.sum() - nats.mean() * len(each) for each in own]
    error = math.sqrt(2.0 * sum(each**2 for each in apart)) / 19
    assert found.error == pytest.approx(found.value * error)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_texts_are_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="allowed: 1 or more with characters"):
        Reference(CORPUS).measure(texts)


def test_a_short_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="reference is 'a', allowed: 2 characters or more"):
        Reference("a")


@pytest.mark.parametrize("texts", [["a\n", "\nb\n", "c"], ["{", "}"], ["one"]])
def test_the_output_of_generate_is_read(texts: list[str]) -> None:
    plain = "".join(f"{'' if i == 0 else RULE + chr(10)}{text}\n" for i, text in enumerate(texts))
    assert read_texts(plain) == texts
    lines = "".join(json.dumps({"text": text, "index": i}) + "\n" for i, text in enumerate(texts))
    assert read_texts(lines) == texts


def test_a_bad_line_is_named() -> None:
    for line in ("{", "[1]", '{"text": 3}', "[" * 100_000):
        with pytest.raises(ValueError, match="line 3 is"):
            read_texts(f'{{"text": "a"}}\n\n{line}\n')


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["evaluate", *map(str, arguments)])


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(CORPUS, encoding="utf-8")
    return path


def test_the_command_prints_the_measures(corpus: Path, tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    samples.write_text('{"text": "the cat sat"}\n{"text": "a hat tas"}\n', encoding="utf-8")
    result = run("--samples", samples, "--reference", corpus)
    assert (result.exit_code, result.stderr) == (0, "")
    found = Reference(CORPUS).measure(["the cat sat", "a hat tas"])
    given, real = found.samples.perplexity, found.real.perplexity
    expected = f"{given.value:.4f} ± {given.error:.4f}; real text: {real.value:.4f} ± {real.error:.4f}"
    assert f"5-gram perplexity  {expected}" in result.stdout
    as_json = json.loads(run("--samples", samples, "--reference", corpus, "--json").stdout)
    assert as_json["samples"]["perplexity"] == {"value": given.value, "error": given.error}
    assert as_json["real"]["texts"] == found.real.texts
    samples.write_text("12\n", encoding="utf-8")
    as_json = json.loads(run("--samples", samples, "--reference", corpus, "--json").stdout)
    assert as_json["samples"]["words"] == {"value": None, "error": None}


def test_errors_are_one_line(corpus: Path, tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    samples.write_text('{"text": "a"}\nb\n', encoding="utf-8")
    for arguments, words in [
        ((samples, corpus), f"{samples}: line 2 is 'b'"),
        ((tmp_path / "none", corpus), "No such file"),
    ]:
        result = run("--samples", arguments[0], "--reference", arguments[1])
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert words in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--samples", "a"], ["--reference", "a"], ["--samples", "a", "--reference", "b", "c"]]
)
def test_usage_errors(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2 and "go together" in result.stderr
