"""Results to BENCHMARKS.md, its pictures and README's table.

    python benchmarks/report.py                render benchmarks/results/<CPU>/*.json
    python benchmarks/report.py --check        exit 1 unless BENCHMARKS.md and README.md are what they give
    python benchmarks/report.py --keep FILE…   take pytest-benchmark's JSON files into benchmarks/results/ first
    python benchmarks/report.py --add FILE…    the same, but cases that FILE has not stay as they are

No number in BENCHMARKS.md is typed: one that is not in a result is not in the report, and no shape is left out.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import drawing
import language_sections
import model_sections
import product_sections
import quality_sections
import result_files
import tables
from result_files import Entry, Environment, Machine

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "benchmarks" / "pictures"
REPORT = ROOT / "BENCHMARKS.md"
README = ROOT / "README.md"

_SECTIONS = (
    model_sections.forward,
    model_sections.generate,
    language_sections.language,
    quality_sections.quality,
    quality_sections.texts,
    model_sections.accelerate,
    product_sections.attention,
    product_sections.rows,
    product_sections.linear,
    product_sections.epilogues,
    product_sections.matmul,
    product_sections.gemv,
    product_sections.groups,
    product_sections.strassen,
)

# README's table stands between these two lines.
FIRST, LAST = "<!-- rendered by benchmarks/report.py -->\n", "<!-- end -->\n"


def render(machines: Sequence[Machine]) -> str:
    """The whole of BENCHMARKS.md."""
    return "\n\n".join([_introduction(machines), *map(_chapter, machines)]) + "\n"


def _introduction(machines: Sequence[Machine]) -> str:
    return f"""# Benchmarks

Rendered from `benchmarks/results/` by `benchmarks/report.py`; not typed. `make bench` measures on your machine and adds
a section for its CPU.

{_overview(machines)}

Every contender is first held to the float64 reference. Then they take turns, in random order, with a measurement of the
machine's limit in every round. **×** is a peer's time over ours, taken within a round, the median of the rounds: above
1 we are faster, and a loss is set in *italics*. **Peak** is the share of the fused multiply-adds that the same threads
complete in registers in the same round. BLIS and the triple loop run on one thread. The machines are shared: shares and
ratios tell more than GFLOP/s."""


def _overview(machines: Sequence[Machine]) -> str:
    """A row per CPU: what it is, and our time against the fastest peer of each kind of measurement."""
    kinds = [kind for kind in ("forward", "linear", "matmul", "gemv") if any(_best(each, kind) for each in machines)]
    header = ["CPU", "instruction set", "threads", "measured", *(f"{kind}, × fastest peer" for kind in kinds)]
    rows = []
    for machine in machines:
        newest = machine.newest
        ratios = [_best(machine, kind) for kind in kinds]
        means = [f"{tables.geometric_mean(each):.2f}" if each else "" for each in ratios]
        rows.append([name(newest), newest["isa"], str(newest["threads"]), str(newest["date"]), *means])
    return tables.table(header, rows) if rows else ""


def _best(machine: Machine, kind: str) -> list[float]:
    """The fastest peer's time over ours, for each measurement of a kind."""
    found = [tables.peer_ratios(entry) for entry in tables.of_kind(machine.entries, kind)]
    return [min(ratios) for ratios in found if ratios]


def name(environment: Environment) -> str:
    """A CPU as its maker and LLVM call it."""
    architecture = environment.get("microarchitecture")
    return f"{environment['cpu']} ({architecture})" if architecture else str(environment["cpu"])


def _chapter(machine: Machine) -> str:
    """All that was measured on one kind of CPU."""
    sections = [section(machine.entries) for section in _SECTIONS]
    text = "\n\n".join(section for section in sections if section)
    if any(entry["kind"] in ("linear", "matmul", "gemv") for entry in machine.entries):
        text = f"![Roofline](pictures/roofline.svg)\n\n{text}"
    text = text.replace("(pictures/", f"(benchmarks/pictures/{machine.folder}/")
    return f"# {name(machine.newest)}\n\n{_environments(machine.environments)}\n\n{text}"


def _environments(environments: Mapping[str, Environment]) -> str:
    """The machine as it was measured last; where software or caches differ between suites, each with its suites."""
    suites: dict[str, list[str]] = {}
    newest: dict[str, Environment] = {}
    for suite, environment in sorted(environments.items(), key=lambda item: str(item[1]["date"])):
        machine = _machine(environment)
        suites.setdefault(machine, []).append(f"`{suite}`")
        known = newest.get(machine, {}).get("packages", {})  # a suite's peers may not have been there for another
        newest[machine] = {**environment, "packages": known | environment["packages"]}
    paragraphs = []
    for machine, environment in newest.items():
        packages = ", ".join(f"{package} {version}" for package, version in environment["packages"].items())
        ran = f"{', '.join(sorted(suites[machine]))}: " if len(newest) > 1 else ""
        paragraphs.append(f"{ran}{machine}. {environment['system']};\n{packages}. {environment['date']}.")
    return "\n\n".join(paragraphs)


def _machine(environment: Environment) -> str:
    caches = ", ".join(f"{level} {size >> 10} KiB" for level, size in environment["caches"].items())
    return f"{environment['cpu']} ({environment['isa']}), {environment['threads']} threads; {caches}"


def readme_table(machines: Sequence[Machine]) -> str:
    """A few rows for README.md: forward passes of one text, each engine's milliseconds and ours."""
    measured = [machine for machine in machines if tables.of_kind(machine.entries, "forward")]
    if not measured:
        return ""
    entries = [entry for entry in tables.of_kind(measured[0].entries, "forward") if entry["batch"] == 1]
    engines = [engine for engine in model_sections.ENGINES if any(engine in entry["seconds"] for entry in entries)]
    header = ["one forward, ms", *engines, "**fastsedd**"]
    rows = []
    for entry in entries:
        times = [entry["seconds"].get(engine) for engine in (*engines, tables.OURS)]
        cells = ["" if seconds is None else f"{seconds * 1e3:.0f}" for seconds in times]
        rows.append([f"{entry['model']}, {entry['dtype']}", *cells[:-1], f"**{cells[-1]}**"])
    threads = measured[0].newest["threads"]
    return f"{tables.table(header, rows)}\n\nOn {threads} threads of an {name(measured[0].newest)}."


def with_table(readme: str, table: str) -> str:
    """README.md with that table between its two marks. Raises ValueError where a mark is missing."""
    pattern = re.compile(f"({re.escape(FIRST)}).*?({re.escape(LAST)})", re.DOTALL)
    if not pattern.search(readme):
        raise ValueError(f"README.md has no place for the table, expected the lines {FIRST!r} and {LAST!r}")
    return pattern.sub(lambda found: f"{found[1]}{table}\n{found[2]}", readme)


def main(arguments: Sequence[str] | None = None, draw: Callable[[list[Entry], Path], Any] = drawing.draw) -> int:
    parser = argparse.ArgumentParser(description="Render BENCHMARKS.md from benchmarks/results/.")
    parser.add_argument("--check", action="store_true", help="only compare: exit 1 if BENCHMARKS.md is not current")
    parser.add_argument("--keep", nargs="+", type=Path, metavar="FILE", default=[], help="new results to store first")
    parser.add_argument("--add", nargs="+", type=Path, metavar="FILE", default=[], help="new results, of some cases")
    options = parser.parse_args(arguments)
    result_files.keep(options.keep, result_files.RESULTS)
    result_files.keep(options.add, result_files.RESULTS, add=True)
    machines = result_files.load(result_files.RESULTS)
    if not machines:
        print(f"{result_files.RESULTS.name}/: no results; measure with make bench", file=sys.stderr)
        return 1
    wanted = {REPORT: render(machines)}
    wanted[README] = with_table(README.read_text(encoding="utf-8"), readme_table(machines))
    if options.check:
        stale = [path.name for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
        if stale:
            print(f"{' and '.join(stale)}: not what benchmarks/results/ gives; run make report", file=sys.stderr)
        return int(bool(stale))
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    for machine in machines:
        draw(machine.entries, PICTURES / machine.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
