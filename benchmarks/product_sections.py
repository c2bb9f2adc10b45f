"""Sections of BENCHMARKS.md on kernels: attention, rows, linear layers, matrix products, GEMV, Strassen."""

from __future__ import annotations

from result_files import Entry
from tables import OURS, contest_table, of_kind, peers_in, percent, ratios, shape, summary, table


def attention(entries: list[Entry]) -> str:
    found = of_kind(entries, "attention")
    if not found:
        return ""
    header = ["heads and keys", "dtype", "ms", "of the float32 peak", "× PyTorch SDPA"]
    rows = [
        [
            entry.get("name") or shape(entry),
            entry["dtype"],
            f"{entry['seconds'][OURS] * 1e3:.2f}",
            percent(entry["fraction"]),
            *ratios(entry, ["PyTorch SDPA"]),
        ]
        for entry in found
    ]
    return "## Attention\n\n`fk.attention`: `pytest benchmarks/bench_attention.py`.\n\n" + table(header, rows)


def rows(entries: list[Entry]) -> str:
    found = of_kind(entries, "rows")
    if not found:
        return ""
    header = ["rows×width", "what", "µs", "of the limit", "× PyTorch", "replayed, of the limit"]
    replayed = {(entry["name"], *entry["shape"]): entry for entry in of_kind(entries, "rows replayed")}
    lines = [
        [
            shape(entry),
            entry["name"],
            f"{entry['seconds'][OURS] * 1e6:.1f}",
            percent(entry["fraction"]),
            *ratios(entry, ["PyTorch"]),
            percent(replayed[key]["fraction"]) if (key := (entry["name"], *entry["shape"])) in replayed else "",
        ]
        for entry in found
    ]
    return (
        "## Norms, rotary positions, SwiGLU\n\n`fk.rms_norm`, `fk.rotary`, `fk.linear` of a pair of weights, float32: "
        "`pytest benchmarks/bench_rows.py`.\nThe limit is the rate at which the same threads copy as many bytes; of "
        "SwiGLU (to 3,072 features), that of multiply-adds.\nReplayed: 32 calls in a recording, beside 32 copies in "
        f"one; a call from Python adds what its checks and the start of threads cost.\n\n{table(header, lines)}"
    )


def linear(entries: list[Entry]) -> str:
    found = of_kind(entries, "linear")
    if not found:
        return ""
    text = (
        "## Linear layers, weights packed once, float32\n\n`fk.linear(x, packed)`: `pytest benchmarks/bench_gemm.py`.\n"
    )
    for model in dict.fromkeys(entry["model"] for entry in found):
        rows = [entry for entry in found if entry["model"] == model]
        text += f"\n**{model}**\n\n{contest_table(rows)}\n"
    return text + "\n" + summary(found)


def matmul(entries: list[Entry]) -> str:
    found = of_kind(entries, "matmul")
    if not found:
        return ""
    text = "## Matrix products, operands unpacked\n\n`fk.matmul(a, b)`: `pytest benchmarks/bench_matmul.py`.\n"
    for dtype in dict.fromkeys(entry["dtype"] for entry in found):
        for transposed in (False, True):
            rows = [entry for entry in found if (entry["dtype"], entry["transposed"]) == (dtype, transposed)]
            if rows:
                title = f"{dtype}, b {'the transpose of a row-major array' if transposed else 'row-major'}"
                text += f"\n**{title}**\n\n{contest_table(rows)}\n"
    return text + "\n" + summary(found)


def gemv(entries: list[Entry]) -> str:
    found = of_kind(entries, "gemv")
    if not found:
        return ""
    peers = peers_in(found)
    header = ["M×K×N", "b", "GB/s", "of the bandwidth", *(f"× {name}" for name in peers)]
    rows = [
        [
            shape(entry),
            entry["form"],
            f"{entry['work'] / entry['seconds'][OURS] / 1e9:.1f}",
            percent(entry["fraction"]),
            *ratios(entry, peers),
        ]
        for entry in found
    ]
    return (
        "## GEMV and skinny GEMM\n\nThe matrix is read once; the limit is the rate at which the same threads read as "
        "many bytes: `pytest benchmarks/bench_gemv.py`.\nThe larger ones do not fit the second-level cache; whether "
        "the third "
        f"holds them differs from round to round.\n\n{table(header, rows)}\n\n{summary(found, peak=False)}"
    )


def groups(entries: list[Entry]) -> str:
    found = of_kind(entries, "groups")
    if not found:
        return ""
    peers = ["float32", "int8"]
    header = ["M×K×N", "weights", "µs", "of the limit", *(f"× ours, {name}" for name in peers)]
    for other in ("call by call", "llama.cpp"):
        if any(other in entry["ratios"] for entry in found):
            peers.append(other)
            header.append(f"× {other}")
    rows = [
        [
            shape(entry) + (", from memory" if "layers" in entry else ""),
            entry["dtype"],
            f"{entry['seconds'][OURS] / entry.get('layers', 1) * 1e6:,.0f}",
            percent(entry["fraction"]),
            *ratios(entry, peers),
        ]
        for entry in found
    ]
    return (
        "## Weights in groups of 32 inputs\n\nThe limit of one row is the rate at which the same threads read as many "
        "bytes, from a cache if they fit, or, of one layer after the other in a recording, from memory; of more "
        "rows, float32's multiply-adds, which sums of bytes may exceed: "
        f"`pytest benchmarks/bench_groups.py`.\n\n{table(header, rows)}"
    )


def epilogues(entries: list[Entry]) -> str:
    found = of_kind(entries, "epilogue")
    if not found:
        return ""
    rows = [[shape(entry), entry["name"], f"{(1 / entry['ratios']['bare'] - 1) * 100:+.1f} %"] for entry in found]
    return "## Epilogues, against the bare product\n\n" + table(["M×K×N", "epilogue", "time"], rows)


LEVELS = ("classical", "one level", "two levels")


def strassen(entries: list[Entry]) -> str:
    found = of_kind(entries, "strassen")
    if not found:
        return ""
    best = [min(1.0, *(entry["ratios"][name] for name in LEVELS)) for entry in found]
    return f"""## Strassen's product

`fk.strassen_matmul(a, b)`, which chooses the number of levels, against each fixed number and OpenBLAS, float32:
`pytest benchmarks/bench_strassen.py`. GFLOP/s are effective, 2 M K N over the time; so is the share of the peak.

![Strassen](pictures/strassen.svg)

{contest_table(found, [*LEVELS, "OpenBLAS"])}

Of {len(found)} shapes, its own choice reaches {min(best):.2f} of the best of the three at least.

**A layer whose weight was packed with the sums of its blocks**, one level (`fk.pack(weight, strassen=1)`), beside none
and two:

{contest_table(of_kind(entries, "strassen layer"), ["classical", "two levels"])}

**Accuracy**: the largest error of an element, in units of eps · max |A| · max |B|; in brackets, its bound.

{_strassen_errors(of_kind(entries, "strassen error"))}"""


def _strassen_errors(entries: list[Entry]) -> str:
    rows = [
        [
            entry["dtype"],
            str(entry["n"]),
            *(f"{entry['errors'][name]:.1f} ({entry['bounds'][name]:.1e})" for name in LEVELS),
        ]
        for entry in entries
    ]
    return table(["dtype", "n", *LEVELS], rows)
