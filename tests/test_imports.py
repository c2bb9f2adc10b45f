"""The architecture, held by walking every import: who may use whom, no circles, and who may print."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Of each part of the project: the other parts it may import, and the libraries. What is not here is refused.
PARTS: dict[str, set[str]] = {
    "fastsedd": {
        "fastsedd.checkpoint",
        "fastsedd.choices",
        "fastsedd.config",
        "fastsedd.engine",
        "fastsedd.errors",
        "fastsedd.loading",
        "fastsedd.quality",
        "fastsedd.request",
        "fastsedd.results",
    },
    "fastsedd.__main__": {"fastsedd.cli"},
    "fastsedd.atomic": {"fastsedd.file_lock"},
    "fastsedd.bench": {"fastsedd.engine", "fastsedd_kernels", "fastsedd_kernels.runtime", "numpy"},
    "fastsedd.batching": set(),
    "fastsedd.choices": set(),
    "fastsedd.cli": {
        "fastsedd",
        "fastsedd.atomic",
        "fastsedd.bench",
        "fastsedd.checkpoint",
        "fastsedd.choices",
        "fastsedd.cluster",
        "fastsedd.display",
        "fastsedd.loading",
        "fastsedd.output",
        "fastsedd.quality",
        "fastsedd.recording",
        "fastsedd.request",
        "fastsedd.server",
        "fastsedd.signals",
        "fastsedd.streams",
        "fastsedd_kernels",
        "click",
        "numpy",
        "typing_extensions",
    },
    "fastsedd.cluster": {
        "fastsedd",
        "fastsedd.architectures",
        "fastsedd.choices",
        "fastsedd.config",
        "fastsedd.engine",
        "fastsedd.errors",
        "fastsedd.loading",
        "fastsedd.request",
        "fastsedd.results",
        "fastsedd_kernels",
        "distributed",
        "typing_extensions",
    },
    "fastsedd.output": {"fastsedd.atomic", "fastsedd.config", "fastsedd.request", "fastsedd.results", "msgspec"},
    "fastsedd.display": {"fastsedd.request", "fastsedd.text", "numpy", "rich"},
    "fastsedd.loading": {
        "fastsedd.architectures",
        "fastsedd.checkpoint",
        "fastsedd.choices",
        "fastsedd.engine",
        "fastsedd.errors",
        "fastsedd.language_model",
        "fastsedd.models",
        "fastsedd.request",
        "fastsedd.results",
        "fastsedd.score_model",
        "fastsedd.text",
        "fastsedd_kernels",
        "typing_extensions",
    },
    "fastsedd.score_model": {
        "fastsedd.checkpoint",
        "fastsedd.choices",
        "fastsedd.config",
        "fastsedd.diffusion",
        "fastsedd.diffusion_process",
        "fastsedd.engine",
        "fastsedd.given",
        "fastsedd.models",
        "fastsedd.request",
        "fastsedd.results",
        "fastsedd.scoring",
        "fastsedd.text",
        "fastsedd.unmasking_process",
        "fastsedd.vocabulary",
        "numpy",
    },
    "fastsedd.language_model": {
        "fastsedd.architectures",
        "fastsedd.block_layout",
        "fastsedd.checkpoint",
        "fastsedd.choices",
        "fastsedd.diffusion",
        "fastsedd.engine",
        "fastsedd.given",
        "fastsedd.heap",
        "fastsedd.models",
        "fastsedd.request",
        "fastsedd.results",
        "fastsedd.text",
        "fastsedd.unmasking_process",
        "numpy",
    },
    "fastsedd.unmasking_process": {
        "fastsedd.architectures",
        "fastsedd.block_layout",
        "fastsedd.diffusion",
        "fastsedd.request",
        "numpy",
    },
    "fastsedd.engine": {
        "fastsedd.architectures",
        "fastsedd.batching",
        "fastsedd.checkpoint",
        "fastsedd.choices",
        "fastsedd.config",
        "fastsedd.diffusion",
        "fastsedd.given",
        "fastsedd.models",
        "fastsedd.request",
        "fastsedd.results",
        "fastsedd.text",
        "numpy",
        "typing_extensions",
    },
    "fastsedd.denoising": {"fastsedd.diffusion", "fastsedd.engine"},
    "fastsedd.recording": {"PIL", "fastsedd.atomic", "fastsedd.text", "numpy"},
    "fastsedd.server": {
        "fastsedd.choices",
        "fastsedd.denoising",
        "fastsedd.diffusion",
        "fastsedd.engine",
        "fastsedd.heap",
        "fastsedd.request",
        "fastsedd.results",
        "anyio",
        "msgspec",
        "numpy",
        "prometheus_client",
        "starlette",
        "uvicorn",
    },
    "fastsedd.given": {
        "fastsedd.architectures",
        "fastsedd.choices",
        "fastsedd.config",
        "fastsedd.diffusion",
        "fastsedd.request",
        "fastsedd.text",
        "numpy",
    },
    "fastsedd.diffusion_process": {
        "fastsedd.architectures",
        "fastsedd.choices",
        "fastsedd.config",
        "fastsedd.diffusion",
        "fastsedd.request",
    },
    "fastsedd.request": {"fastsedd.choices", "fastsedd.config", "fastsedd.diffusion", "numpy", "typing_extensions"},
    "fastsedd.results": {"numpy"},
    "fastsedd.checkpoint": {
        "fastsedd.architectures",
        "fastsedd.atomic",
        "fastsedd.choices",
        "fastsedd.config",
        "fastsedd.errors",
        "fastsedd.text",
        "gguf",
        "huggingface_hub",
        "msgspec",
        "numpy",
        "yaml",
    },
    "fastsedd.models": {
        "fastsedd.architectures",
        "fastsedd.block_layout",
        "fastsedd.choices",
        "fastsedd.config",
        "fastsedd_kernels",
        "fastsedd_kernels.attention",  # of these the references
        "fastsedd_kernels.gemm",
        "fastsedd_kernels.norm",
        "fastsedd_kernels.rotary",
        "numpy",
    },
    "fastsedd.diffusion": {"fastsedd.block_layout", "fastsedd.choices", "fastsedd.config", "fastsedd_kernels", "numpy"},
    "fastsedd.text": {
        "fastsedd.architectures",
        "fastsedd.config",
        "fastsedd.errors",
        "jinja2",
        "numpy",
        "tokenizers",
    },
    "fastsedd.quality": {"numpy"},
    "fastsedd.architectures": {"fastsedd.choices", "fastsedd.config", "msgspec"},
    "fastsedd.block_layout": set(),
    "fastsedd.config": set(),
    "fastsedd.scoring": {
        "fastsedd.architectures",
        "fastsedd.diffusion",
        "fastsedd.models",
        "fastsedd_kernels",
        "numpy",
    },
    "fastsedd.errors": set(),
    "fastsedd.vocabulary": {"fastsedd.architectures", "numpy"},
    "fastsedd.file_lock": set(),
    "fastsedd.heap": set(),
    "fastsedd.signals": set(),
    "fastsedd.streams": set(),
    "fastsedd_kernels": {
        "fastsedd_kernels.activation",
        "fastsedd_kernels.attention",
        "fastsedd_kernels.embedding",
        "fastsedd_kernels.gemm",
        "fastsedd_kernels.norm",
        "fastsedd_kernels.roofline",
        "fastsedd_kernels.rotary",
        "fastsedd_kernels.runtime",
        "fastsedd_kernels.sampling",
        "fastsedd_kernels.simd",
        "numba",
    },
    "fastsedd_kernels.runtime": {"llvmlite", "numba", "numpy", "platformdirs"},
    "fastsedd_kernels.roofline": {"fastsedd_kernels.runtime", "fastsedd_kernels.simd", "llvmlite", "numba", "numpy"},
    "fastsedd_kernels.simd": {"fastsedd_kernels.runtime", "llvmlite", "numba"},
    "fastsedd_kernels.activation": {"fastsedd_kernels.runtime", "fastsedd_kernels.simd", "numba", "numpy"},
    "fastsedd_kernels.norm": {
        "fastsedd_kernels.activation",
        "fastsedd_kernels.runtime",
        "fastsedd_kernels.simd",
        "numba",
        "numpy",
    },
    "fastsedd_kernels.gemm": {
        "fastsedd_kernels.activation",
        "fastsedd_kernels.norm",
        "fastsedd_kernels.runtime",
        "fastsedd_kernels.simd",
        "llvmlite",
        "numba",
        "numpy",
    },
    "fastsedd_kernels.attention": {
        "fastsedd_kernels.activation",
        "fastsedd_kernels.gemm",
        "fastsedd_kernels.norm",
        "fastsedd_kernels.runtime",
        "fastsedd_kernels.simd",
        "numba",
        "numpy",
    },
    "fastsedd_kernels.rotary": {
        "fastsedd_kernels.norm",
        "fastsedd_kernels.runtime",
        "fastsedd_kernels.simd",
        "numba",
        "numpy",
    },
    "fastsedd_kernels.embedding": {"fastsedd_kernels.runtime", "fastsedd_kernels.simd", "numba", "numpy"},
    "fastsedd_kernels.sampling": {
        "fastsedd_kernels.gemm",
        "fastsedd_kernels.runtime",
        "fastsedd_kernels.simd",
        "numba",
        "numpy",
    },
    "fastsedd_kernels.torch": {
        "fastsedd_kernels",
        "fastsedd_kernels.attention",
        "fastsedd_kernels.runtime",
        "numpy",
        "torch",
    },
}

PRINTERS = {"fastsedd.cli", "fastsedd.display", "fastsedd.streams"}


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of both packages, parsed, by name."""
    found = {}
    for folder in (ROOT, ROOT / "kernels"):
        for package in ("fastsedd", "fastsedd_kernels"):
            for path in (folder / package).rglob("*.py"):
                name = ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
                found[name] = ast.parse(path.read_text(encoding="utf-8"), path)
    return found


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def nodes(tree: ast.AST, types: bool) -> Iterator[ast.AST]:
    """Every node, with or without what only a type checker sees."""
    for child in ast.iter_child_nodes(tree):
        if types or not is_for_types_only(child):
            yield child
            yield from nodes(child, types)


def imports(module: str, types: bool = True) -> set[str]:
    """The full names of what a module imports, modules of this project down to the submodule."""
    found = set()
    for node in nodes(modules()[module], types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute here"
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & modules().keys()
            found |= inside or {str(node.module)}
    return found


def part(module: str) -> str:
    """The part that a module of this project belongs to, or the library of a foreign one."""
    names = module.split(".")
    return ".".join(names[: 2 if names[0] in ("fastsedd", "fastsedd_kernels") else 1])


@pytest.mark.parametrize("module", sorted(modules()))
def test_each_part_imports_only_what_it_may(module: str) -> None:
    assert part(module) in PARTS, f"{module} has no place in the architecture yet: give it one in PARTS"
    used = {part(name) for name in imports(module)} - sys.stdlib_module_names - {part(module)}
    assert used <= PARTS[part(module)]


def test_the_parts_have_an_order() -> None:
    TopologicalSorter(PARTS).prepare()  # raises CycleError


def test_no_module_is_imported_in_a_circle() -> None:
    used = {module: imports(module, types=False) & modules().keys() for module in modules()}
    TopologicalSorter(used).prepare()


@pytest.mark.parametrize("module", sorted(module for module in modules() if part(module) not in PRINTERS))
def test_only_the_command_line_prints(module: str) -> None:
    tree = modules()[module]
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not {"print", "input"} & called
    assert not {"stdout", "stderr"} & attributes


def test_only_its_own_extra_needs_pytorch() -> None:
    others = [module for module in modules() if part(module) != "fastsedd_kernels.torch"]
    assert not {"torch", "fastsedd_kernels.torch"} & {part(name) for module in others for name in imports(module)}
