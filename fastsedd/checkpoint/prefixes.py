"""Names of tensors without what wrappers and trainers put around them -> those that a model's authors' files have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from fastsedd.architectures.base import ModelConfig
from fastsedd.checkpoint.stored import StoredTensor

# What DistributedDataParallel, torch.compile, DeepSpeed, Lightning's modules and transformers' heads put before a name.
_BEFORE = ("module.", "_orig_mod.", "_forward_module.", "model.")
_WITHIN = ("_orig_mod.", "module.")  # of parts that were wrapped by themselves


def own_names(config: ModelConfig, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Stored tensors under the names of `config.tensor_shapes`, where a name differs by such parts alone.

    A tied embedding that is stored as the head only is found there. Tensors that the family ignores are renamed too.
    What fits no name keeps its own, and so do all where two of them would fit the same. Models without a backbone are
    left as they are.
    """
    expected = config.tensor_shapes
    if config.backbone is None or expected.keys() <= stored.keys():
        return dict(stored)
    aliases = config.family.aliases
    wanted = {plain_name(name): name for name in (*config.family.ignored, *expected)}
    found = {name: plain_name(name, aliases) for name in stored}
    twice = {plain for plain, count in Counter(found.values()).items() if count > 1}
    if len({plain_name(name) for name in expected}) < len(expected) or twice & wanted.keys():
        return dict(stored)
    named = {wanted.get(plain, name): stored[name] for name, plain in found.items()}
    embedding, head = (config.family.own_name(name) for name in ("model.embed_tokens.weight", "lm_head.weight"))
    if config.backbone.tied and embedding not in named:
        by_plain = {plain: stored[name] for name, plain in found.items()}
        if (stand_in := by_plain.get(plain_name(head))) is not None:
            named[embedding] = stand_in
    return named


def plain_name(name: str, aliases: Mapping[str, str] = MappingProxyType({})) -> str:
    """A name without the parts of wrappers; aliases : other names of its first part"""
    name = unwrapped(name, _BEFORE, _WITHIN)
    for other, own in aliases.items():
        if name.startswith(other):
            return own + name.removeprefix(other)
    return name


def unwrapped(name: str, before: Iterable[str], within: Iterable[str]) -> str:
    """A name without any of some parts before it, whatever their order, and without some others inside of it."""
    for part in within:
        name = name.replace(f".{part}", ".")
    while (wrapper := next((each for each in before if name.startswith(each)), None)) is not None:
        name = name.removeprefix(wrapper)
    return name
