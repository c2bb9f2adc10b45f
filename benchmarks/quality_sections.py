"""Sections of BENCHMARKS.md on the shipped model: what low precision costs, and how good its texts are."""

from __future__ import annotations

from result_files import Entry
from tables import of_kind, table

TEXT_MEASURES = ("real words", "5-gram perplexity", "distinct 4-grams", "entropy, nats")


def quality(entries: list[Entry]) -> str:
    found = of_kind(entries, "quality")
    if not found:
        return ""
    header = ["dtype", "validation bound, nats per token", "against float32, on the same noise", "seconds per text"]
    rows = [
        [
            entry["dtype"],
            f"{entry['nats']:.4f} ± {entry['error']:.4f}",
            f"{entry['difference']:+.5f} ± {entry['difference_error']:.5f}",
            f"{entry['seconds_per_text']:.2f}",
        ]
        for entry in found
    ]
    return (
        "## The cost of low precision\n\nThe shipped model: its likelihood bound on text that it was not trained on, "
        f"and a text with its own steps, warm: `python benchmarks/quality.py FILE`.\n\n{table(header, rows)}"
    )


def texts(entries: list[Entry]) -> str:
    found = of_kind(entries, "texts")
    if not found:
        return ""
    header = ["grid", "steps", "draw", "dtype", "seconds per text", *TEXT_MEASURES]
    rows = [
        [
            entry["grid"],
            str(entry["steps"]),
            entry["draw"],
            entry["dtype"],
            f"{entry['seconds_per_text']:.2f}",
            *_text_measures(entry),
        ]
        for entry in found
    ]
    rows += [["real text", "", "", "", "", *_text_measures(entry)] for entry in of_kind(entries, "real texts")]
    return f"""## Sample quality

The shipped model, {found[0]["texts"]} texts per row at its own temperature, beside real text held out of training:
`python benchmarks/texts.py CORPUS`. A word counts as real if it occurs in the training text; the character 5-gram model
(interpolated Kneser-Ney) was trained on that too. Distinct 4-grams and entropy are within a text: where they fall,
texts repeat themselves. ± is a standard error over texts. One denoising step follows the steps.

![Quality](pictures/quality.svg)

{table(header, rows)}{_fitted_grid(entries)}"""


def _fitted_grid(entries: list[Entry]) -> str:
    """The share of the gain of many uniform steps over few that as few fitted ones reach, and why not all of it."""
    few, many = 32, 128
    found = {
        (entry["grid"], entry["steps"]): entry["measures"]
        for entry in of_kind(entries, "texts")
        if (entry["draw"], entry["dtype"]) == ("exact", "bfloat16")
    }
    wanted = ("uniform", few), ("fitted", few), ("uniform", many)
    shapes = of_kind(entries, "fitted grid")
    if not shapes or not all(setting in found for setting in wanted):
        return ""

    def share(name: str) -> str:
        (start, _), (reached, error), (end, _) = (found[setting][name] for setting in wanted)
        return f"{100 * (reached - start) / (end - start):.0f} ± {100 * abs(error / (end - start)):.0f} %"

    least, most = shapes[0]["density"]
    loss = shapes[0]["uniform_loss"] - 1
    return f"""

Of the gain of {many} uniform steps over {few}, {few} fitted ones reach {share("5-gram perplexity")} in perplexity and
{share("real words")} in words (± of the fitted texts alone). What there is to gain: the fit wants
{least:.2f} to {most:.2f} times the mean density of steps along time, and by its own measure, the bound's excess, which
falls as one over the steps, uniform steps lose {100 * loss:.1f} % more than as many fitted ones. The rest comes from
drawing the tokens of a step independently of each other, which no grid mends, only more steps."""


def _text_measures(entry: Entry) -> list[str]:
    return ["{:.4g} ± {:.2g}".format(*entry["measures"][name]) for name in TEXT_MEASURES]
