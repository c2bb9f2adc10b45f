"""The shapes that are measured: one table for the suites, the report and `fastsedd bench`'s readers."""

from __future__ import annotations

from typing import NamedTuple


class Product(NamedTuple):
    """[m, k] times [k, n]."""

    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        return 2 * self.m * self.k * self.n

    def __str__(self) -> str:
        return f"{self.m}x{self.k}x{self.n}"


# inputs x outputs of a block's linear layers
LAYERS = {
    "annotated": [(384, 1152), (384, 384), (384, 1536), (1536, 384)],
    "SEDD small": [(768, 2304), (768, 768), (768, 3072), (3072, 768)],
    "SEDD medium": [(1024, 3072), (1024, 1024), (1024, 4096), (4096, 1024)],
}
TOKENS = [64, 256, 1024, 4096, 8192]

LINEAR = [(model, Product(m, k, n)) for model, layers in LAYERS.items() for k, n in layers for m in TOKENS]
LINEAR.append(("SEDD small", Product(1024, 768, 50258)))  # the head

SQUARES = [Product(n, n, n) for n in (512, 1024, 2048, 4096)]
GEMV = [Product(m, 4096, 4096) for m in (1, 2, 4, 8)] + [Product(m, 768, 50258) for m in (1, 8)]
GROUPS = [Product(m, 1024, 3072) for m in (1, 32, 128, 512)]
LAYERS_IN_MEMORY = 64  # of 1,024 inputs and 3,072 outputs, whose weights of four bits take 113 MB
STRASSEN = [
    *(Product(n, n, n) for n in (512, 1024, 1536, 2048, 3072, 4095, 4096, 6144)),
    Product(4097, 3001, 2999),
    Product(4096, 3000, 3000),
    *(Product(4096, k, 4096) for k in (256, 512, 1024, 2048)),
]
STRASSEN_LAYERS = [Product(8192, 1024, 4096), Product(8192, 4096, 4096)]
EPILOGUES = [Product(256, 384, 1536), Product(1024, 768, 3072)]
