"""`accelerate`: the same results as PyTorch's own, from models that stay what they were, and every way back."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from fastsedd_kernels.torch import Acceleration, accelerate  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

RELATIVE = {"float32": 1e-5, "bfloat16": 0.03, "int8": 0.06}


def error(found: Any, expected: Any) -> float:
    return float(torch.linalg.norm((found - expected).float()) / torch.linalg.norm(expected.float()))


class Attention(nn.Module):
    """Heads of a DiT: one product for q, k and v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Any, mask: Any = None) -> Any:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.act, self.drop = nn.Linear(width, inner), nn.GELU(approximate="tanh"), nn.Dropout(0.1)
        self.norm, self.fc2 = nn.Identity(), nn.Linear(inner, width)

    def forward(self, x: Any) -> Any:
        return self.drop(self.fc2(self.norm(self.drop(self.act(self.fc1(x))))))


class DiTBlock(nn.Module):
    """Peebles and Xie's block: norms without parameters, modulated by the condition."""

    def __init__(self, width: int = 48, heads: int = 3) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(width, heads), Mlp(width, 4 * width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Any, condition: Any) -> Any:
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + gate * self.attn(self.norm1(x) * (1 + scale) + shift)
        return x + gate_mlp * self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp)


class Odd(nn.Module):
    """What the kernels know beside what they do not, in shapes that fill no tile; all of it also by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(37, 29), nn.Linear(29, 53, bias=False)
        self.norm, self.no_bias = nn.LayerNorm(29), nn.LayerNorm(53, bias=False)
        self.gelu, self.silu, self.softmax, self.tanh = nn.GELU(), nn.SiLU(), nn.Softmax(dim=-1), nn.Tanh()
        self.planes = nn.LayerNorm((5, 53))

    def forward(self, x: Any) -> Any:
        x = self.norm(self.gelu(self.first(x)))
        x = self.planes(self.tanh(self.no_bias(self.silu(self.second(x)))))
        x = functional.silu(functional.gelu(x, approximate="tanh"))
        x = functional.layer_norm(x, (53,)) + torch.softmax(x, -1) + x.softmax(dim=-1) + functional.softmax(x, dim=-1)
        return self.softmax(x) + functional.softmax(x, dim=1)


MODELS: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {
    "a DiT block": lambda: (DiTBlock(), (torch.randn(2, 19, 48), torch.randn(2, 48))),
    "an MLP": lambda: (Mlp(40, 72), (torch.randn(3, 7, 40),)),
    "odd shapes": lambda: (Odd(), (torch.randn(4, 5, 37),)),
    "a linear layer": lambda: (nn.Linear(20, 33), (torch.randn(20),)),
    "PyTorch's encoder": lambda: (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2, enable_nested_tensor=False),
        (torch.randn(2, 17, 32),),
    ),
}


def made(name: str) -> tuple[Any, tuple[Any, ...]]:
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    return model.eval(), inputs


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
def test_what_was_done_is_told() -> None:
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
def test_what_the_kernels_do_not_take_is_left() -> None:
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
def test_masks_and_few_queries_are_left_to_pytorch() -> None:
    model = Attention(32, 2).eval()
    x, mask = torch.randn(1, 20, 32), torch.rand(20, 20) > 0.3
    mask[:, 0] = True
    expected, short = model(x, mask), model(x[:, :3])
    with accelerate(model) as done:
        assert error(model(x, mask), expected) <= RELATIVE["float32"]
        assert error(model(x[:, :3]), short) <= RELATIVE["float32"]
        assert sum(done.functions.left.values()) == 2
        assert "with a mask" in repr(done)


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
    with pytest.raises(ValueError, match="dtype is 'float16', allowed are"):
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


# Models of transformers, small and with random weights.


def _bert(transformers: Any) -> tuple[Any, dict[str, Any]]:
    config = transformers.BertConfig(
        vocab_size=99, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80
    )
    return transformers.BertModel(config), {"input_ids": torch.randint(0, 99, (2, 23))}


def _roberta(transformers: Any) -> tuple[Any, dict[str, Any]]:
    config = transformers.RobertaConfig(
        vocab_size=99, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80
    )
    return transformers.RobertaForMaskedLM(config), {"input_ids": torch.randint(3, 99, (2, 23))}


def _gpt2(transformers: Any) -> tuple[Any, dict[str, Any]]:
    config = transformers.GPT2Config(vocab_size=99, n_embd=48, n_layer=2, n_head=3, n_positions=64)
    return transformers.GPT2LMHeadModel(config), {"input_ids": torch.randint(0, 99, (2, 23)), "use_cache": False}


def _vit(transformers: Any) -> tuple[Any, dict[str, Any]]:
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80, image_size=32, patch_size=8
    )
    return transformers.ViTModel(config), {"pixel_values": torch.randn(2, 3, 32, 32)}


def _siglip(transformers: Any) -> tuple[Any, dict[str, Any]]:
    config = transformers.SiglipVisionConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80, image_size=32, patch_size=8
    )
    return transformers.SiglipVisionModel(config), {"pixel_values": torch.randn(2, 3, 32, 32)}


def _beit(transformers: Any) -> tuple[Any, dict[str, Any]]:
    """The document image transformer, which is called DiT too."""
    config = transformers.BeitConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80, image_size=32, patch_size=8
    )
    return transformers.BeitModel(config), {"pixel_values": torch.randn(2, 3, 32, 32)}


TRANSFORMERS = {"Bert": _bert, "Roberta": _roberta, "GPT2": _gpt2, "ViT": _vit, "Siglip": _siglip, "Beit": _beit}
WHOLE_LAYERS = {"Bert": "BertLayer", "Roberta": "RobertaLayer", "GPT2": "GPT2Block", "ViT": "ViTLayer"}


def of_transformers(name: str) -> tuple[Any, dict[str, Any]]:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    model, inputs = TRANSFORMERS[name](transformers)
    return model.eval(), inputs


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("name", TRANSFORMERS)
@torch.no_grad()
def test_models_of_transformers(name: str, dtype: str) -> None:
    model, inputs = of_transformers(name)
    expected = model(**inputs)[0]
    with accelerate(model, dtype) as done:
        assert error(model(**inputs)[0], expected) <= RELATIVE[dtype]
        if name in WHOLE_LAYERS:
            kinds = [type(model.get_submodule(each)).__name__ for each, what in done.fused.items() if "layer" in what]
            assert kinds == [WHOLE_LAYERS[name]] * 2
    assert torch.equal(model(**inputs)[0], expected)


@torch.no_grad()
def test_padded_batches_and_outputs_from_inside() -> None:
    model, inputs = of_transformers("Bert")
    inputs["attention_mask"] = torch.ones(2, 23, dtype=torch.long)
    inputs["attention_mask"][1, 15:] = 0
    plain = {"input_ids": inputs["input_ids"]}
    expected, states = model(**inputs)[0], model(**plain, output_hidden_states=True).hidden_states
    with accelerate(model):
        assert error(model(**inputs)[0], expected) <= RELATIVE["float32"]
        found = model(**plain, output_hidden_states=True).hidden_states
    assert len(found) == len(states) == 3
    assert max(map(error, found, states)) <= RELATIVE["float32"]


@torch.no_grad()
def test_generation_with_a_cache() -> None:
    model, inputs = of_transformers("GPT2")
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    prompt = inputs["input_ids"][:1]
    expected = model.generate(prompt, **settings)
    with accelerate(model):
        assert torch.equal(model.generate(prompt, **settings), expected)


@torch.no_grad()
def test_a_layer_that_disagrees_with_its_class_is_left() -> None:
    model, inputs = of_transformers("ViT")
    kind = type(model.layers[0]) if hasattr(model, "layers") else type(model.encoder.layer[0])
    own = kind.forward
    kind.forward = lambda self, x, *arguments, **keywords: own(self, x, *arguments, **keywords) + 0.01
    try:
        expected = model(**inputs)[0]
        with accelerate(model) as done:
            assert "the whole layer" not in done.fused.values()
            assert error(model(**inputs)[0], expected) <= RELATIVE["float32"]
    finally:
        kind.forward = own


@pytest.mark.parametrize("name", WHOLE_LAYERS)
@torch.no_grad()
def test_layers_are_replayed_with_what_they_are_given(name: str) -> None:
    """Its second call is recorded, those after that are replayed, until more than the values differs."""
    model, _ = of_transformers(name)
    layer = next(each for each in model.modules() if type(each).__name__ == WHOLE_LAYERS[name])
    tokens = [torch.randn(shape, 17, 48) for shape in (2, 2, 2, 2, 3, 3, 3, 2)]
    expected = [layer(each) for each in tokens]
    with accelerate(model):
        found = [layer(each) for each in tokens]
    assert max(map(error, found, expected)) <= RELATIVE["float32"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_replayed_layer_sees_what_was_changed(dtype: Any) -> None:
    model, _ = of_transformers("Bert")
    layer = model.to(dtype).encoder.layer[0]
    x = torch.randn(2, 17, 48, dtype=dtype)

    def scale(parameter: str) -> None:
        layer.get_parameter(parameter).mul_(3)

    def replace(parameter: str) -> None:
        path, _, name = parameter.rpartition(".")
        setattr(layer.get_submodule(path), name, nn.Parameter(2 * layer.get_parameter(parameter)))

    with accelerate(model):
        for change in (scale, replace):
            for name in ("attention.self.key.weight", "output.dense.weight", "attention.output.LayerNorm.weight"):
                before = [layer(x) for _ in range(3)][-1]
                change(name)
                after = [layer(x) for _ in range(3)]
                expected = type(layer).forward(layer, x)
                most = RELATIVE[str(dtype).removeprefix("torch.")]
                assert all(torch.equal(each, after[0]) for each in after) and not torch.equal(before, after[0])
                assert error(after[0], expected) <= most


@torch.no_grad()
def test_layers_are_replayed_by_several_threads() -> None:
    model, _ = of_transformers("ViT")
    inputs = [torch.randn(1, 3, 32, 32) for _ in range(4)]
    expected = [model(each)[0] for each in inputs]
    with accelerate(model), ThreadPoolExecutor(4) as pool:

        def repeated(image: Any) -> list[Any]:
            with torch.no_grad():
                return [model(image)[0] for _ in range(6)]

        for found, wanted in zip(pool.map(repeated, inputs), expected, strict=True):
            assert max(error(each, wanted) for each in found) <= RELATIVE["float32"]
