"""A file of weights without a config beside it -> the model's config, from its shapes and from what the file states.

Of the annotated architecture every size follows from the shapes, but for the number of heads: a layer of width 384 is
the same with 6 heads as with 12, and computes something else. So the file's own config is read where it has one
(`__metadata__` of safetensors; "config" or "model_args" beside a state dict). Without one, 6 heads are assumed for the
published model's sizes alone, and any other file is refused until its heads are given. SMDM's files are read in the
same way: see `fastsedd.architectures.smdm`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fastsedd.architectures import registry
from fastsedd.architectures.annotated import Annotated
from fastsedd.architectures.base import ModelConfig, Shapes
from fastsedd.architectures.smdm import MARK, SMDM
from fastsedd.checkpoint import config_json, prefixes
from fastsedd.config import NoiseConfig
from fastsedd.errors import CheckpointError
from fastsedd.text.characters import TINY_SHAKESPEARE

# The published model: tokens, width, blocks, cond_dim, length.
_PUBLISHED = (65, 384, 6, 64, 256)
_PUBLISHED_HEADS = 6

# Under what a file keeps its config, and what trainers call a number in it.
_PLACES = ("config", "model_args", "model_config", "hyper_parameters", "args")
_HEADS = ("n_heads", "n_head", "num_heads", "heads", "num_attention_heads")
_SIZES = {
    "tokens": ("tokens", "vocab_size"),
    "width": ("width", "n_embd", "n_embed", "hidden_size", "d_model"),
    "blocks": ("blocks", "n_blocks", "n_layer", "n_layers", "num_layers"),
    "cond_dim": ("cond_dim",),
    "length": ("length", "block_size", "context_length"),
}
_SIGMAS = ("sigma_min", "sigma_max")


class Bare(NamedTuple):
    """assumed : what is not known of the config but taken for granted, one line; "" where nothing is."""

    config: ModelConfig
    assumed: str


def read(path: Path, shapes: Shapes, beside: Mapping[str, Any], heads: int | None) -> Bare:
    """beside : what the file holds besides its tensors; heads : as requested, of which the file may state no other.

    Raises CheckpointError where the file says otherwise, or its heads cannot be known.
    """
    places = list(_places(beside))
    whole = next((place for place in places if _is_whole(place)), None)
    if whole is not None:
        return Bare(config_json.from_document(path, whole), "")
    stated = _number(path, places, _HEADS)
    if None not in (stated, heads) and stated != heads:
        raise CheckpointError(f"{path}: states {stated} heads, but {heads} were requested")
    known = stated if heads is None else heads
    plain = {prefixes.plain_name(name): shape for name, shape in shapes.items()}
    if MARK in plain:
        return _smdm(path, plain, known)
    guess = config_json.checked(path, lambda: Annotated().from_shapes(shapes, known or 1))
    sizes = {name: getattr(guess, name) for name in _SIZES}
    configs = [place for place in places if any(alias in place for alias in _HEADS)]
    for name, aliases in _SIZES.items():
        size = _number(path, configs, aliases)
        if size is not None and size != sizes[name]:
            raise CheckpointError(f"{path}: states {name} {size}, but its tensors have {sizes[name]}")
    assumed = ""
    if known is None:
        if tuple(sizes.values()) != _PUBLISHED:
            raise CheckpointError(
                f"{path}: does not say how many heads share its width of {guess.width}, allowed: a config.json beside "
                f"it, or --heads N (heads=N); {_choices(guess.width)}"
            )
        known = _PUBLISHED_HEADS
        assumed = f"{known} heads of {guess.width // known}, the published model's: {path} does not say (--heads N)"
    final = known
    config = config_json.checked(path, lambda: replace(guess, heads=final, noise=_noise(configs)))
    return Bare(_with_characters(config), assumed)


def _smdm(path: Path, shapes: Shapes, heads: int | None) -> Bare:
    config = config_json.checked(path, lambda: SMDM().from_shapes(shapes, heads))
    assumed = f"{config.heads} heads of {config.head_dim}, as the authors' models of its sizes have (--heads N)"
    return Bare(config, assumed if heads is None else "")


def _places(beside: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The mappings that may be a config: the whole, and what is kept under one of the names, also as JSON."""
    yield beside
    for key in _PLACES:
        value = beside.get(key)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):  # a name or a path, say
                continue
        if isinstance(value, Mapping):
            yield value


def _is_whole(place: Mapping[str, Any]) -> bool:
    model, model_type = place.get("model"), place.get("model_type")
    if isinstance(model_type, str) and registry.is_model_type(model_type):
        return True
    return isinstance(model, Mapping) and "hidden_size" in model


def _number(path: Path, places: list[Mapping[str, Any]], aliases: tuple[str, ...]) -> int | None:
    """A whole number that is stated under any of its names. Raises CheckpointError where two of them differ."""
    found: dict[int, str] = {}
    for place in places:
        for alias in aliases:
            if place.get(alias) is not None:
                found[_whole_number(path, alias, place[alias])] = alias
    if len(found) > 1:
        raise CheckpointError(f"{path}: states {' and '.join(f'{alias} {value}' for value, alias in found.items())}")
    return next(iter(found), None)


def _whole_number(path: Path, name: str, value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise CheckpointError(f"{path}: states {name} as a {type(value).__name__}, allowed: a whole number from 0 on")
    return value


def _choices(width: int) -> str:
    likely = [width // head for head in (32, 64, 128) if width % head == 0]
    shown = ", ".join(f"{heads} of {width // heads}" for heads in likely)
    return f"with its shapes go {shown}, and others" if shown else "its shapes go with any even width that divides it"


def _noise(configs: list[Mapping[str, Any]]) -> NoiseConfig:
    """The stated range, or the published model's."""
    stated = {name: place[name] for place in configs for name in _SIGMAS if place.get(name) is not None}
    numbers = {name: float(value) if isinstance(value, str) else value for name, value in stated.items()}
    return NoiseConfig("geometric", **numbers)


def _with_characters(config: ModelConfig) -> ModelConfig:
    if config.tokens == len(TINY_SHAKESPEARE):  # the only text that this architecture was published for
        return replace(config, characters=TINY_SHAKESPEARE)
    return config
