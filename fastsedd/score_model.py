"""`ScoreModel`: models with a noise schedule, SEDD's kind: scores, likelihood bounds, time grids."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd import checkpoint, models, text
from fastsedd.choices import AnyDtype, check_integer
from fastsedd.config import FittedTimes
from fastsedd.diffusion import gridfit, likelihood
from fastsedd.diffusion.grid_sampler import Network as SampledNetwork
from fastsedd.diffusion_process import DiffusionProcess
from fastsedd.engine import Model, Writing
from fastsedd.given import token_array
from fastsedd.models import Forward, Network
from fastsedd.models.workspace import bytes_per_position
from fastsedd.request import MAX_SAMPLES, Request, check_batch_size
from fastsedd.results import Evaluation
from fastsedd.scoring import Scoring
from fastsedd.unmasking_process import OF_UNMASKING, refuse
from fastsedd.vocabulary import ByState, Vocabulary

# A batch's scratch memory aims at this much: beyond it larger products are no faster.
_BATCH_BYTES = 64 << 20


class ScoreModel(Model):
    """A loaded checkpoint of SEDD, or of a descendant with a noise schedule; see `Model`."""

    def __init__(
        self, read: checkpoint.Checkpoint, name: str, dtype: AnyDtype, tokenizer: text.Tokenizer,
        template: text.ChatTemplate | None = None,
    ) -> None:  # fmt: skip
        super().__init__(read, name, dtype, tokenizer, template)
        self.fitted = read.grid
        self._vocabulary = Vocabulary.of(read.config)
        tensors = ByState(read.tensors, read.config.family.states, self._vocabulary)
        self._network: Network = models.build(read.config, tensors, dtype)
        self._process = DiffusionProcess.of(read.config, read.grid)
        self._idle: dict[tuple[int, ...], Scoring] = {}  # the last small one of `log_score`, for the same shape

    def log_score(self, tokens: ArrayLike, sigma: ArrayLike) -> NDArray[np.float32]:
        """Log of p(y) / p(x) for every token y at each position.

        tokens : integers [B, L], 0 to vocab_size - 1, L at most config.length; sigma : total noise, float [B], > 0
        Returns float32 [B, L, V]; the current token's entry is 0. Raises ValueError for anything else.
        """
        given = token_array(tokens, self.config)
        noise = np.asarray(sigma, np.float64)
        if noise.shape != given.shape[:1] or not (np.isfinite(noise) & (noise > 0)).all():
            raise ValueError(f"sigma has shape {noise.shape}, must be {given.shape[:1]}, finite and above 0")
        distinct = noise[:1] if (noise == noise[0]).all() else noise  # samples that share it are conditioned once
        shape = (*given.shape, len(distinct))
        scoring = self._idle.pop(shape, None) or Scoring.of(self._network, *shape)
        log_score = scoring(self._vocabulary.to_states(given), distinct)
        if scoring.nbytes > _BATCH_BYTES:
            return self._vocabulary.columns_by_id(log_score)
        self._idle.clear()
        self._idle[shape] = scoring
        return self._vocabulary.columns_by_id(log_score.copy())

    def profile(self) -> dict[str, float]:
        """Seconds that each kernel takes in one forward of one text, by its name."""
        forward = Forward(self._network, 1, self.config.length)
        return forward.profile(np.zeros((1, self.config.length), np.int32), [1.0])

    def writing(self, request: Request) -> Writing[SampledNetwork]:
        refuse(request, OF_UNMASKING, "masked language models")
        given = self._vocabulary.to_states(self._layout.given(request))
        sampler = self._process.sampler(request)
        return Writing(
            given, sampler, _Scorings(self._network, len(given)), self._batch_size(len(given)),
            self._vocabulary.to_ids, self.tokenizer.decode, (sampler, len(given)),
        )  # fmt: skip

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
        times : how many noise levels are drawn per window, 1 to 65536, one network run each
        batch_size : noised windows per network run, chosen by memory if None; the result does not depend on it
        seed : 0 to 2**64 - 1; it decides times and noise, for any dtype: two dtypes may be compared window by window
        progress(done, total) : called after each batch, of all noised windows
        Raises ValueError, naming the argument, its value and what is allowed.
        """
        windows, left_out = self._windows(text, self.config.length)
        length = windows.shape[1]
        by_window = likelihood.bound(
            _Scorings(self._network, length).log_score, self._process.graph, self._process.noise,
            self._vocabulary.to_states(windows), times=times, seed=seed,
            batch_size=self._scoring_batch_size(batch_size, length), progress=progress,
        )  # fmt: skip
        ends = likelihood.ends(self._process.graph, self._process.noise)
        characters = len(self.tokenizer.decode(windows.reshape(-1)))
        return Evaluation(by_window, ends, windows.size, characters, left_out, times, seed)

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
        nodes : noise levels per text, 2 to 1024, one network run each
        batch_size : texts per network run, chosen by memory if None
        seed : 0 to 2**64 - 1; it decides texts and noise
        temperature : at which the grid will be used; the checkpoint's own if None
        progress(done, total) : called after each batch, of all network runs, each for one text
        Raises ValueError, naming the argument, its value and what is allowed.
        """
        size = self._scoring_batch_size(batch_size, self.config.length)
        gridfit.check_nodes(nodes)
        check_integer("num_texts", num_texts, 1, MAX_SAMPLES)
        request = Request.of(num_samples=num_texts, batch_size=size, seed=seed, temperature=temperature)
        total = num_texts * (self.config.generation.steps + 1 + nodes)
        done = 0

        def count(texts: int) -> None:
            nonlocal done
            done += texts
            if progress is not None:
                progress(done, total)

        written = [each.tokens for each in self.run(request, lambda step, steps, tokens: count(len(tokens)))]
        scorings = _Scorings(self._network, self.config.length)

        def log_score(tokens: NDArray[np.int32], sigma: float) -> NDArray[np.float32]:
            count(len(tokens))
            return scorings.log_score(tokens, np.array([sigma]))

        times = gridfit.fit_times(
            log_score, self._process.graph, self._process.noise, self._vocabulary.to_states(np.stack(written)),
            nodes=nodes, seed=seed, batch_size=size,
            temperature=request.generation(self.config.generation).temperature,
        )  # fmt: skip
        return FittedTimes(tuple(times.tolist()))

    def _scoring_batch_size(self, batch_size: int | None, length: int) -> int:
        """The number of texts of this length scored together, where all their log scores are kept."""
        if batch_size is None:
            return self._batch_size(length, self.config.vocab_size)
        check_batch_size(batch_size)
        return batch_size

    def _batch_size(self, length: int, scores: int = 0) -> int:
        """The number of texts of this length that fit the scratch memory; scores : log scores kept of each position."""
        bytes_per_sample = length * (bytes_per_position(self.config) + 4 * scores)
        return max(1, _BATCH_BYTES // bytes_per_sample)


class _Scorings:
    """Forward passes of texts of one length: the last one's memory is used again for as many texts and sigmas."""

    def __init__(self, network: Network, length: int) -> None:
        self._network, self._length = network, length
        self._last: Scoring | None = None
        self._shape = (0, 0)

    def __call__(self, texts: int, sigmas: int = 1) -> Scoring:
        if self._last is None or self._shape != (texts, sigmas):
            self._last, self._shape = Scoring.of(self._network, texts, self._length, sigmas), (texts, sigmas)
        return self._last

    def log_score(self, tokens: NDArray[np.int32], sigma: NDArray[np.float64]) -> NDArray[np.float32]:
        """Log scores float32 [B, L, V], overwritten by the next call; tokens : [B, L]; sigma : [1] or [B]."""
        return self(len(tokens), len(sigma))(tokens, sigma)
