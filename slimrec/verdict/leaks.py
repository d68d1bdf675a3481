"""Leaks of the label: looked for at ingest, kept with the dataset, and what they mean for a verdict."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from slimrec.artifacts import read_json, write_json
from slimrec.errors import ConfigError, SecurityError, did_you_mean
from slimrec.schema import Schema
from slimrec.verdict.signs import COPIES, Leak, look
from slimrec.written import parse

LEAKS = "leaks.json"  # in a dataset


def write(folder: Path, schema: Schema, trusted: Collection[str]) -> list[Leak]:
    """Look, and leave leaks.json in a dataset under way."""
    found = look(folder, schema, trusted)
    write_json(folder / LEAKS, [leak.model_dump() for leak in found])
    return found


def read(dataset: Path) -> list[Leak]:
    """What was found at ingest; nothing where the dataset is older than the question."""
    path = dataset / LEAKS
    return [parse(Leak, each, SecurityError) for each in read_json(path)] if path.is_file() else []


def check_trusted(schema: Schema, trusted: Iterable[str]) -> None:
    """Raise ConfigError for a name in `ingest.trusted` that nothing has."""
    known = [*schema.names, *([schema.group] if schema.group else []), COPIES]
    for name in trusted:
        if name not in known:
            raise ConfigError(f"ingest.trusted names '{name}', which is no field; {did_you_mean(name, known)}")


def suspicion(found: list[Leak]) -> str:
    """Why a verdict cannot stand, in one sentence; "" where all that was found is trusted."""
    open_ = [leak for leak in found if not leak.trusted]
    if not open_:
        return ""
    names = ", ".join(dict.fromkeys(leak.name for leak in open_))
    return f"looks like a leak: {open_[0].said}; if it is known when the model serves, say `ingest.trusted: [{names}]`"
