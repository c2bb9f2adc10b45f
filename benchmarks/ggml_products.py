"""llama.cpp's matrix product with blocks of a GGUF file, of the library that comes with `llama-cpp-python`.

Weights lie as llama.cpp itself has them: packed anew for this CPU where it has a layout for it. A graph of one node.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {"float32": 0, "Q4_0": 2, "Q8_0": 8}  # ggml's numbers
_MEMORY = 1 << 20  # of what describes tensors and graph
_POINTERS = {
    "ggml_init", "ggml_new_tensor_2d", "ggml_mul_mat", "ggml_new_graph", "ggml_get_data", "ggml_backend_cpu_init",
    "ggml_backend_cpu_reg", "ggml_backend_reg_dev_get", "ggml_backend_reg_get_proc_address",
    "ggml_backend_cpu_buffer_type", "ggml_backend_buft_alloc_buffer", "ggml_backend_buffer_get_base",
    "ggml_backend_alloc_ctx_tensors_from_buft",
}  # fmt: skip
_SIZES = {"ggml_nbytes", "ggml_backend_buft_get_alloc_size"}


class _Parameters(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class _Library:
    """Functions of ggml by name, which take and give pointers, sizes and truths as such."""

    def __init__(self, folder: Path) -> None:
        self._loaded = [ctypes.CDLL(str(folder / f"libggml-{part}.so"), ctypes.RTLD_GLOBAL) for part in ("base", "cpu")]

    def __getattr__(self, name: str) -> Any:
        found = next(getattr(library, name) for library in self._loaded if hasattr(library, name))
        if name == "ggml_backend_dev_supports_op":
            found.restype = ctypes.c_bool
        elif name in _POINTERS:
            found.restype = ctypes.c_void_p
        elif name in _SIZES:
            found.restype = ctypes.c_size_t
        return lambda *given: found(*(ctypes.c_void_p(each) if _is_address(each) else each for each in given))


def _is_address(value: object) -> bool:
    return isinstance(value, int) and value >= 1 << 16


def absent() -> str:
    """The reason why there is no such library here, or ""."""
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None or importlib.util.find_spec("gguf") is None:
        return "the packages `llama-cpp-python` and `gguf` are not installed"
    return "" if (_folder(found.origin) / "libggml-cpu.so").exists() else "llama-cpp-python has no libggml-cpu.so"


def _folder(origin: str) -> Path:
    return Path(origin).parent / "lib"


@cache
def _library() -> _Library:
    found = importlib.util.find_spec("llama_cpp")
    assert found is not None and found.origin is not None
    return _Library(_folder(found.origin))


def product(x: np.ndarray, blocks: np.ndarray, kind: str, out: np.ndarray, threads: int) -> Callable[[], object]:
    """A call that writes x @ weight.T to `out`.

    x : float32 [M, K]; blocks : uint8 [N, bytes of a row], of a kind of TYPES; out : float32 [M, N]
    """
    ggml = _library()
    device = ggml.ggml_backend_reg_dev_get(ggml.ggml_backend_cpu_reg(), ctypes.c_size_t(0))
    for memory in _kinds_of_memory(ggml, device):
        context = ggml.ggml_init(_Parameters(_MEMORY, None, True))
        weight, operand, result = _tensors(ggml, context, len(blocks), x.shape, kind)
        size = ctypes.c_size_t(ggml.ggml_backend_buft_get_alloc_size(memory, weight))
        buffer = ggml.ggml_backend_buft_alloc_buffer(memory, size)
        ggml.ggml_backend_tensor_alloc(buffer, weight, ggml.ggml_backend_buffer_get_base(buffer))
        if ggml.ggml_backend_dev_supports_op(device, result):
            break
    graph = ggml.ggml_new_graph(context)
    ggml.ggml_build_forward_expand(graph, result)
    ggml.ggml_backend_alloc_ctx_tensors_from_buft(context, ggml.ggml_backend_cpu_buffer_type())
    for tensor, array in ((weight, np.ascontiguousarray(blocks)), (operand, x)):
        whole = ctypes.c_size_t(0), ctypes.c_size_t(ggml.ggml_nbytes(tensor))
        ggml.ggml_backend_tensor_set(tensor, array.ctypes.data, *whole)
    backend = ggml.ggml_backend_cpu_init()
    ggml.ggml_backend_cpu_set_n_threads(backend, threads)
    place = ctypes.cast(ggml.ggml_get_data(result), ctypes.POINTER(ctypes.c_float))

    def run() -> None:
        assert ggml.ggml_backend_graph_compute(backend, graph) == 0

    run()
    out[...] = np.ctypeslib.as_array(place, out.shape)
    return run


def _tensors(ggml: Any, context: int, outputs: int, rows: tuple[int, ...], kind: str) -> tuple[int, int, int]:
    """Weight, x and their product, without memory."""
    m, k = rows
    weight = ggml.ggml_new_tensor_2d(context, TYPES[kind], ctypes.c_int64(k), ctypes.c_int64(outputs))
    operand = ggml.ggml_new_tensor_2d(context, TYPES["float32"], ctypes.c_int64(k), ctypes.c_int64(m))
    return weight, operand, ggml.ggml_mul_mat(context, weight, operand)


def _kinds_of_memory(ggml: Any, device: int) -> list[int]:
    """Kinds of memory: those in which llama.cpp packs blocks for this CPU, and the plain one."""
    address = ggml.ggml_backend_reg_get_proc_address(ggml.ggml_backend_cpu_reg(), b"ggml_backend_dev_get_extra_bufts")
    found: list[int] = []
    if address:
        extra = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)
        while extra and extra[len(found)]:
            found.append(extra[len(found)])
    return [*found, ggml.ggml_backend_cpu_buffer_type()]
