"""Turn a training run into the shipped checkpoint: float16 weights, config.json and a model card with its measures.

    python -m training.export CORPUS RUN FOLDER --extra plays.txt --steps 128 --temperature 0.8

Every measure on the card comes from fastsedd itself, reading FOLDER.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import load_file, save_file

import fastsedd
from fastsedd.quality.measures import Reference
from training import corpus as corpora
from training import memorisation

SHOWN = 3

CARD = """# The shipped model

{architecture}, {parameters:.2f} M parameters, {graph} graph, {noise} noise, {length} tokens per text, a vocabulary
of {tokens:,}; float16 weights, the moving average of a run of `training/`: {step:,} steps, {seen:,.0f} M tokens,
{minutes:.1f} minutes. Trained on the first 90% of tiny Shakespeare (public domain; {characters:,} characters){extra}.

| measure | value |
|---|---|
| bound on -log p, last 10% of the corpus, nats per character | {bound:.4f} ± {bound_error:.4f} |
| the same, nats per token | {token_bound:.4f} ± {token_error:.4f} |

That is `fastsedd evaluate FILE --times {times}` in float32, FILE being the last 10% of the corpus; its error is
over {windows} windows. While it was trained, the bound estimated on some of them fell so:

{curve}

{count} texts with the defaults, {steps} steps and temperature {temperature:g}, seed 0, {dtype}, beside real text, the
last 10% of the corpus in windows as long (`fastsedd generate --num-samples {count} --json --seed 0`, then
`fastsedd evaluate --samples FILE --reference CORPUS`):

| measure | texts | real text |
|---|---:|---:|
{quality}

The longest run of characters that a text shares with the text trained on (`python -m training.memorisation`):

{memorised}

{shown} texts with the defaults, seed 0, not chosen:

{samples}
"""


def curve(history: list[dict[str, Any]], per_character: float) -> str:
    """The bound over compute, as a Markdown table."""
    rows = [
        f"| {each['tokens'] / 1e6:.0f} | {each['seconds'] / 60:.1f} | {each['validation'] * per_character:.3f} |"
        for each in history[1:]
    ]
    return "\n".join(["| tokens, millions | minutes | nats per character |", "|---:|---:|---:|", *rows])


def quality_rows(texts: list[str], corpus_text: str) -> str:
    """The measures of texts, and of real text beside them, as rows of a Markdown table."""
    found = Reference(corpus_text).measure(texts)
    return "\n".join(
        f"| {name} | {ours.value:.4f} ± {ours.error:.4f} | {real.value:.4f} ± {real.error:.4f} |"
        for (name, ours), (_, real) in zip(found.samples.named(), found.real.named(), strict=True)
    )


def write_checkpoint(run: Path, folder: Path, steps: int, temperature: float) -> dict[str, Any]:
    """Write a run's config.json, with these defaults, and float16 weights. Returns the config."""
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = json.loads((run / "config.json").read_text())
    config["generation"] = {"steps": steps, "temperature": temperature}
    (folder / "config.json").write_text(json.dumps(config) + "\n")
    weights = {name: tensor.half() for name, tensor in load_file(run / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    return config


def card(folder: Path, config: dict[str, Any], state: dict[str, Any], read: corpora.Texts, options: dict) -> str:
    """The model card of a written checkpoint."""
    model = fastsedd.load(folder)
    found = model.evaluate(read.validation, times=options["times"])
    texts = fastsedd.load(folder, options["dtype"]).generate(num_samples=options["count"], seed=0).texts
    extra = f" and on {len(read.extra):,} characters of his other plays, without what overlaps" if read.extra else ""
    return CARD.format(
        architecture=config["model"]["type"], graph=config["graph"]["type"], noise=config["noise"]["type"],
        parameters=model.parameters / 1e6, length=config["model"]["length"], tokens=config["tokens"],
        characters=len(read.own) + len(read.validation), extra=extra,
        step=state["step"], seen=state["tokens"] / 1e6, minutes=state["seconds"] / 60,
        bound=found.nats_per_character, bound_error=found.nats_per_character_error, token_bound=found.nats,
        token_error=found.nats_error, windows=found.windows, **options, **config["generation"],
        curve=curve(state["history"], found.tokens / found.characters),
        quality=quality_rows(texts, read.own + read.validation),
        memorised=memorisation.table(texts, read), shown=min(SHOWN, len(texts)),
        samples="\n\n".join(f"```\n{text}\n```" for text in texts[:SHOWN]),
    )  # fmt: skip


@click.command(help=__doc__)
@click.argument("corpus_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--extra", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="More text.")
@click.option("--steps", default=128)
@click.option("--temperature", default=1.0)
@click.option("--count", default=256, help="Texts to measure.")
@click.option("--dtype", default="float32", help="What the texts are computed in.")
@click.option("--times", default=32, help="Times drawn for each validation window.")
def main(
    corpus_file: Path, run: Path, folder: Path, extra: tuple[Path, ...], steps: int, temperature: float, **options: Any
) -> None:
    config = write_checkpoint(run, folder, steps, temperature)
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    written = card(folder, config, state, corpora.read(corpus_file, extra), options)
    (folder / "README.md").write_text(written, encoding="utf-8")
    click.echo(written)


if __name__ == "__main__":
    main()
