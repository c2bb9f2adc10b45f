"""Files and folders that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastsedd import atomic


def test_a_file_takes_its_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic.replaced(path) as incomplete:
        incomplete.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failed_write_leaves_nothing(tmp_path: Path, kind: str) -> None:

    def interrupted() -> None:
        with atomic.replaced(tmp_path / kind) as incomplete:
            if kind == "folder":
                incomplete.mkdir()
                (incomplete / "inside").write_text("")
            else:
                incomplete.write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_takes_the_place_of_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with atomic.replaced(path) as incomplete:
        incomplete.mkdir()
        (incomplete / "inside").write_text("new")
    assert [each.name for each in path.iterdir()] == ["inside"] and list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    with atomic.text_file(tmp_path / "link") as file:
        file.write("ä")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == "ä".encode()


def test_two_writers_in_one_process_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic.text_file(path) as first:
        first.write("first")
        with pytest.raises(FileExistsError, match="is in the way"), atomic.text_file(path):
            pass
    assert path.read_text() == "first"


def test_leftovers_of_this_file_alone_are_removed(tmp_path: Path) -> None:
    ours, others = tmp_path / ".file.12.incomplete", tmp_path / ".file.old.12.incomplete"
    ours.write_text("")
    others.write_text("")
    (tmp_path / ".file.13.incomplete" / "inside").mkdir(parents=True)
    atomic.remove_leftovers(tmp_path / "file")
    atomic.remove_leftovers(tmp_path / "none" / "file")
    assert list(tmp_path.iterdir()) == [others]


@pytest.mark.parametrize("kind", ["file", "folder", "absent"])
def test_there_is_one_writer(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    if kind == "file":
        path.write_text("")
    elif kind == "folder":
        path.mkdir()
    with (
        atomic.sole_writer(path),
        pytest.raises(OSError, match="it is being written by another process"),
        atomic.sole_writer(path),
    ):
        pass
    with atomic.sole_writer(path):
        pass
    assert list(tmp_path.iterdir()) == ([] if kind == "absent" else [path])


def test_a_device_is_written_to() -> None:
    with atomic.text_file(Path(os.devnull)) as file:
        file.write("lost")
