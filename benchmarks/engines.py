"""Who else runs these networks: PyTorch, ONNX Runtime and OpenVINO, on the same random weights, without the sampler.

Each engine has a process of its own: several would share one OpenMP library, and its settings, among them. It is driven
by lines on standard input: `turn` answers with the median seconds of a call, `save FILE` writes what one returns.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastsedd.checkpoint import layout
from fastsedd.config import ModelConfig, NoiseConfig

Run = Callable[[], np.ndarray]

OURS = "fastsedd"

_GEOMETRIC, _LOGLINEAR = NoiseConfig("geometric"), NoiseConfig("loglinear")
MODELS = {
    "annotated": ModelConfig(
        architecture="annotated", graph="uniform", noise=_GEOMETRIC, scale_by_sigma=False, tokens=65, width=384,
        blocks=6, heads=6, cond_dim=64, length=256, characters=None,
    ),
    "SEDD small": ModelConfig(
        architecture="ddit", graph="absorb", noise=_LOGLINEAR, scale_by_sigma=True, tokens=50257, width=768,
        blocks=12, heads=12, cond_dim=128, length=1024, characters=None,
    ),
}  # fmt: skip


def weights(config: ModelConfig) -> dict[str, np.ndarray]:
    """Random ones: matrices and biases small, norms near one, so that scores are of order one."""
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in layout.shapes(config).items():
        values = rng.standard_normal(shape, dtype=np.float32)
        small = len(shape) == 2 or name.endswith("bias")
        tensors[name] = np.float32(0.05) * values if small else 1 + np.float32(0.05) * values
    return tensors


def flops(config: ModelConfig, batch: int) -> int:
    """Of the matrix products in a forward: what any engine has to do."""
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


def prepare(engine: str, config: ModelConfig, batch: int, dtype: str) -> Run:
    """A forward by that engine, of the model's random weights."""
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

    forward = models.Forward(models.build(config, tensors, dtype), *tokens.shape)
    return lambda: forward(tokens, sigma[:1])


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
    """What every engine may use. (Our own count comes with our OpenMP settings, which are not to be theirs.)"""
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
        print(contest.turn(run) if command == "turn" else command, file=answers, flush=True)


if __name__ == "__main__":
    engine, name, texts, stored = json.loads(sys.argv[1])
    serve(lambda: prepare(engine, MODELS[name], texts, stored))
