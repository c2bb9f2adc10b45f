"""Several threads for every test, and small random checkpoints, written to disk as a trainer would write them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

# At least two threads, on one core too: else nothing shows that results do not depend on their number.
os.environ.setdefault("NUMBA_NUM_THREADS", str(max(2, os.cpu_count() or 1)))

import fastsedd_kernels as fk
import numpy as np
import pytest
from other_cpus import Kernels
from safetensors.numpy import save_file

from fastsedd.architectures import registry
from fastsedd.architectures.base import ModelConfig
from fastsedd.config import NoiseConfig

fk.set_num_threads(max(2, fk.get_num_threads()))

# Whoever started pytest in the background, or under nohup, ignores these; the processes that tests start must not.
for _signal in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, lambda number, frame: None)

Tensors = dict[str, np.ndarray]

UNIFORM_STATE = ("udlm", "duo")


def small_config(architecture: str = "ddit", graph: str = "absorb", **changes: object) -> ModelConfig:
    """A model of a few thousand parameters."""
    noise = NoiseConfig("loglinear" if graph == "absorb" or architecture in UNIFORM_STATE else "geometric")
    sizes = {"tokens": 5, "width": 16, "blocks": 2, "heads": 2, "cond_dim": 8, "length": 12, "characters": "\nabcd"}
    scaled = architecture == "ddit" and graph == "absorb"
    process = {"noise": noise, "scale_by_sigma": scaled, "time_conditioning": architecture not in ("mdlm", "radd")}
    return ModelConfig(**{"family": registry.find(architecture), "graph": graph, **process, **sizes, **changes})


def random_tensors(config: ModelConfig, seed: int = 0) -> Tensors:
    """Norms near one, matrices and biases small: activations and scores of order one."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in config.tensor_shapes.items():
        values = rng.standard_normal(shape)
        if len(shape) == 2:
            tensors[name] = 0.05 * values
        else:
            tensors[name] = 0.02 * values if name.endswith("bias") else 1 + 0.05 * values
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def config_document(config: ModelConfig) -> dict:
    """The config.json of a model, as its trainer writes it."""
    own = {
        "generation": {"steps": config.generation.steps, "temperature": config.generation.temperature},
        "training": {"unknown": "keys are tolerated"},
    }
    if config.characters is not None:
        own["tokenizer"] = {"type": "characters", "characters": config.characters}
    if config.merges:
        own["tokenizer"] |= {"type": "character merges", "merges": config.merges}
    if config.architecture in ("mdlm", *UNIFORM_STATE):
        name = {"mdlm": "mdlm", "udlm": "udlm", "duo": "DUO"}[config.architecture]
        sizes = {
            "model_type": name, "vocab_size": config.vocab_size, "model_length": config.length,
            "hidden_dim": config.width, "cond_dim": config.cond_dim, "n_blocks": config.blocks,
            "n_heads": config.heads, "dropout": 0.1, "architectures": [name.upper()],
        }  # fmt: skip
        if config.architecture == "duo":
            return own | sizes | {"causal": False, "var_min": True}
        guidance = {"cfg": False, "cfg_num_classes": -1} if config.architecture == "udlm" else {}
        return own | sizes | guidance | {"time_conditioning": config.time_conditioning}
    return own | {
        "tokens": config.tokens,
        "graph": {"type": config.graph},
        "noise": {"type": config.noise.type, "sigma_min": config.noise.sigma_min, "sigma_max": config.noise.sigma_max},
        "model": {
            "type": "ddit_wot" if config.architecture == "radd" else config.architecture,
            "hidden_size": config.width, "cond_dim": config.cond_dim,
            "length": config.length, "n_blocks": config.blocks, "n_heads": config.heads,
            "scale_by_sigma": config.scale_by_sigma, "dropout": 0.1,
        },
    }  # fmt: skip


@pytest.fixture(scope="session")
def kernels_of_other_cpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """Caches of this CPU and lesser ones, filled with all kernels if there is a test that looks at all of them.

    The workers of a test run (pytest-xdist's) share them, and the first fills them.
    """
    worker, folder = os.environ.get("PYTEST_XDIST_WORKER"), tmp_path_factory.getbasetemp()
    kernels = Kernels((folder.parent if worker else folder) / "kernels-of-other-cpus")
    if _looks_at_all_kernels(request):
        kernels.start()
    return kernels


def _looks_at_all_kernels(request: pytest.FixtureRequest) -> bool:
    return any(item.name.startswith("test_lesser_cpus") for item in request.session.items)


@pytest.fixture(scope="session", autouse=True)
def _compile_beside_the_tests(request: pytest.FixtureRequest) -> None:
    """Begin with the first test what takes a minute."""
    if _looks_at_all_kernels(request):
        request.getfixturevalue("kernels_of_other_cpus")


@pytest.fixture
def one_thread() -> Callable[[], AbstractContextManager[None]]:
    """with one_thread(): kernels use one thread inside."""

    @contextmanager
    def held() -> Iterator[None]:
        threads = fk.get_num_threads()
        fk.set_num_threads(1)
        try:
            yield
        finally:
            fk.set_num_threads(threads)

    return held


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """write_checkpoint(config, tensors=None, dtype=np.float32) -> a new folder with the checkpoint."""

    def write(config: ModelConfig, tensors: Tensors | None = None, dtype: type = np.float32) -> Path:
        folder = tmp_path / f"checkpoint-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        stored = random_tensors(config) if tensors is None else tensors
        save_file({name: tensor.astype(dtype) for name, tensor in stored.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config_document(config)))
        return folder

    return write


@pytest.fixture
def make_config() -> Callable[..., ModelConfig]:
    return small_config


@pytest.fixture
def make_tensors() -> Callable[..., Tensors]:
    return random_tensors


@pytest.fixture
def make_document() -> Callable[[ModelConfig], dict]:
    return config_document
