"""The sizes of a language model's transformer (Qwen2, Qwen3, Llama), its attention, and how it unmasks by default."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from fastsedd.choices import ORDERS, QUOTAS, Order, Quota
from fastsedd.config import MAX_LENGTH, MAX_WIDTH, check_number, check_one_of, check_range

# Where a block-causal model's blocks are counted from: the first token, or the end of the prompt, which then is
# preceded by a shorter block (dllm pads the prompt on its left to whole blocks, and never looks at the pads).
Origin = Literal["start", "prompt"]


@dataclass(frozen=True)
class Unmasking:
    """How a family unmasks unless a request says otherwise: its authors' defaults.

    max_new_tokens : of an answer; block_length : of the blocks that it is written in, left to right, None: all at once
    order, quota, threshold, of_draws : see `fastsedd.diffusion.unmasking`
    top_k : 0 for all; top_p : 1 for all; top_p_within : see `fastsedd.diffusion.unmasking.settings`
    """

    max_new_tokens: int = 128
    block_length: int | None = 32
    order: Order = "confidence"
    quota: Quota = "dllm"
    threshold: float | None = None
    of_draws: bool = False
    top_k: int = 0
    top_p: float = 1.0
    top_p_within: bool = False

    def __post_init__(self) -> None:
        check_range("max_new_tokens", self.max_new_tokens, 1, MAX_LENGTH)
        if self.block_length is not None:
            check_range("block_length", self.block_length, 1, MAX_LENGTH)
        check_one_of("order", self.order, ORDERS)
        check_one_of("quota", self.quota, QUOTAS)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """The facts of a masked language model that `ModelConfig` does not hold for others too.

    kv_heads : heads of keys and values, a divisor of the heads of queries; head_dim : width of a head, even
    hidden : width of the MLP; eps : of the RMS norms
    theta, scaling : of the rotary positions, as `rope_theta` and `rope_scaling` state them
    tied : whether the head is the embedding; qkv_bias, output_bias : of attention's projections
    head_norms : whether queries and keys are normed per head (Qwen3)
    modulated : whether an embedding of the noise, of which there is none, shifts, scales and gates (adaLN)
    block : length of a block that attends to itself and to all before it; None: every position attends to all
    context : positions that a block sees at most, its own included, in texts of any length; None: all that are before
        it, in texts of the model's length at most
    origin : where blocks are counted from; shift : whether the logits at position i - 1 predict token i
    start : id that stands before every text, and is not part of it; None if there is none
    ends : ids at which an answer ends; pad : id that fills a text beyond its end, None if there is none
    unmasking : the family's defaults
    Raises ValueError, naming the field, its value and what is allowed.
    """

    kv_heads: int
    head_dim: int
    hidden: int
    eps: float
    theta: float
    scaling: tuple[tuple[str, float | str], ...] = ()
    tied: bool
    qkv_bias: bool = False
    output_bias: bool = False
    head_norms: bool = False
    modulated: bool = False
    block: int | None = None
    context: int | None = None
    origin: Origin = "start"
    shift: bool = False
    start: int | None = None
    ends: tuple[int, ...] = ()
    pad: int | None = None
    unmasking: Unmasking = field(default_factory=Unmasking)

    def __post_init__(self) -> None:
        check_range("num_key_value_heads", self.kv_heads, 1, MAX_WIDTH)
        check_range("head_dim", self.head_dim, 2, MAX_WIDTH)
        check_range("intermediate_size", self.hidden, 1, 16 * MAX_WIDTH)
        for name, value in (("rms_norm_eps", self.eps), ("rope_theta", self.theta)):
            check_number(name, value)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}, allowed: above 0, finite")
        if self.block is not None:
            check_range("block_size", self.block, 1, MAX_LENGTH)

    def check(self, heads: int, vocab_size: int) -> None:
        """Raise ValueError for sizes that do not go with the heads of queries and the vocabulary."""
        if heads % self.kv_heads:
            raise ValueError(f"num_key_value_heads is {self.kv_heads}, allowed: divisors of the {heads} heads")
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}, allowed: even")
        for token in (*self.ends, *(each for each in (self.pad, self.start) if each is not None)):
            check_range("eos_token_id or pad_token_id", token, 0, vocab_size - 1)
