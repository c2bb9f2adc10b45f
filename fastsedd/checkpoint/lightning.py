"""Lightning's `.ckpt` of MDLM's trainer and its descendants -> the config.json that its authors would publish.

The hyper-parameters lie in the pickle as omegaconf's objects. These are read as records: an interpolation that they
hold stays the text that it is, and is refused where a size is expected.
"""

from __future__ import annotations

from collections.abc import Mapping
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
_NOISE = ("type", "eps", "sigma_min", "sigma_max")  # keys; blocks are written alike under any noise


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
    if value("backbone", "dit") != "dit":
        raise CheckpointError(f"{path}: its backbone is {value('backbone')!r}, allowed: 'dit'")
    found = {
        "model_type": kind, "vocab_size": vocab_size, "model_length": model.get("length"),
        "hidden_dim": model.get("hidden_size"), "cond_dim": model.get("cond_dim"), "n_blocks": model.get("n_blocks"),
        "n_heads": model.get("n_heads"), "time_conditioning": value("time_conditioning", False),
        "noise": {name: noise[name] for name in _NOISE if name in noise} if kind == "mdlm" and noise else None,
        "tokenizer_name_or_path": data.get("tokenizer_name_or_path"), "block_size": stated.get("block_size"),
        "cross_attn": algorithm.get("cross_attn"), "causal": model.get("causal_attention"),
    }  # fmt: skip
    return {key: each for key, each in found.items() if each is not None}


def _kind(path: Path, parameterization: Any, diffusion: Any, name: Any) -> str:
    """The `model_type` of the authors' config.json. name : of the algorithm; "" in MDLM's own trainer"""
    if parameterization == "subs" and name in ("", "mdlm", "bd3lm") and diffusion in ("", "absorbing_state"):
        return name or "mdlm"
    raise CheckpointError(
        f"{path}: is of the algorithm {name or parameterization!r} (parameterization {parameterization!r}), "
        "allowed: MDLM's and BD3-LM's"
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
