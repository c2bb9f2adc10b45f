"""Run folders as the trainers of SEDD and RADD leave them: Hydra's config, and a checkpoint with its optimizer.

Both trainers warm up with `lr * np.minimum(step / warmup, 1.0)`, so that the optimizer's state holds a NumPy scalar.
"""

from __future__ import annotations

import json
import pickle
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastsedd import checkpoint
from fastsedd.architectures.base import ModelConfig
from fastsedd.checkpoint import hydra_config, unpickler
from fastsedd.errors import CheckpointError

TRAINING = """\
  batch_size: 512
  accum: {accum}
  n_iters: {iterations}
  snapshot_freq: 50000
  log_freq: 50
  eval_freq: 100
  snapshot_freq_for_preemption: 10000
  weight: standard
  snapshot_sampling: true
  ema: 0.9999
"""

OPTIMIZER = """\
optim:
  weight_decay: 0
  optimizer: AdamW
  lr: 0.0003
  beta1: 0.9
  beta2: 0.999
  eps: 1.0e-08
  warmup: 2500
  grad_clip: 1.0
"""

# What Hydra writes of each trainer's configs/, key for key, with other sizes.
SEDD_CONFIG = f"""\
ngpus: 8
tokens: 5
training:
{TRAINING.format(accum=1, iterations=1300001)}\
data:
  train: openwebtext
  valid: wikitext103
  cache_dir: data
graph:
  type: absorb
  file: data
  report_all: false
noise:
  type: loglinear
  sigma_min: 0.0001
  sigma_max: 20
sampling:
  predictor: euler
  steps: 128
  noise_removal: true
eval:
  batch_size: 512
  perplexity: true
  perplexity_batch_size: 32
{OPTIMIZER}\
model:
  name: small
  type: ddit
  hidden_size: 16
  cond_dim: 8
  length: 12
  n_blocks: 2
  n_heads: 2
  scale_by_sigma: true
  dropout: 0.1
"""

RADD_CONFIG = f"""\
ngpus: 4
tokens: 5
gpt_dir: gpt2-large
outdir: ../output
training:
{TRAINING.format(accum=16, iterations=1000001)}\
  loss_type: t_DCE
data:
  train: openwebtext
  valid: wikitext103
  cache_dir: data
noise:
  type: loglinear
  sigma_min: 0.0001
  sigma_max: 20
sampling:
  predictor: euler
  steps: 1024
eval:
  batch_size: 512
  perplexity: true
  perplexity_batch_size: 16
{OPTIMIZER}\
model:
  name: small_radd
  type: ddit_wot
  hidden_size: 16
  cond_dim: 8
  length: 12
  n_blocks: 2
  n_heads: 2
  dropout: 0.02
  use_checkpoint: false
  dtype: float16
"""

CONFIGS = {"ddit": SEDD_CONFIG, "radd": RADD_CONFIG}


def state_in_order(tensors: dict[str, np.ndarray]) -> OrderedDict[str, np.ndarray]:
    """Tensors in the order of the module's state dict: noise embedding and rotary buffer follow the vocabulary."""
    places = ["vocab_embed", "sigma_map", "rotary_emb", "blocks", "output_layer"]
    every = tensors | {"rotary_emb.inv_freq": np.ones(4, np.float32)}
    return OrderedDict((name, every[name]) for name in sorted(every, key=lambda name: places.index(name.split(".")[0])))


@pytest.fixture
def run(tmp_path: Path, make_config: Any) -> Callable[[str], Path]:
    """run(architecture) -> the folder of a run that lacks its checkpoint only."""

    def make(architecture: str) -> Path:
        folder = tmp_path / architecture
        for name in (".hydra", "checkpoints", "checkpoints-meta", "samples"):
            (folder / name).mkdir(parents=True)
        (folder / ".hydra" / "config.yaml").write_text(CONFIGS[architecture])
        (folder / ".hydra" / "overrides.yaml").write_text("[]\n")
        (folder / "logs").write_text("2026-01-01 00:00:00,000 - work_dir\n")
        return folder

    return make


def expected_config(make_config: Any, architecture: str) -> ModelConfig:
    return make_config(architecture, characters=None)  # type: ignore[no-any-return]


@pytest.mark.parametrize("architecture", ["ddit", "radd"])
@pytest.mark.parametrize("home", [b"numpy._core", b"numpy.core"], ids=["NumPy 2", "NumPy 1"])
def test_a_run_without_pytorch(
    run: Any, make_config: Any, make_tensors: Any, torch_file: Any, raw: Any, architecture: str, home: bytes
) -> None:
    folder, config = run(architecture), expected_config(make_config, architecture)
    weights, averaged = (state_in_order(make_tensors(config, seed)) for seed in (0, 1))
    rate = pickle.dumps(3e-4 * np.minimum(1 / 2500, 1.0), protocol=2)[2:-1]
    rate = rate.replace(b"numpy._core", home).replace(b"numpy.core", home)
    moments = {"step": np.array(1, np.float32), "exp_avg": np.ones(3, np.float32), "exp_avg_sq": np.ones(3)}
    group = {
        "lr": raw(rate), "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "foreach": None,
        "maximize": False, "capturable": False, "differentiable": False, "fused": None, "params": [0, 1],
    }  # fmt: skip
    shadows = [tensor for name, tensor in averaged.items() if name != "rotary_emb.inv_freq"]
    document = {
        "optimizer": {"state": {0: moments}, "param_groups": [group]},
        "model": weights,
        "ema": {"decay": 0.9999, "num_updates": 1, "shadow_params": shadows},
        "step": 1,
    }
    for file in ("checkpoints-meta/checkpoint.pth", "checkpoints/checkpoint_1.pth"):
        torch_file(folder / file, document)
    for source in (folder, folder / "checkpoints" / "checkpoint_1.pth"):
        found = checkpoint.read(source)
        assert found.config == config
        for name, tensor in found.tensors.items():
            np.testing.assert_array_equal(tensor, averaged[name])


@pytest.mark.parametrize("architecture", ["ddit", "radd"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_run_of_pytorch(run: Any, make_config: Any, make_tensors: Any, architecture: str, protocol: int) -> None:
    """An optimizer that has made a step while it warmed up, and the moving average of its parameters."""
    torch = pytest.importorskip("torch")
    folder, config = run(architecture), expected_config(make_config, architecture)
    state = state_in_order(make_tensors(config))
    parameters = [torch.nn.Parameter(torch.from_numpy(each)) for name, each in state.items() if "inv_freq" not in name]
    shadows = [parameter.clone().detach() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0)
    sum(parameter.square().sum() for parameter in parameters).backward()
    for group in optimizer.param_groups:
        group["lr"] = 3e-4 * np.minimum(1 / 2500, 1.0)
    assert type(optimizer.param_groups[0]["lr"]) is np.float64
    optimizer.step()
    for shadow, parameter in zip(shadows, parameters, strict=True):
        shadow.sub_(0.5 * (shadow - parameter.detach()))
    trained = iter(parameters)
    model = OrderedDict(
        (name, torch.from_numpy(each) if "inv_freq" in name else next(trained).detach()) for name, each in state.items()
    )
    document = {
        "optimizer": optimizer.state_dict(),
        "model": model,
        "ema": {"decay": 0.9999, "num_updates": 1, "shadow_params": shadows},
        "step": 1,
    }
    torch.save(document, folder / "checkpoints-meta" / "checkpoint.pth", pickle_protocol=protocol)
    found = checkpoint.read(folder)
    assert found.config == config
    names = [name for name in state if "inv_freq" not in name]
    for name, shadow in zip(names, shadows, strict=True):
        np.testing.assert_array_equal(found.tensors[name], shadow.numpy())
    assert not np.array_equal(found.tensors[names[0]], model[names[0]].numpy())


def test_radds_config_states_no_graph(tmp_path: Path, make_config: Any, make_tensors: Any, torch_file: Any) -> None:
    yaml = pytest.importorskip("yaml")
    config = expected_config(make_config, "radd")
    torch_file(tmp_path / "pytorch_model.bin", make_tensors(config))
    (tmp_path / "config.json").write_text(json.dumps(yaml.safe_load(RADD_CONFIG)))
    assert checkpoint.read(tmp_path).config == config
    (tmp_path / "config.json").write_text(json.dumps(yaml.safe_load(RADD_CONFIG.replace("ddit_wot", "ddit"))))
    with pytest.raises(CheckpointError, match=r"config\.json: .*`graph`, allowed: absorb, uniform"):
        checkpoint.read(tmp_path)


def test_another_graph_than_absorb_is_refused_for_radd(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(RADD_CONFIG + "graph:\n  type: uniform\n")
    with pytest.raises(CheckpointError, match="allowed for the radd architecture: 'absorb'"):
        hydra_config.read(tmp_path / "config.yaml")


# Beside the weights, values of every kind that PyTorch's restricted reader reads, or that NumPy leaves there.
BESIDE: dict[str, Any] = {
    "scalars": [np.float64(3e-4), np.float32(1), np.int64(3), np.bool_(True), np.float16(2)],
    "arrays": [np.arange(3), np.ones((2, 3), order="F"), np.array(["a", "é"]), np.array(1.5)],
    "dtypes": [np.dtype("f4"), np.dtype(">i8"), np.dtype("U3")],
    "collections": [OrderedDict(a=1), defaultdict(dict, {1: {}}), defaultdict(list), Counter("aab"), {1, 2}, set()],
    "nested": {"tuple": ((1, (2, 3)), None), "frozen": frozenset([1, (2, 3)]), "keys": {None: 1, 1.5: 2, b"k": 3}},
    "numbers": [1 + 2j, -1, 2**40, 2**63, True, None, 1e-300],
    "bytes": [b"ab", bytearray(b"ab"), b"x" * 300, "é"],
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", BESIDE)
def test_objects_beside_the_weights(kind: str, protocol: int) -> None:
    pickled = pickle.dumps({"beside": BESIDE[kind], "last": 7}, protocol)
    assert unpickler.loads(pickled)["last"] == 7


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_objects_that_pytorch_leaves_beside_the_weights(tmp_path: Path, protocol: int) -> None:
    torch = pytest.importorskip("torch")
    attributed = torch.nn.Parameter(torch.ones(2))
    attributed.note = "kept"
    tagged = torch.arange(2.0)
    tagged.note = 1
    model = {
        "parameter": torch.nn.Parameter(torch.arange(2.0)), "attributed": attributed, "tagged": tagged,
        "buffer": torch.nn.Buffer(torch.arange(2.0)), "integers": torch.arange(3), "scalar": torch.tensor(2.0),
        "complex": torch.ones(2, dtype=torch.complex64), "eight": torch.ones(2, dtype=torch.float8_e4m3fn),
        "unsigned": torch.ones(2, dtype=torch.uint16), "flags": torch.ones(2, dtype=torch.bool),
    }  # fmt: skip
    dtypes = [each for each in vars(torch).values() if isinstance(each, torch.dtype)]
    document = {
        "model": model,
        "dtypes": dtypes,
        "devices": [torch.device("cpu"), torch.device("cuda", 1), torch.device("meta")],
        "layout": torch.strided,
        "size": torch.Size([1, 2]),
        "others": [torch.ones(2).to_sparse(), torch.ones(2, device="meta"), torch.UntypedStorage(4)],
        "storage": torch.FloatStorage([1.0]),
    }
    torch.save(document, tmp_path / "x.pth", pickle_protocol=protocol)
    if protocol == 2:  # the only one that PyTorch's own restricted reader knows
        torch.load(tmp_path / "x.pth", weights_only=True)
    found = checkpoint.weights.read(tmp_path / "x.pth")
    assert found.keys() == model.keys()
    for name in ("parameter", "tagged", "buffer"):
        np.testing.assert_array_equal(found[name].read(name), [0, 1])
    assert found["scalar"].read("scalar") == 2
    assert [found[name].dtype for name in ("integers", "complex", "eight", "unsigned", "flags")] == [
        "int64", "complex64", "float8_e4m3fn", "uint16", "bool",
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match="'eight' has dtype float8_e4m3fn, allowed: "):
        found["eight"].read("eight")


def test_tensors_that_are_not_plain_are_refused_where_weights_are_expected(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    negated = torch.imag(torch.ones(2, dtype=torch.complex64).conj())
    assert negated.is_neg()
    for tensor, words in (
        (torch.ones(2).to_sparse(), "'x' is a tensor that is not a plain one"),
        (torch.ones(2, device="meta"), "'x' is a tensor that is not a plain one"),
        (negated, "the conjugate or negative of another"),
    ):
        torch.save({"x": tensor}, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match=words):
            checkpoint.weights.read(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"cnumpy\nload\n.", "names 'numpy.load'"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "names 'numpy.core.multiarray.fromfile'"),
        (b"c_codecs\ndecode\n.", "names '_codecs.decode'"),
        (b"cbuiltins\ngetattr\n.", "names 'builtins.getattr'"),
        (b"cbuiltins\ndict\n)R.", "calls something that is not a function"),
        (b"ctorch\nfloat32\n)R.", "calls something that is not a function"),
        (b"ccollections\ndefaultdict\n(cos\nsystem\ntR.", "names 'os.system'"),
        (b"ccollections\ndefaultdict\n(K\x01tR.", "a defaultdict is made of something that is not a class"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\ndevice\nctorch\nTensor\n)tR.", "makes none"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n_rebuild_from_type_v2\nN)tR.", "makes none"),
        (b"ctorch._utils\n_rebuild_parameter\n(K\x01tR.", "a parameter is not a tensor"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00)))tR.", "its storage that is not one"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n(K\x01K\x00)))NctR.", "ends in a name"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n(K\x01K\x00)))NNtR.", "storage or dtype that is not one"),
        (b"ccollections\nOrderedDict\n(](](K\x01ee" + b"tR.", "made of something else than its items"),
        (b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8tR(K\x01e.", "changes a Other as if it were a list"),
        (b"B\xff\xff\xff\x7f.", "broken"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "broken"),
        (b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "broken"),
        (b"(\x8c\x07storagectorch.storage\nUntypedStorage\n\x8c\x010\x8c\x03cpuK\x01tQ}X", "broken"),
        (b"\x8a\x09" + b"\x00" * 8 + b"\x02.", "more than 64 bits"),
    ],
)  # fmt: skip
def test_hostile_pickles_of_these_names(pickled: bytes, words: str) -> None:
    with pytest.raises(unpickler.PickleError) as caught:
        unpickler.loads(b"\x80\x02" + pickled)
    assert words in str(caught.value) and str(caught.value).isprintable()


def test_pairs_of_an_ordered_dict_of_python_2() -> None:
    pickled = b"\x80\x02ccollections\nOrderedDict\n(](](X\x01\x00\x00\x00aK\x01e](X\x01\x00\x00\x00bK\x02eetR."
    assert unpickler.loads(pickled) == {"a": 1, "b": 2}
