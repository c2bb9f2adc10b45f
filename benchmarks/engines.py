"""Other engines for these networks: PyTorch, ONNX Runtime and OpenVINO, on the same random weights.

A task is a forward, without the sampler; one step of a sampler from an all-masked text, forward and draw, in PyTorch as
the published code writes it; or a whole run of RUN_STEPS steps, which counts by the step. Each engine has a process of
its own: several would share one OpenMP library, and its settings, among them. It is driven by lines on standard input:
`turn` answers with the median seconds of a call, `save FILE` writes what one returns, `memory` answers with the bytes
that the process has held at most.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastsedd.architectures import registry
from fastsedd.architectures.base import ModelConfig
from fastsedd.config import NoiseConfig

Run = Callable[[], np.ndarray]

OURS = "fastsedd"

_GEOMETRIC, _LOGLINEAR = NoiseConfig("geometric"), NoiseConfig("loglinear")
MODELS = {
    "annotated": ModelConfig(
        family=registry.find("annotated"), graph="uniform", noise=_GEOMETRIC, tokens=65, width=384, blocks=6, heads=6,
        cond_dim=64, length=256,
    ),
    "SEDD small": ModelConfig(
        family=registry.find("ddit"), graph="absorb", noise=_LOGLINEAR, scale_by_sigma=True, tokens=50257, width=768,
        blocks=12, heads=12, cond_dim=128, length=1024,
    ),
}  # fmt: skip


def weights(config: ModelConfig) -> dict[str, np.ndarray]:
    """Random ones: matrices and biases small, norms near one, so that scores are of order one."""
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in config.tensor_shapes.items():
        values = rng.standard_normal(shape, dtype=np.float32)
        small = len(shape) == 2 or name.endswith("bias")
        tensors[name] = np.float32(0.05) * values if small else 1 + np.float32(0.05) * values
    return tensors


def calibrated_weights(config: ModelConfig) -> dict[str, np.ndarray]:
    """With logits so even that scores add up to what a trained network's do: masks then go as they would."""
    tensors = weights(config)
    for name in ("output_layer.linear.weight", "output_layer.linear.bias"):
        tensors[name] *= np.float32(0.1)
    return tensors


def flops(config: ModelConfig, batch: int) -> int:
    """Operations of the matrix products in a forward, which any engine has to do."""
    width, length = config.width, config.length
    passes = 2 if config.architecture == "annotated" else 1
    attention = 2 * (4 * width * width + 2 * length * width)
    block = passes * attention + 2 * 8 * width * width
    return batch * length * (config.blocks * block + 2 * width * config.vocab_size)


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


ENGINES = {
    "float32": ("PyTorch eager", "PyTorch compile", "ONNX Runtime", "OpenVINO"),
    "bfloat16": ("PyTorch eager", "PyTorch compile", "OpenVINO"),
    "int8": ("PyTorch dynamic",),
}
_PACKAGES = {"ONNX Runtime": ("onnxruntime", "onnxscript"), "OpenVINO": ("openvino",)}


def available(dtype: str) -> list[str]:
    """The engines of that dtype whose packages are here; all of them start from a PyTorch network."""
    needed = {name: ("torch", *_PACKAGES.get(name, ())) for name in ENGINES[dtype]}
    return [name for name, packages in needed.items() if all(map(installed, packages))]


def inputs(config: ModelConfig, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens [B, L], and one noise level for all [B]."""
    tokens = np.random.default_rng(1).integers(0, config.tokens, (batch, config.length))
    return tokens, np.full(batch, 0.5, np.float32)


def prepare(engine: str, config: ModelConfig, batch: int, dtype: str, task: str = "forward") -> Run:
    """A forward by that engine, or another task, of the model's random weights."""
    if task != "forward":
        return _PREPARE[engine, task](config, batch)
    tensors, (tokens, sigma) = weights(config), inputs(config, batch)
    if engine == OURS:
        return _ours(config, tensors, tokens, sigma, dtype)
    import torch

    warnings.filterwarnings("ignore")  # deprecations of each other's interfaces
    torch.set_num_threads(available_cores())
    torch.set_grad_enabled(False)
    module = _torch_module(config, tensors)
    operands = torch.from_numpy(tokens), torch.from_numpy(sigma)
    if engine == "OpenVINO":
        return _openvino(module, operands, dtype)
    if engine == "ONNX Runtime":
        return _onnxruntime(module, operands)
    return _torch(engine, module, operands, dtype)


def _ours(config: ModelConfig, tensors: Any, tokens: np.ndarray, sigma: np.ndarray, dtype: str) -> Run:
    from fastsedd import models
    from fastsedd.scoring import Scoring

    scoring = Scoring.of(models.build(config, tensors, dtype), *tokens.shape)
    return lambda: scoring(tokens, sigma[:1])


RUN_STEPS = 128


def _grid() -> Any:
    from fastsedd.diffusion.noise import LogLinear
    from fastsedd.diffusion.timegrid import uniform_grid

    return uniform_grid(LogLinear(), RUN_STEPS)


def _our_step(config: ModelConfig, batch: int) -> Run:
    """The grid's first step: all positions are masks, so that nothing is spared."""
    from fastsedd import models
    from fastsedd.diffusion.graph import Absorb
    from fastsedd.diffusion.predictor import ANALYTIC
    from fastsedd.diffusion.sampler import draw_streams
    from fastsedd.scoring import Scoring

    scoring = Scoring.of(models.build(config, calibrated_weights(config)), batch, config.length)
    first = _grid().predictor[0]
    tokens = np.full((batch, config.length), config.tokens, np.int32)
    rows, law = np.arange(tokens.size), ANALYTIC.law(Absorb(config.tokens), first)
    streams = draw_streams(np.arange(batch, dtype=np.uint64), 1, config.length).reshape(-1)
    seeds = iter(range(1 << 30))
    return lambda: scoring.draw(tokens, first.sigma, rows, law, next(seeds), streams).reshape(tokens.shape)


class _OurRun:
    """A whole run of a checkpoint on disk; its turn is the mean seconds of a step."""

    def __init__(self, config: ModelConfig, batch: int) -> None:
        import fastsedd

        with tempfile.TemporaryDirectory() as folder:
            # In a process of its own, whose memory is not counted.
            name = next(name for name, each in MODELS.items() if each == config)
            code = f"from engines import *; write_checkpoint(MODELS[{name!r}], {folder!r})"
            subprocess.run(
                [sys.executable, "-c", code],
                check=True,
                cwd=Path(__file__).parent,
            )
            self._model = fastsedd.load(folder)
        self._batch = batch
        self._seeds = iter(range(1 << 30))

    def __call__(self) -> np.ndarray:
        return self._model.generate(num_samples=self._batch, steps=RUN_STEPS, seed=next(self._seeds)).tokens

    def turn(self) -> float:
        start = time.perf_counter()
        self()
        return (time.perf_counter() - start) / (RUN_STEPS + 1)


def write_checkpoint(config: ModelConfig, folder: str) -> None:
    """`calibrated_weights` as a checkpoint of Lou et al.'s layout."""
    from safetensors.numpy import save_file

    document = {
        "tokens": config.tokens,
        "graph": {"type": config.graph},
        "noise": {"type": config.noise.type},
        "model": {
            "hidden_size": config.width, "cond_dim": config.cond_dim, "length": config.length,
            "n_blocks": config.blocks, "n_heads": config.heads, "scale_by_sigma": config.scale_by_sigma,
        },
    }  # fmt: skip
    (Path(folder) / "config.json").write_text(json.dumps(document), encoding="utf-8")
    save_file(calibrated_weights(config), Path(folder) / "model.safetensors")


def _published_step(config: ModelConfig, batch: int) -> Run:
    """Lou et al.'s analytic step under absorb, forward and draw, as their code computes it."""
    import torch

    torch.set_num_threads(available_cores())
    module = _torch_module(config, calibrated_weights(config))
    first, mask = _grid().predictor[0], config.tokens
    tokens = torch.full((batch, config.length), mask)
    sigma, dsigma = (torch.full((batch, 1), value) for value in (first.sigma, first.dsigma))

    @torch.no_grad()
    def run() -> np.ndarray:
        score = module(tokens, sigma[:, 0]).exp()
        extra = (1 - dsigma.exp()) * score.sum(dim=-1)
        staggered = score * dsigma.exp()[..., None]
        staggered[..., -1] += extra
        one_hot = torch.nn.functional.one_hot(tokens, mask + 1)
        edge = (-dsigma).exp()[..., None] * one_hot
        edge = edge + torch.where(tokens == mask, 1 - (-dsigma).exp(), 0)[..., None]
        probabilities = staggered * edge
        noise = 1e-10 - (torch.rand_like(probabilities) + 1e-10).log()
        return np.asarray((probabilities / noise).argmax(dim=-1))

    return run


_PREPARE = {
    (OURS, "step"): _our_step,
    (OURS, "run"): _OurRun,
    ("PyTorch eager", "step"): _published_step,
}

_SHORT = {"float32": "f32", "bfloat16": "bf16"}


def _torch_module(config: ModelConfig, tensors: dict[str, np.ndarray]) -> Any:
    """The trainer's network, which has the checkpoint's own names."""
    import torch

    from training import model

    described = {
        "tokens": config.tokens,
        "graph": {"type": config.graph},
        "model": {
            "type": config.architecture, "hidden_size": config.width, "n_blocks": config.blocks,
            "n_heads": config.heads, "cond_dim": config.cond_dim, "length": config.length, "dropout": 0.0,
            "scale_by_sigma": config.scale_by_sigma,
        },
    }  # fmt: skip
    module = model.build(described).eval()
    module.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, strict=False)
    return module


def _torch(engine: str, module: Any, operands: Any, dtype: str) -> Run:
    import torch

    if engine == "PyTorch dynamic":
        module = torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}, dtype=torch.qint8)
    network = torch.compile(module) if engine == "PyTorch compile" else module

    def run() -> np.ndarray:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return np.asarray(network(*operands).float())

    return run


def _openvino(module: Any, operands: Any, dtype: str) -> Run:
    import openvino

    network = openvino.convert_model(module, example_input=operands)
    settings = {"INFERENCE_PRECISION_HINT": _SHORT[dtype], "PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_NUM_THREADS"] = available_cores()
    request = openvino.Core().compile_model(network, "CPU", settings)
    arrays = [each.numpy() for each in operands]
    return lambda: np.asarray(next(iter(request(arrays).values())))


def _onnxruntime(module: Any, operands: Any) -> Run:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(module, operands, str(path), input_names=["tokens", "sigma"], dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(str(path), options)
    named = {"tokens": operands[0].numpy(), "sigma": operands[1].numpy()}
    return lambda: session.run(None, named)[0]


def available_cores() -> int:
    """Number of threads for every engine. (Our own count comes with OpenMP settings that are not theirs.)"""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Process:
    """A script that calls `serve`, in a process of its own; its argument is JSON.

    Raises RuntimeError with its last words if it ends before its time.
    """

    def __init__(self, argument: list[Any], script: str = __file__) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed with the process
        self._process = subprocess.Popen(
            [sys.executable, script, json.dumps(argument)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, text=True,
        )  # fmt: skip
        self._ask("ready")

    def __call__(self) -> None:
        """One call."""
        self._ask("call")

    def turn(self) -> float:
        """Median seconds of a call, after some that do not count."""
        return float(self._ask("turn"))

    def result(self) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.npy"
            self._ask(f"save {path}")
            return np.load(path)

    def peak_memory(self) -> int:
        """Bytes that the process has held at once, at most."""
        return int(self._ask("memory"))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            raise RuntimeError(self._errors.read()[-2000:])
        return answer


def serve(prepare: Callable[[], Run]) -> None:
    """Answer the lines on standard input until it ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = prepare()
    import contest

    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "save":
            np.save(argument, run())
        elif command == "call":
            run()
        measures = {"turn": lambda: contest.turn(run), "memory": _peak_memory}
        print(measures[command]() if command in measures else command, file=answers, flush=True)


def _peak_memory() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes there, KiB elsewhere


if __name__ == "__main__":
    engine, name, texts, stored, *task = json.loads(sys.argv[1])
    serve(lambda: prepare(engine, MODELS[name], texts, stored, *task))
