"""Fingerprint: which raw data lies at the source now, told by names, sizes and times of change, without reading it."""

from __future__ import annotations

import hashlib
import json

from slimrec.config import IngestConfig
from slimrec.track import Tracker

CONFIG = IngestConfig


def run(config: IngestConfig, tracker: Tracker) -> dict:
    """Returns `fingerprint` (64 hex digits), and how many `files` and `bytes` there are.

    The same files give the same fingerprint; a file written again gives another one, even with the same content.
    Raises InputError where there is nothing to read, ConfigError for a planted log that cannot be.
    """
    if config.source.startswith("planted:"):
        from slimrec.data.planted import parse_source

        parse_source(config.source)
        found = []
    else:
        found = _listed(config.source)
    text = json.dumps([config.source, found])
    figures = {"files": len(found), "bytes": sum(size for _, size, _ in found)}
    return {"fingerprint": hashlib.sha256(text.encode()).hexdigest(), **figures}


def _listed(source: str) -> list[tuple[str, int, int]]:
    """Path, size (bytes) and time of the last change (ns) of every file of the source, sorted by path."""
    from slimrec.data.files import PARQUET, TEXT
    from slimrec.data.storage import list_files, reading_error

    system, names = list_files(source, PARQUET + TEXT)
    try:
        infos = system.get_file_info(names)
    except OSError as error:
        raise reading_error(source, error) from error
    return [(info.path, info.size, info.mtime_ns) for info in infos]
