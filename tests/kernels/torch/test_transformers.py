"""`accelerate` on models of transformers: results, whole layers, masks, caches, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from fastsedd_kernels.torch import accelerate  # noqa: E402
from torch import nn  # noqa: E402
from torch_models import RELATIVE, TRANSFORMERS, WHOLE_LAYERS, error, of_transformers  # noqa: E402


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
@pytest.mark.parametrize("name", ["Bert", "GPT2"])
@torch.no_grad()
def test_layers_with_masks(name: str, dtype: Any) -> None:
    """Masks of bool and floats, in every layout, give what the class gives; one that does not broadcast is refused."""
    model, _ = of_transformers(name)
    layer = next(each for each in model.modules() if type(each).__name__ == WHOLE_LAYERS[name]).to(dtype)
    x, seen = torch.randn(2, 17, 48, dtype=dtype), torch.rand(2, 1, 17, 17) > 0.4
    seen |= torch.eye(17, dtype=torch.bool)
    added = torch.zeros(2, 1, 17, 17).masked_fill(~seen, torch.finfo(torch.float32).min)
    short = seen[:, :, :1].expand(2, 1, 17, 17)
    masks = [seen, seen, seen, ~seen | seen, added, added, short, short, seen.transpose(2, 3), seen[:1], seen[0]]
    expected = [layer(x, attention_mask=mask) for mask in masks]
    with accelerate(layer) as done:
        assert done.fused[""] == "the whole layer"
        found = [layer(x, attention_mask=mask) for mask in masks]
        assert not done.functions.taken["scaled_dot_product_attention"] - 1  # the mask of three dimensions
        assert error(layer(x), type(layer).forward(layer, x)) <= RELATIVE[str(dtype).removeprefix("torch.")]
        with pytest.raises(RuntimeError):  # PyTorch's own word
            layer(x, attention_mask=seen[..., :5])
    assert max(map(error, found, expected)) <= RELATIVE[str(dtype).removeprefix("torch.")]


@torch.no_grad()
def test_a_mask_that_means_something_else_to_a_class_is_left_to_it() -> None:
    model, _ = of_transformers("Bert")
    model.set_attn_implementation("eager")  # which adds what it is given, True as 1
    layer, x, mask = model.encoder.layer[0], torch.randn(2, 17, 48), torch.rand(2, 1, 17, 17) > 0.4
    expected = layer(x, mask)
    with accelerate(layer):
        assert error(layer(x, mask), expected) <= RELATIVE["float32"]


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
