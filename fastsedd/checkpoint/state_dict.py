"""The weights among all that a PyTorch file may hold: a state dict, or a training run's with its moving average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastsedd.checkpoint.layout import is_buffer
from fastsedd.checkpoint.unpickler import Other, PickleError, Tensor

STATE_DICTS = ("model", "state_dict", "model_state_dict")  # the keys that trainers keep one under
WRAPPERS = ("module.", "_orig_mod.", "module.")  # DistributedDataParallel's and torch.compile's, before every name


def weights(document: Any) -> dict[str, Tensor]:
    """The tensors to sample with, by name. Raises PickleError where there are none.

    document : the file's content. Of a training run that is {"model": state dict, "ema": {"shadow_params": tensors}},
        and the moving average is what is sampled from.
    """
    state = _dict(document)
    inner = next((state[key] for key in STATE_DICTS if isinstance(state.get(key), dict)), state)
    tensors = _named_tensors(inner)
    average = state.get("ema")
    if isinstance(average, dict) and "shadow_params" in average:
        return _averaged(tensors, average["shadow_params"])
    return tensors


def beside(document: Any) -> dict[str, Any]:
    """Values kept beside the weights, by name; nothing where the document is the state dict itself."""
    state = _dict(document)
    if not any(isinstance(state.get(key), dict) for key in STATE_DICTS):
        return {}
    return {key: value for key, value in state.items() if isinstance(key, str) and key not in STATE_DICTS}


def _dict(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise PickleError(f"holds a {_kind(value)}, allowed: a state dict")
    return value


def _kind(value: Any) -> str:
    return value.kind if isinstance(value, Other) else type(value).__name__


def _named_tensors(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise PickleError(f"{str(name)!r} is a {_kind(value)}, allowed: a state dict of tensors")
    named = dict(state)
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in named):
            named = {name.removeprefix(wrapper): tensor for name, tensor in named.items()}
    return named


def _averaged(tensors: Mapping[str, Tensor], shadows: Any) -> dict[str, Tensor]:
    """shadows : one per parameter, in the order of the state dict, which has buffers between the parameters."""
    names = [name for name in tensors if not is_buffer(name)]
    if not isinstance(shadows, list) or len(shadows) != len(names):
        count = len(shadows) if isinstance(shadows, list) else "no list of"
        raise PickleError(f"ema.shadow_params has {count} tensors, allowed: {len(names)}, one per parameter")
    for name, shadow in zip(names, shadows, strict=True):
        if not isinstance(shadow, Tensor) or shadow.shape != tensors[name].shape:
            raise PickleError(f"ema.shadow_params has no tensor of shape {list(tensors[name].shape)} for {name}")
    return dict(zip(names, shadows, strict=True))
