"""The program as a process: signals, standard streams that are closed, full or not UTF-8, and one writer per file."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fastsedd import atomic, cli, file_lock, output, streams

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX signals and redirections")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def command(write_checkpoint, make_config) -> Callable[..., list[str]]:
    """command(more...) -> a command that writes texts of a tiny model, in which umlauts are likely."""
    folder = write_checkpoint(make_config(characters="\näbcd"))
    request = [sys.executable, "-m", "fastsedd", "generate", "--model", str(folder), "--steps", "4", "--seed", "3"]
    return lambda *more: [*request, *more]


@pytest.fixture
def long(command: Callable[..., list[str]], tmp_path: Path) -> Callable[..., list[str]]:
    """long(more...) -> one that takes minutes, and writes to texts.* as it goes."""
    return lambda *more: command(
        "--num-samples", "4000", "--batch-size", "1", "--steps", "400", "--output", str(tmp_path / "texts"), *more
    )


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [*map(str, arguments)])


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_signal_ends_it_without_leftovers(
    long: Callable[..., list[str]], tmp_path: Path, number: signal.Signals, as_json: bool
) -> None:
    process = subprocess.Popen(long(*["--json"] * as_json), stderr=subprocess.PIPE, text=True)
    written = "texts" if as_json else f".texts.{process.pid}.incomplete"
    until(lambda: (tmp_path / written).exists() and (tmp_path / written).stat().st_size > 0, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1] == (
        "fastsedd: interrupted" if number == signal.SIGINT else f"fastsedd: ended by {number.name}"
    )
    assert "Traceback" not in errors and leftovers(tmp_path) == []
    assert (tmp_path / "texts").exists() == as_json


@pytest.mark.parametrize("after", [0.02, 0.1, 0.2, 0.3, 0.5, 0.8])
def test_a_signal_at_any_time_leaves_nothing(long: Callable[..., list[str]], tmp_path: Path, after: float) -> None:
    """Python starts, imports, loads, compiles or computes; a second signal comes while it cleans up."""
    process = subprocess.Popen(long("--quiet"), stderr=subprocess.PIPE, text=True)
    time.sleep(after)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (143, -signal.SIGTERM), errors  # the latter before Python runs any of our code
    assert "Traceback" not in errors and leftovers(tmp_path) == []


def test_ignored_signals_stay_ignored(command: Callable[..., list[str]], tmp_path: Path) -> None:
    """Under nohup."""
    path = tmp_path / "texts"
    process = subprocess.Popen(
        command("--num-samples", "20", "--batch-size", "1", "--json", "--output", str(path), "--quiet"),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    until(lambda: path.exists() and path.stat().st_size > 0, process)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0
    assert len(path.read_text().splitlines()) == 20


@pytest.mark.skipif(shutil.which("unshare") is None or os.getuid() != 0, reason="needs unshare, as root")
def test_it_ends_as_the_first_process_of_a_container(long: Callable[..., list[str]], tmp_path: Path) -> None:
    """Whose signals the kernel drops unless they are handled."""
    isolated = ["unshare", "--pid", "--fork", "--kill-child", *long("--json")]
    if subprocess.run([*isolated[:4], "true"], capture_output=True).returncode != 0:
        pytest.skip("no namespaces here")
    process = subprocess.Popen(isolated, stderr=subprocess.PIPE, text=True)
    until(lambda: (tmp_path / "texts").exists() and (tmp_path / "texts").stat().st_size > 0, process)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "ended by SIGTERM" in errors
    assert leftovers(tmp_path) == []


def test_the_cursor_is_shown_again(long: Callable[..., list[str]]) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(long("--watch"), stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    seen = b""
    while b"\x1b[?25l" not in seen or len(seen) < 4000:
        seen += os.read(ours, 4096)
    process.send_signal(signal.SIGTERM)
    try:
        while select.select([ours], [], [], 30)[0]:
            seen += os.read(ours, 4096)
    except OSError:  # nobody has the terminal open
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 143
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l") >= 0


def shell(arguments: list[str], redirections: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    line = " ".join(f"'{argument}'" for argument in arguments)
    return subprocess.run(
        ["bash", "-c", f"{line} {redirections}"], capture_output=True, env={**os.environ, **environment}, timeout=300
    )


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


@pytest.mark.parametrize("redirections", ["2>&-", "<&- 2>&-", pytest.param("2>/dev/full", marks=FULL)])
def test_the_text_comes_whatever_happens_to_the_messages(command: Callable[..., list[str]], redirections: str) -> None:
    expected = shell(command(), "")
    assert expected.returncode == 0 and len(expected.stdout) > 12
    finished = shell(command(), redirections)
    assert (finished.returncode, finished.stdout) == (0, expected.stdout)


@pytest.mark.parametrize("redirections", [">&-", "<&- >&-"])
def test_a_closed_output_is_said_before_any_work(command: Callable[..., list[str]], redirections: str) -> None:
    finished = shell(command("--num-samples", "1000000"), redirections)
    assert finished.returncode == 1
    assert finished.stderr == b"fastsedd: error: standard output is closed: nobody would see the result\n"
    inspected = shell([sys.executable, "-m", "fastsedd", "inspect"], redirections)
    assert (inspected.returncode, inspected.stderr) == (1, finished.stderr)


@FULL
@pytest.mark.parametrize("redirections", [">/dev/full", ">/dev/full 2>/dev/full", ">&- 2>&-"])
def test_an_output_that_is_full_or_closed_is_exit_1(command: Callable[..., list[str]], redirections: str) -> None:
    for arguments in (command("--quiet"), [sys.executable, "-m", "fastsedd", "inspect"]):
        finished = shell(arguments, redirections)
        assert finished.returncode == 1
        if "2>" not in redirections:
            assert finished.stderr.decode() == "fastsedd: error: standard output: No space left on device\n"


def test_a_file_is_written_with_every_stream_closed(command: Callable[..., list[str]], tmp_path: Path) -> None:
    for as_json in ([], ["--json"]):
        path = tmp_path / f"texts{len(as_json)}"
        finished = shell(command("--output", str(path), *as_json), "<&- >&- 2>&-")
        assert finished.returncode == 0 and path.stat().st_size > 12


def test_a_pipe_that_does_not_block_loses_nothing(command: Callable[..., list[str]]) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    request = command("--num-samples", "700", "--json", "--quiet")  # more than a pipe holds
    process = subprocess.Popen(request, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    time.sleep(1)
    with open(ours, encoding="utf-8") as lines:
        assert [json.loads(line)["index"] for line in lines] == list(range(700))
    assert process.wait() == 0


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_that_is_not_utf8_loses_nothing(command: Callable[..., list[str]], encoding: str) -> None:
    """Off a terminal it is written in UTF-8 all the same, and that is said once, before the work."""
    request = command("--num-samples", "3", "--prefix", "ä")
    expected = shell([*request, "--quiet"], "", PYTHONIOENCODING=encoding).stdout
    assert "ä" in expected.decode()
    finished = shell(request, "", PYTHONIOENCODING=encoding)
    assert (finished.returncode, finished.stdout) == (0, expected)
    said = finished.stderr.decode().splitlines()
    assert said[0].endswith("but texts are written to it in UTF-8, as to files")
    assert sum("UTF-8" in line for line in said) == 1


def test_a_terminal_that_is_not_utf8_shows_escapes(command: Callable[..., list[str]]) -> None:
    ours, theirs = pty.openpty()
    request = command("--prefix", "ä")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "TERM": "xterm"}
    process = subprocess.Popen(request, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    try:
        while select.select([ours], [], [], 60)[0]:
            seen += os.read(ours, 4096)
    except OSError:  # nobody has the terminal open
        pass
    os.close(ours)
    assert process.wait() == 0
    assert b"\\xe4" in seen and b"the terminal is said to be ascii" in seen


def test_files_are_utf8_and_keep_lone_surrogates(tmp_path: Path) -> None:
    path = tmp_path / "texts"
    with atomic.text_file(path) as file:
        file.write("ä\n\ud800\n")
    assert path.read_bytes() == "ä\n\\ud800\n".encode()
    path.write_text('{"text": "\\ud800", "tokens": [1], "seed": 1, "index": 0, "steps": 2, "model": "m"}\n')
    assert len(output.read_lines(path).places) == 1


def writer(script: str, path: Path) -> subprocess.Popen[str]:
    program = f"""
import sys, time, os, signal
from pathlib import Path
from fastsedd import atomic, file_lock, output
path = Path(sys.argv[1])
{script}
"""
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


HOLD = """
with file_lock.exclusive(path):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [["--json", "--resume"], ["--json"], []])
def test_a_second_writer_is_refused_and_changes_nothing(
    command: Callable[..., list[str]], tmp_path: Path, how: list[str]
) -> None:
    path = tmp_path / "texts"
    path.write_text("old")
    holder = writer(HOLD, path)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()}
    for given in (path, tmp_path / ".." / tmp_path.name / "texts"):
        finished = shell(command(*how, "--output", str(given)), "")
        said = f"fastsedd: error: {given} is being written by another process (pid {holder.pid} on host "
        assert finished.returncode == 1
        assert finished.stderr.decode().startswith(said) and finished.stderr.count(b"\n") == 1
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()} == before
    holder.kill()
    holder.communicate()
    with file_lock.exclusive(path) as sure:
        assert sure
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == ["texts"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_second_conversion_is_refused(tmp_path: Path, write_checkpoint: Any, make_config: Any, exists: bool) -> None:
    source = write_checkpoint(make_config())
    target = tmp_path / "converted"
    if exists:
        target.mkdir()
    (tmp_path / ".converted.77.incomplete" / "left").mkdir(parents=True)
    with atomic.sole_writer(target):
        refused = run("convert", source, target)
    assert refused.exit_code == 1 and refused.stdout == ""
    assert refused.stderr.startswith(
        f"fastsedd: error: {target} is being written by another process (pid {os.getpid()}"
    )
    assert refused.stderr.count("\n") == 1
    assert run("convert", source, target).exit_code == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([source.name, "converted"])


@pytest.mark.parametrize("output", ["grid.json", "other.json"])
def test_a_second_fit_is_refused(write_checkpoint: Any, make_config: Any, output: str) -> None:
    folder = write_checkpoint(make_config())
    given = [] if output == "grid.json" else ["--output", folder / output]
    before = sorted(folder.iterdir())
    fit = ["fit-grid", folder, *given, "--texts", 1, "--nodes", 2, "--quiet"]
    with atomic.sole_writer(folder / output):
        refused = run(*fit)
        assert refused.exit_code == 1 and "is being written by another process" in refused.stderr
    assert sorted(folder.iterdir()) == before
    assert run(*fit).exit_code == 0
    assert sorted(folder.iterdir()) == sorted([*before, folder / output])


def test_remains_of_a_killed_writer_are_removed(tmp_path: Path, command: Callable[..., list[str]]) -> None:
    path = tmp_path / "texts"
    dying = writer("with atomic.text_file(path) as file:\n    os.kill(os.getpid(), signal.SIGKILL)", path)
    dying.communicate()
    others = tmp_path / ".texts.old.77.incomplete"  # of a file named texts.old
    others.write_text("")
    assert len(leftovers(tmp_path)) == 2
    assert shell(command("--output", str(path)), "").returncode == 0
    assert leftovers(tmp_path) == [others.name]


def test_one_of_many_writers_writes(tmp_path: Path) -> None:
    """They come and go; no two hold the lock at a time, and none is left."""
    path = tmp_path / "texts"
    script = """
got = 0
until = time.monotonic() + 1
while time.monotonic() < until:
    try:
        with file_lock.exclusive(path):
            inside = os.open(path.with_name("inside"), os.O_CREAT | os.O_EXCL)
            os.close(inside)
            got += 1
            path.with_name("inside").unlink()
    except FileExistsError:
        raise
    except OSError as error:
        assert "being written by another process" in str(error), error
print(got)
"""
    writers = [writer(script, path) for _ in range(4)]
    answers = [each.communicate(timeout=60) for each in writers]
    assert [errors for _, errors in answers] == [""] * 4
    assert sum(int(got) for got, _ in answers) > 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_in_which_nothing_can_be_made(tmp_path: Path) -> None:
    path = tmp_path / "texts"
    path.write_text("")
    tmp_path.chmod(0o500)
    try:
        with file_lock.exclusive(path) as sure:
            assert sure
            with pytest.raises(OSError, match="is being written by another process"), file_lock.exclusive(path):
                pass
    finally:
        tmp_path.chmod(0o700)


def test_devices_and_missing_folders(tmp_path: Path) -> None:
    with file_lock.exclusive(Path(os.devnull)), file_lock.exclusive(Path(os.devnull)):
        pass
    with (
        pytest.raises(OSError, match="none/texts: No such file or directory"),
        file_lock.exclusive(tmp_path / "none" / "texts"),
    ):
        pass


def test_messages_never_raise(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        assert streams._Lossy(pipe.fileno(), "w", closefd=False).write(b"lost") == 4
