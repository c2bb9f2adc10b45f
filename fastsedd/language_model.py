"""`LanguageModel`: masked language models, which answer, go on, fill gaps, and are measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastsedd import checkpoint, heap, models, text
from fastsedd.architectures.masked_language import backbone_of
from fastsedd.block_layout import BlockLayout
from fastsedd.choices import ATTENTIONS, AnyDtype, Attention, check_one_of
from fastsedd.diffusion.sampler import FREE
from fastsedd.diffusion.unmasking import likelihood
from fastsedd.diffusion.unmasking.sampler import Network
from fastsedd.engine import Model, Writing
from fastsedd.given import token_array
from fastsedd.models.backbone.approximate import ApproximateSession
from fastsedd.models.backbone.network import Backbone
from fastsedd.models.backbone.session import Session
from fastsedd.models.backbone.started import Started
from fastsedd.request import Request, check_batch_size
from fastsedd.results import Evaluation
from fastsedd.unmasking_process import APPROXIMATE, UnmaskingProcess

# Scratch memory and caches of a batch aim at this much.
_BATCH_BYTES = 256 << 20
_WINDOW = 512  # tokens of a text that are measured together


class LanguageModel(Model):
    """A loaded masked language model; see `Model`."""

    def __init__(
        self, read: checkpoint.Checkpoint, name: str, dtype: AnyDtype, tokenizer: text.Tokenizer,
        template: text.ChatTemplate | None = None,
    ) -> None:  # fmt: skip
        super().__init__(read, name, dtype, tokenizer, template)
        self._network = cast(Backbone, models.build(read.config, read.tensors, dtype))
        heap.give_back()  # hundreds of megabytes, of tensors as they were read
        self._process = UnmaskingProcess(read.config)

    def logits(self, tokens: ArrayLike, attention: Attention | None = None) -> NDArray[np.float32]:
        """Logits of the network itself, of every position; not shifted.

        tokens : integers [B, L], 0 to vocab_size - 1, L at most config.length
        attention : "full"; "block", in blocks of the model's length, from the first token on; None: the model's own
        Returns float32 [B, L, V]. Raises ValueError for anything else.
        """
        given = token_array(tokens, self.config)
        block = backbone_of(self.config).block
        if attention is not None:
            check_one_of("attention", attention, ATTENTIONS)
            if attention == "block" and block is None:
                raise ValueError("attention is 'block', allowed for this model: 'full': it states no block_size")
        blocks = None if attention == "full" or block is None else BlockLayout(block)
        texts, length = given.shape
        return Session(self._network, texts, length, blocks).all_logits(given)

    def writing(self, request: Request) -> Writing[Network]:
        self._process.check(request)
        given = self._layout.given(request)
        sampler = self._process.sampler(request, given, partial(self._stops, request.stop))
        doubled = 2 if request.cfg_scale > 0.0 else 1
        blocks = self._process.attention(given)

        def networks(texts: int) -> Session:
            shift = backbone_of(self.config).shift if request.shift is None else request.shift
            if request.cache in APPROXIMATE:
                dual = request.cache == "approximate-dual"
                return ApproximateSession(self._network, doubled * texts, len(given), dual=dual, shift=shift)
            return Session(
                self._network, doubled * texts, len(given), blocks, cached=request.cache == "exact", shift=shift,
                window=sampler.blocks.length,
            )  # fmt: skip

        most = max(1, _BATCH_BYTES // (doubled * networks(1).nbytes))
        shape = (sampler, request.cache, request.shift, (given == FREE).tobytes())
        return Writing(given, sampler, networks, most, _unchanged, partial(self._text, request, given), shape)

    def _stops(self, stop: tuple[str, ...], tokens: NDArray[np.int32]) -> bool:
        if not stop:
            return False
        found = self.tokenizer.decode(tokens)
        return any(each in found for each in stop)

    def _text(self, request: Request, given: NDArray[np.int32], tokens: NDArray[np.int32]) -> str:
        """The answer to a prompt, or all of a text that had none; up to its end."""
        begin = self._process.begin(given)
        last = len(tokens)
        if self._process.origin(given) == begin or (given[begin:] < 0).all():
            ended = np.flatnonzero(np.isin(tokens[begin:], self._process.ends))
            last = begin + int(ended[0]) if len(ended) else last
        asked = request.prompt is not None or request.messages is not None
        before = "" if asked else self.tokenizer.decode(tokens[len(self._layout.start) : begin])
        written = self.tokenizer.decode(tokens[begin:last])
        cuts = [at for each in request.stop if (at := written.find(each)) >= 0]
        return before + written[: min(cuts, default=len(written))]

    def evaluate(
        self,
        text: str,
        times: int = 8,
        batch_size: int | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """Bound the text's -log p by masking at random: LLaDA's Monte Carlo estimate (Nie et al. 2025, equation 6).

        Under block-causal attention blocks are masked one by one, after those before them, and their bounds added.
        text : cut into windows of 512 tokens, or config.length if that is less or texts may have any length, side by
            side, each of them a text to the model. A shorter rest at the end is left out; a text that is shorter is one
            shorter window.
        times : how many times each window is masked, 1 to 65536
        batch_size : masked windows per network run, chosen by memory if None; the result does not depend on it
        seed : 0 to 2**64 - 1; it decides the masks
        progress(done, total) : called after each batch, of all masked windows
        Raises ValueError, naming the argument, its value and what is allowed.
        """
        start, backbone = self._layout.start, backbone_of(self.config)
        most = self.config.length - len(start)
        windows, left_out = self._windows(text, min(most, _WINDOW) if backbone.context is None else most)
        if batch_size is not None:
            check_batch_size(batch_size)
        length, mask = windows.shape[1], self.config.mask_id
        assert mask is not None
        blocks = None if backbone.block is None else BlockLayout(backbone.block)
        own = None if blocks is None else BlockLayout(blocks.length, -len(start) % blocks.length)  # without the start

        def networks(texts: int) -> Started:
            whole = length + len(start)
            session = Session(self._network, texts, whole, blocks, shift=backbone.shift, window=whole)
            return Started(session, length, start)

        size = batch_size or max(1, _BATCH_BYTES // networks(1).nbytes)
        by_window = likelihood.bound(
            networks, windows, mask, own, times=times, seed=seed, batch_size=size, progress=progress
        )
        characters = sum(len(self.tokenizer.decode(window)) for window in windows)
        return Evaluation(by_window, 0.0, windows.size, characters, left_out, times, seed)


def _unchanged(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    return tokens
