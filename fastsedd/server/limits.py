"""Bounds on what a server takes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """max_queue : requests that wait; max_batch : texts denoised together, at most as many as memory allows

    timeout : seconds that a request may take, waiting included
    max_steps, max_samples : of a request; max_body : bytes of it
    """

    max_queue: int = 64
    max_batch: int = 16
    timeout: float = 120.0
    max_steps: int = 1024
    max_samples: int = 16
    max_body: int = 1 << 20
