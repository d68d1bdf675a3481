"""Fingerprint: what this audit is: recipe and day, settled once, and which raw data lies at the source now.

The data are told by names, sizes and times of change, without reading them.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from slimrec import track
from slimrec.config import AUTO, AuditConfig, Recipe
from slimrec.stages.settle import as_written, sections, settle
from slimrec.track import Tracker

CONFIG = AuditConfig


def settled(config: AuditConfig, workspace: str) -> Recipe:
    """The recipe that all steps are told, its day a day; tries of one audit agree on it by a note in the workspace."""
    recipe = settle(config.recipe, config.choices)
    if recipe.ingest.audit_date != AUTO:
        return recipe
    day = _first_day(workspace)
    print(f"slimrec: this audit stands for {day}, the day on which it began (UTC)")
    return recipe.model_copy(update={"ingest": recipe.ingest.model_copy(update={"audit_date": day})})


def run(config: Recipe, tracker: Tracker) -> dict:
    """Returns what the other steps are told, and how many `files` and `bytes` there are.

    `fingerprint` (64 hex digits): the same files give the same; a file written again gives another one, even with the
    same content. `audit_date`: the day, "" for an audit that stands for none. `recipe`: as settled. `sections`: of it,
    by step. Raises InputError where there is nothing to read, ConfigError for a planted log that cannot be.
    """
    source = config.ingest.source
    if source.startswith("planted:"):
        from slimrec.data.planted import parse_source

        parse_source(source)
        found = []
    else:
        found = listed(source)
    text = json.dumps([source, found])
    return {
        "fingerprint": hashlib.sha256(text.encode()).hexdigest(),
        "files": len(found),
        "bytes": sum(size for _, size, _ in found),
        "audit_date": config.ingest.audit_date or "",
        "recipe": as_written(config),
        "sections": sections(config),
    }


def _first_day(workspace: str) -> str:
    """The day (UTC) on which this audit was first tried: a try after midnight finds what the first one noted."""
    today = datetime.now(UTC).date().isoformat()
    if not workspace or not track.audit():
        return today
    note = Path(workspace, "days", track.audit())
    if not note.is_file():
        note.parent.mkdir(parents=True, exist_ok=True)
        scratch = note.with_name(f"{note.name}.{os.getpid()}")
        scratch.write_text(today, encoding="utf-8")
        scratch.replace(note)
    return note.read_text(encoding="utf-8")


def listed(source: str) -> list[tuple[str, int, int]]:
    """Path, size (bytes) and time of the last change (ns) of every file of the source, sorted by path."""
    from slimrec.data.files import PARQUET, TEXT
    from slimrec.data.storage import list_files, reading_error

    system, names = list_files(source, PARQUET + TEXT)
    try:
        infos = system.get_file_info(names)
    except OSError as error:
        raise reading_error(source, error) from error
    return [(info.path, info.size, info.mtime_ns) for info in infos]
