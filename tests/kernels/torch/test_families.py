"""`accelerate` on transformers' families: padded batches, caches, and what is taken over in each."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch_families  # noqa: E402
from fastsedd_kernels.torch import accelerate  # noqa: E402
from fastsedd_kernels.torch.rms_norms import rms_norm_forward  # noqa: E402
from torch import nn  # noqa: E402
from torch_models import RELATIVE, error  # noqa: E402

_RARER = {"Mistral", "Qwen2", "OPT", "CLIP", "DistilBERT"}
_ROTATED = {"Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3", "Phi", "ModernBERT"}
_GATED = {"Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3", "T5", "ModernBERT"}
_WHOLE_LAYERS = {"Bert", "DistilBERT"}
_RMS_NORMS = {"Llama": 5, "Mistral": 5, "Qwen2": 5, "Qwen3": 9, "Gemma2": 9, "Gemma3": 13, "T5": 5}
_FAMILIES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in _RARER else [])
    for name in torch_families.CAUSAL | torch_families.ENCODERS
]


@pytest.mark.parametrize("name", _FAMILIES)
@torch.no_grad()
def test_padded_batches(name: str) -> None:
    model, inputs, seen = torch_families.made(name)
    expected = model(**inputs)[0]
    before = {path: dict(vars(module)) for path, module in model.named_modules()}
    with accelerate(model) as done:
        found = model(**inputs)[0]
        assert float((found - expected)[seen].abs().max() / expected[seen].abs().max()) <= 1e-4
        swapped, fused = list(done.swapped.values()), " ".join(done.fused.values())
    assert sum("RMSNorm" in each or each == "T5LayerNorm" for each in swapped) == _RMS_NORMS.get(name, 0)
    assert sum("rotary positions" in each for each in swapped) == (2 if name in _ROTATED else 0)
    assert ("* Linear" in fused or "of gate and up" in fused) is (name in _GATED)
    assert ("the whole layer" in fused) is (name in _WHOLE_LAYERS)
    assert (done.functions.taken["scaled_dot_product_attention"] == 2) is (name not in {"Gemma2", *_WHOLE_LAYERS})
    assert any("capped" in each for each in done.left.values()) is (name == "Gemma2")
    assert {path: dict(vars(module)) for path, module in model.named_modules()} == before
    assert torch.equal(model(**inputs)[0], expected)


@pytest.mark.parametrize(
    "name", ["Qwen3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("Llama", "Gemma3"))]
)
@torch.no_grad()
def test_generation_of_padded_prompts(name: str) -> None:
    model, inputs, _ = torch_families.made(name)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(**inputs, **settings)
    with accelerate(model):
        assert torch.equal(model.generate(**inputs, **settings), expected)


@pytest.mark.parametrize(
    "dtype", ["bfloat16", *(pytest.param(each, marks=pytest.mark.slow) for each in ("int8", "int4"))]
)
@torch.no_grad()
def test_shorter_weights(dtype: str) -> None:
    model, inputs, seen = torch_families.made("Qwen3")
    expected = model(**inputs)[0][seen]
    with accelerate(model, dtype):
        assert error(model(**inputs)[0][seen], expected) <= RELATIVE[dtype]


@torch.no_grad()
def test_bfloat16_models() -> None:
    model, inputs, seen = torch_families.made("Qwen3")
    expected = model(**inputs)[0][seen]
    with accelerate(model.bfloat16()):
        found = model(**inputs)[0]
    assert found.dtype == torch.bfloat16 and error(found[seen], expected) <= RELATIVE["bfloat16"]


@torch.no_grad()
def test_copies_and_functions_that_somebody_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, seen = torch_families.made("Qwen3")
    expected = model(**inputs)[0][seen]
    with accelerate(model):
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert error(other(**inputs)[0][seen], expected) <= RELATIVE["float32"]
        own = __import__(type(model).__module__, fromlist=["apply_rotary_pos_emb"])
        monkeypatch.setattr(own, "apply_rotary_pos_emb", lambda q, k, *angles: (q, k))
        unrotated = model(**inputs)[0][seen]
    assert error(unrotated, expected) > 1e-3
    assert error(unrotated, model(**inputs)[0][seen]) <= RELATIVE["float32"]


@torch.no_grad()
def test_hooks_between_gate_and_up_are_called() -> None:
    model, inputs, _ = torch_families.made("Llama")
    calls: list[Any] = []
    with accelerate(model):
        handle = model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *seen: calls.append(seen))
        model(**inputs)
        handle.remove()
    assert len(calls) == 1


def test_gradients_flow_through_all_of_it() -> None:
    model, inputs, seen = torch_families.made("Qwen3")

    def gradients() -> list[Any]:
        model.zero_grad()
        return list(torch.autograd.grad(model(**inputs)[0][seen].square().sum(), list(model.parameters())))

    expected = gradients()
    with accelerate(model):
        assert max(map(error, gradients(), expected)) <= RELATIVE["float32"]


@torch.no_grad()
def test_compiled_models_are_one_graph_of_pytorchs_own() -> None:
    model, inputs, seen = torch_families.made("Qwen3")
    expected = model(**inputs)[0]
    with accelerate(model) as done:
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.equal(compiled(**inputs)[0][seen], expected[seen])
        assert not done.functions.taken
    torch._dynamo.reset()


class _OtherNorm(nn.RMSNorm):
    """Looks like an RMS norm, and is none."""

    def forward(self, x: Any) -> Any:
        return super().forward(x) + 0.01


@torch.no_grad()
def test_rms_norms_are_known_by_what_they_compute() -> None:
    norm = nn.RMSNorm(37, eps=1e-4)
    nn.init.normal_(norm.weight)
    forward = rms_norm_forward(norm)
    assert forward is not None
    for x in (torch.randn(5, 2, 37), torch.randn(2, 37, 5).transpose(1, 2), torch.randn(3, 4, 37).transpose(0, 1)):
        found, expected = forward(x), norm(x)
        assert error(found, expected) <= RELATIVE["float32"] and found.shape == expected.shape
    assert rms_norm_forward(nn.RMSNorm(37)) is not None
    assert rms_norm_forward(_OtherNorm(37)) is None
    assert rms_norm_forward(nn.LayerNorm(37, bias=False)) is None
