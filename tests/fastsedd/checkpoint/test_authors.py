"""Files as the authors of MDLM and its descendants leave them: Lightning's .ckpt, and names under any wrappers."""

from __future__ import annotations

import json
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import masked_models
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import fastsedd
from fastsedd import checkpoint, cli
from fastsedd.checkpoint import lightning, unpickler
from fastsedd.config import NoiseConfig
from fastsedd.errors import CheckpointError

NAMES = {
    "as the model's": lambda name: name,
    "DistributedDataParallel": lambda name: f"module.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "compiled within": lambda name: name.replace("backbone.", "backbone._orig_mod."),
    "a wrapper of its own": lambda name: f"model.{name}",
    "the backbone alone": lambda name: name.removeprefix("backbone."),
    "a backbone around it": lambda name: f"backbone.{name.removeprefix('backbone.')}",
}


def trainers_config(**changes: Any) -> dict[str, Any]:
    """Hyper-parameters of MDLM's trainer, without what no model depends on."""
    config: dict[str, Any] = {
        "mode": "train", "diffusion": "absorbing_state", "backbone": "dit", "parameterization": "subs",
        "time_conditioning": False, "T": 0, "loader": {"global_batch_size": 512, "batch_size": "${div_up:${.x},1}"},
        "model": {
            "name": "small", "type": "ddit", "hidden_size": 16, "cond_dim": 8, "length": 12, "n_blocks": 2,
            "n_heads": 2, "scale_by_sigma": True, "dropout": 0.1,
        },
        "data": {"train": "openwebtext", "tokenizer_name_or_path": "gpt2"},
        "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
        "training": {"ema": 0.9999, "antithetic_sampling": True}, "callbacks": {"list": [1, 2.5, None]},
    }  # fmt: skip
    return config | changes


# Settings of UDLM's trainer, which is MDLM's own, and of Duo's, whose algorithm stands in a part of its own.
UDLM: dict[str, Any] = {
    "diffusion": "uniform", "parameterization": "d3pm", "time_conditioning": True, "zero_recon_loss": True,
    "training": {"ema": 0.9999, "guidance": None},
}  # fmt: skip


def duos(name: str, noise: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    algorithm = {
        "name": name, "backbone": "dit", "parameterization": "mean", "time_conditioning": True, "T": 0,
        "subs_masking": False, "causal_attention": False, "loss_type": "elbo", "ignore_bos": False,
    }  # fmt: skip
    return {
        "algo": algorithm | changes, "noise": noise or {"type": "log-linear", "eps": 1e-3}, "prior": {"type": "none"},
        "sampling": {"predictor": "ancestral", "steps": 1000, "noise_removal": "ancestral", "use_float64": True},
        "data": {"train": "openwebtext", "modality": "text", "tokenizer_name_or_path": "gpt2"},
        **dict.fromkeys(("diffusion", "backbone", "parameterization", "time_conditioning", "T"), None),
    }  # fmt: skip


def as_omegaconf(value: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The objects that omegaconf makes, of classes that are only named as its are."""
    kinds = {"dictconfig": "DictConfig", "listconfig": "ListConfig", "nodes": "AnyNode", "base": "Metadata"}
    classes = {}
    for module, name in kinds.items():
        made = types.ModuleType(f"omegaconf.{module}")
        classes[name] = type(name, (), {"__module__": f"omegaconf.{module}"})
        setattr(made, name, classes[name])
        monkeypatch.setitem(sys.modules, f"omegaconf.{module}", made)
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))

    def convert(value: Any, parent: Any) -> Any:
        kind = {dict: "DictConfig", list: "ListConfig"}.get(type(value), "AnyNode")
        made = classes[kind]()
        made._metadata, made._parent = classes["Metadata"](), parent
        made._metadata.ref_type = Any
        if kind == "AnyNode":
            made._val = value
        elif kind == "DictConfig":
            made._content = {key: convert(each, made) for key, each in value.items()}
        else:
            made._content = [convert(each, made) for each in value]
        return made

    return convert(value, None)


def lightnings(config: Any, state: Any, shadows: Any) -> dict[str, Any]:
    return {
        "epoch": 1, "global_step": 1000, "pytorch-lightning_version": "2.2.1", "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"completed": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val/nll'}": {"best_model_score": None}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 3e-4, "params": [0, 1]}]}],
        "lr_schedulers": [{"last_epoch": 1000}], "MixedPrecision": {}, "hparams_name": "kwargs",
        "hyper_parameters": {"config": config, "tokenizer": None},
        "ema": {"decay": 0.9999, "num_updates": 1000, "shadow_params": shadows}, "sampler": {"random_state": None},
    }  # fmt: skip


def in_order(tensors: dict[str, np.ndarray]) -> OrderedDict[str, np.ndarray]:
    """As Module.state_dict() has them, with the buffers."""
    places = ["vocab_embed", "sigma_map", "rotary_emb", "blocks", "output_layer"]
    every = tensors | {"backbone.rotary_emb.inv_freq": np.ones(4, np.float32)}
    return OrderedDict((name, every[name]) for name in sorted(every, key=lambda name: places.index(name.split(".")[1])))


@pytest.fixture
def ckpt(tmp_path: Path, make_config: Any, make_tensors: Any, torch_file: Any, raw: Any) -> Callable[..., Any]:
    """ckpt(config) -> a run's folder whose hyper-parameters hold that object, its ModelConfig, its moving average."""

    def write(
        stated: Any, rename: Any = lambda name: name, architecture: str = "mdlm", **changes: Any
    ) -> tuple[Path, Any, dict[str, np.ndarray]]:
        graph = "absorb" if architecture == "mdlm" else "uniform"
        config = make_config(architecture, graph, characters=None, **changes)
        weights, averaged = (in_order(make_tensors(config, seed)) for seed in (0, 1))
        shadows = [tensor for name, tensor in averaged.items() if not name.endswith("inv_freq")]
        pickled = raw(pickle.dumps(stated, protocol=2)[2:-1])
        folder = tmp_path / "run"
        (folder / "checkpoints").mkdir(parents=True)
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "config.yaml").write_text("model:\n  type: ddit\n  length: ${.none}\n")
        renamed = OrderedDict((rename(name), tensor) for name, tensor in weights.items())
        torch_file(folder / "checkpoints" / "last.ckpt", lightnings(pickled, renamed, shadows))
        return folder, config, averaged

    return write


@pytest.mark.parametrize("names", ["as the model's", "compiled within"])
def test_a_lightning_run(ckpt: Any, names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stated = as_omegaconf(trainers_config(), monkeypatch)
    folder, config, averaged = ckpt(stated, NAMES[names])
    for source in (folder, folder / "checkpoints" / "last.ckpt"):
        found = checkpoint.read(source)
        assert found.config == config and found.assumed == ""
        for name, tensor in found.tensors.items():
            np.testing.assert_array_equal(tensor, averaged[name])


@pytest.mark.parametrize(
    ("architecture", "changes", "kind"),
    [
        ("udlm", UDLM, "loglinear"),
        ("udlm", UDLM | {"time_conditioning": False}, "loglinear"),
        ("udlm", UDLM | {"noise": {"type": "cosine"}}, "cosine"),
        ("duo", duos("duo_base"), "loglinear"),
        ("duo", duos("duo", noise={"type": "log-linear", "parameterization": "log-linear", "eps": 0}), "loglinear"),
        ("duo", duos("duo", noise={"type": "cosine", "eps": 1e-3}), "sine"),
        ("duo", duos("distillation", T=64), "loglinear"),
    ],
)
def test_a_lightning_run_of_a_uniform_state_model(
    ckpt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, changes: dict, kind: str
) -> None:
    stated = {key: value for key, value in trainers_config(**changes).items() if value is not None}
    told = stated.get("time_conditioning", True)
    noise = NoiseConfig(kind)
    folder, config, averaged = ckpt(
        as_omegaconf(stated, monkeypatch), architecture=architecture, time_conditioning=told, noise=noise
    )
    found = checkpoint.read(folder)
    assert (found.config.noise.type, replace(found.config, noise=noise)) == (kind, config)
    for name, tensor in found.tensors.items():
        np.testing.assert_array_equal(tensor, averaged[name])
    assert CliRunner().invoke(cli.main, ["convert", str(folder), str(tmp_path / "made")]).exit_code == 0
    assert checkpoint.read(tmp_path / "made").config == found.config
    texts = [fastsedd.load(each).generate(num_samples=2, steps=4, seed=1) for each in (folder, tmp_path / "made")]
    np.testing.assert_array_equal(texts[0].tokens, texts[1].tokens)


def test_a_lightning_run_of_pytorch_and_omegaconf(tmp_path: Path, make_config: Any, make_tensors: Any) -> None:
    torch, omegaconf = pytest.importorskip("torch"), pytest.importorskip("omegaconf")
    config = make_config("mdlm", characters=None, time_conditioning=True)
    state = in_order(make_tensors(config))
    parameters = [torch.from_numpy(each) + 1 for name, each in state.items() if "inv_freq" not in name]
    stated = omegaconf.OmegaConf.create(trainers_config(time_conditioning=True))
    tensors = OrderedDict((name, torch.from_numpy(each)) for name, each in state.items())
    torch.save(lightnings(stated, tensors, parameters), tmp_path / "last.ckpt")
    found = checkpoint.read(tmp_path)
    assert found.config == config
    for name, tensor in found.tensors.items():
        np.testing.assert_array_equal(tensor, state[name] + np.float32(1))


def test_a_lightning_run_of_bd3lm(tmp_path: Path, torch_file: Any, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trainer's config, for what a model depends on: buffers of its clipped noise lie before the weights."""
    config = masked_models.config("bd3lm", vocab_size=50258, hidden_dim=8, n_heads=2, bos_token_id=None)
    weights, averaged = (in_order(masked_models.tensors(config, seed)) for seed in (0, 1))
    shadows = [tensor for name, tensor in averaged.items() if not name.endswith("inv_freq")]
    bounds = {f"sampling_eps_{end}": np.ones((), np.float32) for end in ("min", "max")}
    sizes = {"hidden_size": 8, "cond_dim": 16, "length": 32, "n_blocks": 2, "n_heads": 2, "adaln": False}
    algorithm = {"name": "bd3lm", "backbone": "dit", "parameterization": "subs", "time_conditioning": False,
                 "cross_attn": True, "sampler": "semi_ar"}  # fmt: skip
    for block, said in ((4, ""), ("${model.length}", "block_size")):
        stated = trainers_config(algo=algorithm, model=sizes, noise={"type": "square"}, block_size=block)
        pickled = raw(pickle.dumps(as_omegaconf(stated, monkeypatch), protocol=2)[2:-1])
        torch_file(tmp_path / "last.ckpt", lightnings(pickled, OrderedDict(bounds | weights), shadows) | bounds)
        if said:
            with pytest.raises(CheckpointError, match=said):
                checkpoint.read(tmp_path)
            continue
        found = checkpoint.read(tmp_path)
        assert found.config == config and found.config.backbone.start == 50256
        for name, tensor in found.tensors.items():
            np.testing.assert_array_equal(tensor, averaged[name])


def test_a_lightning_file_is_inspected_run_and_converted(
    ckpt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config, _ = ckpt(as_omegaconf(trainers_config(), monkeypatch))
    runner = CliRunner()
    shown = runner.invoke(cli.main, ["inspect", str(folder)])
    assert shown.exit_code == 0 and "mdlm" in shown.output
    made = tmp_path / "made"
    assert runner.invoke(cli.main, ["convert", str(folder), str(made)]).exit_code == 0
    assert checkpoint.read(made).config == config
    texts = [fastsedd.load(each).generate(num_samples=2, steps=4, seed=1) for each in (folder, made)]
    np.testing.assert_array_equal(texts[0].tokens, texts[1].tokens)


@pytest.mark.parametrize(
    ("noise", "kind"),
    [
        ({"type": "cosine"}, "cosine"),
        ({"type": "linear", "sigma_min": 1e-3, "sigma_max": 7.0}, "linear"),
        ({"type": "log-linear", "eps": 1e-3}, "loglinear"),
    ],
)
def test_schedules(ckpt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: dict, kind: str) -> None:
    folder, _, _ = ckpt(as_omegaconf(trainers_config(noise=noise), monkeypatch))
    found = checkpoint.read(folder).config
    assert found.noise.type == kind
    assert CliRunner().invoke(cli.main, ["convert", str(folder), str(tmp_path / "made")]).exit_code == 0
    assert checkpoint.read(tmp_path / "made").config == found
    model = fastsedd.load(folder)
    assert model.generate(num_samples=1, steps=4, seed=0).tokens.max() < found.tokens
    assert model.evaluate("0 1 2 3 4 0 1 2 3 4 0 1", times=2).nats > 0


def test_berts_mask(ckpt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"tokenizer_name_or_path": "bert-base-uncased"}
    folder, _, _ = ckpt(as_omegaconf(trainers_config(data=data), monkeypatch), tokens=200)
    assert checkpoint.read(folder).config.mask_id == 103


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameterization": "sedd"}, "algorithm 'sedd' .* allowed: "),
        ({"parameterization": "d3pm"}, "algorithm 'd3pm'"),
        ({**UDLM, "training": {"guidance": {"cond_dropout": 0.1}}}, "cfg is true, allowed for the udlm architecture: "),
        ({**UDLM, "T": 1000}, "T is 1000, allowed for UDLM: 0"),
        ({**UDLM, "subs_masking": True}, "subs_masking is True, allowed: False"),
        ({**UDLM, "noise": {"type": "cosinesqr"}}, "Invalid enum value 'cosinesqr'"),
        (duos("duo", parameterization="subs"), "algorithm 'duo' .*'subs'"),
        (duos("d3pm"), "algorithm 'd3pm'"),
        (duos("duo", time_conditioning=False), "time_conditioning is false, not allowed for the duo architecture"),
        ({"backbone": "dimamba"}, "its backbone is 'dimamba', allowed: 'dit'"),
        ({"algo": {"name": "ar", "parameterization": "ar"}}, "algorithm 'ar'"),
        ({"noise": {"type": "polynomial"}}, "Invalid enum value 'polynomial'"),
        ({"noise": {"type": "loglinear", "eps": 0.5}}, r"noise\.eps is 0\.5, allowed: 0\.001"),
        ({"model": "${model}"}, "hyper_parameters hold no config"),
        ({"model": {"hidden_size": "${x}"}}, "hidden_dim"),
        ({"model": {"hidden_size": 16}}, "missing required field"),
    ],
)
def test_models_of_other_kinds_are_refused(
    ckpt: Any, monkeypatch: pytest.MonkeyPatch, changes: Any, words: str
) -> None:
    folder, _, _ = ckpt(as_omegaconf(trainers_config(**changes), monkeypatch))
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoint.read(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("architecture", ["mdlm", "ddit", "radd", "annotated"])
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_names_under_any_wrapper(
    tmp_path: Path, make_config: Any, make_tensors: Any, make_document: Any, torch_file: Any,
    names: str, architecture: str, suffix: str,
) -> None:  # fmt: skip
    config = make_config(architecture, "uniform" if architecture == "annotated" else "absorb")
    tensors = make_tensors(config)
    renamed = {NAMES[names](name): tensor for name, tensor in tensors.items()}
    if suffix == "bin":
        torch_file(tmp_path / "pytorch_model.bin", renamed)
    else:
        save_file(renamed, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(make_document(config)))
    found = checkpoint.read(tmp_path)
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in found.tensors.items():
        np.testing.assert_array_equal(tensor, tensors[name])


def test_a_tensor_under_two_names_is_refused(
    tmp_path: Path, make_config: Any, make_tensors: Any, make_document: Any
) -> None:
    config = make_config("mdlm")
    tensors = {f"module.{name}": tensor for name, tensor in make_tensors(config).items()}
    first = next(iter(config.tensor_shapes))
    save_file({**tensors, first: tensors[f"module.{first}"]}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(make_document(config)))
    with pytest.raises(CheckpointError, match=f"holds {first} twice"):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"cos\nsystem\n)\x81.", "names 'os.system'"),
        (b"comegaconfx\nA\n)\x81.", "names 'omegaconfx.A'"),
        (b"cos.omegaconf\nA\n)\x81.", "names 'os.omegaconf.A'"),
        (b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\ncbuiltins\nobject\nNtR.", "calls something"),
        (b"ccopyreg\n_reconstructor\n)R.", "calls something"),
        (b"cbuiltins\ndict\n)\x81.", "calls something"),
        (b"comegaconf\nA\n)\x81K\x01K\x02\x81.", "calls something"),
        (b"\x81.", "broken"),
    ],
)
def test_hostile_objects(pickled: bytes, words: str) -> None:
    with pytest.raises(unpickler.PickleError) as caught:
        unpickler.loads(b"\x80\x02" + pickled)
    assert words in str(caught.value)


def test_objects_of_trainers_are_records_whatever_they_are_made_of() -> None:
    for body in (
        b"comegaconf.dictconfig\nDictConfig\n)\x81}(X\x01\x00\x00\x00aK\x01ub.",
        b"ctransformers\nX\n(K\x01tR}X\x01\x00\x00\x00aK\x01sb.",
        b"ccopyreg\n_reconstructor\n(cpathlib\nPosixPath\ncbuiltins\nobject\nNtR}X\x01\x00\x00\x00aK\x01sb.",
    ):
        found = unpickler.loads(b"\x80\x02" + body)
        assert isinstance(found, unpickler.Record) and found.state == {"a": 1}


def test_a_config_that_holds_itself_ends() -> None:
    record = unpickler.Record("omegaconf.dictconfig.DictConfig")
    record.state = {"_content": {"a": record, "b": [record] * 40}}
    assert lightning.plain(record) is not None
