"""`fastsedd chat` and `generate --prompt`: at a terminal, through a pipe, and their refusals. A tiny model answers."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import masked_models
import pytest
from click.testing import CliRunner, Result

import fastsedd
from fastsedd import cli
from fastsedd.cli.conversation import Conversation, read_message

pytest.importorskip("tokenizers", reason="an extra")
pytest.importorskip("jinja2", reason="an extra")

OPTIONS = ("--seed", "1", "--max-new-tokens", "12", "--block-length", "4")
PROMPT = ">>> "
LIMIT = 60.0  # seconds to wait for the program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return masked_models.write(tmp_path_factory.mktemp("models") / "model", max_position_embeddings=4096)


def run(*arguments: str, said: str = "") -> Result:
    return CliRunner().invoke(cli.main, arguments, input=said)


def answers(folder: Path, *questions: str) -> list[str]:
    """The same conversation in Python."""
    model, messages = fastsedd.load(folder), []
    for question in questions:
        messages.append({"role": "user", "content": question})
        text = model.chat(messages, seed=1, max_new_tokens=12, block_length=4).texts[0]
        messages.append({"role": "assistant", "content": text})
    return [message["content"] for message in messages if message["role"] == "assistant"]


def test_a_pipe_is_answered_in_plain_lines(folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    said = f'Hello\n\n"""\nWhat\nelse?"""\n/save {saved}\n/reset\nHello\n/nothing\n/exit\nnever read'
    result = run("chat", "--model", str(folder), *OPTIONS, "--quiet", said=said)
    first, second = answers(folder, "Hello", "What\nelse?")
    assert (result.exit_code, result.stdout) == (0, f"{first}\n{second}\n{first}\n")
    assert result.stderr.splitlines() == [
        f"saved in {saved}", "forgotten", "there is no command /nothing: /help lists them",
    ]  # fmt: skip
    assert [message["content"] for message in json.loads(saved.read_text())] == ["Hello", first, "What\nelse?", second]


def test_lines_that_are_no_commands_are_messages() -> None:
    conversation = Conversation("Be brief.")
    for line in ("/usr/bin?", "// a comment", "hello /reset", "/Help"):
        assert conversation.obey(line) is None
    assert conversation.obey("/save") == "/save needs the name of a file"
    assert "/reset" in (conversation.obey("/help") or "")
    assert conversation.asking("a") == [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a"], "a"),
        (['"""a"""'], "a"),
        (['"""', "a", "", "b", '"""'], "a\n\nb"),
        (['"""a', 'b"""'], "a\nb"),
        (['"""a', "b"], "a\nb"),
    ],
)
def test_messages_of_several_lines(lines: list[str], message: str) -> None:
    rest = iter(lines)

    def read(more: bool) -> str:
        line = next(rest, None)
        if line is None:
            raise EOFError
        return line

    assert read_message(read) == message


def test_generate_answers_a_prompt(folder: Path) -> None:
    (expected,) = answers(folder, "Hello")
    by_option = run("generate", "--model", str(folder), "--prompt", "Hello", *OPTIONS, "--quiet")
    by_pipe = run("generate", "--model", str(folder), "--prompt", "-", *OPTIONS, "--quiet", said="Hello")
    assert by_option.stdout == by_pipe.stdout == f"{expected}\n"
    as_json = run("generate", "--model", str(folder), "--prompt", "Hello", *OPTIONS, "--quiet", "--json")
    assert json.loads(as_json.stdout)["text"] == expected


def test_a_file_of_answers_is_resumed(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    request = ("generate", "--model", str(folder), "--prompt", "Hello", *OPTIONS, "--json", "--output", str(file))
    assert run(*request, "--num-samples", "3").exit_code == 0
    whole = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:1]))
    assert run(*request, "--num-samples", "3", "--resume").exit_code == 0
    assert [json.loads(line)["text"] for line in file.read_text().splitlines()] == whole


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["chat"], 2, "Missing option '--model'"),
        (["chat", "--model", "M", "--threshold", "2", "--factor", "1"], 2, "threshold and factor are given"),
        (["chat", "--model", "fastsedd/assets"], 1, "allowed for masked language models only"),
        (["generate", "--model", "M", "--prompt", "a", "--prefix", "b"], 2, "prompt and prefix is given with more"),
        (["generate", "--model", "M", "--prompt", "a", "--max-new-tokens", "9999"], 1, "allowed: 4096 together"),
        (["generate", "--prompt", "a"], 1, "prompt is 'a', allowed for masked language models only"),
        (["generate", "--prompt", "a" * 99], 1, "prompt is given, allowed for masked language models only"),
    ],
)
def test_refusals_are_one_line(folder: Path, arguments: list[str], code: int, said: str) -> None:
    result = run(*[str(folder) if each == "M" else each for each in arguments], "--quiet")
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr and "Traceback" not in result.stderr


def test_a_tokenizer_without_a_template_has_no_conversations(tmp_path: Path) -> None:
    plain = masked_models.write(tmp_path / "plain", template=None)
    result = run("chat", "--model", str(plain), said="Hello\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith("fastsedd: error: messages: the tokenizer has no chat template")


class Terminal:
    """A program at a terminal of its own: what it shows, and a person's keys."""

    def __init__(self, *arguments: str) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self._keys, there = pty.openpty()
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = os.environ | {"TERM": "xterm", "PYTHONUTF8": "1"}
        self.program = subprocess.Popen(
            [sys.executable, "-m", "fastsedd", *arguments], stdin=there, stdout=there, stderr=there, env=environment,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(there)

    def type(self, keys: str) -> None:
        os.write(self._keys, keys.encode())

    def interrupted(self, text: str) -> str:
        """Press Ctrl-C; the output from then on, up to this text.

        It is pressed again where nothing comes of it: Python's readline forgets an interrupt that arrives in the moment
        in which it begins to wait for a key, until the next one.
        """
        self.type("\x03")
        return self.shown_until(text, again="\x03")

    def shown_until(self, text: str, again: str = "") -> str:
        """The output from now on, up to this text; again : keys to be typed every five seconds until then"""
        seen, begin = b"", time.monotonic()
        end, typed = begin + LIMIT, begin
        while text.encode() not in seen:
            assert time.monotonic() < end, seen.decode(errors="replace")
            if again and time.monotonic() > typed + 5.0:
                self.type(again)
                typed = time.monotonic()
            if select.select([self._keys], [], [], 0.2)[0]:
                with contextlib.suppress(OSError):
                    seen += os.read(self._keys, 1)
        return seen.decode(errors="replace")

    def close(self) -> None:
        os.close(self._keys)
        self.program.kill()
        self.program.wait()


@pytest.fixture
def terminal(folder: Path) -> Iterator[Terminal]:
    pytest.importorskip("pty", reason="POSIX only")
    opened = Terminal("chat", "--model", str(folder), "--seed", "1", "--max-new-tokens", "1500", "--block-length", "4")
    yield opened
    opened.close()


def test_an_answer_at_a_terminal_is_seen_being_unmasked_and_interrupted(terminal: Terminal) -> None:
    terminal.shown_until(PROMPT)
    terminal.type("Hello\n")
    terminal.shown_until("·")
    shown = terminal.interrupted(PROMPT)
    assert "interrupted; the question is forgotten" in shown and "Traceback" not in shown
    terminal.type("/save /nowhere/at/all\n")
    assert "No such file or directory" in terminal.shown_until(PROMPT)
    terminal.type("half a line")
    terminal.shown_until("half a line")
    terminal.interrupted(PROMPT)
    terminal.type("/help\n")
    assert "/save FILE" in terminal.shown_until(PROMPT)
    terminal.type("\x04")
    assert terminal.program.wait(LIMIT) == 0


def test_an_answer_at_a_terminal_is_that_of_python(folder: Path) -> None:
    pytest.importorskip("pty", reason="POSIX only")
    terminal = Terminal("chat", "--model", str(folder), *OPTIONS)
    try:
        terminal.shown_until(PROMPT)
        terminal.type("Hello\n")
        shown = terminal.shown_until(PROMPT)
        (expected,) = answers(folder, "Hello")
        assert expected.replace("\n", "\r\n") + "\r\n" in shown
        terminal.type("/exit\n")
        assert terminal.program.wait(LIMIT) == 0
    finally:
        terminal.close()
