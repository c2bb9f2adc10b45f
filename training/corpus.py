"""A text file as character ids: the first 90% to train on, the last 10% to validate on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor


class Corpus(NamedTuple):
    characters: str
    train: Tensor
    validation: Tensor


def read(path: Path) -> Corpus:
    text = path.read_text(encoding="utf-8")
    characters = "".join(sorted(set(text)))
    ids = {character: index for index, character in enumerate(characters)}
    data = torch.tensor([ids[character] for character in text])
    split = int(0.9 * len(data))
    return Corpus(characters, data[:split], data[split:])


def random_batch(data: Tensor, batch: int, length: int) -> Tensor:
    starts = torch.randint(0, len(data) - length + 1, (batch, 1))
    return data[starts + torch.arange(length)]


def windows(data: Tensor, length: int) -> Tensor:
    """All whole windows, side by side: [count, length]. A shorter rest at the end is left out."""
    count = len(data) // length
    return data[: count * length].view(count, length)
