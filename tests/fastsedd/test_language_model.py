"""Masked language models from a folder to texts: prompts, conversations, gaps, measures, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import masked_models
import numpy as np
import pytest
from click.testing import CliRunner

import fastsedd
from fastsedd import CheckpointError, cli
from fastsedd.block_layout import BlockLayout
from fastsedd.checkpoint.stored import StoredTensor
from fastsedd.choices import DTYPES
from fastsedd.models.backbone import reference

pytest.importorskip("tokenizers", reason="an extra")
pytest.importorskip("jinja2", reason="an extra")

HELLO = [{"role": "user", "content": "Hello"}]
RENDERED = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    at = tmp_path_factory.mktemp("models")
    return {family: masked_models.write(at / family, family) for family in masked_models.FAMILIES}


@pytest.mark.parametrize("family", masked_models.FAMILIES)
def test_every_family_answers_by_its_own_defaults(folders: dict, family: str) -> None:
    model = fastsedd.load(folders[family])
    states: list[np.ndarray] = []
    result = model.chat(
        HELLO, max_new_tokens=12, seed=3, on_step=lambda step, steps, tokens: states.append(tokens.copy())
    )
    start = [] if model.config.backbone.start is None else [model.config.backbone.start]
    prompt = [*start, *model.tokenizer.encode(RENDERED)]
    assert result.tokens.shape == (1, len(prompt) + 12)
    for state in states:
        np.testing.assert_array_equal(state[0, : len(prompt)], prompt)
    masks = [(state == 259).sum() for state in states]
    assert masks[-1] == 0 and 0 < masks[0] <= 12
    assert model.generate(prompt="Hello", max_new_tokens=12, seed=3).texts == result.texts
    assert model.chat(HELLO, max_new_tokens=12, seed=3, batch_size=1, num_samples=3).texts[0] == result.texts[0]
    assert np.isfinite(model.evaluate("To be, or not to be.", times=4).nats)


@pytest.mark.parametrize("family", ["sdar", "Fast_dLLM_Qwen", "a2d-qwen3"])
def test_a_cache_changes_no_text(tmp_path: Path, family: str) -> None:
    changes = {"block_size": 8} if family != "sdar" else {}
    model = fastsedd.load(masked_models.write(tmp_path / "model", family, eos_token_id=None, **changes))
    for options in ({"temperature": 0.0}, {"temperature": 1.0, "num_samples": 2}, {"cfg_scale": 1.0, "steps": 9}):
        texts = [
            model.generate(prompt="abc" * 5, max_new_tokens=37, seed=1, cache=cache, **options).tokens
            for cache in ("exact", "off")
        ]
        np.testing.assert_array_equal(*texts)


@pytest.mark.parametrize("attention", ["full", "block", None])
def test_logits_are_the_networks_own(folders: dict, attention: str | None) -> None:
    model = fastsedd.load(folders["sdar"])
    tokens = np.random.default_rng(1).integers(0, 300, (2, 14))
    blocks = None if attention == "full" else BlockLayout(4)
    expected = reference.logits(model.config, masked_models.tensors(model.config), tokens, blocks)
    found = model.logits(tokens, attention)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="tokens has 300, allowed: 0 to 299"):
        model.logits([[300]])


@pytest.mark.parametrize("order", ["confidence", "p2"])
def test_answers_end_at_an_end_token_and_before_a_stop(tmp_path: Path, order: str) -> None:
    options = {
        "prompt": "Hello", "max_new_tokens": 24, "block_length": 4, "temperature": 1.0, "order": order, "seed": 1,
        "num_samples": 3,
    }  # fmt: skip
    model = fastsedd.load(masked_models.write(tmp_path / "model", eos_token_id=None))
    prompt = len(model.tokenizer.encode(RENDERED))
    whole = model.generate(**options)
    answer = whole.tokens[0, prompt:]
    assert not {256, 258} & {*answer.tolist()}
    end = int(answer[6])
    first = int(np.flatnonzero(answer == end)[0])
    filled = answer.copy()
    filled[first // 4 * 4 + 4 :] = 256
    ended = fastsedd.load(masked_models.write(tmp_path / "ended", eos_token_id=end)).generate(**options)
    np.testing.assert_array_equal(ended.tokens[0, prompt:], filled)
    assert ended.texts[0] == model.tokenizer.decode(answer[:first])
    np.testing.assert_array_equal(
        ended.tokens[1], fastsedd.load(tmp_path / "ended").generate(**options | {"batch_size": 1}).tokens[1]
    )
    text = whole.texts[0]
    stop = next(character for character in text[5:] if character.isascii())
    stopped = model.generate(**options, stop=stop)
    assert stopped.texts[0] == text[: text.find(stop)]
    assert (stopped.tokens[0, -4:] == 256).all()


def test_gaps_are_filled_and_the_rest_stays(folders: dict) -> None:
    for family in ("qwen2", "sdar"):
        model = fastsedd.load(folders[family])
        states: list[np.ndarray] = []

        def on_step(step: int, steps: int, tokens: np.ndarray, states: list[np.ndarray] = states) -> None:
            states.append(tokens[0])

        result = model.generate(template="def f(x):\n{{7}}return{{4}}\n", seed=1, on_step=on_step)
        known = model.tokenizer.encode("def f(x):\n")
        for state in states:
            np.testing.assert_array_equal(state[: len(known)], known)
            assert model.tokenizer.decode(state[len(known) + 7 : len(known) + 13]) == "return"
        assert len(result.tokens[0]) == len(known) + 7 + 6 + 4 + 1 and 259 not in result.tokens


def test_a_prefix_is_gone_on_with_and_shown(folders: dict) -> None:
    model = fastsedd.load(folders["a2d-qwen3"])
    result = model.generate("abc", max_new_tokens=5, seed=1)
    assert result.texts[0].startswith("abc") and result.tokens.shape == (1, 8)
    between = model.generate("abc", "xyz", max_new_tokens=5, seed=1)
    assert between.texts[0].startswith("abc") and between.texts[0].endswith("xyz")
    assert model.generate(length=6, seed=1).tokens.shape == (1, 6)
    assert model.generate(seed=1, max_new_tokens=3).tokens.shape == (1, 3)


def test_the_shift_can_be_overridden(folders: dict) -> None:
    model = fastsedd.load(folders["qwen2"])
    texts = [
        model.generate(prompt="Hello", max_new_tokens=16, seed=1, shift=shift).tokens.tolist()
        for shift in (None, True, False)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_tokenizer_without_a_template(tmp_path: Path) -> None:
    model = fastsedd.load(masked_models.write(tmp_path / "model", template=None))
    with pytest.raises(ValueError, match="messages: the tokenizer has no chat template"):
        model.chat(HELLO)
    with pytest.raises(ValueError, match="system: the tokenizer has no chat template"):
        model.generate(prompt="Hello", system="Be brief.")
    assert model.generate(prompt="Hello", max_new_tokens=3, seed=1).tokens.shape == (1, 8)


def test_the_template_may_be_a_file_or_one_of_several(tmp_path: Path) -> None:
    folder = masked_models.write(tmp_path / "model", template=None)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert fastsedd.load(folder).chat(HELLO, max_new_tokens=2, seed=1).tokens.shape == (1, 8)
    (folder / "chat_template.jinja").unlink()
    several = [{"name": "tool_use", "template": "?"}, {"name": "default", "template": "{{ messages[0].content }}"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert fastsedd.load(folder).chat(HELLO, max_new_tokens=2, seed=1).tokens.shape == (1, 7)


@pytest.mark.parametrize("source", ["{% for %}", "{{ messages.__class__.__mro__[1].__subclasses__() }}"])
def test_a_template_that_is_broken_or_hostile_is_one_line(tmp_path: Path, source: str) -> None:
    folder = masked_models.write(tmp_path / "model", template=source)
    with pytest.raises(ValueError, match="the chat template") as caught:
        fastsedd.load(folder).chat(HELLO)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = masked_models.write(tmp_path / "model", vocab_size=258, mask_token_id=200, eos_token_id=None)
    with pytest.raises(CheckpointError, match="its tokenizer has token 259, but the model's last is 257"):
        fastsedd.load(folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": "a" * 100}, r"prompt has 1\d\d tokens, and 128 are to be written \(max_new_tokens\), allowed: 128"),
        ({"predictor": "ddpm"}, "predictor is 'ddpm', allowed for models with a noise schedule only"),
        ({"grid": "log-sigma"}, "grid is 'log-sigma', allowed for models with a noise schedule only"),
        ({"prompt": "a", "prefix": "b"}, "prompt and prefix is given with more"),
        ({"prompt": "a", "messages": HELLO}, "prompt and messages is given with more"),
        ({"system": "a"}, "system is given without a prompt"),
        ({"messages": [{"role": "user"}]}, "messages holds {'role': 'user'}, allowed: "),
        ({"messages": []}, "messages is empty"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens is 0, allowed: 1 to 131072"),
        ({"template": "a{{3}}", "max_new_tokens": 3}, "max_new_tokens is given with a template or a length"),
        ({"prompt": "a", "order": "best"}, "order is 'best', allowed: 'confidence'"),
        ({"prompt": "a", "threshold": 0.9, "factor": 1.0}, "threshold and factor are given"),
        ({"prompt": "a", "cache": "yes"}, "cache is 'yes', allowed: 'exact', 'approximate', 'approximate-dual', 'off'"),
        ({"prompt": "a", "stop": [""]}, "stop holds"),
        ({"prompt": "<|mask|>"}, "a piece of the text is the mask, token 259"),
        ({"prompt": "a", "max_new_tokens": 100, "temperature": -1.0}, "temperature is -1.0"),
    ],
)
def test_requests_that_are_refused(folders: dict, options: dict, said: str) -> None:
    model = fastsedd.load(folders["a2d-qwen3"])
    with pytest.raises(ValueError, match=said) as caught:
        model.stream(**options)
    assert "\n" not in str(caught.value)


def test_each_kind_of_model_says_what_it_has_not(folders: dict) -> None:
    model, shipped = fastsedd.load(folders["sdar"]), fastsedd.load()
    with pytest.raises(ValueError, match="log_score: not for masked language models"):
        model.log_score([[1]], [1.0])
    with pytest.raises(ValueError, match="fit_grid: not for masked language models"):
        model.fit_grid()
    with pytest.raises(ValueError, match="logits: not for models with a noise schedule, as shipped model"):
        shipped.logits([[1]])
    with pytest.raises(ValueError, match=r"messages is .*, allowed for masked language models only"):
        shipped.chat(HELLO)
    with pytest.raises(ValueError, match=r"threshold is 0\.5, allowed for masked language models only"):
        shipped.generate(threshold=0.5)
    with pytest.raises(ValueError, match=r"temperature is 0\.0, allowed: 0 < temperature < infinity"):
        shipped.generate(temperature=0.0)


def test_a_converted_checkpoint_is_the_same_model(folders: dict, tmp_path: Path) -> None:
    fastsedd.convert(folders["sdar"], tmp_path / "converted")
    texts = [
        fastsedd.load(folder).chat(HELLO, seed=2, max_new_tokens=8).texts
        for folder in (folders["sdar"], tmp_path / "converted")
    ]
    assert texts[0] == texts[1]


def test_inspect_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: StoredTensor, name: str) -> np.ndarray:
        raise AssertionError(name)

    monkeypatch.setattr(StoredTensor, "read", refuse)
    folder = masked_models.write(tmp_path / "model", "Fast_dLLM_Qwen")
    result = CliRunner().invoke(cli.main, ["inspect", str(folder)])
    shown = dict(re.split(" {2,}", line, maxsplit=1) for line in result.stdout.splitlines())
    assert (result.exit_code, result.stderr) == (0, "")
    names = ("architecture", "vocabulary", "attention", "logits", "sampler", "cache")
    assert {name: shown[name] for name in names} == {
        "architecture": "Fast_dLLM_Qwen", "vocabulary": "299 tokens and a mask, 259",
        "attention": "in blocks of 32 from the first token", "logits": "of the next position",
        "sampler": "order confidence, all of probability 0.9 or more, quotas of dllm, temperature 0",
        "cache": "0.5 KiB per token in float32",
    }  # fmt: skip
    assert {name for name in shown if name.startswith("memory")} == {f"memory, {dtype}" for dtype in DTYPES}
    wrong = CliRunner().invoke(cli.main, ["inspect", str(folder), "--heads", "7"])
    assert (wrong.exit_code, wrong.stdout) == (1, "") and "states 4 heads, but 7 were requested" in wrong.stderr
