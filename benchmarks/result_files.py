"""Results on disk: benchmarks/results/<CPU>/<suite>.json, a folder per kind of CPU, an entry per line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Entry = dict[str, Any]
Environment = Mapping[str, Any]


@dataclass(frozen=True)
class Machine:
    """Everything measured on one kind of CPU. environments : per suite, as `environment.describe` gives it"""

    folder: str
    environments: Mapping[str, Environment]
    entries: list[Entry]

    @property
    def newest(self) -> Environment:
        return max(self.environments.values(), key=lambda each: str(each["date"]))


def folder_of(environment: Environment) -> str:
    """The folder of a CPU: LLVM's name for its microarchitecture and the number of threads, "znver4-2"."""
    name = environment.get("microarchitecture") or environment["cpu"]
    words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)", "", str(name)).lower()).strip("-")
    return f"{words or 'cpu'}-{environment['threads']}"


def keep(paths: Iterable[Path], folder: Path = RESULTS, *, add: bool = False) -> None:
    """Store what the report needs of pytest-benchmark's files: measurements and environment, not the host's name.

    add : leave the suite's cases that a file does not have as they are. Raises ValueError where they were measured on
    other caches, or with another version of a package.
    """
    for path in paths:
        document = json.loads(path.read_text(encoding="utf-8"))
        environment = document["machine_info"]
        entries = [benchmark["extra_info"] for benchmark in document["benchmarks"]]
        before = folder / folder_of(environment) / f"{path.stem}.json"
        if add and before.exists():
            environment, entries = _added(json.loads(before.read_text(encoding="utf-8")), environment, entries)
        store(path.stem, environment, entries, folder)


def _added(before: Any, environment: Environment, entries: list[Entry]) -> tuple[Environment, list[Entry]]:
    """A suite so far and new entries: each in place of the one of its case, else behind all.

    Packages that one of the two environments lacks are of both.
    """
    packages = before["environment"]["packages"] | environment["packages"]
    older, newer = ({**each, "packages": packages | each["packages"]} for each in (before["environment"], environment))
    differ = [name for name in newer.keys() | older.keys() if name != "date" and older.get(name) != newer.get(name)]
    if differ:
        raise ValueError(f"{', '.join(sorted(differ))} differ from the stored results': measure all of the suite again")
    return newer, list({_case(each): each for each in (*before["entries"], *entries)}.values())


# What an entry measures; all else says what it is a measurement of.
_MEASURED = {"work", "seconds", "ratios", "fraction", "limit", "errors", "memory"}


def _case(entry: Entry) -> str:
    return json.dumps({key: value for key, value in entry.items() if key not in _MEASURED}, sort_keys=True)


def store(suite: str, environment: Environment, entries: list[Entry], folder: Path = RESULTS) -> None:
    """Write a suite's results, in place of older ones from the same kind of CPU."""
    target = folder / folder_of(environment)
    target.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(_rounded(entry)) for entry in entries)
    text = f'{{"environment": {json.dumps(environment)},\n"entries": [\n{lines}\n]}}\n'
    (target / f"{suite}.json").write_text(text, encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Four digits: more is noise, and makes every new run a large diff."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def load(folder: Path = RESULTS) -> list[Machine]:
    """The machines, the one with the most measurements first."""
    machines = []
    for place in sorted(path for path in folder.glob("*") if path.is_dir()):
        documents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(place.glob("*.json"))}
        if documents:
            environments = {suite: document["environment"] for suite, document in documents.items()}
            entries = [entry for document in documents.values() for entry in document["entries"]]
            machines.append(Machine(place.name, environments, entries))
    return sorted(machines, key=lambda machine: (-len(machine.entries), machine.folder))
