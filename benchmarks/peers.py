"""The matrix products of other libraries: each a function of (x, weight, out) that computes x @ weight.T.

A peer that is not installed is left out, with the reason. All run on as many threads as ours, but BLIS, whose wheel has
one, and the article's triple loop, which is the floor that everything is measured from.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastsedd_kernels as fk
import numba
import numpy as np

Run = Callable[[], Any]

_ROW_MAJOR, _NO_TRANSPOSE, _TRANSPOSE = 101, 111, 112


@dataclass(frozen=True)
class Peer:
    """prepare(x, weight, out) gives a call that writes x @ weight.T to `out`; `absent` says why there is none."""

    name: str
    prepare: Callable[[np.ndarray, np.ndarray, np.ndarray], Run] | None
    absent: str = ""
    threads: int | None = None  # None: as many as ours


def openblas() -> Peer:
    return Peer("OpenBLAS", lambda x, weight, out: lambda: np.matmul(x, weight.T, out=out))


def mkl() -> Peer:
    # Its threads would spin for 200 ms after a call, and starve whoever is timed next; so they keep their advantage
    # from call to call, and are gone after a contest's pause.
    os.environ.setdefault("KMP_BLOCKTIME", "20")
    found = sorted((Path(sys.prefix) / "lib").glob("libmkl_rt.so*"))
    if not found:
        return Peer("MKL", None, "the package `mkl` is not installed")
    library = ctypes.CDLL(str(found[0]))
    library.MKL_Set_Num_Threads(fk.get_num_threads())

    def prepare(x: np.ndarray, weight: np.ndarray, out: np.ndarray) -> Run:
        name, real = ("sgemm", ctypes.c_float) if x.dtype == np.float32 else ("dgemm", ctypes.c_double)
        call = getattr(library, f"cblas_{name}")
        b, form, ldb = _stored(weight)
        (m, k), n = x.shape, weight.shape[0]
        arrays = x, b, out
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]

        def run(_kept_alive: Any = arrays) -> None:
            call(
                _ROW_MAJOR, _NO_TRANSPOSE, form, m, n, k, real(1), pointers[0], k, pointers[1], ldb, real(0),
                pointers[2], n,
            )  # fmt: skip

        return run

    return Peer("MKL", prepare)


def _stored(weight: np.ndarray) -> tuple[np.ndarray, int, int]:
    """B = weight.T as BLAS takes it: an array, whether it is transposed, and its leading dimension."""
    if weight.flags.c_contiguous:
        return weight, _TRANSPOSE, weight.shape[1]
    return weight, _NO_TRANSPOSE, weight.shape[0]


def blis() -> Peer:
    if importlib.util.find_spec("blis") is None:
        return Peer("BLIS", None, "the package `blis` is not installed")
    from blis.py import gemm

    def prepare(x: np.ndarray, weight: np.ndarray, out: np.ndarray) -> Run:
        if weight.flags.c_contiguous:
            return lambda: gemm(x, weight, out=out, trans2=True, beta=0.0)
        return lambda: gemm(x, weight.T, out=out, beta=0.0)

    return Peer("BLIS", prepare, threads=1)


def torch() -> Peer:
    if importlib.util.find_spec("torch") is None:
        return Peer("PyTorch", None, "the package `torch` is not installed")
    import torch

    torch.set_num_threads(fk.get_num_threads())

    def prepare(x: np.ndarray, weight: np.ndarray, out: np.ndarray) -> Run:
        result = torch.from_numpy(out)
        operands = torch.from_numpy(x), torch.from_numpy(weight).T

        def run() -> None:
            with torch.no_grad():
                torch.matmul(*operands, out=result)

        return run

    return Peer("PyTorch", prepare)


@numba.njit(error_model="numpy")
def _triple_loop(x: Any, weight: Any, out: Any) -> None:
    for i in range(x.shape[0]):
        for j in range(weight.shape[0]):
            total = x.dtype.type(0)
            for k in range(x.shape[1]):
                total += x[i, k] * weight[j, k]
            out[i, j] = total


def naive() -> Peer:
    """The article's matrix product in C, as Numba compiles it: one thread, no blocking."""
    return Peer("triple loop", lambda x, weight, out: lambda: _triple_loop(x, weight, out), threads=1)


def all_peers() -> list[Peer]:
    # MKL brings an OpenMP of its own into the process, under the names of the other: ours is to be bound by then.
    fk.read_bandwidth(1 << 20)
    return [openblas(), mkl(), blis(), torch(), naive()]
