"""Which token is a model's mask, as the files beside its weights state it: here it is the last one, or it is refused.

SEDD and RADD add a mask behind their tokens. MDLM does too where the tokenizer has none, and else takes the
tokenizer's: BERT's [MASK] is 103 of 30,522.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from fastsedd.checkpoint import small_file
from fastsedd.config import ModelConfig
from fastsedd.errors import CheckpointError

TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
BERT_VOCABULARY = "vocab.txt"
FILES = (TOKENIZER_CONFIG, SPECIAL_TOKENS, BERT_VOCABULARY)

BERT_MASK = 103
_BERT_SIZES = (30522, 28996)  # of bert-base-uncased and -cased
_NAMES = ("[MASK]", "<mask>", "<|mask|>", "<MASK>")
_MAX_TOKENIZER = 1 << 26  # bytes


class _Token(msgspec.Struct):
    content: str
    id: int = -1


class _Special(msgspec.Struct):
    """The keys that matter of tokenizer_config.json and special_tokens_map.json."""

    mask_token: _Token | str | None = None
    added_tokens_decoder: dict[str, _Token] = msgspec.field(default_factory=dict)


class _Model(msgspec.Struct):
    vocab: Any = None


class _Tokenizer(msgspec.Struct):
    """The keys that matter of tokenizer.json."""

    added_tokens: list[_Token] = msgspec.field(default_factory=list)
    model: _Model = msgspec.field(default_factory=_Model)


def check(config: ModelConfig, where: Path, folder: Path) -> None:
    """Raise CheckpointError where a model's mask is stated to be another token than its last.

    where : what states the config; folder : where its tokenizer's files are, as far as there are any
    """
    if config.architecture != "mdlm":
        return
    present = [folder / name for name in ("tokenizer.json", *FILES) if (folder / name).is_file()]
    if check_files(config, tuple(present)) is None and not present and config.vocab_size in _BERT_SIZES:
        refuse(f"{where}: its vocab_size, {config.vocab_size}, is BERT's", BERT_MASK, config.vocab_size)


def check_files(config: ModelConfig, files: tuple[Path, ...]) -> int | None:
    """The mask that a tokenizer's files state, None where they state none. Raises CheckpointError for another than the
    model's."""
    if config.architecture != "mdlm":
        return None
    names = [name for file in files if (name := _stated_name(file)) is not None]
    for file in files:
        token = _find(file, (*names, *_NAMES))
        if token is not None:
            if token != config.mask_token:
                refuse(f"{file}", token, config.vocab_size)
            return token
    return None


def refuse(where: str, token: int, vocab_size: int) -> None:
    """Raise CheckpointError for a mask in the midst of the tokens."""
    raise CheckpointError(f"{where}: the mask is token {token}, allowed: the last of {vocab_size}, {vocab_size - 1}")


def _stated_name(file: Path) -> str | None:
    if file.name not in (TOKENIZER_CONFIG, SPECIAL_TOKENS):
        return None
    token = small_file.decode(file, _Special).mask_token
    return token.content if isinstance(token, _Token) else token


def _find(file: Path, names: tuple[str, ...]) -> int | None:
    """The id that a file gives to the first of these tokens that it has."""
    found: dict[str, int] = {}
    if file.name == TOKENIZER_CONFIG:
        added = small_file.decode(file, _Special).added_tokens_decoder
        found = {token.content: int(key) for key, token in added.items() if key.isdecimal()}
    elif file.name == BERT_VOCABULARY:
        lines = small_file.content(file, _MAX_TOKENIZER).decode(errors="replace").splitlines()
        found = {line: i for i, line in enumerate(lines)}
    elif file.suffix == ".json" and file.name not in (SPECIAL_TOKENS, "vocab.json"):
        tokenizer = small_file.decode(file, _Tokenizer, _MAX_TOKENIZER)
        found = _vocabulary(tokenizer.model.vocab) | {token.content: token.id for token in tokenizer.added_tokens}
    elif file.name == "vocab.json":
        found = small_file.decode(file, dict[str, int], _MAX_TOKENIZER)
    return next((found[name] for name in names if name in found), None)


def _vocabulary(stored: Any) -> dict[str, int]:
    """The vocabulary of a tokenizer.json: {piece: id}, or pieces with their scores in the order of their ids."""
    if isinstance(stored, dict):
        return {piece: token for piece, token in stored.items() if isinstance(token, int)}
    pieces = stored if isinstance(stored, list) else []
    return {each[0]: i for i, each in enumerate(pieces) if isinstance(each, list) and each and isinstance(each[0], str)}
