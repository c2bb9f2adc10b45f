"""A conversation at the command line: its messages, and the commands that begin with a slash."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

QUOTES = '"""'
HELP = f"""\
/help        these lines
/reset       forget what was said
/save FILE   write the conversation there, as JSON
/exit        end, as Ctrl-D does
A message of several lines begins and ends with {QUOTES}. Ctrl-C ends an answer."""

_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*?))?\s*")


class Conversation:
    """Messages so far, {"role": ..., "content": ...}, the system's first."""

    def __init__(self, system: str | None = None) -> None:
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[dict[str, str]] = []

    def asking(self, question: str) -> list[dict[str, str]]:
        """The messages with a question behind them."""
        return [*self._system, *self._turns, {"role": "user", "content": question}]

    def add(self, question: str, answer: str) -> None:
        """Remember a question and its answer."""
        self._turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def obey(self, line: str) -> str | None:
        """Carry out a command; what to say about it, None for a line that is no command. Raises OSError."""
        found = _COMMAND.fullmatch(line)
        if found is None:
            return None
        name, argument = found[1], found[2] or ""
        if name == "help":
            return HELP
        if name == "reset":
            self._turns.clear()
            return "forgotten"
        if name == "save" and argument:
            return self._save(Path(argument))
        if name == "save":
            return "/save needs the name of a file"
        return f"there is no command /{name}: /help lists them"

    def _save(self, path: Path) -> str:
        from fastsedd import atomic

        with atomic.text_file(path) as file:
            file.write(json.dumps([*self._system, *self._turns], ensure_ascii=False, indent=1) + "\n")
        return f"saved in {path}"


def is_exit(line: str) -> bool:
    """True for the command that ends the program."""
    return line.strip() == "/exit"


def read_message(read: Callable[[bool], str]) -> str:
    """A message: one line, or the lines between two of QUOTES, or up to the end of input.

    read : called with False for a message's first line, True for others. Raises EOFError where there is no first line.
    """
    line = read(False)
    if not line.startswith(QUOTES):
        return line
    text = line[len(QUOTES) :]
    while not text.endswith(QUOTES):
        try:
            text += "\n" + read(True)
        except EOFError:
            return text
    return text.removesuffix(QUOTES).removeprefix("\n").removesuffix("\n")
