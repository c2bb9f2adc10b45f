"""What comes in as an array, what may be written to, and what is refused in one line."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import fastsedd_kernels as fk
import numpy as np
import pytest

X = np.random.default_rng(0).standard_normal((5, 24), dtype=np.float32)


class Exported:
    """An array of another library: through `__array__` alone, or through DLPack alone."""

    def __init__(self, array: np.ndarray, *, copied: bool = False) -> None:
        self.array, self.copied = array, copied

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array.copy() if self.copied else self.array.view()


class OnlyDLPack:
    def __init__(self, array: np.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **keywords: Any) -> Any:
        if self.device[0] != 1:
            raise BufferError("it lies on another device")
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


@pytest.mark.parametrize("made", [Exported, OnlyDLPack, np.ndarray.tolist])
def test_arrays_of_any_library_come_in(made: Any) -> None:
    np.testing.assert_array_equal(fk.softmax(made(X)), fk.softmax(X))


def test_out_may_be_another_librarys() -> None:
    out = np.full_like(X, np.nan)
    found = fk.softmax(X, out=Exported(out))  # type: ignore[arg-type]
    np.testing.assert_array_equal(out, fk.softmax(X))
    assert np.shares_memory(found, out)


def test_an_out_that_nobody_would_see_is_refused() -> None:
    for wrong in (X.tolist(), Exported(X, copied=True)):
        with pytest.raises(ValueError, match=r"out is .* must be a NumPy array, or share its memory"):
            fk.softmax(X, out=wrong)  # type: ignore[arg-type]
    readonly = X.copy()
    readonly.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writable"):
        fk.softmax(X, out=readonly)


def test_arguments_that_give_no_array_are_refused() -> None:
    with pytest.raises(ValueError, match="x is OnlyDLPack, which cannot be converted to a NumPy array: "):
        fk.softmax(OnlyDLPack(X, (2, 0)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x has dtype complex64, allowed: float32"):
        fk.softmax(X.astype(np.complex64))


def test_tensors_come_in_without_a_copy_and_are_written_to() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensor, out = torch.from_numpy(X.copy()), torch.empty(5, 24)
    found = fk.gelu(tensor, out=out)
    np.testing.assert_array_equal(np.asarray(out), fk.gelu(X))
    assert found.ctypes.data == out.data_ptr()
    with pytest.raises(ValueError, match=r"x is Tensor, which cannot be converted to a NumPy array: .*requires grad"):
        fk.gelu(tensor.requires_grad_())
    with pytest.raises(ValueError, match=r"x is Tensor, which cannot be converted to a NumPy array: .*BFloat16"):
        fk.gelu(torch.zeros(3, dtype=torch.bfloat16))


def test_keys_and_values_broadcast() -> None:
    rng = np.random.default_rng(1)
    q = rng.standard_normal((2, 3, 4, 10, 8), dtype=np.float32)  # three groups of four heads
    k, v = rng.standard_normal((2, 2, 3, 1, 13, 8), dtype=np.float32)
    whole = (np.repeat(part, 4, axis=2) for part in (k, v))
    np.testing.assert_array_equal(fk.attention(q, k, v), fk.attention(q, *whole))
    with pytest.raises(ValueError, match="do not fit together"):
        fk.attention(q, k[:, :2], v[:, :2])


def test_the_import_is_quick_to_say_what_it_needs() -> None:
    program = (
        "import sys, fastsedd_kernels; print(sorted({m.split('.')[0] for m in sys.modules} & {'fastsedd', 'torch'}))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"
