"""The pickle of a PyTorch file -> dicts, lists, numbers and descriptions of tensors.

A pickle is a program, and `pickle.load` calls whatever it names. This machine calls nothing: it knows the instructions
that torch.save writes, and of the names that they may mention it has a list, each with the record that stands for it
here. Anything else ends the reading before it has an effect, and so does a pickle that asks for much memory.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, NamedTuple

MOST_INSTRUCTIONS = 1 << 20  # tens of thousands of tensors
MOST_INTEGER = 1 << 63

_STOP = b"."

# Of torch's storage classes: dtype and bytes an element.
STORAGES = {
    "FloatStorage": ("float32", 4), "HalfStorage": ("float16", 2), "BFloat16Storage": ("bfloat16", 2),
    "DoubleStorage": ("float64", 8), "LongStorage": ("int64", 8), "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2), "CharStorage": ("int8", 1), "ByteStorage": ("uint8", 1), "BoolStorage": ("bool", 1),
}  # fmt: skip


class PickleError(ValueError):
    """One line: what the pickle holds."""


class Storage(NamedTuple):
    """A run of elements that is kept beside the pickle, under `key`."""

    dtype: str
    itemsize: int
    key: str
    elements: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Name(NamedTuple):
    """A name that the pickle mentions, which is all that becomes of it."""

    module: str
    name: str


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    sizes = (offset, *_tuple(shape), *_tuple(strides))
    if not isinstance(storage, Storage) or len(shape) != len(strides) or not all(map(_is_size, sizes)):
        raise PickleError("a tensor has sizes that are none")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *rest: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise PickleError("a parameter is no tensor")
    return tensor


def _empty_dict(*pairs: Any) -> dict[Any, Any]:
    if pairs:
        raise PickleError("a dict is made of something else than its items")
    return {}


def _tuple(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple):
        raise PickleError("a shape is no tuple")
    return value


# Of the functions and classes that the pickle may call: what makes the record that stands for the result.
_RECORDS: dict[_Name, Callable[..., Any]] = {
    _Name("collections", "OrderedDict"): _empty_dict,
    _Name("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    _Name("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    _Name("torch", "Size"): _tuple,
}

_ALLOWED = _RECORDS.keys() | {_Name("torch", storage) for storage in STORAGES}


def loads(pickled: bytes) -> Any:
    """What a pickle describes. Raises PickleError, in one line, for all that a file of tensors does not need."""
    machine = _Machine()
    try:
        for instruction, argument in _instructions(pickled):
            machine.execute(instruction, argument)
        return machine.pop()
    except PickleError:
        raise
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        # Nothing but this module's own code on plain values has run: an operand that is missing, or of another type.
        raise PickleError(f"is broken: {' '.join(str(error).split()) or type(error).__name__}") from None


def _instructions(pickled: bytes) -> Iterator[tuple[str, Any]]:
    """Names and arguments, up to the first instruction that is not known here, whose argument is not even read."""
    file = BytesIO(pickled)
    for _ in range(MOST_INSTRUCTIONS):
        code = file.read(1)
        if code == _STOP:
            return
        instruction = _INSTRUCTIONS.get(code)
        if instruction is None:
            raise PickleError("ends before its last instruction" if not code else f"has the instruction {code!r}")
        if instruction.name not in _KNOWN:
            raise PickleError(f"has the instruction {instruction.name}, which weights do not need; nothing was run")
        yield instruction.name, _argument(instruction, file)
    raise PickleError(f"has more than {MOST_INSTRUCTIONS} instructions, allowed: at most that")


def _argument(instruction: pickletools.OpcodeInfo, file: BytesIO) -> Any:
    if instruction.name == "GLOBAL":  # which the library joins into one string, escapes resolved
        return _Name(_line(file), _line(file))
    return None if instruction.arg is None else instruction.arg.reader(file)


def _line(file: BytesIO) -> str:
    line = file.readline()
    if not line.endswith(b"\n"):
        raise PickleError("ends in a name")
    return line[:-1].decode()


class _Machine:
    """The stack machine that pickles are written for, without its instructions that call, import or subclass."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []  # depths of the stack
        self._memo: dict[int, Any] = {}

    def execute(self, instruction: str, argument: Any) -> None:
        if instruction in _CONSTANTS:
            self._stack.append(_CONSTANTS[instruction])
        elif instruction in _LITERALS:
            self._stack.append(_bounded(argument))
        else:
            _EFFECTS[instruction](self, argument)

    def pop(self) -> Any:
        return self._stack.pop()

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def pop_marked(self) -> list[Any]:
        """All that is above the last mark."""
        first = self._marks.pop()
        items = self._stack[first:]
        del self._stack[first:]
        return items

    def push_empty(self, kind: type[dict[Any, Any]] | type[list[Any]]) -> None:
        self._stack.append(kind())

    def push_tuple(self, count: int | None) -> None:
        items = self.pop_marked() if count is None else [self.pop() for _ in range(count)][::-1]
        self._stack.append(tuple(items))

    def append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):  # the hash of a nested tuple may take forever
                raise PickleError(f"a dict has a key of type {type(key).__name__}, allowed: str and int")
            target[key] = value

    def push_name(self, name: _Name) -> None:
        if name not in _ALLOWED:
            raise PickleError(f"names {'.'.join(name)!r}, which weights are not made of; nothing was run")
        self._stack.append(name)

    def push_stack_name(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise PickleError("names something that is no name")
        self.push_name(_Name(module, name))

    def push_storage(self, _: Any) -> None:
        """("storage", class, key, device, elements)"""
        kind, storage, key, _device, elements = _tuple(self.pop())
        if kind != "storage" or not isinstance(storage, _Name) or not isinstance(key, str) or not _is_size(elements):
            raise PickleError("refers to something that is no storage")
        self._stack.append(Storage(*STORAGES[storage.name], key, elements))

    def reduce(self, _: Any) -> None:
        arguments, name = self.pop(), self.pop()
        if not isinstance(name, _Name) or name not in _RECORDS:
            raise PickleError("calls something that is no function; nothing was run")
        self._stack.append(_RECORDS[name](*_tuple(arguments)))

    def build(self, _: Any) -> None:
        """The attributes of an OrderedDict, on which no weight depends: dropped."""
        self.pop()
        self._top(dict)

    def remember(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def recall(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _top(self, kind: type[Any]) -> Any:
        top = self._stack[-1]
        if type(top) is not kind:
            raise PickleError(f"changes a {type(top).__name__} as if it were a {kind.__name__}; nothing was run")
        return top


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST_INTEGER


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and not -MOST_INTEGER <= value < MOST_INTEGER:
        raise PickleError("has a number of more than 64 bits")
    return value


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}

_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip

_EFFECTS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, version: None,
    "FRAME": lambda machine, length: None,
    "MARK": _Machine.mark,
    "EMPTY_DICT": lambda machine, _: machine.push_empty(dict),
    "EMPTY_LIST": lambda machine, _: machine.push_empty(list),
    "TUPLE": lambda machine, _: machine.push_tuple(None),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_marked()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_marked()),
    "GLOBAL": _Machine.push_name,
    "STACK_GLOBAL": _Machine.push_stack_name,
    "BINPERSID": _Machine.push_storage,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
}

_KNOWN = _CONSTANTS.keys() | _LITERALS | _EFFECTS.keys()
_INSTRUCTIONS = {instruction.code.encode("latin-1"): instruction for instruction in pickletools.opcodes}
