"""Tokens at which a masked language model's answer ends, and its pad, as the files beside the weights state them.

Ends are all that are stated: `eos_token_id` of config.json and generation_config.json, `eos_token` of
tokenizer_config.json and special_tokens_map.json, and the ends of a turn that the tokenizer has. The pad is the first
that is stated, in that order.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from fastsedd.architectures.base import ModelConfig
from fastsedd.checkpoint import small_file
from fastsedd.checkpoint.mask import GENERATION_CONFIG, SPECIAL_TOKENS, TOKENIZER_CONFIG, ids_of
from fastsedd.errors import CheckpointError

ENDS_OF_TURNS = ("<|im_end|>", "<|eot_id|>")
FILES = (GENERATION_CONFIG, TOKENIZER_CONFIG, SPECIAL_TOKENS)


class _Generation(msgspec.Struct):
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None


class _Token(msgspec.Struct):
    content: str


class _Names(msgspec.Struct):
    eos_token: _Token | str | None = None
    pad_token: _Token | str | None = None


def read(config: ModelConfig, folder: Path) -> ModelConfig:
    """The config with all ends of an answer, and the pad, that the folder's files state.

    Configs without a backbone stay as they are, and so do families whose texts do not end at such tokens.
    Raises CheckpointError for a file that is broken, and for a token that the vocabulary does not have.
    """
    backbone = config.backbone
    if backbone is None:
        return config
    ends, pad = list(backbone.ends), backbone.pad
    file = folder / GENERATION_CONFIG
    if file.is_file():
        stated = small_file.decode(file, _Generation)
        eos = stated.eos_token_id
        ends += [] if eos is None else [eos] if isinstance(eos, int) else eos
        pad = stated.pad_token_id if pad is None else pad
    ids = ids_of(folder)
    if ids and max(ids.values()) >= config.vocab_size:
        raise CheckpointError(
            f"{folder}: its tokenizer has token {max(ids.values())}, but the model's last is {config.vocab_size - 1}"
        )
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS):
        file = folder / name
        if not file.is_file():
            continue
        names = small_file.decode(file, _Names)
        end, filler = _id(names.eos_token, ids), _id(names.pad_token, ids)
        ends += [] if end is None else [end]
        pad = filler if pad is None else pad
    ends += [ids[name] for name in ENDS_OF_TURNS if name in ids]
    if not config.family.ends_answers:
        return config
    try:
        return replace(config, backbone=replace(backbone, ends=tuple(dict.fromkeys(ends)), pad=pad))
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from None


def _id(token: _Token | str | None, ids: dict[str, int]) -> int | None:
    name = token.content if isinstance(token, _Token) else token
    return None if name is None else ids.get(name)
