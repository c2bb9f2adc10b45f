"""The suite of texts: one setting at a time, and nothing that was measured before is lost."""

from __future__ import annotations

from pathlib import Path

import quality_sections
import report
import result_files
import texts


def test_settings_have_names_of_their_own() -> None:
    names = [str(each) for each in texts.settings()]
    assert len(set(names)) == len(names)


def test_each_run_adds_to_what_is_there(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("To be, or not to be, that is the question. " * 1000, encoding="utf-8")
    names = ["uniform-16-exact-bfloat16", "log-sigma-16-exact-bfloat16"]
    for name in reversed(names):
        texts.main([str(corpus), "--only", name, "--texts", "2", "--folder", str(tmp_path / "results")])
    (machine,) = result_files.load(tmp_path / "results")
    entries = machine.entries
    assert [entry["kind"] for entry in entries] == ["real texts", "fitted grid", "texts", "texts"]
    assert [entry["grid"] for entry in entries[2:]] == ["uniform", "log-sigma"]
    assert all(
        set(quality_sections.TEXT_MEASURES) <= entry["measures"].keys() and entry["texts"] == 2 for entry in entries[2:]
    )
    assert "## Sample quality" in report.render([machine])
