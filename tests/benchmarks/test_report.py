"""The report says what the results say: numbers, losses, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import contest
import drawing
import pytest
import quality_sections
import report
import result_files
from result_files import Machine

ENVIRONMENT: dict[str, Any] = {
    "date": "2026-01-02",
    "cpu": "A CPU",
    "isa": "avx2",
    "threads": 4,
    "caches": {"L2": 1 << 20},
    "system": "Linux, Python 3.12.0",
    "packages": {"numba": "0.61"},
}


def entry(kind: str, shape: list[int], ours: float, peers: dict[str, float], **labels: Any) -> dict[str, Any]:
    work = 2 * shape[0] * shape[1] * shape[2]
    seconds = {contest.OURS: [ours] * 3, **{name: [taken] * 3 for name, taken in peers.items()}}
    return {"kind": kind, "shape": shape, "dtype": "float32", "work": work, **labels} | contest.summary(
        seconds, [100e9] * 3, work
    )


ENTRIES = [
    entry("linear", [64, 384, 1152], 1e-3, {"OpenBLAS": 2e-3, "MKL": 0.5e-3, "triple loop": 0.1}, model="small"),
    entry("linear", [8, 8, 8], 1e-6, {"OpenBLAS": 4e-6}, model="large"),
    entry("epilogue", [64, 384, 1152], 1.1e-3, {"bare": 1e-3}, name="bias"),
    entry("matmul", [10, 10, 10], 1e-6, {"OpenBLAS": 1e-6}, transposed=True),
    entry("forward", [8, 8, 8], 2e-3, {"OpenVINO": 3e-3}, model="annotated", batch=4),
    entry("generate", [8, 8, 8], 0.5, {"PyTorch eager": 1.25}, model="SEDD small", task="step", batch=1),
    entry("language block", [8, 8, 8], 0.2, {"llama.cpp": 0.5}) | {"dtype": "int8", "errors": {"fastsedd": 0.0625}},
    entry("language writing", [8, 8, 8], 0.125, {}) | {"dtype": "int8", "commits": 2, "memory": 1 << 30},
    entry("accelerate", [8, 8, 8], 50e-3, {"PyTorch": 80e-3}, model="BERT base", errors={"fastsedd": 2e-6}),
    entry("attention", [1, 2, 3, 4], 1e-6, {"PyTorch SDPA": 2e-6}),
    entry("rows", [100, 10, 50], 2e-6, {"PyTorch": 3e-6}, name="rms_norm"),
    {
        "kind": "quality",
        "dtype": "int8",
        "nats": 1.9,
        "error": 0.1,
        "difference": 0.01,
        "difference_error": 0.002,
        "seconds_per_text": 0.5,
    },
    {
        "kind": "texts",
        "grid": "fitted",
        "steps": 32,
        "draw": "exact",
        "dtype": "int8",
        "texts": 256,
        "measures": {name: [0.75, 0.125] for name in quality_sections.TEXT_MEASURES},
        "seconds_per_text": 0.25,
    },
    {"kind": "real texts", "texts": 9, "measures": {name: [0.5, 0.25] for name in quality_sections.TEXT_MEASURES}},
    entry("gemv", [1, 10, 10], 1e-6, {"OpenBLAS": 3e-6}, form="rows"),
    entry("groups", [1, 10, 10], 1e-6, {"float32": 3e-6, "int8": 5e-7}) | {"dtype": "int4"},
    entry(
        "strassen",
        [100, 100, 100],
        1e-5,
        {"classical": 1.2e-5, "one level": 1.1e-5, "two levels": 0.98e-5, "OpenBLAS": 1.3e-5},
    ),
    entry("strassen layer", [100, 100, 200], 1e-5, {"classical": 1.5e-5, "two levels": 2e-5}),
    {
        "kind": "strassen error",
        "n": 64,
        "dtype": "float64",
        "errors": {"classical": 1.0, "one level": 2.0, "two levels": 3.0},
        "bounds": {"classical": 4096.0, "one level": 14208.0, "two levels": 48064.0},
    },
]


def machine(entries: list[dict[str, Any]]) -> Machine:
    return Machine("a-cpu-4", {"run": ENVIRONMENT}, entries)


def test_a_ratio_is_taken_within_its_round() -> None:
    seconds = {contest.OURS: [1.0, 2.0, 4.0], "peer": [2.0, 2.0, 12.0]}
    result = contest.summary(seconds, [10.0, 20.0, 5.0], 20)
    assert result["ratios"] == {"peer": 2.0}  # of 2, 1 and 3
    assert result["seconds"] == {contest.OURS: 2.0, "peer": 2.0}
    assert result["fraction"] == 1.0  # of 2, 0.5 and 1


def test_numbers_and_losses_are_shown() -> None:
    text = report.render([machine(ENTRIES)])
    assert "| 64×384×1152 | 57 | 57 % | 2.00 | *0.50* | 100 |" in text
    assert "| 64×384×1152 | bias | +10.0 % |" in text
    assert "1.41 in the geometric mean, 0.50 at least; slower than it on 1." in text  # of 0.5 and 4
    assert "| annotated | 4 | 2.0 | 1.50 |" in text
    assert "| int8 | 200 | 0 % | 6.2e-02 | 2.50 |" in text
    assert "| dtype | 2 a step | resident MiB at most |" in text and "| int8 | 8.0 | 1,024 |" in text
    assert "| BERT base | 50.0 | 2.0e-06 | 1.60 |" in text
    assert "| int8 | 1.9000 ± 0.1000 | +0.01000 ± 0.00200 | 0.50 |" in text
    assert "| 100×100×100 | 200 | 200 % | 1.20 | 1.10 | *0.98* | 1.30 |" in text
    assert "reaches 0.98 of the best of the three at least" in text
    assert "| 100×100×200 | 400 | 400 % | 1.50 | 2.00 |" in text
    assert "| float64 | 64 | 1.0 (4.1e+03) | 2.0 (1.4e+04) | 3.0 (4.8e+04) |" in text
    assert f"| fitted | 32 | exact | int8 | 0.25 {'| 0.75 ± 0.12 ' * 4}|" in text
    assert f"| real text |  |  |  |  {'| 0.5 ± 0.25 ' * 4}|" in text
    assert "| 100×10×50 | rms_norm | 2.0 | 50 % | 1.50 |" in text
    assert "A CPU (avx2), 4 threads; L2 1024 KiB" in text


def test_software_that_differs_is_told_by_suite() -> None:
    other = ENVIRONMENT | {"system": "Linux, Python 3.13.0", "caches": {"L2": 2 << 20}, "date": "2026-01-03"}
    environments = {"gemm": ENVIRONMENT, "gemv": other, "matmul": ENVIRONMENT | {"date": "2026-01-04"}}
    text = report.render([Machine("a-cpu-4", environments, ENTRIES)])
    assert "`gemm`, `matmul`: A CPU (avx2), 4 threads; L2 1024 KiB" in text
    assert "`gemv`: A CPU (avx2), 4 threads; L2 2048 KiB. Linux, Python 3.13.0" in text


def test_each_kind_of_cpu_has_a_row_and_a_chapter(tmp_path: Path) -> None:
    older = ENVIRONMENT | {"cpu": "An Older CPU", "microarchitecture": "znver3", "date": "2025-12-31"}
    result_files.store("forward", ENVIRONMENT, ENTRIES, tmp_path)
    result_files.store("forward", older, [ENTRIES[4]], tmp_path)
    text = report.render(result_files.load(tmp_path))
    assert "| A CPU | avx2 | 4 | 2026-01-02 | 1.50 |" in text and "| An Older CPU (znver3) | avx2 | 4 |" in text
    assert text.index("\n# A CPU\n") < text.index("\n# An Older CPU (znver3)\n")
    assert "](benchmarks/pictures/a-cpu-4/roofline.svg)" in text and "pictures/znver3-4/roofline" not in text


def test_a_machine_replaces_its_own_results_only(tmp_path: Path) -> None:
    result_files.store("gemv", ENVIRONMENT | {"cpu": "Another"}, [ENTRIES[0]], tmp_path)
    for entries in (ENTRIES, ENTRIES[:2]):
        result_files.store("gemv", ENVIRONMENT, entries, tmp_path)
    assert {each.folder: len(each.entries) for each in result_files.load(tmp_path)} == {"a-cpu-4": 2, "another-4": 1}


def test_readme_shows_forward_passes_of_one_text() -> None:
    one = entry("forward", [8, 8, 8], 2e-3, {"OpenVINO": 3e-3}, model="annotated", batch=1)
    table = report.readme_table([machine([*ENTRIES, one])])
    assert "| one forward, ms | OpenVINO | **fastsedd** |" in table and "| annotated, float32 | 3 | **2** |" in table
    assert "On 4 threads of an A CPU." in table
    readme = f"before\n{report.FIRST}old\n{report.LAST}after\n"
    assert report.with_table(readme, table) == f"before\n{report.FIRST}{table}\n{report.LAST}after\n"
    with pytest.raises(ValueError, match=r"README.md has no place for the table"):
        report.with_table("no marks", table)


def test_the_report_of_nothing_has_no_tables() -> None:
    assert "|" not in report.render([])


def test_kept_results_give_the_same_report(tmp_path: Path) -> None:
    document = {"machine_info": ENVIRONMENT, "benchmarks": [{"extra_info": each, "stats": {}} for each in ENTRIES]}
    (tmp_path / "run.json").write_text(json.dumps(document))
    result_files.keep([tmp_path / "run.json"], tmp_path / "results")
    assert report.render(result_files.load(tmp_path / "results")) == report.render([machine(ENTRIES)])


def test_added_results_replace_their_own_cases_only(tmp_path: Path) -> None:
    def keep(environment: dict[str, Any], *entries: dict[str, Any]) -> None:
        document = {"machine_info": environment, "benchmarks": [{"extra_info": each} for each in entries]}
        (tmp_path / "gemv.json").write_text(json.dumps(document))
        result_files.keep([tmp_path / "gemv.json"], tmp_path / "results", add=True)

    first, second, third = (entry("gemv", [1, size, 8], 1e-6, {"MKL": 2e-6}) for size in (8, 16, 24))
    keep(ENVIRONMENT, first, second)
    faster = entry("gemv", [1, 16, 8], 5e-7, {"MKL": 2e-6})
    keep(ENVIRONMENT | {"date": "2026-01-05", "packages": {"mkl": "2026.2"}}, third, faster)
    (kept,) = result_files.load(tmp_path / "results")
    assert [each["shape"][1] for each in kept.entries] == [8, 16, 24]
    assert [each["ratios"]["MKL"] for each in kept.entries] == [2, 4, 2]
    assert kept.newest == ENVIRONMENT | {"date": "2026-01-05", "packages": {"numba": "0.61", "mkl": "2026.2"}}
    with pytest.raises(ValueError, match=r"packages differ from the stored results'"):
        keep(ENVIRONMENT | {"packages": {"numba": "0.62"}}, first)
    assert result_files.load(tmp_path / "results")[0].entries == kept.entries


@pytest.mark.skipif(not report.REPORT.exists(), reason="BENCHMARKS.md: nothing has been measured yet")
def test_benchmarks_md_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_report_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "BENCHMARKS.md").write_text("old")
    result_files.store("run", ENVIRONMENT, ENTRIES, tmp_path)
    monkeypatch.setattr(report, "REPORT", tmp_path / "BENCHMARKS.md")
    monkeypatch.setattr(result_files, "RESULTS", tmp_path)
    assert report.main(["--check"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_picture_depends_on_the_results_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    for name in ("first", "second"):
        drawing.draw(ENTRIES, tmp_path / name)
    for name in ("roofline.svg", "strassen.svg", "quality.svg"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_fitted_grid_is_placed_between_few_steps_and_many() -> None:
    def texts(grid: str, steps: int, value: float) -> dict[str, Any]:
        measures = {name: [value, 0.1] for name in quality_sections.TEXT_MEASURES}
        return {"kind": "texts", "grid": grid, "steps": steps, "draw": "exact", "dtype": "bfloat16", "texts": 256,
                "measures": measures, "seconds_per_text": 0.25}  # fmt: skip

    entries = [
        texts("uniform", 32, 9.0),
        texts("fitted", 32, 8.5),
        texts("uniform", 128, 8.0),
        {"kind": "fitted grid", "density": [0.5, 1.5], "uniform_loss": 1.25},
    ]
    rendered = report.render([machine(entries)])
    assert "gain of 128 uniform steps over 32, 32 fitted ones reach 50 ± 10 % in perplexity" in rendered
    assert "0.50 to 1.50 times" in rendered and "25.0 % more" in rendered
    assert "fitted ones reach" not in report.render([machine(entries[:-1])])
