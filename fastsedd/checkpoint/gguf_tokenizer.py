"""The tokenizer that a GGUF file carries -> the document of a tokenizer.json, its special ids, its chat template.

`tokenizer.ggml.pre` names how text is cut before bytes are joined; the patterns are those of the tokenizers so named.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastsedd.checkpoint.gguf_facts import Facts
from fastsedd.errors import CheckpointError

PREFIX = "tokenizer.ggml"
TEMPLATE = "tokenizer.chat_template"

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # types of tokens; the rest of them have no text of their own
SPECIAL = ("bos", "eos", "eot", "padding", "mask")

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|\p{N}{1,3}" + _REST
_QWEN2 = _CONTRACTIONS + r"|\p{N}" + _REST
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
PATTERNS: dict[str, str | None] = {  # None: the library's own, which is GPT-2's
    "gpt-2": None,
    "qwen2": _QWEN2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llada-moe": _BAILING,
    "bailingmoe": _BAILING,
}
IGNORE_MERGES = ("llama-bpe", "llama3")  # a piece that is a token is one, whatever its merges say


@dataclass(frozen=True)
class Embedded:
    """A file's own tokenizer. tokens : by id; types : of them, all normal where the file does not say"""

    path: Path
    model: str | None
    pre: str | None
    tokens: list[str]
    types: list[int]
    merges: list[str]
    template: str | None
    special: dict[str, int]

    def document(self) -> str:
        """A tokenizer.json. Raises CheckpointError, naming it, for a tokenizer that is not read."""
        hint = "or another tokenizer by --tokenizer"
        if self.model != "gpt2":
            raise CheckpointError(f"{self.path}: {PREFIX}.model is {self.model!r}, allowed: 'gpt2', {hint}")
        if self.pre not in PATTERNS:
            allowed = ", ".join(map(repr, PATTERNS))
            raise CheckpointError(f"{self.path}: {PREFIX}.pre is {self.pre!r}, allowed: {allowed}, {hint}")
        used = [i for i, kind in enumerate(self.types) if kind in (NORMAL, CONTROL, USER_DEFINED)]
        vocabulary = {self.tokens[i]: i for i in used}  # added ones too: the library numbers others by itself
        if len(vocabulary) != len(used):
            raise CheckpointError(f"{self.path}: {PREFIX}.tokens has a token twice")
        added = [
            {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": self.types[i] == CONTROL}
            for i, token in enumerate(self.tokens)
            if self.types[i] in (CONTROL, USER_DEFINED)
        ]  # fmt: skip
        found = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": cutting(PATTERNS[self.pre]), "post_processor": None, "decoder": _bytes(use_regex=True),
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                "ignore_merges": self.pre in IGNORE_MERGES, "vocab": vocabulary, "merges": self.merges,
            },
        }  # fmt: skip
        return json.dumps(found, ensure_ascii=False)

    def ids(self) -> dict[str, int]:
        """The id of each token."""
        return {token: i for i, token in enumerate(self.tokens)}

    def chat(self) -> tuple[str, dict[str, str]] | None:
        """The chat template's source, and the tokens that it may name; None where there is none."""
        if self.template is None:
            return None
        named = [name for name in ("bos", "eos") if name in self.special]
        return self.template, {f"{name}_token": self.tokens[self.special[name]] for name in named}


def read(facts: Facts) -> Embedded | None:
    """The tokenizer of a file's metadata, None where there is none. Raises CheckpointError for metadata of other types,
    and for ids without a token."""
    tokens = facts.texts(f"{PREFIX}.tokens")
    if tokens is None:
        return None
    types = facts.integers(f"{PREFIX}.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise CheckpointError(f"{facts.path}: has {len(types)} types of {len(tokens)} tokens, allowed: one for each")
    special = special_ids(facts)
    for name, token in special.items():
        if not 0 <= token < len(tokens):
            raise CheckpointError(f"{facts.path}: {PREFIX}.{name}_token_id is {token}, allowed: 0 to {len(tokens) - 1}")
    return Embedded(
        facts.path, facts.text(f"{PREFIX}.model"), facts.text(f"{PREFIX}.pre"), tokens, types,
        facts.texts(f"{PREFIX}.merges") or [], facts.text(TEMPLATE), special,
    )  # fmt: skip


def special_ids(facts: Facts) -> dict[str, int]:
    """The ids of special tokens that a file states, by the names of SPECIAL."""
    found = {name: facts.integer(f"{PREFIX}.{name}_token_id") for name in SPECIAL}
    return {name: token for name, token in found.items() if token is not None}


def cutting(pattern: str | None) -> dict[str, Any]:
    """The pre_tokenizer of a tokenizer.json that cuts text by a pattern, and shows its bytes as characters."""
    if pattern is None:
        return _bytes(use_regex=True)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _bytes(use_regex=False)]}


def _bytes(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
