"""Text files as token ids: the first 90% of one, and all of others, to train on; its last 10% to validate on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fastsedd.text.character_merges import CharacterMerges
from training import pieces

TRAINING_SHARE = 0.9


class Texts(NamedTuple):
    """The corpus' own text to train on, the additional texts, and the text that validates."""

    own: str
    extra: str
    validation: str

    @property
    def characters(self) -> str:
        """The alphabet, sorted."""
        return "".join(sorted(set(self.own + self.extra + self.validation)))


class Source(NamedTuple):
    """Tokens to draw windows from, int64 [n], and where the paragraphs among them begin, int64 [m]."""

    tokens: Tensor
    starts: Tensor


class Corpus(NamedTuple):
    """The tokens to train on, of the corpus itself and of what is added to it, and those that validate."""

    own: Source
    extra: Source | None
    validation: Tensor


def read(path: Path, extra: Sequence[Path] = ()) -> Texts:
    text = path.read_text(encoding="utf-8")
    split = int(TRAINING_SHARE * len(text))
    return Texts(text[:split], "\n\n".join(each.read_text(encoding="utf-8") for each in extra), text[split:])


def tokenizer(texts: Texts, tokens: int) -> dict:
    """The tokenizer's part of a config.json: characters alone where there are as many as tokens, else with merges."""
    characters = texts.characters
    if tokens <= len(characters):
        return {"type": "characters", "characters": characters}
    merges = pieces.learn(texts.own + "\n\n" + texts.extra, characters, tokens)
    return {"type": "character merges", "characters": characters, "merges": merges}


def tokenise(texts: Texts, config: dict) -> Corpus:
    """The tokens of all texts, by a config.json's tokenizer."""
    merges = [tuple(pair) for pair in config["tokenizer"].get("merges", [])]
    encode = CharacterMerges(config["tokenizer"]["characters"], merges).encode
    line_end = config["tokenizer"]["characters"].find("\n")
    own, extra, validation = (torch.from_numpy(encode(text)).long() for text in texts)
    return Corpus(_source(own, line_end), _source(extra, line_end) if len(extra) else None, validation)


def moved(corpus: Corpus, device: str) -> Corpus:
    """The same corpus, its tokens to train on kept on a device."""
    own, extra = (None if each is None else Source(*(part.to(device) for part in each)) for each in corpus[:2])
    return Corpus(own, extra, corpus.validation)


def _source(tokens: Tensor, line_end: int) -> Source:
    ends = tokens == line_end
    starts = (ends[1:-1] & ends[:-2]).nonzero()[:, 0] + 2
    return Source(tokens, torch.cat((torch.zeros(1, dtype=torch.long), starts)))


def random_batch(source: Source, batch: int, length: int, aligned: float = 0.0) -> Tensor:
    """Windows of a source, int64 [batch, length], a share of them at the beginning of a paragraph."""
    device = source.tokens.device
    last = len(source.tokens) - length
    anywhere = torch.randint(0, last + 1, (batch,), device=device)
    beginning = source.starts[torch.randint(0, len(source.starts), (batch,), device=device)].clamp(max=last)
    starts = torch.where(torch.rand(batch, device=device) < aligned, beginning, anywhere)
    return source.tokens[starts[:, None] + torch.arange(length, device=device)]


def mixed_batch(corpus: Corpus, batch: int, length: int, aligned: float, own_share: float) -> Tensor:
    """Windows of both sources, the given share of them, on average, the corpus' own."""
    own = random_batch(corpus.own, batch, length, aligned)
    if corpus.extra is None:
        return own
    extra = random_batch(corpus.extra, batch, length, aligned)
    return torch.where(torch.rand(batch, 1, device=own.device) < own_share, own, extra)


def windows(data: Tensor, length: int) -> Tensor:
    """All whole windows, side by side: [count, length]. A shorter rest at the end is left out."""
    count = len(data) // length
    return data[: count * length].view(count, length)
