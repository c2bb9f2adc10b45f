"""House rules that a reader would otherwise have to check: sizes, parameters, how docstrings open, public names."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"fastsedd": ROOT / "fastsedd", "fastsedd_kernels": ROOT / "kernels" / "fastsedd_kernels"}

MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8  # without self, cls, and the context that Numba hands to every intrinsic
MAX_FILE_LINES = 400
FORBIDDEN_OPENINGS = (
    "What", "That of", "Of", "As", "Those", "Whether", "Which", "So many", "Ours", "How many", "How much",
)  # fmt: skip

FORBIDDEN_SUBJECTS = {
    "what",
    "whatever",
    "who",
    "whether",
    "which",
    "where",
    "of",
    "how",
    "as",
}  # test_what_is_no_number

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

# Interfaces of keywords that callers write by name, or that mirror another library's: any number of parameters.
KEYWORD_INTERFACES = {
    "fastsedd.cluster.connect",  # the arguments of `fastsedd.load`, a scheduler and threads
    "fastsedd_kernels.attention.api.attention",  # torch's scaled_dot_product_attention, and what a query sees
    "fastsedd_kernels.attention.cache.KVCache.attend",
    "fastsedd_kernels.attention.reference.attention",
    "fastsedd_kernels.norm.api.layer_norm",  # torch's layer_norm, adaLN's modulation, and a residual
    "fastsedd_kernels.norm.overloads._layer_norm",
    "fastsedd_kernels.norm.overloads._layer_norm.implementation",
    "fastsedd_kernels.rotary.api.rotary",
    "fastsedd_kernels.rotary.overloads._rotary",
    "fastsedd_kernels.rotary.overloads._rotary.implementation",
    "fastsedd_kernels.rotary.reference.rotary",
    "fastsedd_kernels.sampling.api.sample_linear",
    "fastsedd_kernels.torch.functions._attention",  # torch's scaled_dot_product_attention
}


@cache
def definitions() -> list[tuple[str, Definition]]:
    """Every module, class and function of both packages, with its dotted name."""
    found: list[tuple[str, Definition]] = []
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            module = ".".join((package, *parts)).removesuffix(".__init__")
            found += walk(module, ast.parse(path.read_text(encoding="utf-8")))
    return found


def walk(name: str, node: ast.AST) -> Iterator[tuple[str, Definition]]:
    if isinstance(node, Definition):
        yield name, node
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, Definition) and not isinstance(child, ast.Module)
        yield from walk(f"{name}.{child.name}" if named else name, child)


def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    return [each for each in definitions() if isinstance(each[1], ast.FunctionDef | ast.AsyncFunctionDef)]


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Number of parameters, where *args and **kwargs count as one each."""
    arguments = node.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
    own = names[1:] if names[:1] in (["self"], ["cls"], ["typing_context"]) else names
    return len(own) + len(arguments.kwonlyargs) + (arguments.vararg is not None) + (arguments.kwarg is not None)


def test_functions_are_short() -> None:
    long = {name for name, node in functions() if (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES}
    assert long == set()


def test_functions_have_few_parameters() -> None:
    many = {name for name, node in functions() if parameters(node) > MAX_PARAMETERS}
    assert many - KEYWORD_INTERFACES == set()


def test_files_are_short() -> None:
    paths = [path for folder in PACKAGES.values() for path in folder.rglob("*.py")]
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {path: count for path, count in lines.items() if count > MAX_FILE_LINES} == {}


def test_docstrings_begin_with_what_the_thing_is_or_does() -> None:
    bad = set()
    for name, node in definitions():
        words = (ast.get_docstring(node) or "").split()
        if any(words[: len(each.split())] == each.split() for each in FORBIDDEN_OPENINGS):
            bad.add(name)
    assert bad == set()


def test_names_of_tests_begin_with_their_subject() -> None:
    bad = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        names = re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        bad |= {f"{path.name}::{name}" for name in names if name.split("_")[1] in FORBIDDEN_SUBJECTS}
    assert bad == set()


def modules_with_public_names() -> list[str]:
    modules = [(name, node) for name, node in definitions() if isinstance(node, ast.Module)]
    return [name for name, node in modules if "__all__" in ast.dump(node)]


@pytest.mark.parametrize("name", modules_with_public_names())
def test_every_public_name_exists_once(name: str) -> None:
    if name.startswith("fastsedd_kernels.torch"):
        pytest.importorskip("torch")
    module = importlib.import_module(name)
    names = list(getattr(module, "__all__", ()))
    assert [each for each in names if not hasattr(module, each)] == []
    assert len(set(names)) == len(names)
