"""Tables in Markdown, and how the report writes a number, a ratio and a shape."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from result_files import Entry

OURS = "fastsedd"
PEERS = ("OpenBLAS", "MKL", "BLIS", "PyTorch", "triple loop")


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def shape(entry: Entry) -> str:
    return "×".join(map(str, entry["shape"]))


def percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def ratios(entry: Entry, peers: Sequence[str]) -> list[str]:
    return [ratio(entry["ratios"].get(name)) for name in peers]


def ratio(ratio: float | None) -> str:
    if ratio is None:
        return ""
    text = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
    return text if ratio >= 1 else f"*{text}*"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def of_kind(entries: list[Entry], kind: str) -> list[Entry]:
    return [entry for entry in entries if entry["kind"] == kind]


def peers_in(entries: list[Entry]) -> list[str]:
    return [name for name in PEERS if any(name in entry["ratios"] for entry in entries)]


def contest_table(entries: list[Entry], peers: Sequence[str] | None = None) -> str:
    """peers : all that took part, if None"""
    peers = peers_in(entries) if peers is None else peers
    header = ["M×K×N", "GFLOP/s", "peak", *(f"× {name}" for name in peers)]
    rows = [
        [
            shape(entry),
            f"{entry['work'] / entry['seconds'][OURS] / 1e9:.0f}",
            percent(entry["fraction"]),
            *ratios(entry, peers),
        ]
        for entry in entries
    ]
    return table(header, rows)


def peer_ratios(entry: Entry) -> list[float]:
    """Times of the peers over ours; the triple loop is not one."""
    return [ratio for name, ratio in entry["ratios"].items() if name != "triple loop"]


def summary(entries: list[Entry], *, peak: bool = True) -> str:
    """All shapes in two sentences: the share of the limit, and the comparison with the fastest peer of each."""
    best = [min(peer_ratios(entry)) for entry in entries]
    lost = sum(ratio < 1 for ratio in best)
    shares = [entry["fraction"] for entry in entries]
    return (
        f"Of {len(entries)} shapes: {percent(statistics.median(shares))} of the {'peak' if peak else 'bandwidth'} "
        f"in the median, {percent(min(shares))} at least. Against the fastest peer of each shape: "
        f"{geometric_mean(best):.2f} in the geometric mean, {min(best):.2f} at least; slower than it on {lost}."
    )
