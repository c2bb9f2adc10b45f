"""The pickle of a PyTorch file -> dicts, lists, numbers and descriptions of tensors.

A pickle is a program, and `pickle.load` calls whatever it names. This machine calls nothing: it knows the instructions
that torch.save writes, and of the names that they may mention it has a list, each with the record that stands for it
here. Anything else ends the reading before it has an effect, and so does a pickle that asks for much memory.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

from fastsedd.checkpoint import pickle_names
from fastsedd.checkpoint.pickle_names import Name, Other, PickleError, Record, Tensor

__all__ = ["Other", "PickleError", "Record", "Tensor", "loads"]

MAX_INSTRUCTIONS = 1 << 20  # tens of thousands of tensors
MAX_INTEGER = 1 << 64

_STOP = b"."


def loads(pickled: bytes) -> Any:
    """The value that a pickle describes. Raises PickleError, in one line, for what no file of tensors needs."""
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
    for _ in range(MAX_INSTRUCTIONS):
        code = file.read(1)
        if code == _STOP:
            return
        instruction = _INSTRUCTIONS.get(code)
        if instruction is None:
            raise PickleError("ends before its last instruction" if not code else f"has the instruction {code!r}")
        if instruction.name not in _KNOWN:
            raise PickleError(f"has the instruction {instruction.name}, which weights do not need; nothing was run")
        yield instruction.name, _argument(instruction, file)
    raise PickleError(f"has more than {MAX_INSTRUCTIONS} instructions, allowed: at most that")


def _argument(instruction: pickletools.OpcodeInfo, file: BytesIO) -> Any:
    if instruction.name == "GLOBAL":  # which the library joins into one string, escapes resolved
        return Name(_line(file), _line(file))
    return None if instruction.arg is None else instruction.arg.reader(file)


def _line(file: BytesIO) -> str:
    line = file.readline()
    if not line.endswith(b"\n"):
        raise PickleError("ends in a name")
    return line[:-1].decode()


class _Machine:
    """The stack machine that pickles are written for; those of its instructions that call or import make records."""

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

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def push_tuple(self, count: int | None) -> None:
        items = self.pop_marked() if count is None else [self.pop() for _ in range(count)][::-1]
        self._stack.append(tuple(items))

    def append(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is Record:  # of a class derived from list: dropped
            return
        self._top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is Record:  # of a class derived from dict: dropped
            return
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            pickle_names.set_item(target, key, value)

    def add_items(self, _: Any) -> None:
        """The items of a set, which may be of any kind: dropped, not hashed."""
        self.pop_marked()
        if type(self._stack[-1]) is not Record:
            self._top(Other)

    def push_name(self, name: Name) -> None:
        if name not in pickle_names.ALLOWED and not pickle_names.is_inert(name):
            raise PickleError(f"names {'.'.join(name)!r}, which weights are not made of; nothing was run")
        self._stack.append(name)

    def push_stack_name(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise PickleError("names something that is not a name")
        self.push_name(Name(module, name))

    def push_storage(self, _: Any) -> None:
        self._stack.append(pickle_names.storage(self.pop()))

    def reduce(self, _: Any) -> None:
        arguments, name = self.pop(), self.pop()
        self._stack.append(pickle_names.called(name, arguments))

    def new_object(self, with_keywords: bool) -> None:
        """A class without a call of its own, which is for objects of trainers' libraries."""
        for _ in range(1 + with_keywords):
            self.pop()
        self._stack.append(pickle_names.made(self.pop()))

    def build(self, _: Any) -> None:
        """The state of a record; that of an OrderedDict or a NumPy array, on which no weight depends, is dropped."""
        state = self.pop()
        top = self._stack[-1]
        if type(top) is Record:
            top.state = state
        elif type(top) is not Other:
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


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and not -MAX_INTEGER < value < MAX_INTEGER:
        raise PickleError("has a number of more than 64 bits")
    return value


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}

_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip

_EFFECTS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, version: None,
    "FRAME": lambda machine, length: None,
    "MARK": _Machine.mark,
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push(Other("set")),
    "ADDITEMS": _Machine.add_items,
    "FROZENSET": lambda machine, _: machine.push(Other(f"frozenset of {len(machine.pop_marked())}")),
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
    "NEWOBJ": lambda machine, _: machine.new_object(False),
    "NEWOBJ_EX": lambda machine, _: machine.new_object(True),
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
}

_KNOWN = _CONSTANTS.keys() | _LITERALS | _EFFECTS.keys()
_INSTRUCTIONS = {instruction.code.encode("latin-1"): instruction for instruction in pickletools.opcodes}
