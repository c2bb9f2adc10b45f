"""Turn a training run into the shipped checkpoint: float16 weights, config.json and a model card with its measures.

    python -m training.export CORPUS RUN FOLDER --steps 128 --temperature 0.8

The texts on the card, and the share of real words among them, come from fastsedd itself reading FOLDER; the bound
comes from the float16 weights.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import load_file, save_file

import fastsedd
from training import corpus as corpora
from training import loss, model

WORD = re.compile(r"[a-z']+")

CARD = """# The shipped model

{architecture}, {parameters:.2f} M parameters, {graph} graph, {noise} noise, {length} tokens per text, a vocabulary
of {tokens}; trained on tiny Shakespeare (public domain; first 90% of {characters:,} characters) for {step:,} steps and
{minutes:.0f} minutes by `training/`. float16 weights of the moving average.

| measure | value |
|---|---|
| validation bound, last 10% of the corpus, nats per character | {bound:.3f} ± {error:.3f} |
| the same in bits | {bits:.3f} |
| nats per token | {token_bound:.3f} |
| generated words that occur in the corpus, {count} texts, {steps} steps, temperature {temperature:g} | {share:.3f} |
| the same at temperature 1 | {plain:.3f} |

The bound is that of the training loss (`training/loss.py`), over {windows} windows side by side with {passes} times
each, stratified; its standard error is over the windows. A word is a run of letters and apostrophes, in lower case.

`config.json` sets the defaults: {steps} steps, temperature {temperature:g}. The temperature sharpens which token a
position becomes, not when: below 1 texts read better and vary less.

Three texts with the defaults, seed 0, not chosen:

{samples}
"""


def bound_by_window(network: torch.nn.Module, config: dict, data: torch.Tensor, passes: int) -> np.ndarray:
    """The bound of each validation window, nats per token, averaged over `passes` times."""
    generator = torch.Generator().manual_seed(0)
    windows = corpora.windows(data, config["model"]["length"])
    total = torch.zeros(len(windows))
    with torch.no_grad():
        for _ in range(passes):
            order = torch.randperm(len(windows), generator=generator)
            for rows in order.split(32):
                times = loss.stratified_times(len(rows), generator)
                times = times[torch.randperm(len(rows), generator=generator)]
                total[rows] += loss.of_network(network, config, windows[rows], times, generator)
    return (total / passes).numpy()


def word_share(texts: list[str], corpus_text: str) -> float:
    """The share of generated words that occur in the corpus."""
    known = set(WORD.findall(corpus_text.lower()))
    words = WORD.findall("\n".join(texts).lower())
    return sum(word in known for word in words) / len(words)


@click.command(help=__doc__)
@click.argument("corpus_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--steps", default=128)
@click.option("--temperature", default=1.0)
@click.option("--count", default=64, help="Texts to measure the share of words on.")
@click.option("--passes", default=32, help="Times drawn for each validation window.")
def main(corpus_file: Path, run: Path, folder: Path, steps: int, temperature: float, count: int, passes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((run / "config.json").read_text())
    config["generation"] = {"steps": steps, "temperature": temperature}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {name: tensor.half() for name, tensor in load_file(run / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")

    network = model.build(config).eval()
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    texts_read = corpora.read(corpus_file)
    validation = corpora.tokenise(texts_read, config).validation
    by_token = bound_by_window(network, config, validation, passes)
    bounds = by_token * len(validation) / len(texts_read.validation)

    corpus_text = corpus_file.read_text(encoding="utf-8")
    shipped = fastsedd.load(folder)
    texts = shipped.generate(num_samples=count, seed=0).texts
    plain = shipped.generate(num_samples=count, seed=0, temperature=1.0).texts
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    card = CARD.format(
        architecture=config["model"]["type"], graph=config["graph"]["type"], noise=config["noise"]["type"],
        parameters=shipped.parameters / 1e6, length=config["model"]["length"], characters=len(corpus_text),
        step=state["step"], minutes=state["seconds"] / 60, windows=len(bounds), passes=passes,
        bound=bounds.mean(), error=bounds.std(ddof=1) / len(bounds) ** 0.5, bits=bounds.mean() / np.log(2),
        tokens=config["tokens"], token_bound=by_token.mean(), count=count, steps=steps, temperature=temperature,
        share=word_share(texts, corpus_text), plain=word_share(plain, corpus_text),
        samples="\n\n".join(f"```\n{text}\n```" for text in texts[:3]),
    )  # fmt: skip
    (folder / "README.md").write_text(card, encoding="utf-8")
    click.echo(card)


if __name__ == "__main__":
    main()
