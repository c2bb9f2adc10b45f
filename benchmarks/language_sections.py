"""The section of BENCHMARKS.md on masked language models: a block behind kept tokens, tokens a second, memory."""

from __future__ import annotations

from result_files import Entry
from tables import OURS, of_kind, percent, ratios, table

from fastsedd.choices import DTYPES

ENGINES = ("transformers", "torch.compile", "OpenVINO", "llama.cpp")


def language(entries: list[Entry]) -> str:
    blocks, texts = of_kind(entries, "language block"), of_kind(entries, "language writing")
    if not blocks and not texts:
        return ""
    parts = [
        "## Masked language models\n\nQwen3-0.6B's sizes with random weights: `pytest benchmarks/bench_language.py`.",
        _blocks(blocks),
        _texts(texts),
    ]
    return "\n\n".join(part for part in parts if part)


def _blocks(entries: list[Entry]) -> str:
    if not entries:
        return ""
    engines = [name for name in ENGINES if any(name in entry["ratios"] for entry in entries)]
    header = ["dtype", "ms", "of the float32 peak", "error", *(f"× {name}" for name in engines)]
    rows = [
        [
            entry["dtype"],
            f"{entry['seconds'][OURS] * 1e3:.0f}",
            percent(entry["fraction"]),
            f"{entry['errors'][OURS]:.1e}",
            *ratios(entry, engines),
        ]
        for entry in sorted(entries, key=lambda each: DTYPES.index(each["dtype"]))
    ]
    return (
        "**A block of 32 tokens behind 512 whose keys and values are kept**, with its 32 rows of logits; error: of "
        "these, by\ntheir norm, against our float32's. Beside bfloat16, OpenVINO computes in float32 where the CPU has "
        "no products of\nbfloat16. llama.cpp runs Q8_0 beside int8 and Q4_0 beside int4, without a causal mask."
        f"\n\n{table(header, rows)}"
    )


def _texts(entries: list[Entry]) -> str:
    if not entries:
        return ""
    commits = sorted({entry["commits"] for entry in entries})
    header = ["dtype", *(f"{count} a step" for count in commits), "resident MiB at most"]
    rows = []
    for dtype in sorted({entry["dtype"] for entry in entries}, key=DTYPES.index):
        found = {entry["commits"]: entry for entry in entries if entry["dtype"] == dtype}
        speeds = [f"{1 / found[count]['seconds'][OURS]:.1f}" if count in found else "" for count in commits]
        rows.append([dtype, *speeds, f"{max(each['memory'] for each in found.values()) / 2**20:,.0f}"])
    return (
        "**Tokens a second** of a block of 32 behind 512 tokens, by tokens that a step commits to, as a threshold "
        "would: fewer masks\nneed fewer rows of logits. Memory is that of the whole process, with loading.\n\n"
        f"{table(header, rows)}"
    )
