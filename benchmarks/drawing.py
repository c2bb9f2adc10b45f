"""The pictures of BENCHMARKS.md: roofline, Strassen's product by size, texts. Equal results give equal files."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

Entry = dict[str, Any]

MARKERS = {"fastsedd": "o", "OpenBLAS": "^", "MKL": "s", "BLIS": "v", "PyTorch": "D"}


def draw(entries: list[Entry], folder: Path) -> None:
    """Write roofline.svg, strassen.svg and quality.svg, those of them that have been measured."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "fastsedd"
    folder.mkdir(parents=True, exist_ok=True)
    for name, fill in (("roofline", _roofline), ("strassen", _strassen)):
        figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
        if fill(axes, entries):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    if any(entry["kind"] == "texts" for entry in entries):
        figure, panels = pyplot.subplots(2, 2, figsize=(8, 7), layout="constrained", sharex="col", sharey="row")
        _quality(panels, entries)
        figure.savefig(folder / "quality.svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def _roofline(axes: Any, entries: list[Entry]) -> bool:
    """Operations per byte against operations per second, ours and the peers', under the measured limits."""
    products = [entry for entry in entries if entry["kind"] in ("linear", "matmul") and entry["dtype"] == "float32"]
    streams = [entry for entry in entries if entry["kind"] == "gemv"]
    if not products and not streams:
        return False
    _draw_roof(axes, products, streams)
    for name, marker in MARKERS.items():
        ours = name == "fastsedd"
        timed = [entry for entry in (*products, *streams) if name in entry["seconds"]]
        axes.scatter(
            [_intensity(entry) for entry in timed],
            [_rate(entry, name) for entry in timed],
            s=30 if ours else 14, marker=marker, label=name, alpha=0.8, zorder=3 if ours else 2,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="operations per byte of operands and result", ylabel="GFLOP/s")
    axes.legend()
    return True


def _strassen(axes: Any, entries: list[Entry]) -> bool:
    """Effective rates of square products, by level, and the peak, which no classical one can exceed."""
    squares = sorted(
        (entry for entry in entries if entry["kind"] == "strassen" and len(set(entry["shape"])) == 1),
        key=lambda entry: entry["shape"],
    )
    if not squares:
        return False
    sizes = [entry["shape"][0] for entry in squares]
    for name in ("classical", "one level", "two levels", "OpenBLAS"):
        axes.plot(sizes, [_rate(entry, name) for entry in squares], marker="o", label=name)
    axes.plot(sizes, [entry["limit"] / 1e9 for entry in squares], color="black", ls=":", label="measured peak")
    axes.set(xlabel="n, of n × n × n", ylabel="effective GFLOP/s", ylim=(0, None))
    axes.legend()
    return True


def _quality(panels: Any, entries: list[Entry]) -> None:
    """Perplexity and real words, a row of panels each, over steps and over seconds, a column each; real text dotted."""
    texts = [entry for entry in entries if entry["kind"] == "texts"]
    lines = dict.fromkeys((entry["grid"], entry["draw"], entry["dtype"]) for entry in texts)
    for row, measure in zip(panels, ("5-gram perplexity", "real words"), strict=True):
        for axes, over in zip(row, ("steps", "seconds_per_text"), strict=True):
            for line in lines:
                own = [entry for entry in texts if (entry["grid"], entry["draw"], entry["dtype"]) == line]
                values, errors = zip(*(entry["measures"][measure] for entry in own), strict=True)
                axes.errorbar([entry[over] for entry in own], values, errors, marker=".", label=", ".join(line))
            for entry in entries:
                if entry["kind"] == "real texts":
                    axes.axhline(entry["measures"][measure][0], color="black", ls=":", label="real text")
            axes.set(xscale="log", ylabel=measure)
    panels[1][0].set(xlabel="steps")
    panels[1][1].set(xlabel="seconds per text")
    panels[0][1].legend(fontsize="small")


def _rate(entry: Entry, name: str) -> float:
    return 2 * math.prod(entry["shape"]) / float(entry["seconds"][name]) / 1e9


def _draw_roof(axes: Any, products: list[Entry], streams: list[Entry]) -> None:
    low, high = 0.2, 2000.0
    if products:
        peak = statistics.median(entry["limit"] for entry in products) / 1e9
        axes.axhline(peak, color="black", lw=1)
        axes.text(high, peak * 1.05, "measured peak", ha="right")
    if streams:
        bandwidth = statistics.median(entry["limit"] for entry in streams) / 1e9
        axes.plot([low, high / 10], [low * bandwidth, high / 10 * bandwidth], color="black", lw=1, ls=":")
        axes.text(low, low * bandwidth * 1.3, "measured bandwidth", rotation=35)


def _intensity(entry: Entry) -> float:
    m, k, n = entry["shape"]
    return 2 * m * k * n / (4 * (m * k + k * n + m * n))
