"""Lightning's `.ckpt` of the trainers of MDLM, BD3-LM, UDLM and Duo -> the config.json that their authors publish.

The hyper-parameters lie in the pickle as omegaconf's objects. These are read as records: an interpolation that they
hold stays the text that it is, and is refused where a size is expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastsedd.architectures.base import ModelConfig, Shapes
from fastsedd.checkpoint import config_json, layout
from fastsedd.checkpoint.unpickler import Record
from fastsedd.errors import CheckpointError

SUFFIX = ".ckpt"

_MAX_DEPTH = 16
_MAX_VALUES = 1 << 14
_EMBEDDING = "vocab_embed.embedding"
_NOISE = ("type", "eps", "sigma_min", "sigma_max")  # keys
_DUOS = ("duo_base", "duo", "distillation")  # algorithms of Duo's trainer; the last one makes duo-distilled


def read(path: Path, shapes: Shapes, beside: Mapping[str, Any]) -> ModelConfig:
    """The config that a file's hyper-parameters state.

    shapes : of its tensors; beside : what else it holds. Raises CheckpointError, naming the key, where they state none
    or one of a model that is not run.
    """
    given = beside.get("hyper_parameters")
    stated = plain(given.get("config")) if isinstance(given, Mapping) else None
    if not isinstance(stated, dict) or not isinstance(stated.get("model"), dict):
        raise CheckpointError(f"{path}: hyper_parameters hold no config of a model, allowed: a config.json beside it")
    found = [shape for name, shape in shapes.items() if layout.core(name) == _EMBEDDING]
    if len(found) != 1 or len(found[0]) != 2:
        raise CheckpointError(f"{path}: has no {_EMBEDDING}, which the models of its trainer have")
    return config_json.from_document(path, _document(path, stated, found[0][0]))


def plain(value: Any) -> Any:
    """omegaconf's records as dicts, lists and plain values; None for what is none of these or nested too deeply."""
    left = [_MAX_VALUES]

    def convert(value: Any, depth: int) -> Any:
        left[0] -= 1
        if depth > _MAX_DEPTH or left[0] < 0:
            return None
        if isinstance(value, Record) and isinstance(value.state, dict):
            state = value.state
            return convert(state.get("_content", state.get("_val")), depth + 1)
        if isinstance(value, dict):
            return {key: convert(each, depth + 1) for key, each in value.items() if isinstance(key, str)}
        if isinstance(value, (list, tuple)):
            return [convert(each, depth + 1) for each in value]
        return value if isinstance(value, (str, int, float)) else None

    return convert(value, 0)


def _document(path: Path, stated: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    model = stated["model"]
    algorithm, data, noise = (_mapping(stated.get(name)) for name in ("algo", "data", "noise"))

    def value(name: str, default: Any = None) -> Any:
        return algorithm.get(name, stated.get(name, default))

    kind = _kind(path, value("parameterization"), value("diffusion", ""), algorithm.get("name", ""))
    if kind in ("udlm", "duo"):
        _check_uniform(path, kind, value)
    if value("backbone", "dit") != "dit":
        raise CheckpointError(f"{path}: its backbone is {value('backbone')!r}, allowed: 'dit'")
    found = {
        "model_type": kind, "vocab_size": vocab_size, "model_length": model.get("length"),
        "hidden_dim": model.get("hidden_size"), "cond_dim": model.get("cond_dim"), "n_blocks": model.get("n_blocks"),
        "n_heads": model.get("n_heads"), "time_conditioning": value("time_conditioning", False),
        "noise": _noise(kind, noise) or None,
        "cfg": kind == "udlm" and _mapping(stated.get("training")).get("guidance") is not None,
        "tokenizer_name_or_path": data.get("tokenizer_name_or_path"), "block_size": stated.get("block_size"),
        "cross_attn": algorithm.get("cross_attn"),
        "causal": algorithm.get("causal_attention", model.get("causal_attention")),
    }  # fmt: skip
    return {key: each for key, each in found.items() if each is not None}


def _check_uniform(path: Path, kind: str, value: Callable[[str, Any], Any]) -> None:
    """Raise CheckpointError for a setting that changes what the network is told or gives, and that is not run."""
    steps, masking = value("T", 0), value("subs_masking", False)
    if kind == "udlm" and steps != 0:  # its time, while it samples, is then one of T
        raise CheckpointError(f"{path}: T is {steps!r}, allowed for UDLM: 0, continuous time")
    if masking:
        raise CheckpointError(f"{path}: subs_masking is {masking!r}, allowed: False")


def _kind(path: Path, parameterization: Any, diffusion: Any, name: Any) -> str:
    """The `model_type` of the authors' config.json. name : of the algorithm; "" in MDLM's own trainer"""
    if parameterization == "subs" and name in ("", "mdlm", "bd3lm") and diffusion in ("", "absorbing_state"):
        return name or "mdlm"
    if parameterization == "d3pm" and name == "" and diffusion == "uniform":
        return "udlm"
    if parameterization == "mean" and name in _DUOS:
        return "duo"
    raise CheckpointError(
        f"{path}: is of the algorithm {name or parameterization!r} (parameterization {parameterization!r}), "
        "allowed: MDLM's, BD3-LM's, UDLM's and Duo's"
    )


def _noise(kind: str, stated: dict[str, Any]) -> dict[str, Any]:
    """The keys of the schedule; none of BD3-LM, whose blocks are written alike under any noise.

    Of Duo's trainer "cosine" is another one than MDLM's, and an `eps` of 0 was never read.
    """
    if kind == "bd3lm":
        return {}
    found: dict[str, Any] = {name: stated[name] for name in _NOISE if name in stated}
    if kind == "duo" and found.get("type") == "cosine":
        found["type"] = "sine"
    if kind == "duo" and found.get("eps") == 0:
        del found["eps"]
    return found


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
