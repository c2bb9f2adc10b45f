"""Results to BENCHMARKS.md and its pictures.

    python benchmarks/report.py                render benchmarks/results/*.json
    python benchmarks/report.py --check        exit 1 unless BENCHMARKS.md is what they give
    python benchmarks/report.py --keep FILE…   take pytest-benchmark's JSON files into benchmarks/results/ first

Nothing in BENCHMARKS.md is typed: a number that is not in a result is not in the report, and no shape is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import drawing

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "benchmarks" / "pictures"
REPORT = ROOT / "BENCHMARKS.md"

OURS = "fastsedd"
PEERS = ("OpenBLAS", "MKL", "BLIS", "PyTorch", "triple loop")

Entry = dict[str, Any]


def keep(paths: Iterable[Path], folder: Path = RESULTS) -> None:
    """Store what the report needs of each file: the measurements and the environment, not the machine's name."""
    for path in paths:
        document = json.loads(path.read_text(encoding="utf-8"))
        entries = [benchmark["extra_info"] for benchmark in document["benchmarks"]]
        store(path.stem, document["machine_info"], entries, folder)


def store(name: str, environment: dict[str, Any], entries: list[Entry], folder: Path = RESULTS) -> None:
    """Keep a suite's results, an entry a line."""
    folder.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(_rounded(entry)) for entry in entries)
    text = f'{{"environment": {json.dumps(environment)},\n"entries": [\n{lines}\n]}}\n'
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Four digits: more is noise, and makes every new run a large change."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def load(folder: Path | None = None) -> tuple[dict[str, Any], list[Entry]]:
    """Each suite's environment, and the entries of all."""
    paths = sorted((folder or RESULTS).glob("*.json"))
    documents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    environments = {suite: document["environment"] for suite, document in documents.items()}
    return environments, [entry for document in documents.values() for entry in document["entries"]]


def render(environments: Mapping[str, dict[str, Any]], entries: list[Entry]) -> str:
    """The whole of BENCHMARKS.md; environments : by suite."""
    sections = [
        _introduction(environments), _forward(entries), _generate(entries), _quality(entries), _texts(entries),
        _accelerate(entries), _attention(entries), _linear(entries), _epilogues(entries), _matmul(entries),
        _gemv(entries), _strassen(entries),
    ]  # fmt: skip
    return "\n\n".join(section for section in sections if section) + "\n"


def _introduction(environments: Mapping[str, dict[str, Any]]) -> str:
    return f"""# Benchmarks

Rendered from `benchmarks/results/` by `benchmarks/report.py`; not typed. `make bench` measures on your machine.

{_machines(environments)}

Every contender is first held to the float64 reference. Then they take turns, in random order, with a measurement of the
machine's limit in every round. **×** is a peer's time over ours, taken within a round, the median of the rounds: above
1 we are faster, and a loss is set in *italics*. **Peak** is the share of the fused multiply-adds that the same threads
complete in registers in the same round. BLIS and the triple loop run on one thread. The machine is shared: shares and
ratios tell more than GFLOP/s.

![Roofline](benchmarks/pictures/roofline.svg)"""


def _machines(environments: Mapping[str, dict[str, Any]]) -> str:
    """Each machine as it was last; where there are several, with the suites that ran on it."""
    suites: dict[str, list[str]] = {}
    newest: dict[str, dict[str, Any]] = {}
    for suite, environment in sorted(environments.items(), key=lambda item: str(item[1]["date"])):
        machine = _machine(environment)
        suites.setdefault(machine, []).append(f"`{suite}`")
        newest[machine] = environment
    paragraphs = []
    for machine, environment in newest.items():
        packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
        ran = f"{', '.join(sorted(suites[machine]))}: " if len(newest) > 1 else ""
        paragraphs.append(f"{ran}{machine}. {environment['system']};\n{packages}. {environment['date']}.")
    return "\n\n".join(paragraphs)


def _machine(environment: dict[str, Any]) -> str:
    caches = ", ".join(f"{name} {size >> 10} KiB" for name, size in environment["caches"].items())
    return f"{environment['cpu']} ({environment['isa']}), {environment['threads']} threads; {caches}"


def _of_kind(entries: list[Entry], kind: str) -> list[Entry]:
    return [entry for entry in entries if entry["kind"] == kind]


def _peers_in(entries: list[Entry]) -> list[str]:
    return [name for name in PEERS if any(name in entry["ratios"] for entry in entries)]


ENGINES = ("PyTorch eager", "PyTorch compile", "PyTorch dynamic", "ONNX Runtime", "OpenVINO")


def _forward(entries: list[Entry]) -> str:
    found = _of_kind(entries, "forward")
    if not found:
        return ""
    text = (
        "## A whole forward\n\nMilliseconds, and × of each engine that has the dtype; each in a process of its own: "
        "`pytest benchmarks/bench_forward.py`.\nThe models have random weights; annotated is the article's.\n"
    )
    for dtype in dict.fromkeys(entry["dtype"] for entry in found):
        rows = [entry for entry in found if entry["dtype"] == dtype]
        engines = [name for name in ENGINES if any(name in entry["ratios"] for entry in rows)]
        header = ["model", "texts", "ms", *(f"× {name}" for name in engines)]
        table = [
            [entry["model"], str(entry["batch"]), f"{entry['seconds'][OURS] * 1e3:.1f}", *_ratios(entry, engines)]
            for entry in rows
        ]
        text += f"\n**{dtype}**\n\n{_table(header, table)}\n"
    return text.rstrip("\n")


def _generate(entries: list[Entry]) -> str:
    found = _of_kind(entries, "generate")
    if not found:
        return ""
    names = {
        "step": "a step, all positions masked; × its published code",
        "run": "a run's mean step; × a forward alone",
    }
    engines = [name for name in ENGINES if any(name in entry["ratios"] for entry in found)]
    header = ["model", "task", "texts", "ms", *(f"× {name}" for name in engines)]
    table = [
        [
            entry["model"],
            names[entry["task"]],
            str(entry["batch"]),
            f"{entry['seconds'][OURS] * 1e3:.0f}",
            *_ratios(entry, engines),
        ]
        for entry in found
    ]
    return (
        "## Sampling\n\nForward and draw, float32, analytic steps under absorb, of which a run has 128 and a last one: "
        "`pytest benchmarks/bench_generate.py`.\n\n" + _table(header, table)
    )


def _quality(entries: list[Entry]) -> str:
    found = _of_kind(entries, "quality")
    if not found:
        return ""
    header = ["dtype", "validation bound, nats a token", "against float32, on the same noise", "seconds a text"]
    rows = [
        [
            entry["dtype"],
            f"{entry['nats']:.4f} ± {entry['error']:.4f}",
            f"{entry['difference']:+.5f} ± {entry['difference_error']:.5f}",
            f"{entry['seconds_a_text']:.2f}",
        ]
        for entry in found
    ]
    return (
        "## What shorter numbers cost\n\nThe shipped model: its likelihood bound on text that it was not trained on, "
        f"and a text of 128 steps, warm: `python benchmarks/quality.py FILE`.\n\n{_table(header, rows)}"
    )


def _accelerate(entries: list[Entry]) -> str:
    found = _of_kind(entries, "accelerate")
    if not found:
        return ""
    text = (
        "## Other people's models\n\n`fastsedd_kernels.torch.accelerate(model, dtype)` on models of transformers, "
        "batch 1, random weights, against the\nuntouched model, each in a process of its own: "
        "`pytest benchmarks/bench_accelerate.py`. In bfloat16 that runs under\nautocast, which casts the weights "
        "with each call, or, in the second column, has cast them before.\nThe error is that of the result against "
        "PyTorch's float32, relative to its norm.\n"
    )
    for dtype in dict.fromkeys(entry["dtype"] for entry in found):
        rows = [entry for entry in found if entry["dtype"] == dtype]
        peers = list(dict.fromkeys(name for entry in rows for name in entry["ratios"]))
        header = ["model", "ms", "error", *(f"× {name}" for name in peers)]
        table = [
            [
                entry["model"],
                f"{entry['seconds'][OURS] * 1e3:.1f}",
                f"{entry['errors'][OURS]:.1e}",
                *_ratios(entry, peers),
            ]
            for entry in rows
        ]
        text += f"\n**{dtype}**\n\n{_table(header, table)}\n"
    return text.rstrip("\n")


TEXT_MEASURES = ("real words", "5-gram perplexity", "distinct 4-grams", "entropy, nats")


def _texts(entries: list[Entry]) -> str:
    found = _of_kind(entries, "texts")
    if not found:
        return ""
    header = ["grid", "steps", "draw", "dtype", "seconds a text", *TEXT_MEASURES]
    rows = [
        [
            entry["grid"],
            str(entry["steps"]),
            entry["draw"],
            entry["dtype"],
            f"{entry['seconds_a_text']:.2f}",
            *_text_measures(entry),
        ]
        for entry in found
    ]
    rows += [["real text", "", "", "", "", *_text_measures(entry)] for entry in _of_kind(entries, "real texts")]
    return f"""## How good the texts are

The shipped model, {found[0]["texts"]} texts a row at its own temperature, beside real text that it was not trained on:
`python benchmarks/texts.py CORPUS`. Words are real that occur in the training text; the character 5-gram model
(interpolated Kneser-Ney) was trained on that too. Distinct 4-grams and entropy are within a text: where they fall,
texts repeat themselves. ± is a standard error over texts. One denoising step follows the steps.

![Quality](benchmarks/pictures/quality.svg)

{_table(header, rows)}{_fitted_grid(entries)}"""


def _fitted_grid(entries: list[Entry]) -> str:
    """How much of the way from few uniform steps to many as few fitted ones go, and why not all of it."""
    few, many = 32, 128
    found = {
        (entry["grid"], entry["steps"]): entry["measures"]
        for entry in _of_kind(entries, "texts")
        if (entry["draw"], entry["dtype"]) == ("exact", "bfloat16")
    }
    wanted = ("uniform", few), ("fitted", few), ("uniform", many)
    shapes = _of_kind(entries, "fitted grid")
    if not shapes or not all(setting in found for setting in wanted):
        return ""

    def share(name: str) -> str:
        (start, _), (reached, error), (end, _) = (found[setting][name] for setting in wanted)
        return f"{100 * (reached - start) / (end - start):.0f} ± {100 * abs(error / (end - start)):.0f} %"

    least, most = shapes[0]["density"]
    loss = shapes[0]["uniform_loss"] - 1
    return f"""

Of what {many} uniform steps gain over {few}, {few} fitted ones gain {share("5-gram perplexity")} in perplexity and
{share("real words")} in words (± of the fitted texts alone). What there is to gain: the fit wants
{least:.2f} to {most:.2f} times the mean density of steps along time, and by its own measure, the bound's excess, which
falls as one over the steps, uniform steps lose {100 * loss:.1f} % more than as many fitted ones. The rest comes from
drawing the tokens of a step independently of each other, which no grid mends, only more steps."""


def _text_measures(entry: Entry) -> list[str]:
    return ["{:.4g} ± {:.2g}".format(*entry["measures"][name]) for name in TEXT_MEASURES]


def _attention(entries: list[Entry]) -> str:
    found = _of_kind(entries, "attention")
    if not found:
        return ""
    header = ["B×H×L×D", "dtype", "ms", "of the float32 peak", "× PyTorch SDPA"]
    rows = [
        [
            _shape(entry),
            entry["dtype"],
            f"{entry['seconds'][OURS] * 1e3:.2f}",
            _percent(entry["fraction"]),
            *_ratios(entry, ["PyTorch SDPA"]),
        ]
        for entry in found
    ]
    return "## Attention alone\n\n`fk.attention`: `pytest benchmarks/bench_attention.py`.\n\n" + _table(header, rows)


def _linear(entries: list[Entry]) -> str:
    found = _of_kind(entries, "linear")
    if not found:
        return ""
    text = (
        "## Linear layers, weights packed once, float32\n\n`fk.linear(x, packed)`: `pytest benchmarks/bench_gemm.py`.\n"
    )
    for model in dict.fromkeys(entry["model"] for entry in found):
        rows = [entry for entry in found if entry["model"] == model]
        text += f"\n**{model}**\n\n{_contest_table(rows)}\n"
    return text + "\n" + _summary(found)


def _matmul(entries: list[Entry]) -> str:
    found = _of_kind(entries, "matmul")
    if not found:
        return ""
    text = "## Matrix products of operands as they lie\n\n`fk.matmul(a, b)`: `pytest benchmarks/bench_matmul.py`.\n"
    for dtype in dict.fromkeys(entry["dtype"] for entry in found):
        for transposed in (False, True):
            rows = [entry for entry in found if (entry["dtype"], entry["transposed"]) == (dtype, transposed)]
            if rows:
                title = f"{dtype}, b {'the transpose of a row-major array' if transposed else 'row-major'}"
                text += f"\n**{title}**\n\n{_contest_table(rows)}\n"
    return text + "\n" + _summary(found)


def _gemv(entries: list[Entry]) -> str:
    found = _of_kind(entries, "gemv")
    if not found:
        return ""
    peers = _peers_in(found)
    header = ["M×K×N", "b", "GB/s", "of the bandwidth", *(f"× {name}" for name in peers)]
    rows = [
        [
            _shape(entry),
            entry["form"],
            f"{entry['work'] / entry['seconds'][OURS] / 1e9:.1f}",
            _percent(entry["fraction"]),
            *_ratios(entry, peers),
        ]
        for entry in found
    ]
    return (
        "## Few rows\n\nThe matrix is read once, and the limit is how fast the same threads read as many bytes: "
        "`pytest benchmarks/bench_gemv.py`.\nThe larger of them do not fit the second-level cache; whether the third "
        f"holds them differs from round to round.\n\n{_table(header, rows)}\n\n{_summary(found, peak=False)}"
    )


def _epilogues(entries: list[Entry]) -> str:
    found = _of_kind(entries, "epilogue")
    if not found:
        return ""
    rows = [[_shape(entry), entry["name"], f"{(1 / entry['ratios']['bare'] - 1) * 100:+.1f} %"] for entry in found]
    return "## What an epilogue adds to the bare product\n\n" + _table(["M×K×N", "epilogue", "time"], rows)


LEVELS = ("classical", "one level", "two levels")


def _strassen(entries: list[Entry]) -> str:
    found = _of_kind(entries, "strassen")
    if not found:
        return ""
    best = [min(1.0, *(entry["ratios"][name] for name in LEVELS)) for entry in found]
    return f"""## Strassen's product

`fk.strassen_matmul(a, b)`, which chooses the number of levels, beside each number and OpenBLAS, float32:
`pytest benchmarks/bench_strassen.py`. GFLOP/s are effective, 2 M K N over the time; so is the share of the peak.

![Strassen](benchmarks/pictures/strassen.svg)

{_contest_table(found, [*LEVELS, "OpenBLAS"])}

Of {len(found)} shapes, its own choice reaches {min(best):.2f} of the best of the three at least.

**A layer whose weight was packed with the sums of its blocks**, one level (`fk.pack(weight, strassen=1)`), beside none
and two:

{_contest_table(_of_kind(entries, "strassen layer"), ["classical", "two levels"])}

**Accuracy**: the largest error of an element, in units of eps · max |A| · max |B|; in brackets, its bound.

{_strassen_errors(_of_kind(entries, "strassen error"))}"""


def _strassen_errors(entries: list[Entry]) -> str:
    rows = [
        [
            entry["dtype"],
            str(entry["n"]),
            *(f"{entry['errors'][name]:.1f} ({entry['bounds'][name]:.1e})" for name in LEVELS),
        ]
        for entry in entries
    ]
    return _table(["dtype", "n", *LEVELS], rows)


def _contest_table(entries: list[Entry], peers: Sequence[str] | None = None) -> str:
    """peers : all that took part, if None"""
    peers = _peers_in(entries) if peers is None else peers
    header = ["M×K×N", "GFLOP/s", "peak", *(f"× {name}" for name in peers)]
    rows = [
        [
            _shape(entry),
            f"{entry['work'] / entry['seconds'][OURS] / 1e9:.0f}",
            _percent(entry["fraction"]),
            *_ratios(entry, peers),
        ]
        for entry in entries
    ]
    return _table(header, rows)


def _summary(entries: list[Entry], *, peak: bool = True) -> str:
    """Of all shapes: the median share of the limit, and against the fastest peer of each shape."""
    best = [min(ratio for name, ratio in entry["ratios"].items() if name != "triple loop") for entry in entries]
    lost = sum(ratio < 1 for ratio in best)
    shares = [entry["fraction"] for entry in entries]
    return (
        f"Of {len(entries)} shapes: {_percent(statistics.median(shares))} of the {'peak' if peak else 'bandwidth'} "
        f"in the median, {_percent(min(shares))} at least. Against the fastest peer of each shape: "
        f"{_geometric_mean(best):.2f} in the geometric mean, {min(best):.2f} at least; slower than it on {lost}."
    )


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def _shape(entry: Entry) -> str:
    return "×".join(map(str, entry["shape"]))


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _ratios(entry: Entry, peers: Sequence[str]) -> list[str]:
    return [_ratio(entry["ratios"].get(name)) for name in peers]


def _ratio(ratio: float | None) -> str:
    if ratio is None:
        return ""
    text = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
    return text if ratio >= 1 else f"*{text}*"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None, draw: Callable[[list[Entry], Path], None] = drawing.draw) -> int:
    parser = argparse.ArgumentParser(description="Render BENCHMARKS.md from benchmarks/results/.")
    parser.add_argument("--check", action="store_true", help="only compare: exit 1 if BENCHMARKS.md is not current")
    parser.add_argument("--keep", nargs="+", type=Path, metavar="FILE", default=[], help="new results to store first")
    options = parser.parse_args(arguments)
    keep(options.keep)
    environments, entries = load()
    if not entries:
        print(f"{RESULTS.name}/: no results; measure with make bench", file=sys.stderr)
        return 1
    text = render(environments, entries)
    if options.check:
        current = REPORT.read_text(encoding="utf-8") == text
        if not current:
            print(
                "BENCHMARKS.md is not what benchmarks/results/ gives: run python benchmarks/report.py", file=sys.stderr
            )
        return 0 if current else 1
    REPORT.write_text(text, encoding="utf-8")
    draw(entries, PICTURES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
