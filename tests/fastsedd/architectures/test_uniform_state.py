"""UDLM and Duo as their authors publish them: what loads, what is refused, and texts by the program."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

import fastsedd
from fastsedd import CheckpointError, checkpoint, cli, scoring
from fastsedd.diffusion import reference as process
from fastsedd.models import reference as networks

FAMILIES = ("udlm", "duo")


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.main, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, make_config: Any, write_checkpoint: Any) -> Path:
    """save_pretrained's: config.json with the authors' keys alone, and tensors under `backbone.`"""
    written: Path = write_checkpoint(make_config(request.param, "uniform", characters=None))
    return written


def changed(folder: Path, **changes: object) -> Path:
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | changes))
    return folder


def test_every_row_is_a_token(folder: Path, make_config: Any) -> None:
    config = checkpoint.read(folder).config
    assert config == make_config(config.architecture, "uniform", characters=None)
    assert (config.tokens, config.vocab_size, config.mask_id) == (5, 5, None)
    assert config.noise.type == "loglinear" and config.time_conditioning
    for name in ("tokenizer_config.json", "special_tokens_map.json"):  # BERT's mask is a token like others
        (folder / name).write_text(json.dumps({"mask_token": "[MASK]"}))
    (folder / "vocab.txt").write_text("a\nb\n[MASK]\nc\nd\n")
    assert checkpoint.read(folder).config == config


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("udlm", {"cfg": True, "cfg_num_classes": 2}, "cfg is true, allowed for the udlm architecture: false"),
        ("duo", {"causal": True}, "causal is true, allowed for the duo architecture: false"),
        ("duo", {"time_conditioning": False}, "time_conditioning is false, not allowed for the duo architecture"),
        ("duo", {"mask_token_id": 4}, "mask_id is 4, allowed: none under the uniform graph"),
        ("duo", {"cond_dim": 129}, r"adaLN_modulation.weight has shape \[96, 8\], expected \[96, 129\]"),
    ],
)
def test_settings_that_are_not_run_are_refused(
    make_config: Any, write_checkpoint: Any, family: str, changes: dict[str, Any], words: str
) -> None:
    folder = changed(write_checkpoint(make_config(family, "uniform")), **changes)
    with pytest.raises(CheckpointError, match=words):
        checkpoint.read(folder)


def test_class_labels_are_refused_by_their_tensor_too(
    make_config: Any, make_tensors: Any, write_checkpoint: Any
) -> None:
    config = make_config("udlm", "uniform")
    labels = {"backbone.cond_map.embedding_table.weight": np.ones((3, 8), np.float32)}
    folder = write_checkpoint(config)
    save_file(make_tensors(config) | labels, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"cond_map\.embedding_table\.weight': not expected in the udlm"):
        checkpoint.read(folder)


def test_time_conditioning_is_the_configs(make_config: Any, make_tensors: Any, write_checkpoint: Any) -> None:
    """A network that is not told the noise sees none, whatever it is; the noise is in the scores all the same."""
    tokens, sigma = np.array([[0, 3, 2, 4]]), np.array([1.3])
    for told in (True, False):
        config = make_config("udlm", "uniform", time_conditioning=told)
        model, tensors = fastsedd.load(write_checkpoint(config)), make_tensors(config)
        logits = networks.logits(config, tensors, tokens, sigma * told)
        expected = process.log_scores(scoring.parametrisation(config), logits, tokens, sigma)
        found = model.log_score(tokens, sigma)
        assert (np.abs(found - expected) / (1.0 + np.abs(expected))).max() < 1e-5


def test_gpt2s_vocabulary_and_one_more_is_gpt2s(
    make_config: Any, write_checkpoint: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []
    monkeypatch.setattr(checkpoint.hub, "fetch_tokenizer", lambda name, **_: asked.append(name) or tmp_path)
    small = {"width": 2, "heads": 1, "blocks": 1, "characters": None}
    for tokens in (50258, 50256):
        read = checkpoint.read(write_checkpoint(make_config("duo", "uniform", tokens=tokens, **small)))
        assert checkpoint.find_tokenizer(read) == ()
    assert asked == ["gpt2"]


def test_texts_depend_on_seed_and_index_alone(folder: Path, one_thread: Any) -> None:
    model = fastsedd.load(folder)
    for options in ({}, {"predictor": "ddpm"}, {"temperature": 0.7, "top_k": 3}, {"draw": "official"}):
        whole = model.generate(num_samples=5, steps=6, seed=3, **options)
        assert whole.tokens.min() >= 0 and whole.tokens.max() < 5
        single = model.generate(num_samples=5, steps=6, seed=3, batch_size=1, **options)
        with one_thread():
            alone = model.generate(num_samples=5, indices=[3], steps=6, seed=3, **options)
        np.testing.assert_array_equal(single.tokens, whole.tokens)
        np.testing.assert_array_equal(alone.tokens[0], whole.tokens[3])


def test_given_tokens_stand_in_every_state(folder: Path) -> None:
    states = []
    model = fastsedd.load(folder)
    model.generate("1 2", "4", steps=3, seed=0, on_step=lambda step, steps, tokens: states.append(tokens))
    assert len(states) == 4
    for state in states:
        np.testing.assert_array_equal(state[0][[0, 1, -1]], [1, 2, 4])


def test_the_greedy_tail_is_each_positions_likeliest_clean_token(folder: Path, make_tensors: Any) -> None:
    states = []
    model = fastsedd.load(folder)
    model.generate(steps=4, seed=2, predictor="ddpm", on_step=lambda step, steps, tokens: states.append(tokens))
    sigma = -np.log(1.0 - 0.999e-5)
    logits = networks.logits(model.config, make_tensors(model.config), states[-2], np.array([sigma]))
    np.testing.assert_array_equal(states[-1], logits.argmax(axis=-1))


def test_a_family_by_the_program(folder: Path, tmp_path: Path) -> None:
    told = run("inspect", folder).stdout
    name = checkpoint.read(folder).config.architecture
    for line in (rf"architecture +{name}", "vocabulary +5 tokens", "predicts +clean token", "graph +uniform"):
        assert re.search(line, told)
    out = tmp_path / "texts.jsonl"
    asked = ["generate", "--model", folder, "--steps", 4, "--seed", 3, "--json", "--num-samples", 3, "--output", out]
    run(*asked)
    texts = [{**json.loads(line), "seconds": 0} for line in out.read_text().splitlines()]
    own = fastsedd.load(folder).generate(num_samples=3, steps=4, seed=3).texts
    assert [each["text"] for each in texts] == own
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:2]))
    run(*asked, "--resume")
    assert [{**json.loads(line), "seconds": 0} for line in out.read_text().splitlines()] == texts
    (tmp_path / "text.txt").write_text("0 1 2 3 4 4 3 2 1 0 0 1")
    measured = json.loads(run("evaluate", folder, tmp_path / "text.txt", "--times", 4, "--json").stdout)
    assert measured["nats"] == pytest.approx(fastsedd.load(folder).evaluate("0 1 2 3 4 4 3 2 1 0 0 1", times=4).nats)
    assert abs(measured["nats"] - np.log(5.0)) < 0.5  # a random model knows little, a bound says no less than it
