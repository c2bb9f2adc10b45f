"""`accelerate`: the same results as PyTorch's own, from models that stay what they were, and every way back."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from fastsedd_kernels.torch import Acceleration, accelerate  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch_models import MODELS, RELATIVE, Attention, Mlp, error, made, of_transformers  # noqa: E402


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_results_are_those_of_pytorch(name: str, dtype: str) -> None:
    model, inputs = made(name)
    expected = model(*inputs)
    with accelerate(model, dtype):
        found = model(*inputs)
        assert type(found) is torch.Tensor and found.dtype == expected.dtype and found.shape == expected.shape
        assert error(found, expected) <= RELATIVE[dtype]
    assert torch.equal(model(*inputs), expected)


@torch.no_grad()
def test_the_list_of_replaced_modules() -> None:
    model, inputs = made("a DiT block")
    done = accelerate(model)
    model(*inputs)
    assert isinstance(done, Acceleration)
    assert done.swapped["attn.qkv"] == "Linear" and done.swapped["norm1"] == "LayerNorm"
    assert done.fused == {"mlp": "Linear + GELU"}
    assert done.left == {"mlp.drop": "Dropout", "mlp.norm": "Identity"}
    assert done.functions.taken == {"scaled_dot_product_attention": 1}
    model.attn(inputs[0])
    assert done.functions.taken == {"scaled_dot_product_attention": 1}  # the whole model alone catches functions
    text = repr(done)
    assert text.startswith("Acceleration of DiTBlock, float32, ")
    assert "5 Linear" in text and "1 Mlp (Linear + GELU)" in text and "1 scaled_dot_product_attention" in text


@torch.no_grad()
def test_a_model_stays_what_it_is() -> None:
    model, _ = made("a DiT block")
    names, kinds = list(model.state_dict()), [type(module) for module in model.modules()]
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    done = accelerate(model)
    assert list(model.state_dict()) == names and [type(module) for module in model.modules()] == kinds
    done.undo()
    done.undo()
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before


@torch.no_grad()
def test_copies_compute_with_their_own_weights() -> None:
    model, inputs = made("a DiT block")
    accelerate(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        expected = model(*inputs)
        assert torch.equal(other(*inputs), expected)
        other.mlp.fc1.weight.zero_()
        assert error(other(*inputs), expected) > 1e-3
        assert torch.equal(model(*inputs), expected)


@torch.no_grad()
def test_a_copy_of_a_layer_sees_that_it_trains() -> None:
    model, _ = of_transformers("Bert")
    accelerate(model)
    x = torch.randn(1, 9, 48)
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        layer = other.encoder.layer[0]
        assert torch.equal(layer(x), layer(x))
        layer.train()
        assert not torch.equal(layer(x), layer(x))  # dropout, which only the layer's own forward has
        layer.eval()


def test_gradients_are_pytorchs() -> None:
    model, (x, condition) = made("a DiT block")
    x.requires_grad_()

    def gradients() -> list[Any]:
        model.zero_grad()
        return list(torch.autograd.grad(model(x, condition).square().sum(), [x, *model.parameters()]))

    expected = gradients()
    with accelerate(model) as done:
        assert max(map(error, gradients(), expected)) <= RELATIVE["float32"]
        assert done.functions.taken == {}


@torch.no_grad()
def test_a_changed_weight_is_seen() -> None:
    model, inputs = made("a DiT block")
    accelerate(model)
    model(*inputs)
    other, _ = made("a DiT block")
    for parameter in other.parameters():
        parameter.mul_(0.5)
    model.load_state_dict(other.state_dict())
    assert error(model(*inputs), other(*inputs)) <= RELATIVE["float32"]
    other.mlp.fc2.weight.mul_(-1)
    model.mlp.fc2 = other.mlp.fc2  # a module of its own, which is not swapped
    model.mlp.fc1.bias = nn.Parameter(other.mlp.fc1.bias + 1)
    other.mlp.fc1.bias.add_(1)
    assert error(model(*inputs), other(*inputs)) <= RELATIVE["float32"]


@torch.no_grad()
def test_hooks_between_fused_modules_are_called() -> None:
    model, inputs = made("an MLP")
    accelerate(model)
    expected, seen = model(*inputs), []
    handle = model.act.register_forward_hook(lambda module, arguments, result: seen.append(result))
    assert error(model(*inputs), expected) <= RELATIVE["float32"]
    handle.remove()
    model(*inputs)
    assert len(seen) == 1


@torch.no_grad()
def test_bfloat16_models_stay_bfloat16() -> None:
    model, inputs = made("a DiT block")
    model, inputs = model.bfloat16(), tuple(each.bfloat16() for each in inputs)
    expected = model(*inputs)
    with accelerate(model, "bfloat16") as done:
        found = model(*inputs)
    assert found.dtype == torch.bfloat16 and error(found, expected) <= RELATIVE["bfloat16"]
    assert done.functions.taken == {"scaled_dot_product_attention": 1}


@torch.no_grad()
def test_modules_that_the_kernels_do_not_take_are_left() -> None:
    model, (x, condition) = made("a DiT block")
    with accelerate(model) as done:
        with torch.autocast("cpu", torch.bfloat16):
            assert model.attn.qkv(x).dtype == torch.bfloat16
        expected = functional.linear(x[..., :0], torch.empty(3, 0))
        assert expected.shape == (2, 19, 3)
        assert model.attn.qkv(x[:0]).shape == (0, 19, 144)
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):  # PyTorch's own word
            model.attn.qkv(x[..., :5])
    doubles = model.double()
    with accelerate(doubles) as done:
        assert set(done.swapped.values()) <= {"GELU", "SiLU", "LayerNorm"}
        assert doubles(x.double(), condition.double()).dtype == torch.float64


@torch.no_grad()
def test_few_queries_are_left_to_pytorch() -> None:
    model = Attention(32, 2).eval()
    x = torch.randn(1, 20, 32)
    expected = model(x[:, :3])
    with accelerate(model) as done:
        assert error(model(x[:, :3]), expected) <= RELATIVE["float32"]
        assert sum(done.functions.left.values()) == 1
        assert "fewer than 8 queries" in repr(done)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_are_taken(dtype: torch.dtype) -> None:
    """Queries that see no key become 0 in PyTorch, too."""
    model = Attention(32, 2).eval().to(dtype)
    x, seen = torch.randn(2, 20, 32, dtype=dtype), torch.rand(2, 1, 20, 20) > 0.3
    seen[:, :, 5] = False
    added = torch.where(seen, torch.randn(2, 1, 20, 20), -torch.inf)
    masks = [seen, added.to(dtype), seen[:1, 0], seen[:, :, :1].expand(2, 2, 20, 20), seen.transpose(2, 3)]
    expected = [model(x, mask) for mask in masks]
    with accelerate(model, trial=False) as done:
        for mask, each in zip(masks, expected, strict=True):
            assert error(model(x, mask), each) <= RELATIVE["float32" if dtype == torch.float32 else "bfloat16"]
        assert done.functions.taken["scaled_dot_product_attention"] == len(masks)
        assert not done.functions.left


class _Grouped(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = torch.nn.Linear(24, 24)

    def forward(self, q: Any, k: Any, v: Any, **options: Any) -> Any:
        return self.out(functional.scaled_dot_product_attention(q, k, v, **options))


@torch.no_grad()
def test_grouped_queries_are_taken() -> None:
    model = _Grouped().eval()
    q, (k, v) = torch.randn(2, 6, 21, 24), torch.randn(2, 2, 2, 33, 24)
    calls = [{"enable_gqa": True}, {"enable_gqa": True, "is_causal": True}]
    calls += [{"enable_gqa": True, "attn_mask": torch.rand(2, 1, 21, 33) > 0.5}]
    expected = [model(q, k, v, **options) for options in calls]
    with accelerate(model, trial=False) as done:
        for options, each in zip(calls, expected, strict=True):
            assert error(model(q, k, v, **options), each) <= RELATIVE["float32"]
        assert done.functions.taken["scaled_dot_product_attention"] == len(calls)
        with pytest.raises(RuntimeError):  # PyTorch's own word
            model(q, k, v)
        with pytest.raises(RuntimeError):
            model(q, k, v, enable_gqa=True, attn_mask=torch.ones(5, 5, dtype=torch.bool))


@torch.no_grad()
def test_masks_that_are_not_plain_are_left() -> None:
    model = Attention(32, 2).eval()
    x, mask = torch.randn(1, 20, 32), torch.zeros(20, 20, requires_grad=True)
    with accelerate(model, trial=False) as done:
        model(x, mask)
        assert "with a mask that is not a plain one" in repr(done)


@torch.no_grad()
def test_tensors_of_any_strides() -> None:
    model, _ = made("a DiT block")
    turned = torch.randn(19, 2, 48).transpose(0, 1)
    spread = torch.randn(2, 19, 96)[..., ::2]
    expected = [(model.mlp(each), model.attn(each), model.norm1(each)) for each in (turned, spread)]
    with accelerate(model):
        found = [(model.mlp(each), model.attn(each), model.norm1(each)) for each in (turned, spread)]
    for ours, theirs in zip(found, expected, strict=True):
        assert max(map(error, ours, theirs)) <= RELATIVE["float32"]


def test_bad_arguments_are_told() -> None:
    model, _ = made("an MLP")
    with pytest.raises(ValueError, match="dtype is 'float16', allowed: "):
        accelerate(model, "float16")
    with pytest.raises(ValueError, match=r"training mode.*model\.eval"):
        accelerate(model.train())
    with pytest.raises(ValueError, match="model is ndarray"):
        accelerate(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"fc1\.weight on meta"):
        accelerate(Mlp(8, 8).to("meta").eval())
    accelerate(model.eval())
    with pytest.raises(ValueError, match="accelerated already"):
        accelerate(model)


class _AddsInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.down(self.act(self.up(x)))
        x += h
        return x


class _Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.last, self.act = _AddsInPlace(), nn.Linear(64, 64), nn.SiLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        self.mlp(x)
        h = self.last(x)
        self.act(h)
        return h + x


def test_writes_in_place_are_kept() -> None:
    torch.manual_seed(0)
    model, x = _Around().eval(), torch.randn(8, 64)
    with torch.no_grad():
        expected = model(x)
        accelerate(model, trial=False)
        np.testing.assert_allclose(model(x).numpy(), expected.numpy(), atol=1e-5)
