"""The dtype of each part of a network, for the one that a user names."""

from __future__ import annotations

from dataclasses import dataclass

import fastsedd_kernels as fk

from fastsedd.choices import ANY_DTYPES, STORED, check_one_of


@dataclass(frozen=True)
class Precision:
    """The dtypes of a network by part: the linear layers of its blocks, the products of attention, the head.

    "stored" keeps each weight in the type of its file, of which most are in groups; attention is that of bfloat16 then.
    The noise embedding, the adaLN layers and norms are float32 always: they are cheap, and scale all the rest.
    Raises ValueError for a dtype that is not one of `choices.ANY_DTYPES`.
    """

    blocks: str = "float32"

    def __post_init__(self) -> None:
        check_one_of("dtype", self.blocks, ANY_DTYPES)

    @property
    def attention(self) -> str:
        return "float32" if self.blocks == "float32" else "bfloat16"

    def facts(self) -> list[tuple[str, str]]:
        """The parts and their dtypes, for people to read."""
        return [
            ("linear layers", f"{self.blocks}, multiplied by {_unit(self.blocks)}"),
            ("attention", self.attention),
            ("head", self.head),
            ("norms and noise", "float32"),
        ]

    @property
    def head(self) -> str:
        """The head's dtype: bfloat16 for int8 and int4, since its errors are errors of the scores themselves."""
        return STORED if self.blocks == STORED else self.attention


def _unit(dtype: str) -> str:
    cpu = fk.cpu_info()
    return {"bfloat16": cpu.bfloat16, "int8": cpu.int8, "int4": cpu.int8, STORED: cpu.int8}.get(dtype, cpu.isa)
