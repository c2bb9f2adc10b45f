"""The sampler that a request means for a masked language model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from fastsedd.architectures.base import ModelConfig
from fastsedd.architectures.masked_language import backbone_of
from fastsedd.block_layout import BlockLayout
from fastsedd.diffusion.sampler import FREE
from fastsedd.diffusion.unmasking.sampler import Stopping, UnmaskingSampler
from fastsedd.diffusion.unmasking.settings import PARALLEL, Settings
from fastsedd.request import Request

# Options that only one kind of model has.
OF_NOISE = ("draw", "predictor", "grid")
OF_UNMASKING = (
    "prompt", "system", "messages", "max_new_tokens", "block_length", "order", "order_temperature", "threshold",
    "factor", "entropy_bound", "cfg_scale", "stop", "cache", "shift",
)  # fmt: skip

APPROXIMATE = ("approximate", "approximate-dual")

MAX_SHOWN = 40  # characters of a value in a message


def refuse(request: Request, names: tuple[str, ...], kind: str) -> None:
    """Raise ValueError, naming it, for an option that is not left at its default. kind : of models that have it"""
    defaults = {field.name: field.default for field in fields(Request)}
    for name in names:
        value = getattr(request, name)
        if value != defaults[name]:
            shown = repr(value) if len(repr(value)) <= MAX_SHOWN else "given"
            raise ValueError(f"{name} is {shown}, allowed for {kind} only")


@dataclass(frozen=True)
class UnmaskingProcess:
    """How a model's texts are unmasked: its defaults, where a request leaves them open."""

    config: ModelConfig

    def settings(self, request: Request) -> Settings:
        """Raises ValueError, naming the argument, for settings that are out of range or exclude each other."""
        own = backbone_of(self.config).unmasking
        generation = request.generation(self.config.generation)
        order = own.order if request.order is None else request.order
        parallel = {name: getattr(request, name) for name in PARALLEL}
        # A family's threshold is one for its own order, and gives way to any other rule, to steps and to quotas.
        if not any(value is not None for value in parallel.values()) and request.steps is None and order == own.order:
            parallel["threshold"] = own.threshold
        even = own.quota == "single" and request.steps is not None  # requested steps share the masks evenly
        return Settings(
            steps=generation.steps, order=order, quota="llada" if even else own.quota, of_draws=own.of_draws,
            top_p_within=own.top_p_within,
            temperature=generation.temperature,
            top_k=request.top_k or own.top_k, top_p=own.top_p if request.top_p == 1.0 else request.top_p,
            order_temperature=request.order_temperature or 0.0, cfg_scale=request.cfg_scale, **parallel,
        )  # fmt: skip

    def check(self, request: Request) -> None:
        """Raise ValueError, naming the argument, for what this kind of model does not do, before a text is laid out."""
        refuse(request, OF_NOISE, "models with a noise schedule")
        self.settings(request)
        if request.cache in APPROXIMATE and backbone_of(self.config).block is not None:
            raise ValueError(f"cache is {request.cache!r}, allowed under block-causal attention: 'exact', 'off'")

    def begin(self, given: NDArray[np.int32]) -> int:
        """The first position to be written; the length where there is none."""
        free = np.flatnonzero(given == FREE)
        return int(free[0]) if len(free) else len(given)

    def origin(self, given: NDArray[np.int32]) -> int:
        """The position from which blocks are counted: the end of a prompt, or 0 where text is given behind gaps too."""
        begin = self.begin(given)
        backbone = backbone_of(self.config)
        if (given[begin:] != FREE).any() or (backbone.block is not None and backbone.origin == "start"):
            return 0
        return begin

    def attention(self, given: NDArray[np.int32]) -> BlockLayout | None:
        """The blocks of block-causal attention, None where it is full."""
        backbone = backbone_of(self.config)
        return None if backbone.block is None else BlockLayout(backbone.block, self.origin(given), backbone.context)

    def sampler(
        self, request: Request, given: NDArray[np.int32], stops: Callable[[NDArray[np.int32]], bool]
    ) -> UnmaskingSampler:
        """The sampler of a request that `check` has passed.

        stops : whether one of the texts at which an answer ends is in that of these tokens, int32 [n]

        Raises ValueError where there are too many steps.
        """
        backbone, begin = backbone_of(self.config), self.begin(given)
        ends = np.array(self.ends, np.int32)
        stopping = Stopping(
            begin, lambda tokens: bool(np.isin(tokens, ends).any()) or stops(tokens), self.fill
        ) if len(ends) or request.stop else None  # fmt: skip
        blocks = BlockLayout(request.block_length or backbone.unmasking.block_length or len(given), self.origin(given))
        mask = self.config.mask_id
        assert mask is not None
        sampler = UnmaskingSampler(mask, blocks, self.settings(request), stopping)
        sampler.plan(given)  # which refuses too many steps
        return sampler

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens at which an answer is cut off."""
        backbone = backbone_of(self.config)
        return backbone.ends if backbone.pad is None else tuple(dict.fromkeys((*backbone.ends, backbone.pad)))

    @property
    def fill(self) -> int:
        """The token behind the end of a text."""
        backbone = backbone_of(self.config)
        if backbone.pad is not None:
            return backbone.pad
        return backbone.ends[0] if backbone.ends else 0
