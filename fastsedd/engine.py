"""One request, of texts or of a likelihood: checked, cut into batches, run, and put into words."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import fastsedd_kernels
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd import checkpoint, models, text
from fastsedd.batching import BatchSize
from fastsedd.config import MOST_STEPS, FittedTimes, ModelConfig
from fastsedd.diffusion import gridfit, likelihood
from fastsedd.diffusion.graph import Absorb, Graph, Uniform
from fastsedd.diffusion.noise import Geometric, LogLinear, Noise
from fastsedd.diffusion.sampler import FREE, INDEX_BITS, Choice, check_request, sample
from fastsedd.diffusion.timegrid import TimeGrid, fitted_grid, log_sigma_grid, uniform_grid
from fastsedd.errors import UnavailableError
from fastsedd.models import DTYPES, Forward, Network
from fastsedd.text import template as templates

SHIPPED = Path(__file__).parent / "assets"

Dtype = Literal["float32", "bfloat16", "int8"]
Predictor = Literal["analytic", "euler", "ddpm"]
Fixed = Mapping[int, int] | ArrayLike
Grid = Literal["uniform", "log-sigma", "fitted"]
OnStep = Callable[[int, int, NDArray[np.int32]], None]

MOST_SAMPLES = 1 << INDEX_BITS

# A batch's scratch memory aims at this much: beyond it larger products are no faster.
_BATCH_BYTES = 64 << 20


@dataclass(frozen=True)
class Sample:
    """One generated text. tokens : int32 [L]; index : its number in the request; seconds : its share of its batch."""

    text: str
    tokens: NDArray[np.int32]
    seed: int
    index: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """All samples of a request, in order. tokens : int32 [B, L]."""

    texts: list[str]
    tokens: NDArray[np.int32]
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """A bound on a text's -log p, in nats a token, with standard errors over windows: None where there is only one.

    by_window : float64 [windows], whose mean is `nats`
    ends : share of `nats` that the noise outside the schedule adds, which the published code leaves out
    tokens, left_out : how many the windows hold, and how many a rest too short for one
    times : at how many times each window was noised
    """

    by_window: NDArray[np.float64]
    ends: float
    tokens: int
    left_out: int
    times: int
    seed: int

    @property
    def windows(self) -> int:
        return len(self.by_window)

    @property
    def nats(self) -> float:
        return float(self.by_window.mean())

    @property
    def nats_error(self) -> float | None:
        return float(self.by_window.std(ddof=1)) / math.sqrt(self.windows) if self.windows > 1 else None

    @property
    def bits(self) -> float:
        return self.nats / math.log(2.0)

    @property
    def bits_error(self) -> float | None:
        return None if self.nats_error is None else self.nats_error / math.log(2.0)

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.nats))

    @property
    def perplexity_error(self) -> float | None:
        return None if self.nats_error is None else self.perplexity * self.nats_error


class Model:
    """A loaded checkpoint: its results depend on arguments alone, and threads may share it."""

    def __init__(self, read: checkpoint.Checkpoint, name: str, dtype: str, tokenizer: text.Tokenizer) -> None:
        self.name = name
        self.dtype = dtype
        self.config: ModelConfig = read.config
        self.stored_dtype = read.stored_dtype
        self.parameters = read.config.parameters
        self.tokenizer = tokenizer
        self._network: Network = models.build(read.config, read.tensors, dtype)
        self.precision: list[tuple[str, str]] = models.Precision(dtype).facts()
        self._graph = _graph(read.config)
        self._noise = _noise(read.config)
        self.path = read.path  # of the weights' file
        self.assumed = read.assumed  # what the checkpoint does not say, one line
        self.fitted: FittedTimes | None = read.grid
        self._idle: dict[tuple[int, ...], Forward] = {}  # the last small one of `log_score`, for the same shape

    def log_score(self, tokens: ArrayLike, sigma: ArrayLike) -> NDArray[np.float32]:
        """Log of p(y) / p(x) for each position's every token y.

        tokens : integers [B, L], 0 to vocab_size - 1, L at most config.length; sigma : total noise, float [B], > 0
        Returns float32 [B, L, V]; the current token's entry is 0. Raises ValueError for anything else.
        """
        given = np.asarray(tokens)
        if given.dtype.kind not in "iu" or given.ndim != 2 or given.size == 0:
            raise ValueError(f"tokens is {given.dtype} {given.shape}, must be integers [B, L]")
        self._check_length("tokens", given.shape[1])
        if given.min() < 0 or given.max() >= self.config.vocab_size:
            raise ValueError(f"tokens has values outside 0 to {self.config.vocab_size - 1}")
        noise = np.asarray(sigma, np.float64)
        if noise.shape != given.shape[:1] or not (np.isfinite(noise) & (noise > 0)).all():
            raise ValueError(f"sigma has shape {noise.shape}, must be {given.shape[:1]}, finite and above 0")
        distinct = noise[:1] if (noise == noise[0]).all() else noise  # samples that share it are conditioned once
        shape = (*given.shape, len(distinct))
        forward = self._idle.pop(shape, None) or Forward(self._network, *shape)
        log_score = forward(given, distinct)
        if forward.nbytes > _BATCH_BYTES:
            return log_score
        self._idle.clear()
        self._idle[shape] = forward
        return log_score.copy()

    def profile(self) -> dict[str, float]:
        """Seconds that each kernel takes in one forward of one text, by its name."""
        forward = Forward(self._network, 1, self.config.length)
        return forward.profile(np.zeros((1, self.config.length), np.int32), [1.0])

    def generate(self, prefix: str = "", suffix: str = "", **options: Any) -> Result:
        """Write texts, all at once; see `stream` for the arguments."""
        samples = list(self.stream(prefix, suffix, **options))
        tokens = np.stack([each.tokens for each in samples])
        return Result([each.text for each in samples], tokens, samples[0].seed)

    def stream(
        self,
        prefix: str = "",
        suffix: str = "",
        num_samples: int = 1,
        batch_size: int | None = None,
        length: int | None = None,
        steps: int | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        draw: Literal["exact", "official"] = "exact",
        on_step: OnStep | None = None,
        template: str | None = None,
        fixed: Fixed | None = None,
        predictor: Predictor | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        grid: Grid | FittedTimes = "uniform",
        *,
        indices: Sequence[int] | None = None,
    ) -> Iterator[Sample]:
        """The texts of a request, each as soon as its batch is done.

        prefix, suffix : text that every sample begins and ends with, exactly
        batch_size : samples denoised together, chosen by memory and speed if None; the texts do not depend on it
        length : tokens a text, at most config.length, which is the default
        steps, temperature : the checkpoint's own if None; one denoising step follows the `steps`
        seed : 0 to 2**64 - 1, drawn from the system if None; it decides the texts, on any number of threads
        draw : "exact", or "official", the published code's arithmetic
        on_step(step, steps, tokens) : sees the state, int32 [B, L], after every step
        template : instead of prefix and suffix, text with gaps: "{{40}}" is one of 40 tokens, "{{}}" one of all that
            are left; without the latter the template decides the length. See `fastsedd.text.template`.
        fixed : tokens at any other positions, exactly: {position: token}, or integers [length], -1 where free
        predictor : "analytic" (the default), "euler", or "ddpm", for mdlm and radd only, of mdlm the default: what it
            reuses of a prediction while nothing changes is reused under any name
        top_k, top_p : of the tokens that a position may jump to, take only so many of the likeliest, or the smallest
            set of them with that share of the probability; 0 and 1.0 take all. They and the official draw see whole
            rows of probabilities, which takes longer.
        grid : how the noise is shared out among the steps: "uniform" in time, as in the article, "log-sigma", equal in
            the logarithm of the noise, "fitted", to this model, or what `fit_grid` returned
        indices : which of the samples 0 to num_samples - 1 to write, in this order; all of them if None
        Raises ValueError at once, before any text, naming the argument, its value and what is allowed.
        """
        given = self._given(prefix, suffix, template, fixed, length)
        steps = self.config.generation.steps if steps is None else steps
        if not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"steps is {steps}, allowed: 1 to {MOST_STEPS}")
        time_grid = self._time_grid(grid, steps)
        if not 1 <= num_samples <= MOST_SAMPLES:
            raise ValueError(f"num_samples is {num_samples}, allowed: 1 to {MOST_SAMPLES}")
        wanted = range(num_samples) if indices is None else indices
        _check_indices(wanted, num_samples)
        size = BatchSize(self._checked_batch_size(batch_size, len(given)), measured=batch_size is None)
        temperature = self.config.generation.temperature if temperature is None else temperature
        choice = Choice(self._checked_predictor(predictor), draw, temperature, top_k, top_p)
        seed = secrets.randbits(32) if seed is None else seed
        check_request(time_grid, len(given), seed)

        def run() -> Iterator[Sample]:
            forward: Forward | None = None
            done = 0
            while done < len(wanted):
                batch = wanted[done : done + size.next(len(wanted) - done)]
                done += len(batch)
                if forward is None or len(forward.scratch.tokens) != len(batch):
                    forward = Forward(self._network, len(batch), len(given))
                started = time.perf_counter()
                ended: list[float] = []
                tokens = sample(
                    forward, self._graph, time_grid, indices=batch, length=len(given), seed=seed, fixed=given,
                    choice=choice, on_step=_timing(ended, on_step),
                )  # fmt: skip
                size.note(len(batch), ended)
                seconds = (time.perf_counter() - started) / len(batch)
                for index, row in zip(batch, tokens, strict=True):
                    yield Sample(self.tokenizer.decode(row), row, seed, index, steps, seconds)

        return run()

    def evaluate(
        self,
        text: str,
        times: int = 8,
        batch_size: int | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """Bound the text's -log p by its diffusion weighted denoising score entropy (Lou et al. 2024, theorem 3.6).

        text : cut into windows of config.length tokens, side by side, each of them a text to the model. A shorter rest
            at the end is left out; a text that is shorter than a window is one shorter window.
        times : at how many times each window is noised, 1 to 65536; a network run each
        batch_size : noised windows run together, chosen by memory if None; the result does not depend on it
        seed : 0 to 2**64 - 1; it decides times and noise, for any dtype: two dtypes may be compared window by window
        progress(done, total) : called after each batch, of all noised windows
        Raises ValueError, naming the argument, its value and what is allowed.
        """
        tokens = self._encode("text", text)
        if len(tokens) == 0:
            raise ValueError("text has no tokens, allowed: 1 or more")
        length = min(len(tokens), self.config.length)
        size = self._checked_batch_size(batch_size, length, self.config.vocab_size)
        windows = tokens[: len(tokens) // length * length].reshape(-1, length)
        forward: Forward | None = None

        def log_score(noisy: NDArray[np.int32], sigma: NDArray[np.float64]) -> NDArray[np.float32]:
            nonlocal forward
            if forward is None or len(forward.scratch.tokens) != len(noisy):
                forward = Forward(self._network, len(noisy), length, len(sigma))
            return forward(noisy, sigma)

        by_window = likelihood.bound(
            log_score, self._graph, self._noise, windows,
            times=times, seed=seed, batch_size=size, progress=progress,
        )  # fmt: skip
        ends = likelihood.ends(self._graph, self._noise)
        return Evaluation(by_window, ends, windows.size, len(tokens) - windows.size, times, seed)

    def fit_grid(
        self,
        num_texts: int = 64,
        nodes: int = 64,
        batch_size: int | None = None,
        seed: int = 0,
        temperature: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> FittedTimes:
        """Fit a time grid, for any number of steps, to this model and texts of its own; see `gridfit.fit_times`.

        num_texts : texts to write, with the checkpoint's own steps, and to measure with, 1 or more
        nodes : times at which each text is noised, 2 to 1024; a network run each
        batch_size : texts run together, chosen by memory if None
        seed : 0 to 2**64 - 1; it decides texts and noise
        temperature : what the grid is to be used with; the checkpoint's own if None
        progress(done, total) : called after each batch, of all network runs of a text
        Raises ValueError, naming the argument, its value and what is allowed.
        """
        size = self._checked_batch_size(batch_size, self.config.length, self.config.vocab_size)
        temperature = self.config.generation.temperature if temperature is None else temperature
        gridfit.check_nodes(nodes)
        if not 1 <= num_texts <= MOST_SAMPLES:
            raise ValueError(f"num_texts is {num_texts}, allowed: 1 to {MOST_SAMPLES}")
        runs = self.config.generation.steps + 1
        done = 0

        def count(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
            nonlocal done
            done += len(tokens)
            if progress is not None:
                progress(done, num_texts * (runs + nodes))

        written = self.generate(
            num_samples=num_texts, batch_size=size, seed=seed, temperature=temperature, on_step=count
        )  # fmt: skip
        forward: Forward | None = None

        def log_score(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
            nonlocal forward
            if forward is None or len(forward.scratch.tokens) != len(tokens):
                forward = Forward(self._network, *tokens.shape)
            count(0, 0, tokens)
            return forward(tokens, sigma)

        times = gridfit.fit_times(
            log_score, self._graph, self._noise, written.tokens,
            nodes=nodes, seed=seed, batch_size=size, temperature=temperature,
        )  # fmt: skip
        return FittedTimes(tuple(times.tolist()))

    def _time_grid(self, grid: Grid | FittedTimes, steps: int) -> TimeGrid:
        if isinstance(grid, FittedTimes):
            return fitted_grid(self._noise, steps, grid.times)
        if grid == "fitted":
            if self.fitted is None:
                raise ValueError("grid is 'fitted', and none was fitted to this model: fastsedd fit-grid does")
            return fitted_grid(self._noise, steps, self.fitted.times)
        if grid not in ("uniform", "log-sigma"):
            raise ValueError(f"grid is {grid!r}, allowed: 'uniform', 'log-sigma', 'fitted'")
        return (uniform_grid if grid == "uniform" else log_sigma_grid)(self._noise, steps)

    def _checked_predictor(self, predictor: str | None) -> str:
        normalised = self.config.normalised
        if predictor is None:
            return "ddpm" if self.config.architecture == "mdlm" else "analytic"
        if predictor == "ddpm" and not normalised:
            raise ValueError("predictor is 'ddpm', allowed for this model: 'analytic', 'euler'")
        return predictor

    def _checked_batch_size(self, batch_size: int | None, length: int, scores: int = 0) -> int:
        """How many texts of this length are run together; scores : log scores kept of each position."""
        if batch_size is None:
            bytes_a_sample = 4 * length * (10 * self.config.width + scores)
            return max(1, _BATCH_BYTES // bytes_a_sample)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, allowed: 1 or more")
        return batch_size

    def _given(
        self, prefix: str, suffix: str, template: str | None, fixed: Fixed | None, length: int | None
    ) -> NDArray[np.int32]:
        """The given tokens of a text, FREE where it is to be written: int32 [L]."""
        if length is not None:
            self._check_length("length", length)
        if template is None:
            given = self._between(prefix, suffix, self.config.length if length is None else length)
        elif prefix or suffix:
            raise ValueError("template is given with a prefix or a suffix, allowed: the one or the others")
        else:
            given = templates.lay_out(
                template, lambda part: self._encode("template", part), length, self.config.length, FREE
            )  # fmt: skip
        return given if fixed is None else _with_fixed(given, fixed, self.config.tokens)

    def _between(self, prefix: str, suffix: str, length: int) -> NDArray[np.int32]:
        begin, end = self._encode("prefix", prefix), self._encode("suffix", suffix)
        if len(begin) + len(end) > length:
            raise ValueError(
                f"prefix and suffix have {len(begin)} and {len(end)} tokens, allowed: {length} together, the length"
            )
        given = np.full(length, FREE, np.int32)
        given[: len(begin)] = begin
        given[length - len(end) :] = end
        return given

    def _encode(self, name: str, given: str) -> NDArray[np.int32]:
        try:
            return self.tokenizer.encode(given)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def _check_length(self, name: str, length: int) -> None:
        if not 1 <= length <= self.config.length:
            raise ValueError(f"{name}: {length} positions, allowed: 1 to {self.config.length}")


def _with_fixed(given: NDArray[np.int32], fixed: Fixed, tokens: int) -> NDArray[np.int32]:
    """Given tokens, with more of them; where both say something they must agree."""
    if isinstance(fixed, Mapping):
        outside = [position for position in fixed if not 0 <= position < len(given)]
        if outside:
            raise ValueError(f"fixed has position {outside[0]}, allowed: 0 to {len(given) - 1}")
        more = np.full(len(given), FREE)
        more[list(fixed)] = list(fixed.values())
    else:
        more = np.asarray(fixed)
        if more.dtype.kind not in "iu" or more.shape != given.shape:
            raise ValueError(f"fixed is {more.dtype} {more.shape}, must be integers {given.shape}")
    wrong = more[(more < FREE) | (more >= tokens)]
    if wrong.size:
        raise ValueError(f"fixed has token {wrong[0]}, allowed: 0 to {tokens - 1}, or {FREE} where free")
    contested = np.flatnonzero((given != FREE) & (more != FREE) & (given != more))
    if contested.size:
        raise ValueError(
            f"fixed has token {more[contested[0]]} at position {contested[0]}, where the text has {given[contested[0]]}"
        )
    return np.where(more == FREE, given, more).astype(np.int32)


def load(
    path: str | Path | None = None,
    dtype: Dtype = "float32",
    revision: str | None = None,
    *,
    offline: bool = False,
    tokenizer: str | Path | None = None,
    heads: int | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Model:
    """Load a checkpoint: a folder, a file of weights, a name on the hub, or, with None, the shipped model.

    path : a str `owner/name`, or `owner/name/file`, that is no path here is looked up on the Hugging Face hub
    dtype : what its large layers are stored and multiplied in. "bfloat16" halves the memory, "int8" quarters it; norms,
        the noise embedding and what is added up stay float32, and so does the model's output. The texts differ.
    revision : a branch, tag or commit, of a name on the hub; its main branch if None
    offline : use what has been fetched before, and ask nothing of the network
    tokenizer : a folder, a tokenizer.json or a name on the hub, instead of the checkpoint's own
    heads : of a file that does not say how many it has, the one size that does not follow from its shapes
    note : told, in one line each, what the files do not say and is assumed, and where the checkpoint's tokenizer is out
        of reach: texts are then token ids
    Raises CheckpointError (a ValueError) for anything wrong with the files, UnavailableError, which is one, where they
    are out of reach, ValueError for another dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, allowed: {', '.join(map(repr, DTYPES))}")
    read = checkpoint.read(SHIPPED if path is None else path, revision, offline=offline, heads=heads)
    if read.assumed:
        note(f"assumed: {read.assumed}")
    name = "shipped model" if path is None else str(path)
    return Model(read, name, dtype, _tokenizer(read, tokenizer, offline, note))


def _tokenizer(
    read: checkpoint.Checkpoint, source: str | Path | None, offline: bool, note: Callable[[str], None]
) -> text.Tokenizer:
    """The tokenizer that is asked for, or the checkpoint's own, or token ids where that is out of reach."""
    if source is None and read.config.characters is not None:
        return text.choose(read.config)
    try:
        return text.choose(read.config, checkpoint.find_tokenizer(read, source, offline=offline))
    except UnavailableError as error:
        if source is not None:
            raise
        note(f"texts are token ids, for want of a tokenizer: {error}")
        return text.choose(read.config)


def generate(model: str | Path | None = None, dtype: Dtype = "float32", **options: Any) -> Result:
    """Load a checkpoint and write texts with it, in one call; `options` are those of `Model.generate`."""
    return load(model, dtype).generate(**options)


def evaluate(model: Model | str | Path | None, text: str, **options: Any) -> Evaluation:
    """Bound a text's -log p under a model, or under the checkpoint that `load` finds; `options` of `Model.evaluate`."""
    return (model if isinstance(model, Model) else load(model)).evaluate(text, **options)


def warmup(progress: Callable[[int, int], None] | None = None) -> None:
    """Compile every kernel for this CPU, or load it from the cache; `progress(done, total)` after each."""
    fastsedd_kernels.compile_all(progress)


def _check_indices(indices: Sequence[int], num_samples: int) -> None:
    outside = [index for index in indices if not 0 <= index < num_samples]
    if outside:
        raise ValueError(f"indices holds {outside[0]}, allowed: 0 to {num_samples - 1}, below num_samples")


def _timing(ended: list[float], on_step: OnStep | None) -> OnStep:
    """An `on_step` that notes when each step ended, and passes it on."""

    def note(step: int, steps: int, tokens: NDArray[np.int32]) -> None:
        ended.append(time.perf_counter())
        if on_step is not None:
            on_step(step, steps, tokens)

    return note


def _graph(config: ModelConfig) -> Graph:
    return Absorb(config.tokens) if config.graph == "absorb" else Uniform(config.tokens)


def _noise(config: ModelConfig) -> Noise:
    if config.noise.type == "loglinear":
        return LogLinear()
    return Geometric(config.noise.sigma_min, config.noise.sigma_max)
