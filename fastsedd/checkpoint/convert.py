"""A checkpoint in any format that is read -> a folder of model.safetensors, config.json and what lay beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from fastsedd import atomic, checkpoint
from fastsedd.checkpoint import chat_json, config_json, grid_json, mask, safetensors_file, special_tokens
from fastsedd.checkpoint.gguf_tokenizer import Embedded

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"


def convert(
    source: str | Path,
    target: str | Path,
    revision: str | None = None,
    *,
    offline: bool = False,
    heads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a checkpoint anew, its values bit for bit; of a training run, the moving average; of a GGUF file's blocks,
    their values in float32, and the tokenizer in it.

    source, revision, offline, heads : as `fastsedd.load` takes them
    target : the folder to make, whole or not at all; it may be there already if it is empty
    progress(done, total) : called after each tensor
    note : called with one line for what the files do not say and is assumed
    Returns the folder. Raises CheckpointError for anything wrong with the source, ValueError for a target that holds
    something, OSError where it cannot be written, or another process is writing it.
    """
    folder = Path(target)
    with atomic.sole_writer(folder):
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise ValueError(f"target: {folder} exists already, allowed: a new or an empty folder")
        read = checkpoint.read(source, revision, offline=offline, heads=heads)
        if read.assumed:
            note(f"assumed: {read.assumed}")
        with atomic.replaced(folder) as incomplete:
            incomplete.mkdir()
            _write(incomplete, read, progress or (lambda done, total: None))
    return folder


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
