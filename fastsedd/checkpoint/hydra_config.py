"""`.hydra/config.yaml`, which the published trainer keeps beside its checkpoints, -> ModelConfig."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fastsedd.architectures.base import ModelConfig
from fastsedd.checkpoint import config_json, small_file
from fastsedd.errors import CheckpointError, UnavailableError

MAX_BYTES = 1 << 16

_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\Z")


def read(path: Path) -> ModelConfig:
    """Read and check it. Raises CheckpointError, naming the key; UnavailableError where PyYAML is not installed."""
    content = small_file.content(path, MAX_BYTES)
    return config_json.from_document(path, _load(path, content))


def _load(path: Path, content: bytes) -> Any:
    try:
        import yaml
    except ImportError:
        raise UnavailableError(f"{path}: needs PyYAML: pip install 'fastsedd[hub]'") from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Plain values alone. A node may not be used twice: some few bytes could then stand for any amount."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise CheckpointError(f"{path}: has an alias, allowed: values written out")
            return super().compose_node(parent, index)

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # PyYAML's own, such as 0x_
                kind = node.tag.rpartition(":")[2]
                raise yaml.constructor.ConstructorError(None, None, f"not a valid {kind}", node.start_mark) from None

    # 1e-4 is a number to Hydra, and to YAML since version 1.2, but to PyYAML only with a point.
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    try:
        loader = Loader(content)
    except yaml.YAMLError as error:  # not text, or text with characters that YAML does not allow
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None
    try:
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        # Not all that it says: it quotes the file, and with it whatever a terminal should not be sent.
        raise CheckpointError(f"{path}: {_place(error.problem_mark)}: {error.problem}") from None
    except RecursionError:
        raise CheckpointError(f"{path}: {_place(loader.get_mark())}: is nested too deeply") from None
    except (ArithmeticError, ValueError):  # PyYAML's scanner: "\UFFFFFFFF", a version of 5000 digits
        raise CheckpointError(f"{path}: {_place(loader.get_mark())}: not valid YAML") from None
    finally:
        loader.dispose()


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"
