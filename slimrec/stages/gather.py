"""Ingest in parts, last: the encoded rows of all parts -> dataset, byte for byte the one that `ingest` makes."""

from __future__ import annotations

import shutil
from pathlib import Path

from slimrec import artifacts
from slimrec.config import PlannedConfig
from slimrec.data.encode import Encoder
from slimrec.data.plan import Plan, in_order
from slimrec.data.shards import ShardWriter, read_shards
from slimrec.data.split import SPLITS, Tally
from slimrec.stages.encode import Found
from slimrec.stages.ingest import summary, told
from slimrec.verdict import leaks

CONFIG = PlannedConfig


def run(config: PlannedConfig, tracker, plan: Path, encoding: Path, encoded: list[Path], dataset: Path) -> dict:
    """Publish the dataset folder; returns rows and figures. Rows are copied as they stand, a shard at a time."""
    settled, about = Plan.load(plan), artifacts.verify(encoding, "encoding")
    tracker.params(settled.config.model_dump())
    parts = in_order(encoded, "encoded", encoding, len(settled.parts))
    encoder = Encoder.load(encoding)
    found = Found.joined([artifacts.read_json(part / "found.json") for part in parts])
    with artifacts.publish(dataset, "dataset", **about["dataset"]) as folder:
        for file in about["files"]:
            (folder / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(encoding / file, folder / file)
        for split in SPLITS:
            writer = ShardWriter(folder / split, encoder.schema, settled.config.shard_rows, settled.config.batch_rows)
            for part in parts:
                for batch in read_shards(part / split):
                    writer.add(batch)
            writer.close()
        schema = told(encoder.schema, found.novelty, folder)
        leaking = [leak.remark for leak in leaks.write(folder, schema, settled.config.trusted)]
    return summary(schema, Tally.joined(about["tallies"]), dataset, about["remarks"], leaking, found.repeats)
