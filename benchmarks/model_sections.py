"""Sections of BENCHMARKS.md on whole models: forward passes, sampling steps, accelerated PyTorch models."""

from __future__ import annotations

from result_files import Entry
from tables import OURS, of_kind, ratios, table

ENGINES = ("PyTorch eager", "PyTorch compile", "PyTorch dynamic", "ONNX Runtime", "OpenVINO")


def forward(entries: list[Entry]) -> str:
    found = of_kind(entries, "forward")
    if not found:
        return ""
    text = (
        "## A whole forward\n\nMilliseconds, and × of each engine that has the dtype; each in a process of its own: "
        "`pytest benchmarks/bench_forward.py`.\nThe models have random weights; annotated is the article's.\n"
    )
    for dtype in dict.fromkeys(entry["dtype"] for entry in found):
        rows = [entry for entry in found if entry["dtype"] == dtype]
        engines = [name for name in ENGINES if any(name in entry["ratios"] for entry in rows)]
        header = ["model", "texts", "ms", *(f"× {name}" for name in engines)]
        cells = [
            [entry["model"], str(entry["batch"]), f"{entry['seconds'][OURS] * 1e3:.1f}", *ratios(entry, engines)]
            for entry in rows
        ]
        text += f"\n**{dtype}**\n\n{table(header, cells)}\n"
    return text.rstrip("\n")


def generate(entries: list[Entry]) -> str:
    found = of_kind(entries, "generate")
    if not found:
        return ""
    names = {
        "step": "a step, all positions masked; × its published code",
        "run": "a run's mean step; × a forward alone",
    }
    engines = [name for name in ENGINES if any(name in entry["ratios"] for entry in found)]
    header = ["model", "task", "texts", "ms", *(f"× {name}" for name in engines)]
    cells = [
        [
            entry["model"],
            names[entry["task"]],
            str(entry["batch"]),
            f"{entry['seconds'][OURS] * 1e3:.0f}",
            *ratios(entry, engines),
        ]
        for entry in found
    ]
    return (
        "## Sampling\n\nForward and draw, float32, analytic steps under absorb, of which a run has 128 and a last one: "
        "`pytest benchmarks/bench_generate.py`.\n\n" + table(header, cells)
    )


def accelerate(entries: list[Entry]) -> str:
    found = of_kind(entries, "accelerate")
    if not found:
        return ""
    text = (
        "## PyTorch models, accelerated\n\n`fastsedd_kernels.torch.accelerate(model, dtype)` on models of "
        "transformers, batch 1, random weights, against the\nuntouched model, each in a process of its own: "
        "`pytest benchmarks/bench_accelerate.py`. In bfloat16 that runs under\nautocast, which casts the weights "
        "with each call, or, in the second column, has cast them before.\nThe error is that of the result against "
        "PyTorch's float32, relative to its norm. Texts have 128 tokens unless the\n"
        "name says otherwise; layers in a name are as many of that model's, without its head.\n"
    )
    for dtype in dict.fromkeys(entry["dtype"] for entry in found):
        rows = [entry for entry in found if entry["dtype"] == dtype]
        peers = list(dict.fromkeys(name for entry in rows for name in entry["ratios"]))
        header = ["model", "ms", "error", *(f"× {name}" for name in peers)]
        cells = [
            [
                entry["model"],
                f"{entry['seconds'][OURS] * 1e3:.1f}",
                f"{entry['errors'][OURS]:.1e}",
                *ratios(entry, peers),
            ]
            for entry in rows
        ]
        text += f"\n**{dtype}**\n\n{table(header, cells)}\n"
    return text.rstrip("\n")
