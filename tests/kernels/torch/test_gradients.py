"""PyTorch's own code runs wherever a gradient of any kind is needed, and wherever an operation means something else."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from fastsedd_kernels.torch import accelerate  # noqa: E402
from torch import nn  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.nn.utils import parametrize, prune  # noqa: E402
from torch_models import error, of_transformers  # noqa: E402


def pair() -> tuple[Any, Any, Any]:
    """A model, the same accelerated, and an input."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.LayerNorm(48), nn.Linear(48, 24)).eval()
    other = copy.deepcopy(model)
    accelerate(other)
    return model, other, torch.randn(5, 24)


def gradients(model: Any, **inputs: Any) -> dict[str, Any]:
    hidden = model(**inputs)[0]
    (hidden * torch.linspace(-1, 1, hidden.numel()).reshape(hidden.shape).sin()).sum().backward()
    return {name: each.grad for name, each in model.named_parameters()}


@pytest.mark.parametrize("trained", ["attention", "intermediate", "output.dense", "LayerNorm", "bias", ""])
def test_layers_that_are_frozen_in_part(trained: str) -> None:
    """Whichever parameters are trained, their gradients are PyTorch's, and no others arrive."""
    model, inputs = of_transformers("Bert")
    for name, each in model.named_parameters():
        each.requires_grad_(trained in name)
    expected = gradients(copy.deepcopy(model), **inputs)
    accelerate(model)
    found = gradients(model, **inputs)
    for name, gradient in expected.items():
        assert (found[name] is None) == (gradient is None), name
        if gradient is not None:  # that of a key's bias is zero, but for rounding
            assert (found[name] - gradient).abs().max() < 1e-4 * max(0.01, gradient.abs().max())


@torch.no_grad()
def test_forward_mode_differentiation() -> None:
    model, other, x = pair()

    def tangent(which: Any) -> Any:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(which(forward_ad.make_dual(x, torch.ones_like(x)))).tangent

    assert error(tangent(other), tangent(model)) < 1e-5
    with forward_ad.dual_level():
        weight = forward_ad.make_dual(other[0].weight.detach(), torch.ones_like(other[0].weight))
        result = torch.func.functional_call(other, {"0.weight": weight}, (x,))
        assert forward_ad.unpack_dual(result).tangent is not None


TRANSFORMS: dict[str, Callable[[Any, Any], Any]] = {
    "vmap": lambda model, x: torch.func.vmap(model)(x),
    "jvp": lambda model, x: torch.func.jvp(model, (x,), (torch.ones_like(x),))[1],
    "jacfwd": lambda model, x: torch.func.jacfwd(model)(x[0]),
    "jacrev": lambda model, x: torch.func.jacrev(model)(x[0]),
    "grad": lambda model, x: torch.func.grad(lambda y: model(y).pow(2).sum())(x),
    "hessian": lambda model, x: torch.func.hessian(lambda y: model(y).sum())(x[0]),
    "of parameters": lambda model, x: torch.func.vmap(
        lambda scale: torch.func.functional_call(model, {"0.bias": scale * model[0].bias}, (x,))
    )(torch.arange(3.0)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@torch.no_grad()
def test_transforms_of_functions(name: str) -> None:
    model, other, x = pair()
    torch.testing.assert_close(TRANSFORMS[name](other, x), TRANSFORMS[name](model, x), rtol=1e-4, atol=1e-5)


def test_checkpointing_and_second_derivatives() -> None:
    from torch.utils.checkpoint import checkpoint

    results = []
    for each in pair()[:2]:
        x = torch.linspace(-1, 1, 48).reshape(2, 24).requires_grad_()
        (first,) = torch.autograd.grad(checkpoint(each, x, use_reentrant=False).pow(2).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(each(x).pow(2).sum().pow(2), x, create_graph=True)
        results.append((first, torch.autograd.grad(second.sum(), x)[0]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_other_tensors_take_a_modules_parameters_place() -> None:
    model, other, x = pair()
    swapped = {"0.weight": torch.randn(48, 24), "2.bias": torch.randn(48)}
    found, expected = (torch.func.functional_call(each, swapped, (x,)) for each in (other, model))
    assert error(found, expected) < 1e-5
    assert error(other(x), model(x)) < 1e-5  # and back


@torch.no_grad()
def test_parametrised_and_pruned_layers() -> None:
    class Twice(nn.Module):
        def forward(self, weight: Any) -> Any:
            return 2 * weight

    for change in (
        lambda each: parametrize.register_parametrization(each[0], "weight", Twice()),
        lambda each: prune.l1_unstructured(each[3], "weight", 0.5),
        lambda each: nn.utils.parametrizations.weight_norm(each[0]),
    ):
        model, other, x = pair()
        other(x)
        change(model), change(other)
        for _ in range(3):
            assert error(other(x), model(x)) < 1e-5
            for each in (model, other):
                for parameter in each.parameters():
                    parameter.mul_(1.1)
        late = copy.deepcopy(model).eval()
        accelerate(late)
        assert error(late(x), model(x)) < 1e-5


@torch.no_grad()
def test_subclasses_fake_and_meta_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    class Logged(torch.Tensor):
        pass

    _, other, x = pair()
    assert type(other(x.as_subclass(Logged))) is Logged
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert other(mode.from_tensor(x)).shape == (5, 24)
    assert copy.deepcopy(other).to("meta")(x.to("meta")).is_meta


@torch.no_grad()
def test_dispatch_modes_see_every_operation() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, other, x = pair()
    counts = []
    for each in (model, other):
        with FlopCounterMode(display=False) as counter:
            each(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


PROGRAMS: dict[str, Callable[[Any, Any], Any]] = {
    "trace": lambda model, x: torch.jit.trace(model, x)(x),
    "script": lambda model, x: torch.jit.script(model)(x),
    "export": lambda model, x: torch.export.export(model, (x,)).module()(x),
    "fx": lambda model, x: torch.fx.symbolic_trace(model)(x),
    "save": lambda model, x: torch.load(_saved(model), weights_only=False)(x),
    "pickle": lambda model, x: pickle.loads(pickle.dumps(model))(x),
    "copy": lambda model, x: copy.deepcopy(model)(x),
    "double": lambda model, x: copy.deepcopy(model).double()(x.double()).float(),
}


def _saved(model: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PROGRAMS)
@torch.no_grad()
def test_programs_made_of_a_model(name: str) -> None:
    model, other, x = pair()
    expected = model(x)
    assert error(PROGRAMS[name](other, x), expected) < 1e-5
    assert error(other(x), expected) < 1e-5  # which has not changed
    assert error(PROGRAMS[name](other, x), expected) < 1e-5
