"""Ingest in parts, third: the counts of all parts -> encoding: vocabularies and schema as one machine had learnt them."""

from __future__ import annotations

from pathlib import Path

from slimrec import artifacts
from slimrec.config import PlannedConfig
from slimrec.data.fit import join
from slimrec.data.plan import Plan, in_order
from slimrec.data.split import Tally
from slimrec.stages.ingest import describe

CONFIG = PlannedConfig


def run(config: PlannedConfig, tracker, plan: Path, counts: list[Path], encoding: Path) -> dict:
    """Publish the encoding; InputError where the parts cannot make a dataset. Returns the number of rows."""
    settled = Plan.load(plan)
    found = in_order(counts, "counts", plan, len(settled.parts))
    tallies = [facts["tally"] for facts in found.values()]
    tally = Tally.joined(tallies)
    tally.check(settled.config.split, settled.split_by, settled.schema.labels)
    encoder, cut, remarks = join(settled.schema, settled.config.max_vocabulary, found)
    about = describe(settled, tally, cut, [file for facts in found.values() for file in facts["source"]])
    with artifacts.publish(
        encoding, "encoding", of=artifacts.digest(plan), tallies=tallies, dataset=about, remarks=remarks
    ) as folder:
        encoder.save(folder)
    return {"rows": int(tally.rows.sum())}
