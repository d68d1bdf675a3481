"""Ingest in parts, first: raw logs -> plan, by which each part is counted and encoded on a machine of its own."""

from __future__ import annotations

from pathlib import Path

from slimrec import artifacts
from slimrec.config import IngestConfig
from slimrec.data.plan import make_plan
from slimrec.data.source import open_source
from slimrec.verdict import leaks

CONFIG = IngestConfig


def run(config: IngestConfig, tracker, plan: Path) -> dict:
    """Publish the plan; returns how many parts it has, at most `config.parts`."""
    source = open_source(config)
    leaks.check_trusted(source.schema, config.trusted)
    made = make_plan(config, source, config.parts)
    with artifacts.publish(plan, "plan") as folder:
        made.save(folder)
    return {"parts": len(made.parts)}
