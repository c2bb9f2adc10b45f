"""A changed weight is noticed, by autograd's count or because the whole tensor changed; else `refresh` is called."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from fastsedd_kernels.torch import accelerate  # noqa: E402
from torch import nn  # noqa: E402
from torch_models import error, of_transformers  # noqa: E402


def scaled(each: Any) -> None:
    each.data.mul_(1.5)


def through_numpy(each: Any) -> None:
    array = each.detach().numpy()
    array += 0.25


def other_memory(each: Any) -> None:
    each.data = each.data * 1.5


def fused_step(each: Any) -> None:
    each.grad = torch.ones_like(each)
    torch.optim.AdamW([each], lr=0.1, fused=True).step()


def swapped(each: Any) -> None:
    each.data.copy_(each.data.flip(0) + 0.1)


CHANGES: list[Callable[[Any], None]] = [scaled, through_numpy, other_memory, fused_step, swapped]
CHANGES += [lambda each: each.mul_(2), lambda each: each.set_(each * 2)]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dtype", ["float32", "int8", "int8g", "int4"])
@torch.no_grad()
def test_changes_of_whole_tensors(change: Callable[[Any], None], dtype: str) -> None:
    """Weights, biases and norms, of every shape and of products that are computed together."""
    torch.manual_seed(0)
    tolerance = {"float32": 1e-5, "int8": 0.1, "int8g": 0.1, "int4": 0.3}[dtype]
    model = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 7, bias=False), nn.LayerNorm(7)).eval()
    other, x = copy.deepcopy(model), torch.randn(9, 24)
    accelerate(other, dtype)
    other(x)
    for name in dict(model.named_parameters()):
        for each in (model, other):
            change(each.get_parameter(name))
        assert error(other(x), model(x)) < tolerance, name


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_changes_in_whole_layers(change: Callable[[Any], None], kind: Any) -> None:
    """These are recorded: also where numbers are copied on the way, as of bfloat16."""
    if kind is torch.bfloat16 and change is through_numpy:
        pytest.skip("NumPy has no bfloat16")
    model, _ = of_transformers("Bert")
    layer = model.encoder.layer[0].to(kind)
    other = copy.deepcopy(layer)
    done = accelerate(other)
    assert next(iter(done.fused.values())) == "the whole layer"
    x = torch.randn(2, 11, 48).to(kind)
    for _ in range(3):
        other(x)
    for name in dict(layer.named_parameters()):
        for each in (layer, other):
            change(each.get_parameter(name))
        assert error(other(x), layer(x)) < (1e-4 if kind is torch.float32 else 0.05), name


@torch.no_grad()
def test_refresh_is_for_what_leaves_no_trace() -> None:
    model, _ = of_transformers("Bert")
    layer, x = model.encoder.layer[0], torch.randn(2, 11, 48)
    other = copy.deepcopy(layer)
    done = accelerate(other)
    for _ in range(3):
        other(x)
    for each in (layer, other):
        each.output.dense.weight.detach().numpy()[1, 1] += 30.0
        each.attention.self.value.weight.detach().numpy()[5, 7] += 30.0
    done.refresh()
    for _ in range(3):
        assert error(other(x), layer(x)) < 1e-5


@torch.no_grad()
def test_states_and_parameters_that_are_assigned() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 48), nn.Linear(48, 24)).eval()
    other, x = copy.deepcopy(model), torch.randn(9, 24)
    accelerate(other)
    other(x)
    for assign in (False, True):
        state = {name: torch.randn_like(each) for name, each in model.state_dict().items()}
        model.load_state_dict(state, assign=assign), other.load_state_dict(state, assign=assign)
        assert error(other(x), model(x)) < 1e-5
    for each in (model, other):
        each[0].weight = nn.Parameter(torch.ones(48, 24))
        each[1].bias = None
    assert error(other(x), model(x)) < 1e-5


@torch.no_grad()
def test_forwards_that_are_replaced_later() -> None:
    """On an instance or on its class, below a layer or a module that is computed as one."""
    model, _ = of_transformers("Bert")
    layer, x = model.encoder.layer[0], torch.randn(2, 11, 48)
    other = copy.deepcopy(layer)
    accelerate(other)
    other(x)
    for each in (layer, other):
        each.intermediate.dense.forward = lambda y: torch.ones(*y.shape[:-1], 80)
    assert error(other(x), layer(x)) < 1e-5
    for each in (layer, other):
        del each.intermediate.dense.forward
    kind = type(layer.intermediate.intermediate_act_fn)
    own = kind.forward
    kind.forward = lambda self, y: own(self, y) + 1
    try:
        assert error(other(x), layer(x)) < 1e-5
    finally:
        kind.forward = own
    assert error(other(x), layer(x)) < 1e-5


@torch.no_grad()
def test_adapters_that_wrap_layers_later() -> None:
    class Adapted(nn.Module):
        """A low-rank adapter."""

        def __init__(self, base: Any) -> None:
            super().__init__()
            self.base, self.down, self.up = base, nn.Linear(48, 2, bias=False), nn.Linear(2, 48, bias=False)

        def forward(self, x: Any) -> Any:
            return self.base(x) + self.up(self.down(x))

    model, inputs = of_transformers("Bert")
    other = copy.deepcopy(model)
    accelerate(other)
    other(**inputs)
    for each in (model, other):
        torch.manual_seed(1)
        attention = each.encoder.layer[1].attention.self
        attention.query = Adapted(attention.query)
        attention.value = nn.Linear(48, 48)
    assert error(other(**inputs)[0], model(**inputs)[0]) < 1e-5
