"""A checkpoint in any format that is read -> a folder of model.safetensors, config.json and what lay beside it; or one
GGUF file, which holds all of this."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from fastsedd import atomic, checkpoint
from fastsedd.checkpoint import (
    chat_json,
    config_json,
    gguf_model,
    gguf_vocabulary,
    gguf_writer,
    grid_json,
    mask,
    safetensors_file,
    special_tokens,
    weights,
)
from fastsedd.checkpoint.gguf_tokenizer import PREFIX, Embedded
from fastsedd.choices import GGUF_TYPES, GgufType, check_one_of
from fastsedd.errors import CheckpointError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"


def convert(
    source: str | Path,
    target: str | Path,
    revision: str | None = None,
    *,
    dtype: GgufType | None = None,
    offline: bool = False,
    heads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a checkpoint anew, its values bit for bit; of a training run, the moving average; of a GGUF file's blocks,
    their values in float32, and the tokenizer in it.

    source, revision, offline, heads : as `fastsedd.load` takes them
    target : the folder to make, which may be there already if it is empty; or a name that ends in .gguf, of a file to
        make, for masked language models of an architecture that GGUF has. It is made whole or not at all.
    dtype : of a GGUF file's matrices: "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"; None: as they are stored
    progress(done, total) : called after each tensor
    note : called with one line for what the files do not say and is assumed, and for a tokenizer that is left out
    Returns the target. Raises CheckpointError for anything wrong with the source, ValueError for a dtype that the
    target does not have and for a target that holds something, OSError where it cannot be written, or another process
    is writing it; UnavailableError for a GGUF file without the package `gguf`.
    """
    made = Path(target)
    is_gguf = made.suffix == weights.GGUF
    if dtype is not None:
        check_one_of("dtype", dtype, GGUF_TYPES)
        if not is_gguf:
            raise ValueError(f"dtype is {dtype!r}, allowed of a folder: none, its values are kept")
    with atomic.sole_writer(made):
        if made.exists() and (is_gguf or not (made.is_dir() and not any(made.iterdir()))):
            allowed = "a new file" if is_gguf else "a new or an empty folder"
            raise ValueError(f"target: {made} exists already, allowed: {allowed}")
        read = checkpoint.read(source, revision, offline=offline, heads=heads)
        if read.assumed:
            note(f"assumed: {read.assumed}")
        if is_gguf and gguf_writer.architecture(read.config) is None:
            allowed = ", ".join(name for families in gguf_model.FAMILIES.values() for name in families)
            raise CheckpointError(
                f"{read.path}: its architecture is {read.config.architecture!r}, allowed of a GGUF file: {allowed}"
            )
        said = progress or (lambda done, total: None)
        with atomic.replaced(made) as incomplete:
            if is_gguf:
                tokenizer = _tokenizer(read, note)
                gguf_writer.write(incomplete, read.config, read.stored, tokenizer, dtype, said)
            else:
                incomplete.mkdir()
                _write(incomplete, read, said)
    return made


def _tokenizer(read: checkpoint.Checkpoint, note: Callable[[str], None]) -> Embedded | None:
    """The tokenizer that a GGUF file is to hold; None, and a note, where there is none or GGUF has no name for it."""
    problem = "there is none beside the model"
    if read.embedded is not None:
        if read.embedded.model == gguf_vocabulary.BYTE_PAIRS:
            return read.embedded
        problem = f"{PREFIX}.model is {read.embedded.model!r}, allowed: {gguf_vocabulary.BYTE_PAIRS!r}"
    elif read.tokenizer:
        try:
            return gguf_vocabulary.read(read.tokenizer, read.config)
        except gguf_vocabulary.UnnamedError as error:
            problem = str(error)
    note(f"the file holds no tokenizer: {problem}")
    return None


def _write(folder: Path, read: checkpoint.Checkpoint, progress: Callable[[int, int], None]) -> None:
    """Write weights, config, grid and tokenizer into a folder."""
    safetensors_file.write(folder / WEIGHTS, read.stored, progress)
    document = json.dumps(config_json.document(read.config), indent=2)
    (folder / CONFIG).write_text(document + "\n", encoding="utf-8")
    if read.grid is not None:
        grid_json.write(folder / grid_json.NAME, read.grid)
    for file in (*read.tokenizer, *_beside(read)):
        shutil.copyfile(file, folder / file.name)
    if read.embedded is not None:
        _write_tokenizer(folder, read.embedded)


def _write_tokenizer(folder: Path, tokenizer: Embedded) -> None:
    """Write the tokenizer of a GGUF file, its special tokens and its chat template, as folders have them."""
    (folder / TOKENIZER).write_text(tokenizer.document(), encoding="utf-8")
    named = {"bos": "bos", "eos": "eos", "padding": "pad", "mask": "mask"}
    stated = {
        f"{name}_token": tokenizer.tokens[tokenizer.special[own]]
        for own, name in named.items()
        if own in tokenizer.special
    }
    if tokenizer.template is not None:
        stated["chat_template"] = tokenizer.template
    (folder / mask.TOKENIZER_CONFIG).write_text(json.dumps(stated, indent=2) + "\n", encoding="utf-8")


def _beside(read: checkpoint.Checkpoint) -> list[Path]:
    """Files that tell of a masked language model's special tokens and conversations."""
    if read.config.backbone is None or read.is_gguf:
        return []
    files = [read.path.with_name(name) for name in (*special_tokens.FILES, chat_json.FILE)]
    return [file for file in files if file.is_file()]
