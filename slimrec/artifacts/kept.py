"""Kept artifacts: what a step made lies under a key beside its checkpoints, for a later run that would make the same."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from slimrec.artifacts import read_json, replacing, verify, write_json
from slimrec.errors import InputError, SecurityError

KEPT = "kept"  # folder of a workspace; where it is not there, as on a cluster, nothing is kept and nothing is taken
_NOTE = "note.json"


def take(place: Path, folders: Mapping[str, Path]) -> Any | None:
    """Put the artifacts of `place` into `folders`, by name, verified; returns the note left with them.

    None, and nothing put, where they are not there or not what they were: then `place` is removed.
    """
    if not place.is_dir():
        return None
    try:
        note = read_json(place / _NOTE)
        for name in folders:
            verify(place / name)
    except (InputError, SecurityError) as error:
        print(f"slimrec: what an earlier run left is damaged, it is made again: {error}")
        shutil.rmtree(place)
        return None
    for name, folder in folders.items():
        with replacing(folder) as scratch:
            shutil.copytree(place / name, scratch, dirs_exist_ok=True, copy_function=_link)
    os.utime(place)  # which `sweep` goes by
    return note


def put(place: Path, folders: Mapping[str, Path], note: Any) -> None:
    """Keep artifacts, by name, and a note with them. A disk that takes no more ends no audit: a warning says it."""
    scratch = place.with_name(f".{uuid4().hex}")
    try:
        scratch.mkdir()
        for name, folder in folders.items():
            shutil.copytree(folder, scratch / name, copy_function=_link)
        write_json(scratch / _NOTE, note)
        scratch.rename(place)
    except (OSError, ValueError) as error:
        print(f"slimrec: warning: {', '.join(folders)} not kept for the next run: {error}", file=sys.stderr)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sweep(workspace: Path, before: float) -> None:
    """Remove what was neither put nor taken since `before` (seconds since 1970): the artifacts of one audit are kept."""
    for each in (workspace / KEPT).iterdir():
        if each.stat().st_mtime < before:
            shutil.rmtree(each, ignore_errors=True)


def _link(source: str, target: str) -> None:
    """The same file under another name, which takes no room; a copy where a file system cannot do that.

    Files of artifacts are written once and replaced, never changed; who changes one by hand is found out by its digest.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
