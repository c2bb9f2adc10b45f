"""The chat template beside a tokenizer: chat_template.jinja, or a key of tokenizer_config.json."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fastsedd.checkpoint import small_file
from fastsedd.checkpoint.mask import TOKENIZER_CONFIG
from fastsedd.errors import CheckpointError

FILE = "chat_template.jinja"
_DEFAULT = "default"  # of several templates, the one for conversations


class _Named(msgspec.Struct):
    name: str
    template: str


class _Token(msgspec.Struct):
    content: str


class _Stored(msgspec.Struct):
    chat_template: str | list[_Named] | None = None
    bos_token: _Token | str | None = None
    eos_token: _Token | str | None = None


def read(folder: Path) -> tuple[str, dict[str, str]] | None:
    """The template's source, and the special tokens that it may name; None where there is none.

    Raises CheckpointError for files that cannot be read.
    """
    config = folder / TOKENIZER_CONFIG
    stored = small_file.decode(config, _Stored) if config.is_file() else _Stored()
    named = {"bos_token": stored.bos_token, "eos_token": stored.eos_token}
    tokens = {
        name: token.content if isinstance(token, _Token) else token
        for name, token in named.items()
        if token is not None
    }
    file = folder / FILE
    if file.is_file():
        try:
            return small_file.content(file).decode(), tokens
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{file}: is not UTF-8 at byte {error.start}") from None
    source = stored.chat_template
    if isinstance(source, list):
        source = next((each.template for each in source if each.name == _DEFAULT), None)
    return None if source is None else (source, tokens)
