"""The names that a PyTorch file's pickle may mention, and the record that each call of one becomes.

They are those of PyTorch's own restricted reader, `torch.load(weights_only=True)`, and of what trainers keep beside the
weights: NumPy's scalars and arrays, and collections. Objects of the libraries that trainers are built on, such as
omegaconf's configs, become records of their state. Nothing of it is imported or called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

MAX_SIZE = 1 << 63


class PickleError(ValueError):
    """One line: what the pickle holds."""


class Name(NamedTuple):
    """A name that the pickle mentions, which is all that becomes of it."""

    module: str
    name: str


class Storage(NamedTuple):
    """A run of elements that is kept beside the pickle, under `key`; of no dtype, bytes."""

    dtype: str | None
    itemsize: int
    key: str
    elements: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides in elements of `dtype`."""

    storage: Storage
    dtype: str
    itemsize: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Other:
    """A value that no weight depends on, of which the kind alone is kept."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class Record(Other):
    """An object of a trainer's library as it was written: the name of its class, and its state once that is known."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.state: Any = None


_KEYS = (str, int, float, bytes, Other)  # of dicts

# Of PyTorch's dtypes: bytes an element.
_DTYPES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "double": 8, "float": 4, "half": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1,
    "long": 8, "int": 4, "short": 2, "complex32": 4, "complex64": 8, "complex128": 16, "cfloat": 8, "cdouble": 16,
    "chalf": 4, "quint8": 1, "qint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1,
    "bits1x8": 1, "bits2x4": 1, "bits4x2": 1, "bits8": 1, "bits16": 2,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
    **{f"{sign}int{bits}": 1 for sign in ("", "u") for bits in range(1, 8)},
}  # fmt: skip

# Of its storage classes: dtype.
_STORAGES = {
    "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "DoubleStorage": "float64",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QUInt8Storage": "quint8", "QInt8Storage": "qint8",
    "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
}  # fmt: skip

_UNTYPED = Name("torch.storage", "UntypedStorage")
_DEFAULT_DICT = Name("collections", "defaultdict")


def is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_SIZE


def as_tuple(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        raise PickleError("a shape is not a tuple")
    return value


def storage(identifier: Any) -> Storage:
    """The storage behind ("storage", class, key, device, elements), which refers to an entry of the archive."""
    kind, storage, key, _device, elements = as_tuple(identifier)
    known = isinstance(storage, Name) and (storage == _UNTYPED or (storage.module, storage.name) in _STORAGE_NAMES)
    if kind != "storage" or not known or not isinstance(key, str) or not is_size(elements):
        raise PickleError("refers to something that is not a storage")
    if storage == _UNTYPED:
        return Storage(None, 1, key, elements)
    dtype = _STORAGES[storage.name]
    return Storage(dtype, _DTYPES[dtype], key, elements)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str, itemsize: int) -> Tensor:
    sizes = (offset, *as_tuple(shape), *as_tuple(strides))
    if len(shape) != len(strides) or not all(map(is_size, sizes)):
        raise PickleError("a tensor has sizes that are not numbers from 0 on")
    return Tensor(storage, dtype, itemsize, offset, shape, strides)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """rest : whether it has a gradient, hooks and, if it is so, that it is read as conjugate or negative."""
    if not isinstance(storage, Storage) or storage.dtype is None:
        raise PickleError("a tensor has something for its storage that is not one")
    if any(isinstance(each, dict) and any(value is not False for value in each.values()) for each in rest[2:]):
        raise PickleError("a tensor is kept as the conjugate or negative of another")
    return _tensor(storage, offset, shape, strides, storage.dtype, storage.itemsize)


def _rebuild_tensor_of_dtype(
    storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any, hooks: Any, dtype: Any, *rest: Any
) -> Tensor:
    """Storage of a dtype that has no storage class of its own."""
    if not isinstance(storage, Storage) or not isinstance(dtype, Name) or dtype not in _DTYPE_NAMES:
        raise PickleError("a tensor has something for its storage or dtype that is not one")
    return _tensor(storage, offset, shape, strides, dtype.name, _DTYPES[dtype.name])


def _rebuild_parameter(tensor: Any, *rest: Any) -> Any:
    if not isinstance(tensor, (Tensor, Other)):
        raise PickleError("a parameter is not a tensor")
    return tensor


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, *rest: Any) -> Any:
    """A tensor with attributes, which are dropped."""
    if not isinstance(function, Name) or function not in _TENSORS:
        raise PickleError("a tensor is made by something that makes none; nothing was run")
    return _TENSORS[function](*as_tuple(arguments))


def _dict(*arguments: Any) -> dict[Any, Any]:
    """An ordered dict from nothing, or from a list of pairs, as Python 2 wrote it."""
    pairs = arguments[0] if arguments else []
    if len(arguments) > 1 or not isinstance(pairs, list):
        raise PickleError("a dict is made of something else than its items")
    found: dict[Any, Any] = {}
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise PickleError("a dict is made of something else than its items")
        set_item(found, pair[0], pair[1])
    return found


def set_item(target: dict[Any, Any], key: Any, value: Any) -> None:
    if key is not None and not isinstance(key, _KEYS):  # to hash a nested tuple may take forever
        raise PickleError(f"a dict has a key of type {type(key).__name__}, allowed: str, numbers and None")
    target[key] = value


def _default_dict(factory: Any = None) -> dict[Any, Any]:
    if factory is not None and not isinstance(factory, Name):
        raise PickleError("a defaultdict is made of something that is not a class")
    return {}


def _other(kind: str) -> Callable[..., Other]:
    return lambda *arguments: Other(kind)


_REBUILD = "torch._utils"
_TENSORS: dict[Name, Callable[..., Any]] = {
    Name(_REBUILD, "_rebuild_tensor"): _rebuild_tensor,
    Name(_REBUILD, "_rebuild_tensor_v2"): _rebuild_tensor,
    Name(_REBUILD, "_rebuild_tensor_v3"): _rebuild_tensor_of_dtype,
    Name(_REBUILD, "_rebuild_parameter"): _rebuild_parameter,
    Name(_REBUILD, "_rebuild_parameter_with_state"): _rebuild_parameter,
    **{
        Name(_REBUILD, name): _other("tensor that is not a plain one")
        for name in (
            "_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor", "_rebuild_nested_tensor", "_rebuild_qtensor",
            "_rebuild_meta_tensor_no_storage", "_rebuild_device_tensor_from_numpy",
            "_rebuild_device_tensor_from_cpu_tensor",
        )
    },
}  # fmt: skip

# Of the functions and classes that the pickle may call: what makes the record that stands for the result.
RECORDS: dict[Name, Callable[..., Any]] = {
    **_TENSORS,
    Name("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    Name("torch", "Size"): as_tuple,
    Name("torch", "device"): _other("device"),
    Name("torch.serialization", "_get_layout"): _other("layout"),
    Name("collections", "OrderedDict"): _dict,
    _DEFAULT_DICT: _default_dict,
    Name("collections", "Counter"): _other("Counter"),
    Name("_codecs", "encode"): _other("bytes"),
    Name("numpy", "dtype"): _other("dtype"),
    **{
        Name(f"{module}.{home}", name): _other(kind)
        for module in ("numpy._core", "numpy.core")
        for home, name, kind in (
            ("multiarray", "scalar", "NumPy scalar"), ("multiarray", "_reconstruct", "NumPy array"),
            ("numeric", "_frombuffer", "NumPy array"),
        )
    },
    **{
        Name(module, name): _other(name)
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "complex", "bytearray")
    },
}  # fmt: skip

# Top-level packages whose names may be mentioned: each call of one, whatever it is, makes a Record.
PACKAGES = frozenset({
    "omegaconf", "transformers", "tokenizers", "huggingface_hub", "lightning", "lightning_fabric", "pytorch_lightning",
    "torchmetrics", "typing", "pathlib", "dataloader", "noise_schedule",
})  # fmt: skip
_REBUILDERS = frozenset({Name("copy_reg", "_reconstructor"), Name("copyreg", "_reconstructor")})


def is_inert(name: Any) -> bool:
    """True for a name of a trainer's library."""
    return isinstance(name, Name) and name.module.split(".")[0] in PACKAGES


def called(name: Any, arguments: Any) -> Any:
    """The record of a call. Raises PickleError for a call of anything that is not in the lists here."""
    record = RECORDS.get(name) if isinstance(name, Name) else None
    if record is not None:
        return record(*as_tuple(arguments))
    if isinstance(name, Name) and name in _REBUILDERS and isinstance(arguments, tuple) and arguments:
        name = arguments[0]
    return made(name)


def made(name: Any) -> Record:
    """The record of an object of a trainer's library. Raises PickleError for one of another class."""
    if not is_inert(name):
        raise PickleError("calls something that is not a function; nothing was run")
    return Record(".".join(name))


_STORAGE_NAMES = frozenset((module, name) for name in _STORAGES for module in ("torch", "torch.cuda"))
_DTYPE_NAMES = frozenset(Name("torch", name) for name in _DTYPES)

# Those that it may mention, too, without a call.
_CLASSES = frozenset(
    [
        Name("torch", "Tensor"), Name("torch.nn.parameter", "Parameter"), Name("torch.nn.parameter", "Buffer"),
        Name("numpy", "ndarray"), Name("builtins", "object"), Name("__builtin__", "object"),
    ]
) | frozenset(
    Name(module, name)
    for module in ("builtins", "__builtin__")
    for name in ("dict", "list", "tuple", "int", "long", "float", "bool", "str", "unicode", "bytes")
)  # fmt: skip
_QUANTIZED = frozenset(
    Name("torch", f"per_{what}")
    for what in (
        "tensor_affine", "tensor_symmetric", "channel_affine", "channel_symmetric", "channel_affine_float_qparams",
    )
)  # fmt: skip

ALLOWED = (
    frozenset(RECORDS)
    | _REBUILDERS
    | _CLASSES
    | _QUANTIZED
    | _DTYPE_NAMES
    | {_UNTYPED}
    | frozenset(Name(*name) for name in _STORAGE_NAMES)
)
