"""The mask's id, as the tokenizer's files beside the weights state it.

SEDD and RADD add a mask behind their tokens. MDLM does too where the tokenizer has none, and else takes the
tokenizer's: BERT's [MASK] is 103 of 30,522. Masked language models always take their tokenizer's.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from fastsedd.architectures.base import ModelConfig
from fastsedd.architectures.mdlm import BERT_MASK
from fastsedd.checkpoint import small_file
from fastsedd.errors import CheckpointError

TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
GENERATION_CONFIG = "generation_config.json"
BERT_VOCABULARY = "vocab.txt"
FILES = (TOKENIZER_CONFIG, SPECIAL_TOKENS, BERT_VOCABULARY)

_BERT_SIZES = (30522, 28996)  # of bert-base-uncased and -cased
NAMES = ("[MASK]", "<mask>", "<|mask|>", "<MASK>", "<|MASK|>", "|<MASK>|", "<M>", "<|mdm_mask|>")
_MAX_TOKENIZER = 1 << 26  # bytes
_ID = re.compile(r"[0-9]{1,9}")  # no key is long enough for Python to refuse it as an integer


class _Token(msgspec.Struct):
    content: str


class _Added(msgspec.Struct):
    content: str
    id: int | None = None


class _Special(msgspec.Struct):
    """The keys that matter of tokenizer_config.json and special_tokens_map.json."""

    mask_token: _Token | str | None = None
    added_tokens_decoder: dict[str, _Token] = msgspec.field(default_factory=dict)


class _Model(msgspec.Struct):
    vocab: Any = None


class _Tokenizer(msgspec.Struct):
    """The keys that matter of tokenizer.json."""

    added_tokens: list[_Added] = msgspec.field(default_factory=list)
    model: _Model = msgspec.field(default_factory=_Model)


def read(config: ModelConfig, folder: Path) -> ModelConfig:
    """The config with the mask that the files beside the weights state, if its own document states none.

    The first of generation_config.json, tokenizer.json, tokenizer_config.json, special_tokens_map.json and vocab.txt to
    name one decides. Without any, a vocabulary of BERT's size has BERT's mask. Families without `mask_in_tokenizer`
    keep their config.
    Raises CheckpointError where a family needs a mask and no file names one.
    """
    if not config.family.mask_in_tokenizer or config.mask is not None:
        return config
    present = tuple(folder / name for name in ("tokenizer.json", "vocab.json", *FILES) if (folder / name).is_file())
    found = _in_generation_config(folder)
    if found is None:
        found = find(present)
    if found is None and config.family.mask_required:
        raise CheckpointError(
            f"{folder}: no file names a mask, which a model of type {config.architecture!r} needs: config.json or "
            f"{GENERATION_CONFIG} (mask_token_id), {TOKENIZER_CONFIG} or {SPECIAL_TOKENS} (mask_token), or a token "
            f"{' or '.join(NAMES)}; a model without one is autoregressive"
        )
    if found is None and not present and config.vocab_size in _BERT_SIZES:
        found = BERT_MASK
    if found is None or (found == config.mask_id and not config.family.mask_required):
        return config
    try:
        return replace(config, mask=found)
    except ValueError as error:
        raise CheckpointError(f"{folder}: its tokenizer's {error}") from None


class _Generation(msgspec.Struct):
    mask_token_id: int | None = None


def _in_generation_config(folder: Path) -> int | None:
    file = folder / GENERATION_CONFIG
    return small_file.decode(file, _Generation).mask_token_id if file.is_file() else None


def check(config: ModelConfig, files: tuple[Path, ...]) -> None:
    """Raise CheckpointError where these tokenizer files state another mask than the model's."""
    found = find(files) if config.family.mask_in_tokenizer else None
    if found not in (None, config.mask_id):
        raise CheckpointError(f"{files[0]}: its mask is token {found}, but the model's is {config.mask_id}")


def find(files: tuple[Path, ...]) -> int | None:
    """The mask that a tokenizer's files state, None where they state none."""
    names = [name for file in files if (name := _stated_name(file)) is not None]
    found = (_find(file, (*names, *NAMES)) for file in files)
    return next((token for token in found if token is not None), None)


def _stated_name(file: Path) -> str | None:
    if file.name not in (TOKENIZER_CONFIG, SPECIAL_TOKENS):
        return None
    token = small_file.decode(file, _Special).mask_token
    return token.content if isinstance(token, _Token) else token


def ids_of(folder: Path) -> dict[str, int]:
    """The id of each token that tokenizer.json, vocab.json and tokenizer_config.json name; the last of these counts."""
    found: dict[str, int] = {}
    for name in ("vocab.json", "tokenizer.json", TOKENIZER_CONFIG):
        if (folder / name).is_file():
            found |= _ids_in(folder / name)
    return found


def _find(file: Path, names: tuple[str, ...]) -> int | None:
    """The id that a file gives to the first of these tokens that it has."""
    found = _ids_in(file)
    return next((found[name] for name in names if name in found), None)


def _ids_in(file: Path) -> dict[str, int]:
    """The tokens that a file gives an id."""
    found: dict[str, int] = {}
    if file.name == TOKENIZER_CONFIG:
        added = small_file.decode(file, _Special).added_tokens_decoder
        found = {token.content: int(key) for key, token in added.items() if _ID.fullmatch(key)}
    elif file.name == BERT_VOCABULARY:
        lines = small_file.content(file, _MAX_TOKENIZER).decode(errors="replace").splitlines()
        found = {line: i for i, line in enumerate(lines)}
    elif file.suffix == ".json" and file.name not in (SPECIAL_TOKENS, "vocab.json"):
        tokenizer = small_file.decode(file, _Tokenizer, _MAX_TOKENIZER)
        found = _vocabulary(tokenizer.model.vocab) | _added(file, tokenizer.added_tokens)
    elif file.name == "vocab.json":
        found = small_file.decode(file, dict[str, int], _MAX_TOKENIZER)
    return found


def _vocabulary(stored: Any) -> dict[str, int]:
    """The vocabulary of a tokenizer.json: {piece: id}, or pieces with their scores in the order of their ids."""
    if isinstance(stored, dict):
        return {piece: token for piece, token in stored.items() if isinstance(token, int)}
    pieces = stored if isinstance(stored, list) else []
    return {each[0]: i for i, each in enumerate(pieces) if isinstance(each, list) and each and isinstance(each[0], str)}


def _added(file: Path, tokens: list[_Added]) -> dict[str, int]:
    """The added tokens of a tokenizer.json. Raises CheckpointError, naming the entry, for one without an id."""
    found = {}
    for i, token in enumerate(tokens):
        if token.id is None or token.id < 0:
            stated = "no id" if token.id is None else f"the id {token.id}"
            raise CheckpointError(f"{file}: added_tokens[{i}], {token.content!r}, has {stated}, allowed: 0 or more")
        found[token.content] = token.id
    return found
