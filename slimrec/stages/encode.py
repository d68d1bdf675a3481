"""Ingest in parts, fourth: one part's rows -> encoded rows by split."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slimrec import artifacts
from slimrec.config import PartConfig
from slimrec.data.encode import Encoder
from slimrec.data.keys import Keys, read_keys
from slimrec.data.novelty import Novelty
from slimrec.data.plan import Plan
from slimrec.data.repeats import Repeats
from slimrec.data.shards import ShardWriter
from slimrec.data.source import Source
from slimrec.data.split import SPLITS, Tally
from slimrec.errors import TransientError

CONFIG = PartConfig


class Found(NamedTuple):
    """What the rows outside train hold that train does not, and how many of all rows repeat another one."""

    novelty: Novelty
    repeats: Repeats

    def state(self) -> dict[str, Any]:
        """What `joined` takes, as JSON."""
        return {name: each.state() for name, each in self._asdict().items()}

    @classmethod
    def joined(cls, states: list[dict[str, Any]]) -> Found:
        """What was found in all the rows of these."""
        novelty = Novelty()
        for state in states:
            novelty.join(state["novelty"])
        return cls(novelty, Repeats.joined(state["repeats"] for state in states))


def run(config: PartConfig, tracker, plan: Path, encoding: Path, encoded: Path) -> dict:
    """Publish the encoded rows, in shards of the part's own; returns the number of rows."""
    settled, about = Plan.load(plan), artifacts.verify(encoding, "encoding")
    source, rows = settled.source(config.part), about["tallies"][config.part]["rows"]
    with artifacts.publish(encoded, "encoded", of=artifacts.digest(encoding), part=config.part) as folder:
        found = encode(settled, source, Encoder.load(encoding), rows, folder)
        artifacts.write_json(folder / "found.json", found.state())
    return {"rows": sum(rows)}


def encode(plan: Plan, source: Source, encoder: Encoder, expected: list[int], folder: Path) -> Found:
    """Read the rows again, and write them to `folder`/<split>; TransientError where a split has not `expected` rows."""
    schema, splitter, config = encoder.schema, plan.splitter, plan.config
    writers = [ShardWriter(folder / name, schema, config.shard_rows, config.batch_rows) for name in SPLITS]
    tally, found = Tally(len(schema.tasks)), Found(Novelty(), Repeats())
    for chunk in source.shown("encode"):
        keys = read_keys(schema, chunk.data, chunk.rows, chunk.where)
        split = splitter.assign(keys, chunk.rows)
        tally.add(keys, split)
        found.novelty.rows = split > 0
        ids, dense = encoder.encode(chunk.data, chunk.where, found.novelty)
        found.repeats.add(ids, dense, keys)
        for index, writer in enumerate(writers):
            rows = np.flatnonzero(split == index)
            part = Keys(*(None if values is None else values[rows] for values in keys))
            writer.append(ids[rows], dense[rows], part, chunk.rows[rows])
    for writer in writers:
        writer.close()
    if tally.rows.tolist() != expected:
        raise TransientError(f"{config.source} changed while it was read; run the step again")
    return found
