"""Embedding in plain NumPy: the truth for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def embedding(tokens: ArrayLike, table: ArrayLike, positions: ArrayLike | None = None) -> NDArray[Any]:
    """table[tokens] in the table's dtype, plus positions[0:L] where given."""
    rows: NDArray[Any] = np.asarray(table)[np.asarray(tokens)]
    return rows if positions is None else np.asarray(rows + np.asarray(positions)[: rows.shape[-2]])
