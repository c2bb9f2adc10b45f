"""Where PyTorch works, an accelerated model does: calls, default dtypes, strides, inference tensors, deleted parts."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from fastsedd_kernels.torch import accelerate, trial  # noqa: E402
from fastsedd_kernels.torch.trial import gain as measured_gain  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch_models import Mlp, error, of_transformers  # noqa: E402


@torch.no_grad()
def test_another_default_dtype() -> None:
    model, inputs = of_transformers("Bert")
    expected = model(**inputs)[0]
    accelerate(model)
    torch.set_default_dtype(torch.float64)
    try:
        found = model(**inputs)[0]
        assert found.dtype is torch.float32 and error(found, expected) < 1e-5
        assert model.encoder.layer[0](torch.randn(1, 9, 48, dtype=torch.float32)).dtype is torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@torch.no_grad()
def test_keywords() -> None:
    parts = [nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.SiLU(), nn.Softmax(dim=-1)]
    model = nn.Sequential(*parts).eval()
    x = torch.randn(3, 8)
    expected = [part(x) for part in parts]
    accelerate(model)
    for part, result in zip(parts, expected, strict=True):
        assert error(part(input=x), result) < 1e-5
        for wrong in ({"x": x}, {"input": x, "other": 1}, {}):
            with pytest.raises(TypeError):
                part(**wrong)
        with pytest.raises(TypeError):
            part(x, x)
    mlp = Mlp(8, 16).eval()
    expected_mlp = mlp(x)
    accelerate(mlp)
    assert error(mlp(x=x), expected_mlp) < 1e-5


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("called", [True, False])
def test_inference_mode(built: bool, called: bool) -> None:
    with torch.inference_mode(built):
        model, inputs = of_transformers("Bert")
    with torch.inference_mode(called), torch.no_grad():
        expected = model(**inputs)[0]
        accelerate(model)
        for _ in range(3):
            assert error(model(**inputs)[0], expected) < 1e-5


LAYOUTS = {
    "contiguous": lambda shape: torch.randn(shape),
    "transposed": lambda shape: torch.randn(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2),
    "heads of a projection": lambda shape: torch.randn(shape[0], shape[2], shape[1], shape[3]).transpose(1, 2),
    "sliced": lambda shape: torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2],
    "expanded": lambda shape: torch.randn(1, *shape[1:]).expand(shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_results_have_pytorchs_strides(layout: str) -> None:
    """So that `view` works, or fails, as before."""
    calls: dict[str, Any] = {
        "attention": lambda x: functional.scaled_dot_product_attention(x, x, x),
        "softmax": lambda x: functional.softmax(x, -1),
        "gelu": functional.gelu,
        "silu": functional.silu,
        "layer_norm": lambda x: functional.layer_norm(x, x.shape[-1:]),
    }

    class Called(nn.Module):
        def __init__(self, call: Any) -> None:
            super().__init__()
            self.call = call

        def forward(self, x: Any) -> Any:
            return self.call(x)

    torch.manual_seed(0)
    x = LAYOUTS[layout]((2, 3, 16, 8))
    for name, call in calls.items():
        expected, model = call(x), Called(call).eval()
        done = accelerate(model)
        found = model(x)
        assert found.stride() == expected.stride(), name
        assert error(found, expected) < 1e-5, name
        done.undo()
    for part in (nn.Linear(8, 5), nn.LayerNorm(8), nn.GELU(), nn.Softmax(dim=-1)):
        expected = part(x)
        accelerate(part.eval())
        assert part(x).stride() == expected.stride() and error(part(x), expected) < 1e-5


@torch.no_grad()
def test_parts_that_are_deleted_or_replaced() -> None:
    model, inputs = of_transformers("Bert")
    done = accelerate(model)
    model(**inputs)
    del model.encoder.layer[1]
    model.encoder.layer[0].attention.output.dropout = nn.Identity()
    assert "BertLayer (the whole layer)" in repr(done)
    other, _ = of_transformers("Bert")
    del other.encoder.layer[1]
    assert error(model(**inputs)[0], other(**inputs)[0]) < 1e-5
    done.undo()
    assert error(model(**inputs)[0], other(**inputs)[0]) < 1e-6


@pytest.mark.parametrize("name", ["Siglip", "Bert", "Roberta", "GPT2", "ViT"])
@torch.no_grad()
def test_known_layers_are_computed_whole(name: str) -> None:
    model, _ = of_transformers(name)
    done = accelerate(model)
    assert list(done.fused.values()).count("the whole layer") == 2, repr(done)


@torch.no_grad()
def test_an_error_in_a_trial_is_a_reason() -> None:
    model, inputs = of_transformers("Bert")
    kind = type(model.encoder.layer[0])
    own = kind.forward

    def broken(self: Any, x: Any, *arguments: Any, **keywords: Any) -> Any:
        if x.shape[1] == 12:  # the trial's
            raise TypeError("no such thing")
        return own(self, x, *arguments, **keywords)

    kind.forward = broken
    try:
        done = accelerate(model)
        assert "BertLayer as a whole (its trial raised TypeError: no such thing)" in done.left.values()
        model(**inputs)
    finally:
        kind.forward = own


@torch.no_grad()
def test_kinds_that_do_not_gain_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind is timed once; a GELU that gains nothing alone is still part of a product."""
    asked = []

    def gain(ours: Any, theirs: Any) -> float:
        result = ours()
        assert error(result, theirs()) < 1e-4
        asked.append(tuple(result.shape))
        return 0.5 if result.shape[-1] in (13, 1024) else 1.5

    monkeypatch.setattr(trial, "gain", gain)
    parts = [nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 13), nn.Linear(13, 13), nn.LayerNorm(13), nn.Linear(13, 13)]
    model, x = nn.Sequential(*parts).eval(), torch.randn(4, 8)
    expected = model(x)
    done = accelerate(model)
    assert len(asked) == 5
    assert done.swapped == {"0": "Linear"}
    assert done.left["3"] == "Linear (PyTorch takes 0.50 of the kernels' time)" and done.left["1"].startswith("GELU (")
    assert error(model(x), expected) < 1e-5
    mlp = Mlp(8, 16).eval()
    assert list(accelerate(mlp).fused) == [""]
    bare = accelerate(nn.Sequential(*map(copy.deepcopy, [nn.Linear(13, 13)])).eval(), trial=False)
    assert bare.swapped == {"0": "Linear"} and len(asked) == 8


@torch.no_grad()
def test_functions_that_do_not_gain_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are left to PyTorch, also where a layer that is left calls them; each is tried at its first large call."""

    class Activated(nn.Module):
        def forward(self, x: Any) -> Any:
            return functional.gelu(x)

    asked = []

    def gain(ours: Any, theirs: Any) -> float:
        asked.append(error(ours(), theirs()))
        return 0.5

    monkeypatch.setattr(trial, "gain", gain)
    norms, activated = accelerate(nn.Sequential(nn.LayerNorm(64)).eval()), accelerate(Activated().eval())
    norms.model(torch.randn(9, 64))
    assert norms.functions.left == {"layer_norm: PyTorch takes 0.50 of the kernels' time": 1}
    assert not norms.functions.taken and len(asked) == 1
    x = torch.randn(9, 4096)
    for given in (x[:1], x, x, x[:1]):
        assert error(activated.model(given), functional.gelu(given)) < 1e-5
    assert activated.functions.taken == {"gelu": 1} and activated.functions.left.total() == 3
    assert len(asked) == 2 and max(asked) < 1e-5
    certain = accelerate(nn.Sequential(nn.LayerNorm(64), Activated()).eval(), trial=False)
    certain.model(torch.randn(600, 64))
    assert certain.functions.taken == {"gelu": 1} and len(asked) == 2


def test_weights_of_other_dtypes_are_the_reason() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU()).eval().half()
    assert accelerate(model).left == {"0": "Linear (its parameters are float16)"}


def test_compiled_models_are_told() -> None:
    for model in (torch.compile(nn.Linear(8, 8).eval(), backend="eager"), nn.Linear(8, 8).eval()):
        model.compile(backend="eager")
        with pytest.raises(ValueError, match="compiled"):
            accelerate(model)


@pytest.mark.filterwarnings("ignore")
def test_programs_are_told() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8)).eval(), torch.randn(3, 8)
    for program in (torch.jit.script(model), torch.jit.trace(model, x)):
        with pytest.raises(ValueError, match=r"torch\.jit"):
            accelerate(program)


def test_copies_of_an_acceleration_are_undone_by_themselves() -> None:
    done = accelerate(nn.Sequential(nn.Linear(8, 8), nn.GELU()).eval())
    other = copy.deepcopy(done)
    other.undo()
    assert "forward" not in vars(other.model[0]) and "forward" in vars(done.model[0])
    accelerate(other.model, "int8")


def test_a_gain_is_the_median_of_rounds_in_turns() -> None:
    now, turns = [0.0], []

    def call(name: str, seconds: list[float]) -> Any:
        def run() -> None:
            turns.append(name)
            now[0] += seconds[min(len(turns) // 2, len(seconds) - 1)]

        return run

    ours, theirs = call("ours", [1e-3]), call("theirs", [2e-3])
    assert measured_gain(ours, theirs, clock=lambda: now[0]) == pytest.approx(2.0)
    assert turns[:6] == ["ours", "theirs"] * 3 and len(turns) == 2 * (2 + 7)


@torch.no_grad()
def test_modules_that_multiply_by_parameters_of_their_own_are_listed() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up = nn.Parameter(torch.randn(4, 8, 16))

        def forward(self, x: Any) -> Any:
            return x @ self.gate_up[0]

    model = nn.ModuleDict({"experts": Experts(), "attention": nn.MultiheadAttention(8, 2)}).eval()
    left = accelerate(model).left
    assert left["experts"] == "Experts (its projections are parameters, not layers)"
    assert left["attention"] == "MultiheadAttention (its projections are parameters, not layers)"
