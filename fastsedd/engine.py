"""`Model`: a loaded checkpoint that runs requests, for texts or for a likelihood, in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd import checkpoint, models, text
from fastsedd.architectures.base import ModelConfig
from fastsedd.batching import BatchSize
from fastsedd.choices import AnyDtype, Attention
from fastsedd.config import FittedTimes
from fastsedd.diffusion.sampler import Batch, Sampler
from fastsedd.given import Layout
from fastsedd.request import Messages, OnStep, Options, Request, shows_options
from fastsedd.results import Evaluation, Result, Sample

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Network = TypeVar("_Network")


@dataclass(frozen=True)
class Writing(Generic[_Network]):
    """A request as one kind of model writes it.

    given : int32 [L], as the sampler takes it; networks : for a number of texts; most : as many as memory allows
    to_ids : from the sampler's tokens to the checkpoint's; decode : a text's ids, int32 [L], to what its author is told
    shape : texts of requests with equal shapes may be written together, by the sampler and networks of any of them
    """

    given: NDArray[np.int32]
    sampler: Sampler[_Network]
    networks: Callable[[int], _Network]
    most: int
    to_ids: Callable[[NDArray[np.int32]], NDArray[np.int32]]
    decode: Callable[[NDArray[np.int32]], str]
    shape: Hashable


class Model(ABC):
    """A loaded checkpoint: its results depend on arguments alone, and threads may share it.

    name : the path or name that it was loaded from, "shipped model" for the shipped one
    dtype : of its large layers; precision : what each part is computed in, for a reader; stored_dtype : the file's
    config : architecture, sizes, graph, noise; parameters : their number
    tokenizer : text to tokens and back
    path : of the weights' file
    assumed : what the files do not say and is assumed, in one line; "" where nothing is
    fitted : the time grid that was fitted to the model, None where there is none
    """

    def __init__(
        self, read: checkpoint.Checkpoint, name: str, dtype: AnyDtype, tokenizer: text.Tokenizer,
        template: text.ChatTemplate | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.dtype = dtype
        self.config: ModelConfig = read.config
        self.stored_dtype = read.stored_dtype
        self.parameters = read.config.parameters
        self.tokenizer = tokenizer
        self.precision: list[tuple[str, str]] = models.Precision(dtype).facts()
        self.path = read.path
        self.assumed = read.assumed
        self.fitted: FittedTimes | None = None
        self._layout = Layout(read.config, tokenizer, template)

    @shows_options
    def generate(
        self, prefix: str = "", suffix: str = "", *, on_step: OnStep | None = None, **options: Unpack[Options]
    ) -> Result:
        """Write texts, all at once; see `stream` for the arguments."""
        samples = list(self.stream(prefix, suffix, on_step=on_step, **options))
        if not samples:
            raise ValueError("indices holds nothing, allowed: one index or more; stream takes none, too")
        tokens = np.stack([each.tokens for each in samples])
        return Result([each.text for each in samples], tokens, samples[0].seed)

    @shows_options
    def stream(
        self, prefix: str = "", suffix: str = "", *, on_step: OnStep | None = None, **options: Unpack[Options]
    ) -> Iterator[Sample]:
        """The texts of a request, each as soon as its batch is done.

        on_step(step, steps, tokens) : called with the state, a copy, int32 [B, L], after every step
        The other arguments are the fields of `fastsedd.Request`, where None stands for the default, and `fixed` is
        {position: token}, or integers [length], -1 where free.
        Raises ValueError at once, before any text, naming the argument, its value and what is allowed.
        """
        return self.run(Request.of(prefix=prefix, suffix=suffix, **options), on_step)

    def chat(self, messages: Messages, *, on_step: OnStep | None = None, **options: Any) -> Result:
        """Answer a conversation, through the chat template of the tokenizer.

        messages : [{"role": "user", "content": "..."}, ...], the last one to be answered; roles are the template's
        Other arguments as for `stream`. Raises ValueError for a model or a tokenizer that has no conversations.
        """
        return self.generate(on_step=on_step, messages=messages, **options)

    @property
    def chats(self) -> bool:
        """True where the tokenizer has a chat template: `chat` answers."""
        return self._layout.chat is not None

    def run(self, request: Request, on_step: OnStep | None = None) -> Iterator[Sample]:
        """The texts of a request, each as soon as its batch is done; on_step : as for `stream`.

        Raises ValueError at once for what this model cannot do.
        """
        writing = self.writing(request)
        most = writing.most if request.batch_size is None else request.batch_size
        size = BatchSize(most, measured=request.batch_size is None)
        return self._samples(request, writing, size, on_step)

    def _samples(
        self, request: Request, writing: Writing[Any], size: BatchSize, on_step: OnStep | None
    ) -> Iterator[Sample]:
        steps = request.generation(self.config.generation).steps
        done = 0
        while done < len(request.wanted):
            indices: Sequence[int] = request.wanted[done : done + size.next(len(request.wanted) - done)]
            count = len(indices)
            done += count
            taken: list[float] = []
            batch = Batch.of(indices, [request.seed] * count, [writing.given] * count)
            for record in writing.sampler.run(writing.networks(count), batch):
                taken.append(record.seconds)
                if on_step is not None:
                    on_step(record.step, record.steps, _read_only_copy(writing.to_ids(record.tokens)))
            size.note(count, taken)
            seconds = sum(taken) / count
            for index, row in zip(indices, writing.to_ids(record.tokens), strict=True):
                yield Sample(writing.decode(row), row, request.seed, index, steps, seconds)

    @abstractmethod
    def writing(self, request: Request) -> Writing[Any]:
        """The sampler of a request, and all that it needs: for whoever runs it step by step, as the server does.

        Raises ValueError for what this model cannot do.
        """

    @abstractmethod
    def evaluate(
        self,
        text: str,
        times: int = 8,
        batch_size: int | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """Bound a text's -log p; see the kinds of models."""

    def _windows(self, text: str, most: int) -> tuple[NDArray[np.int32], int]:
        """A text cut into windows of at most so many tokens, int32 [W, L], and how many are left out at its end.

        Raises ValueError for a text without tokens.
        """
        tokens = self._layout.encode("text", text)
        if len(tokens) == 0:
            raise ValueError("text has no tokens, allowed: 1 or more")
        length = min(len(tokens), most)
        windows = tokens[: len(tokens) // length * length].reshape(-1, length)
        return windows, len(tokens) - windows.size

    def log_score(self, tokens: ArrayLike, sigma: ArrayLike) -> NDArray[np.float32]:
        """Log scores, of models with a noise level: `ScoreModel.log_score`."""
        raise ValueError(self._has_no("log_score"))

    def logits(self, tokens: ArrayLike, attention: Attention | None = None) -> NDArray[np.float32]:
        """Logits, of masked language models: `LanguageModel.logits`."""
        raise ValueError(self._has_no("logits"))

    def fit_grid(
        self,
        num_texts: int = 64,
        nodes: int = 64,
        batch_size: int | None = None,
        seed: int = 0,
        temperature: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> FittedTimes:
        """Fit a time grid, of models with a noise schedule: `ScoreModel.fit_grid`."""
        raise ValueError(self._has_no("fit_grid"))

    def profile(self) -> dict[str, float]:
        """Seconds that each kernel takes in one forward of one text, by its name."""
        raise ValueError(self._has_no("profile"))

    def _has_no(self, method: str) -> str:
        kind = "masked language models" if self.config.backbone is not None else "models with a noise schedule"
        return f"{method}: not for {kind}, as {self.name}, {self.config.architecture}, is"


def _read_only_copy(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    copy = tokens.copy()
    copy.flags.writeable = False
    return copy
