"""The one list of architectures. The first that recognises a config.json reads it, so the catch-all stands last."""

from __future__ import annotations

from fastsedd.architectures.annotated import Annotated
from fastsedd.architectures.base import Architecture
from fastsedd.architectures.bd3lm import BD3LM
from fastsedd.architectures.ddit import DDiT
from fastsedd.architectures.diffugpt import DiffuGPT
from fastsedd.architectures.llada import LLaDA
from fastsedd.architectures.masked_language import FAMILIES
from fastsedd.architectures.mdlm import MDLM
from fastsedd.architectures.radd import RADD
from fastsedd.architectures.smdm import SMDM
from fastsedd.architectures.uniform_state import UDLM, Duo

ARCHITECTURES: list[Architecture] = [
    MDLM(),
    UDLM(),
    Duo(),
    BD3LM(),
    *FAMILIES,
    LLaDA(),
    DiffuGPT(),
    SMDM(),
    RADD(),
    Annotated(),
    DDiT(),
]


def find(name: str) -> Architecture:
    """The architecture of that name. Raises ValueError, naming all of them, for any other."""
    for each in ARCHITECTURES:
        if each.name == name:
            return each
    allowed = ", ".join(repr(each.name) for each in ARCHITECTURES)
    raise ValueError(f"architecture is {name!r}, allowed: {allowed}")


def recognise(model_type: str, inner_type: str) -> Architecture:
    """The architecture of a config.json. model_type : its key of that name; inner_type : `model.type`; "" if absent"""
    return next(each for each in ARCHITECTURES if each.recognises(model_type, inner_type))


def is_model_type(text: str) -> bool:
    """True if some architecture recognises a config.json by this `model_type` alone; the catch-all does not count."""
    return any(each.recognises(text, "") for each in ARCHITECTURES[:-1])


def model_types() -> list[str]:
    """Names by which a config.json's `model_type` alone is recognised."""
    return [each.name for each in ARCHITECTURES if is_model_type(each.name)]
