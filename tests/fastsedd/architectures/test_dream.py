"""Dream and DiffuCoder: texts by their authors' loop at temperature 0, written out, and its names for the options."""

from __future__ import annotations

import math
from pathlib import Path

import masked_models
import numpy as np
import pytest
from click.testing import CliRunner
from fastsedd_kernels import uniform

import fastsedd
from fastsedd import cli
from fastsedd.diffusion.sampler import FREE, Batch
from fastsedd.models.backbone import reference

ORDERS = {"origin": "independent", "maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}
NEW, TOP_P = 12, 0.6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> fastsedd.Model:
    folder = masked_models.write(
        tmp_path_factory.mktemp("dream") / "model", "Dream", eos_token_id=None, template=None, tie_word_embeddings=False
    )
    (folder / "tokenizer_config.json").unlink()
    return fastsedd.load(folder)


def written(model: fastsedd.Model, prompt: list[int], alg: str, steps: int, chances: np.ndarray) -> list[int]:
    """`_sample` of Dream's generation_utils.py at temperature 0, without the mask among the tokens proposed.

    chances : numbers from 0 to 1 of steps and positions, which "origin" draws
    """
    mask, tensors = model.config.mask_id, masked_models.tensors(model.config)
    text = np.array(prompt + [mask] * NEW)
    times = np.linspace(1, 1e-3, steps + 1)
    for i in range(steps):
        masked = np.flatnonzero(text == mask)
        if not len(masked):
            break
        logits = reference.logits(model.config, tensors, text[None])[0]
        logits = np.concatenate([logits[:1], logits[:-1]])[masked]
        logits[:, mask] = -math.inf
        share = 1 - times[i + 1] / times[i] if i < steps - 1 else 1
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        best = p.argmax(axis=-1)
        if alg == "origin":
            falls = chances[i][masked] < share
            text[masked[falls]] = best[falls]
            continue
        order = np.argsort(-p, axis=-1)
        ranked = np.take_along_axis(p, order, axis=-1)
        before = np.cumsum(ranked, axis=-1) - ranked
        ranked = np.where(before > TOP_P, 0.0, ranked)
        ranked /= ranked.sum(axis=-1, keepdims=True)
        sure = {
            "maskgit_plus": ranked[:, 0], "topk_margin": ranked[:, 0] - ranked[:, 1],
            "entropy": (ranked * np.log(ranked + 1e-10)).sum(axis=-1),
        }[alg]  # fmt: skip
        first = np.argsort(-sure, kind="stable")[: int(len(masked) * share)]
        text[masked[first]] = best[first]
    return text.tolist()


@pytest.mark.parametrize("steps", [3, 12, 30])
@pytest.mark.parametrize("alg", ORDERS)
def test_texts_are_those_of_the_authors_loop(model: fastsedd.Model, alg: str, steps: int) -> None:
    prompt = model.tokenizer.encode("To be").tolist()
    batch = Batch.of([0], [3], [np.array(prompt + [FREE] * NEW, np.int32)])
    chances = [uniform(batch.seeds_of_draws(), batch.order_streams(step + 1))[0] for step in range(steps)]
    found = model.generate(
        prompt="To be", max_new_tokens=NEW, steps=steps, order=ORDERS[alg], temperature=0.0, top_p=TOP_P, seed=3
    )
    assert found.tokens[0].tolist() == written(model, prompt, alg, steps, np.array(chances))


def test_defaults_are_the_authors(model: fastsedd.Model) -> None:
    own = model.config.backbone.unmasking
    assert (own.order, own.quota, own.top_p, own.of_draws, own.block_length) == ("entropy", "dream", 0.95, True, None)
    assert model.config.generation.temperature == 0.2
    texts = [
        model.generate(prompt="a", max_new_tokens=6, seed=1, **options).texts
        for options in ({}, {"steps": 6, "temperature": 0.2, "top_p": 0.95, "order": "entropy", "block_length": 6})
    ]
    assert texts[0] == texts[1]


def test_the_authors_name_of_the_orders_temperature_is_an_option(tmp_path: Path) -> None:
    folder = str(masked_models.write(tmp_path / "model", "Dream"))
    command = ["generate", "--model", folder, "--prompt", "a", "--max-new-tokens", "8", "--seed", "2", "--steps", "4"]
    shown = [
        CliRunner().invoke(cli.main, [*command, option, "0.7"]).stdout
        for option in ("--alg-temp", "--order-temperature", "--temperature")
    ]
    assert shown[0] == shown[1] != shown[2]
