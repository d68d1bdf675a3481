"""Raw logs -> dataset: split, learn from the training rows, encode, publish. Two passes, bounded memory.

On one machine; `plan`, `count`, `merge`, `encode` and `gather` are the same in parts, for many.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from slimrec import artifacts
from slimrec.config import IngestConfig
from slimrec.data.plan import Plan, make_plan
from slimrec.data.source import open_source
from slimrec.data.split import SPLITS, Tally
from slimrec.schema import Schema
from slimrec.stages.count import count
from slimrec.stages.encode import Found, encode

CONFIG = IngestConfig


def run(config: IngestConfig, tracker, dataset: Path) -> dict:
    """Publish the dataset folder; returns rows and figures. Nothing is written before the first pass has passed."""
    source = open_source(config)
    plan = make_plan(config, source, parts=1)
    tally, fitting, files = count(plan, source)
    tally.check(config.split, plan.split_by)
    encoder, cut = fitting.finish()
    del fitting  # its counts take as much memory as the vocabularies
    with artifacts.publish(dataset, "dataset", **describe(plan, tally, cut, files)) as folder:
        encoder.save(folder)
        found = encode(plan, source, encoder, tally.rows.tolist(), folder)
    return summary(encoder.schema, tally, found, dataset)


def describe(plan: Plan, tally: Tally, cut: dict[str, int], files: list[str]) -> dict:
    """Facts for the dataset's manifest; `files` are the SHA-256 of the files read, in order."""
    return {
        "source": {"address": plan.config.source, "sha256": hashlib.sha256("".join(files).encode()).hexdigest()},
        "split_by": plan.split_by,
        "seed": plan.config.seed,
        "rows": dict(zip(SPLITS, tally.rows.tolist())),
        "cut_values": cut,
    }


def summary(schema: Schema, tally: Tally, found: Found, dataset: Path) -> dict:
    """The stage's figures, of a dataset that is published."""
    facts = artifacts.read_json(dataset / artifacts.MANIFEST)
    return {
        "rows": int(tally.rows.sum()),
        **{f"rows_{name}": rows for name, rows in facts["rows"].items()},
        "fields": len(schema.fields),
        "positive_rate": float(tally.positive.sum() / tally.rows.sum()),
        "embedding_rows": sum(field.rows for field in schema.fields),
        "missing_share": {field.name: field.statistics.missing_share for field in schema.fields},
        "unseen_share": _by_field(schema, found),
        "cut_values": facts["cut_values"],
        "split_by": facts["split_by"],
        "fingerprint": artifacts.digest(dataset),
    }


def _by_field(schema: Schema, found: Found) -> dict[str, float]:
    """Share of unseen values of each embedded field."""
    edges = np.cumsum([0, *(field.slots for field in schema.embedded)])
    return {
        field.name: float(found.unseen[low:high].sum() / max(found.present[low:high].sum(), 1))
        for field, low, high in zip(schema.embedded, edges, edges[1:])
    }
