"""CPU kernels that drop into NumPy code: GEMM, attention, norms, activations and categorical draws.

Every function takes and returns NumPy arrays, has an `out=`, runs on all cores and compiles once for this CPU.
"""

import numba as _numba

if _numba.config.DISABLE_JIT:
    raise ImportError("fastsedd_kernels is compiled by Numba, which NUMBA_DISABLE_JIT=1 forbids: unset that variable")

# The overloads make the functions callable from njit functions.
from fastsedd_kernels.activation import overloads as _activation_overloads  # noqa: F401
from fastsedd_kernels.activation.api import gelu, silu
from fastsedd_kernels.attention import overloads as _attention_overloads  # noqa: F401
from fastsedd_kernels.attention.api import attention
from fastsedd_kernels.attention.cache import KVCache
from fastsedd_kernels.embedding import overloads as _embedding_overloads  # noqa: F401
from fastsedd_kernels.embedding.api import embedding
from fastsedd_kernels.gemm import overloads as _gemm_overloads  # noqa: F401
from fastsedd_kernels.gemm.api import linear, matmul, strassen_matmul
from fastsedd_kernels.gemm.group_scaled.gguf import pack_gguf
from fastsedd_kernels.gemm.group_scaled.gptq import pack_awq, pack_gptq
from fastsedd_kernels.gemm.packed_weight import PackedWeight, pack, unpack
from fastsedd_kernels.gemm.tuned_blocks import DEFAULT as DEFAULT_LIMITS
from fastsedd_kernels.gemm.tuning import tune
from fastsedd_kernels.norm import overloads as _norm_overloads  # noqa: F401
from fastsedd_kernels.norm.api import layer_norm, rms_norm, softmax
from fastsedd_kernels.roofline import copy_bandwidth, peak_flops, read_bandwidth
from fastsedd_kernels.rotary import overloads as _rotary_overloads  # noqa: F401
from fastsedd_kernels.rotary.api import rotary
from fastsedd_kernels.rotary.table import RotaryTable, rotary_table
from fastsedd_kernels.runtime.arrays import aligned_empty, padded_empty
from fastsedd_kernels.runtime.cache import cache_folder
from fastsedd_kernels.runtime.cache import code_digest as _code_digest
from fastsedd_kernels.runtime.cpu import CpuInfo, cpu_info
from fastsedd_kernels.runtime.jit import on_compile
from fastsedd_kernels.runtime.kernel import compile_all
from fastsedd_kernels.runtime.recording import Recording, profile, record
from fastsedd_kernels.runtime.threads import get_num_threads, set_num_threads, threading_layer
from fastsedd_kernels.sampling import overloads as _sampling_overloads  # noqa: F401
from fastsedd_kernels.sampling.api import Law, sample_categorical, sample_linear, sums_needed, uniform

_code_digest()  # of what has been loaded just now

__all__ = [
    "DEFAULT_LIMITS",
    "CpuInfo",
    "KVCache",
    "Law",
    "PackedWeight",
    "Recording",
    "RotaryTable",
    "aligned_empty",
    "attention",
    "cache_folder",
    "compile_all",
    "copy_bandwidth",
    "cpu_info",
    "embedding",
    "gelu",
    "get_num_threads",
    "layer_norm",
    "linear",
    "matmul",
    "on_compile",
    "pack",
    "pack_awq",
    "pack_gguf",
    "pack_gptq",
    "padded_empty",
    "peak_flops",
    "profile",
    "read_bandwidth",
    "record",
    "rms_norm",
    "rotary",
    "rotary_table",
    "sample_categorical",
    "sample_linear",
    "set_num_threads",
    "silu",
    "softmax",
    "strassen_matmul",
    "sums_needed",
    "threading_layer",
    "tune",
    "uniform",
    "unpack",
]
