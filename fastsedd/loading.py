"""A path or a name -> a `Model`; and requests in one call, with the model loaded for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import fastsedd_kernels

from fastsedd import checkpoint, text
from fastsedd.architectures.base import ModelConfig
from fastsedd.choices import ANY_DTYPES, DTYPES, STORED, AnyDtype, check_one_of
from fastsedd.engine import Model
from fastsedd.errors import CheckpointError, UnavailableError
from fastsedd.language_model import LanguageModel
from fastsedd.models.backbone.memory import cache_bytes, weight_bytes
from fastsedd.request import AllOptions, OnStep, shows_options
from fastsedd.results import Evaluation, Result
from fastsedd.score_model import ScoreModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

SHIPPED = Path(__file__).parent / "assets"
SHIPPED_NAME = "shipped model"


def load(
    path: str | Path | None = None,
    dtype: AnyDtype | None = None,
    revision: str | None = None,
    *,
    offline: bool = False,
    tokenizer: str | Path | None = None,
    heads: int | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Model:
    """Load a checkpoint: a folder, a file of weights, a name on the hub, or, with None, the shipped model.

    path : a str `owner/name`, or `owner/name/file`, that is not a path here is looked up on the Hugging Face hub
    dtype : what its large layers are stored and multiplied in. "bfloat16" halves the memory, "int8" quarters it,
        "int4" takes 4.5 bits per weight, in groups of 32 inputs with a scale of their own; head and attention are
        bfloat16 with both; norms, the noise embedding and sums stay float32, and so does the model's output. The texts
        differ; with int4 much more than with int8.
        "stored": as the file has them, blocks of a GGUF file in their own groups; the default for such files, and
        else float32
    revision : a branch, tag or commit, of a name on the hub; its main branch if None
    offline : use what has been fetched before, without the network
    tokenizer : a folder, a tokenizer.json or a name on the hub, instead of the checkpoint's own
    heads : of a file that does not say how many it has, the one size that does not follow from its shapes
    note : called with one line for each thing that the files do not say and is assumed, and where the checkpoint's
        tokenizer is out of reach: texts are then token ids
    Raises CheckpointError (a ValueError) for anything wrong with the files, UnavailableError, which is one, where they
    are out of reach, ValueError for another dtype.
    """
    if dtype is not None:
        check_one_of("dtype", dtype, ANY_DTYPES)
    read = _read(path, revision, offline, heads)
    if read.assumed:
        note(f"assumed: {read.assumed}")
    chosen, template = _tokenizer(read, tokenizer, offline, note)
    kind = ScoreModel if read.config.backbone is None else LanguageModel
    return kind(read, name_of(path), _dtype(read, dtype), chosen, template)


def _dtype(read: checkpoint.Checkpoint, dtype: AnyDtype | None) -> AnyDtype:
    """The dtype that is meant: of "stored", one that the whole file has, if it has one of its own."""
    if dtype is None:
        dtype = STORED if read.is_gguf else "float32"
    if dtype != STORED or read.in_blocks:
        return dtype
    return "bfloat16" if read.stored_dtype == "bfloat16" else "float32"


@dataclass(frozen=True)
class Outline:
    """A masked language model as its files describe it, without its weights.

    name, config, stored_dtype, tokenizer : as of `Model`; chats : whether there is a chat template
    memory : bytes of the weights in each dtype, and of the keys and values of one token
    """

    name: str
    config: ModelConfig
    stored_dtype: str
    tokenizer: text.Tokenizer
    chats: bool
    memory: dict[AnyDtype, int]
    cache: int


def outline(
    path: str | Path | None = None,
    revision: str | None = None,
    *,
    offline: bool = False,
    tokenizer: str | Path | None = None,
    heads: int | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Outline | None:
    """Describe a masked language model, of which nothing large is read; None for any other model.

    The arguments are those of `load`. Raises what it raises.
    """
    read = _read(path, revision, offline, heads)
    if read.config.backbone is None:
        return None
    chosen, template = _tokenizer(read, tokenizer, offline, note)
    narrow = read.stored_dtype == "bfloat16"
    types = {name: tensor.dtype for name, tensor in read.stored.items()}
    dtypes = (STORED, *DTYPES) if read.in_blocks else DTYPES
    memory = {dtype: weight_bytes(read.config, dtype, narrow=narrow, types=types) for dtype in dtypes}
    return Outline(
        name_of(path), read.config, read.stored_dtype, chosen, template is not None, memory, cache_bytes(read.config)
    )


def _read(path: str | Path | None, revision: str | None, offline: bool, heads: int | None) -> checkpoint.Checkpoint:
    return checkpoint.read(SHIPPED if path is None else path, revision, offline=offline, heads=heads)


def name_of(path: str | Path | None) -> str:
    """The name of the model that `load` finds there."""
    return SHIPPED_NAME if path is None else str(path)


def _tokenizer(
    read: checkpoint.Checkpoint, source: str | Path | None, offline: bool, note: Callable[[str], None]
) -> tuple[text.Tokenizer, text.ChatTemplate | None]:
    """The requested tokenizer, or the checkpoint's own, or token ids where that is out of reach; its chat template."""
    if source is None and read.config.characters is not None:
        return text.choose(read.config), None
    if source is None and read.embedded is not None:
        found = read.embedded.chat()
        chosen = text.choose(read.config, (read.path,), read.embedded.document())
        return chosen, _template(found, read.path, note)
    try:
        files = checkpoint.find_tokenizer(read, source, offline=offline)
        found = checkpoint.find_chat_template(files) if files and read.config.backbone is not None else None
        return text.choose(read.config, files), _template(found, files[0].parent if files else read.path, note)
    except UnavailableError as error:
        if source is not None:
            raise
        note(f"texts are token ids, for want of a tokenizer: {error}")
        return text.choose(read.config), None


def _template(
    found: tuple[str, dict[str, str]] | None, where: Path, note: Callable[[str], None]
) -> text.ChatTemplate | None:
    """The chat template of a masked language model, None where there is none, or no library for it."""
    if found is None:
        return None
    try:
        return text.ChatTemplate(*found)
    except UnavailableError as error:
        note(f"no conversations: {error}")
        return None
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from None


@shows_options
def generate(
    model: str | Path | None = None,
    dtype: AnyDtype | None = None,
    *,
    on_step: OnStep | None = None,
    **options: Unpack[AllOptions],
) -> Result:
    """Load a checkpoint and write texts with it, in one call; see `load` and `Model.generate`."""
    return load(model, dtype).generate(on_step=on_step, **options)


def evaluate(
    model: Model | str | Path | None,
    text: str,
    times: int = 8,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Bound a text's -log p under a model, or under the checkpoint that `load` finds; see `Model.evaluate`."""
    loaded = model if isinstance(model, Model) else load(model)
    return loaded.evaluate(text, times, batch_size, seed, progress)


def warmup(progress: Callable[[int, int], None] | None = None) -> None:
    """Compile every kernel for this CPU, or load it from the cache; `progress(done, total)` after each."""
    fastsedd_kernels.compile_all(progress)
