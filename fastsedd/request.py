"""A request for texts: frozen, checked once where it is built, the same for Python, the command line and workers."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Union

from fastsedd.choices import (
    CACHES,
    GRIDS,
    AnyDtype,
    Cache,
    Draw,
    Grid,
    Order,
    Predictor,
    check_integer,
    check_one_of,
    check_seed,
    is_integer,
)
from fastsedd.config import MAX_LENGTH, MAX_STEPS, FittedTimes, GenerationConfig
from fastsedd.diffusion.choice import Choice
from fastsedd.diffusion.unmasking.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import Unpack

Fixed = Union[Mapping[int, int], "ArrayLike"]
Messages = Sequence[Mapping[str, str]]  # of a conversation: {"role": ..., "content": ...}
OnStep = Callable[[int, int, "NDArray[np.int32]"], None]

MAX_SAMPLES = 1 << 28  # a sample index has 28 bits of a random stream's number


@dataclass(frozen=True)
class Source:
    """The origin of a model: the arguments of `fastsedd.load`. It can be pickled."""

    path: str | None = None
    dtype: AnyDtype | None = None
    revision: str | None = None
    offline: bool = False
    tokenizer: str | None = None
    heads: int | None = None


@dataclass(frozen=True)
class FixedTokens:
    """Tokens that stand at some positions of a text.

    pairs : (position, token), by position
    length : of the array that they were given as, which must be the text's; None for a mapping
    """

    pairs: tuple[tuple[int, int], ...]
    length: int | None = None

    @classmethod
    def of(cls, fixed: Fixed) -> FixedTokens:
        """From {position: token}, or integers [L], -1 where free. Raises ValueError for anything else."""
        import numpy as np

        if isinstance(fixed, Mapping):
            for number in (*fixed.keys(), *fixed.values()):
                if not is_integer(number):
                    raise ValueError(f"fixed holds {number!r}, allowed: integers, {{position: token}}")
            return cls(tuple(sorted((int(position), int(token)) for position, token in fixed.items())))
        row = np.asarray(fixed)
        if row.dtype.kind not in "iu" or row.ndim != 1:
            raise ValueError(f"fixed is {row.dtype} {row.shape}, must be integers, one for each position")
        return cls(tuple((at, int(token)) for at, token in enumerate(row) if token != -1), len(row))


class Options(TypedDict, total=False):
    """The arguments of `Model.generate` and `Model.stream` after prefix and suffix; None stands for the default."""

    num_samples: int
    batch_size: int | None
    length: int | None
    steps: int | None
    seed: int | None
    temperature: float | None
    draw: Draw
    template: str | None
    fixed: Fixed | None
    predictor: Predictor | None
    top_k: int
    top_p: float
    grid: Grid | FittedTimes
    indices: Sequence[int] | None
    prompt: str | None
    system: str | None
    messages: Messages | None
    max_new_tokens: int | None
    block_length: int | None
    order: Order | None
    order_temperature: float | None
    threshold: float | None
    factor: float | None
    entropy_bound: float | None
    cfg_scale: float
    stop: str | Sequence[str]
    cache: Cache
    shift: bool | None


class AllOptions(Options, total=False):
    """`Options`, and the texts around them."""

    prefix: str
    suffix: str


@dataclass(frozen=True)
class Request:
    """Texts to write; it can be pickled and compared. What depends on the model is checked by the model.

    prefix, suffix : text that every sample begins and ends with, exactly
    num_samples : how many texts, 1 to 2^28
    batch_size : samples denoised together, chosen by memory and speed if None; the texts do not depend on it
    length : tokens per text, at most the model's, which is the default
    steps, temperature : the checkpoint's own if None; one denoising step follows the `steps`
    seed : 0 to 2^64 - 1; it decides the texts, on any number of threads
    draw : "exact", or "official", the published code's arithmetic
    template : instead of prefix and suffix, text with gaps: "{{40}}" is one of 40 tokens, "{{}}" one of all that are
        left; without the latter the template decides the length. See `fastsedd.text.template`.
    fixed : tokens at any other positions
    predictor : "analytic" (the default), "euler" (not of UDLM and Duo), or "ddpm", whose last step takes the likeliest
        token (MDLM, RADD, UDLM and Duo only; MDLM's default). For MDLM and RADD the network is skipped on steps where
        no token changes, whichever predictor is chosen.
    top_k, top_p : keep only the k likeliest of the tokens that a position may jump to, or the smallest set of them
        whose probabilities sum to p; 0 and 1.0 keep all. They and the official draw need whole rows of probabilities,
        which takes longer.
    grid : spacing of the steps in noise: "uniform" in time, as in the article, "log-sigma", equal in the logarithm of
        the noise, "fitted", to this model, or the result of `fit_grid`
    indices : which of the samples 0 to num_samples - 1 to write, in this order; all of them if None

    Of masked language models alone, whose defaults are their authors' (`fastsedd.architectures.masked_language`):
    prompt, system : a question and how to answer it, through the chat template of the tokenizer; without one, the text
        that is continued. The sample's text is the answer.
    messages : a conversation instead, of roles and contents
    max_new_tokens : of an answer, or between prefix and suffix; steps are as many unless they are given
    block_length, order, order_temperature, threshold, factor, entropy_bound, cfg_scale : see
        `fastsedd.diffusion.unmasking.settings.Settings`. temperature may be 0, which takes the likeliest tokens.
    stop : texts before which an answer ends
    cache : "exact" keeps the keys and values of finished blocks under block-causal attention, "off" does not; the texts
        are the same. Under full attention, where nothing is kept by either, "approximate" keeps those before a block as
        its first step has them, "approximate-dual" those behind it too: Fast-dLLM's caches. The texts differ.
    shift : logits at position i - 1 are those of token i; the family's own if None
    Raises ValueError, naming the argument, its value and what is allowed.
    """

    prefix: str = ""
    suffix: str = ""
    num_samples: int = 1
    batch_size: int | None = None
    length: int | None = None
    steps: int | None = None
    seed: int = field(default_factory=lambda: secrets.randbits(32))
    temperature: float | None = None
    draw: Draw = "exact"
    template: str | None = None
    fixed: FixedTokens | None = None
    predictor: Predictor | None = None
    top_k: int = 0
    top_p: float = 1.0
    grid: Grid | FittedTimes = "uniform"
    indices: tuple[int, ...] | None = None
    prompt: str | None = None
    system: str | None = None
    messages: tuple[tuple[str, str], ...] | None = None
    max_new_tokens: int | None = None
    block_length: int | None = None
    order: Order | None = None
    order_temperature: float | None = None
    threshold: float | None = None
    factor: float | None = None
    entropy_bound: float | None = None
    cfg_scale: float = 0.0
    stop: tuple[str, ...] = ()
    cache: Cache = "exact"
    shift: bool | None = None

    def __post_init__(self) -> None:
        self._check_texts()
        self._check_unmasking()
        check_integer("num_samples", self.num_samples, 1, MAX_SAMPLES)
        if self.batch_size is not None:
            check_batch_size(self.batch_size)
        if self.steps is not None:
            check_integer("steps", self.steps, 1, MAX_STEPS)
        check_seed(self.seed)
        self.choice("analytic", 1.0, self.temperature or 1.0)  # which checks the settings of a step
        if not isinstance(self.grid, FittedTimes):
            check_one_of("grid", self.grid, GRIDS)
        for index in self.indices or ():
            if not is_integer(index) or not 0 <= index < self.num_samples:
                raise ValueError(f"indices holds {index}, allowed: 0 to {self.num_samples - 1}, below num_samples")

    def _check_texts(self) -> None:
        for name in ("prefix", "suffix", "template", "prompt", "system"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (name not in ("prefix", "suffix") and value is None):
                raise ValueError(f"{name} is {value!r}, allowed: text")
        if self.template is not None and (self.prefix or self.suffix):
            raise ValueError("template is given with a prefix or a suffix, allowed: the one or the others")
        asked = [name for name in ("prompt", "messages") if getattr(self, name) is not None]
        others = [name for name in ("prefix", "suffix", "template") if getattr(self, name)]
        if len(asked) > 1 or (asked and (others or self.fixed is not None or self.length is not None)):
            given = " and ".join([*asked, *others])
            raise ValueError(f"{given} is given with more: allowed: prompt, or messages, by themselves")
        if self.system is not None and self.prompt is None:
            raise ValueError("system is given without a prompt, allowed: with one; in messages it is a role")

    def _check_unmasking(self) -> None:
        for name in ("max_new_tokens", "block_length"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1, MAX_LENGTH)
        if self.max_new_tokens is not None and (self.template is not None or self.length is not None):
            raise ValueError("max_new_tokens is given with a template or a length, allowed: one of them")
        Settings(  # which checks them
            steps=1, order="confidence" if self.order is None else self.order,
            order_temperature=self.order_temperature or 0.0, threshold=self.threshold, factor=self.factor,
            entropy_bound=self.entropy_bound, cfg_scale=self.cfg_scale,
        )  # fmt: skip
        check_one_of("cache", self.cache, CACHES)
        if self.shift not in (None, True, False):
            raise ValueError(f"shift is {self.shift!r}, allowed: True, False")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stop holds {self.stop!r}, allowed: texts that are not empty")

    @classmethod
    def of(cls, **options: Unpack[AllOptions]) -> Request:
        """A request from the arguments of `Model.generate`: any sequence of indices, any form of fixed tokens."""
        given = {name: _plain(value) for name, value in options.items() if value is not None}
        if "fixed" in given:
            given["fixed"] = FixedTokens.of(given["fixed"])
        if "indices" in given:
            given["indices"] = tuple(map(_plain, given["indices"]))
        if "messages" in given:
            given["messages"] = _conversation(given["messages"])
        if "stop" in given:
            given["stop"] = (given["stop"],) if isinstance(given["stop"], str) else tuple(given["stop"])
        return cls(**given)

    @property
    def wanted(self) -> Sequence[int]:
        """Indices of the samples to write, in order."""
        return range(self.num_samples) if self.indices is None else self.indices

    def generation(self, own: GenerationConfig) -> GenerationConfig:
        """Steps and temperature; own : the checkpoint's, where the request leaves them open.

        Without steps, an answer of a stated number of tokens has as many steps.
        """
        steps = own.steps if self.max_new_tokens is None else self.max_new_tokens
        return GenerationConfig(
            steps if self.steps is None else self.steps,
            own.temperature if self.temperature is None else self.temperature,
        )

    def choice(self, predictor: Predictor, temperature: float, requested: float | None = None) -> Choice:
        """The settings of a step; predictor, temperature : the model's own, where the request leaves them open.

        requested : the temperature to use instead of the request's
        """
        requested = self.temperature if requested is None else requested
        return Choice(
            predictor if self.predictor is None else self.predictor,
            self.draw,
            temperature if requested is None else requested,
            self.top_k,
            self.top_p,
        )


def _conversation(messages: Any) -> tuple[tuple[str, str], ...]:
    """Roles and contents. Raises ValueError for anything but mappings of the two."""
    found = []
    for message in messages if isinstance(messages, Sequence) and not isinstance(messages, str) else [messages]:
        pair = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else message
        pair = tuple(pair) if isinstance(pair, (tuple, list)) else ()
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(f'messages holds {message!r}, allowed: {{"role": text, "content": text}}')
        found.append((pair[0], pair[1]))
    if not found:
        raise ValueError("messages is empty, allowed: one message or more")
    return tuple(found)


def check_batch_size(batch_size: int) -> None:
    """Raise ValueError for a batch without samples."""
    if not is_integer(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}, allowed: 1 or more")


_Function = TypeVar("_Function", bound=Callable[..., Any])


def shows_options(function: _Function) -> _Function:
    """Let `help` and editors see the options of a function of `**options` one by one, with their defaults."""
    own = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    names = {parameter.name for parameter in own}
    options = [
        parameter.replace(
            kind=inspect.Parameter.KEYWORD_ONLY,
            annotation=getattr(Options.__annotations__.get(name), "__forward_arg__", parameter.annotation),
            default=None if name == "seed" else parameter.default,
        )
        for name, parameter in inspect.signature(Request).parameters.items()
        if name not in names
    ]
    function.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    return function


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's: a request is printed as JSON, pickled and compared."""
    if is_integer(value):
        return int(value)
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else value
