"""Quality of the shipped model's texts, against steps and seconds, for each grid, draw and dtype.

    python benchmarks/texts.py CORPUS               the model has seen its first 90 %; a quarter of an hour
    python benchmarks/texts.py CORPUS --only 32     the settings whose name holds this, such as fitted-32-exact-bfloat16

Writes texts.json in benchmarks/results/<CPU>/ after every setting; other settings in it are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import environment
import numpy as np
import result_files

import fastsedd
from fastsedd.quality.measures import Measures

TEXTS = 256


class Setting(NamedTuple):
    """One way to write texts."""

    grid: str
    steps: int
    draw: str
    dtype: str

    def __str__(self) -> str:
        return "-".join(map(str, self))


def settings() -> Iterator[Setting]:
    """Every grid at every number of steps, then the draws and the dtypes at two numbers of steps."""
    for grid in ("uniform", "fitted", "log-sigma"):
        for steps in (16, 32, 64, 128):
            yield Setting(grid, steps, "exact", "bfloat16")
    for steps in (32, 128):
        yield Setting("uniform", steps, "official", "bfloat16")
        for dtype in ("float32", "int8"):
            yield Setting("uniform", steps, "exact", dtype)


def measure(setting: Setting, reference: fastsedd.Reference, texts: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The measures of a setting's texts, and those of real text in windows as long."""
    model = fastsedd.load(None, setting.dtype)
    request: dict[str, Any] = {"grid": setting.grid, "draw": setting.draw, "seed": 0}
    model.generate(steps=2, **request)  # compiled before it is timed
    samples = list(model.stream(num_samples=texts, steps=setting.steps, **request))
    found = reference.measure([each.text for each in samples])
    seconds = statistics.median(each.seconds for each in samples)
    written = {"kind": "texts", **setting._asdict(), **_numbers(found.samples), "seconds_per_text": seconds}
    return written, {"kind": "real texts", **_numbers(found.real)}


def fitted_grid(times: Sequence[float]) -> dict[str, Any]:
    """Unevenness of the fitted grid, and what evenness costs the uniform one by the fit's own measure.

    The fit makes steps as dense as the root of what their length costs (`gridfit`), so that n steps of a density whose
    mean is 1 lose its square's mean over n, and n fitted ones 1 over n.
    """
    lengths = -np.diff(times)
    density = 1.0 / (len(lengths) * lengths)
    loss = float(np.sum(density**2 * lengths))
    return {"kind": "fitted grid", "density": [float(density.min()), float(density.max())], "uniform_loss": loss}


def _numbers(measures: Measures) -> dict[str, Any]:
    return {"texts": measures.texts, "measures": {name: [each.value, each.error] for name, each in measures.named()}}


def _kept(results: Path) -> dict[str, dict[str, Any]]:
    """Earlier measurements, by the name of their setting."""
    if not results.exists():
        return {}
    entries = json.loads(results.read_text(encoding="utf-8"))["entries"]
    return {
        str(Setting(*(entry[field] for field in Setting._fields))): entry
        for entry in entries
        if entry["kind"] == "texts"
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The quality of the shipped model's texts.")
    parser.add_argument("corpus", type=Path, metavar="CORPUS")
    parser.add_argument("--only", default="", metavar="NAME", help="settings whose name holds this (all)")
    parser.add_argument("--texts", type=int, default=TEXTS, help=f"texts per setting ({TEXTS})")
    parser.add_argument(
        "--folder", type=Path, default=result_files.RESULTS, help="of results, instead of benchmarks/results"
    )
    options = parser.parse_args(arguments)
    reference = fastsedd.Reference(options.corpus.read_text(encoding="utf-8"))
    model = fastsedd.load()
    beside = [] if model.fitted is None else [fitted_grid(model.fitted.times)]
    machine = environment.describe()
    found = _kept(options.folder / result_files.folder_of(machine) / "texts.json")
    for setting in (each for each in settings() if options.only in str(each)):
        found[str(setting)], real = measure(setting, reference, options.texts)
        ordered = [found[str(each)] for each in settings() if str(each) in found]
        result_files.store("texts", machine, [real, *beside, *ordered], options.folder)
        print(json.dumps(found[str(setting)]), flush=True)


if __name__ == "__main__":
    main()
