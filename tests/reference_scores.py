"""Log scores of any model in float64 NumPy, from the networks' references and the parametrisation's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastsedd import scoring
from fastsedd.architectures.base import ModelConfig
from fastsedd.diffusion import reference as parametrisation
from fastsedd.models import reference as networks


def log_score(config: ModelConfig, tensors: Mapping[str, np.ndarray], tokens: Any, sigma: Any) -> np.ndarray:
    """tokens [B, L], sigma [B] to log scores float64 [B, L, V]."""
    logits = networks.logits(config, tensors, tokens, sigma)
    return parametrisation.log_scores(scoring.parametrisation(config), logits, tokens, sigma)
