"""Ingest in parts, second: what one part's training rows hold -> counts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from slimrec import artifacts
from slimrec.config import PartConfig
from slimrec.data.fit import Fitting
from slimrec.data.keys import read_keys
from slimrec.data.plan import Plan
from slimrec.data.source import Source
from slimrec.data.split import Tally

CONFIG = PartConfig


class Counts(NamedTuple):
    """What was seen; what the training rows hold; SHA-256 of each file read, in order."""

    tally: Tally
    fitting: Fitting
    files: list[str]


def run(config: PartConfig, tracker, plan: Path, counts: Path) -> dict:
    """Publish what `merge` joins; returns the number of rows."""
    settled = Plan.load(plan)
    found = count(settled, settled.source(config.part))
    facts = {"of": artifacts.digest(plan), "part": config.part, "tally": found.tally.state(), "source": found.files}
    with artifacts.publish(counts, "counts", **facts) as folder:
        found.fitting.save(folder)
    return {"rows": int(found.tally.rows.sum())}


def count(plan: Plan, source: Source) -> Counts:
    """Read the rows once; InputError for the first one that is wrong."""
    schema, splitter = source.schema, plan.splitter
    tally, fitting, files = Tally(len(schema.tasks)), Fitting(schema, plan.config.max_vocabulary), {}
    for chunk in source.shown("learn"):
        keys = read_keys(schema, chunk.data, chunk.rows, chunk.where)
        split = splitter.assign(keys, chunk.rows)
        tally.add(keys, split)
        train = np.flatnonzero(split == 0)
        fitting.add(chunk.data.take(train), chunk.rows[train], lambda i, c=chunk, t=train: c.where(t[i]))
        files[chunk.file] = None
    return Counts(tally, fitting, [source.digest(file) for file in files])
