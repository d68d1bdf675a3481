"""Raw logs -> dataset: split, learn from the training rows, encode, publish. Two passes, bounded memory.

On one machine; `plan`, `count`, `merge`, `encode` and `gather` are the same in parts, for many.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slimrec import artifacts, track
from slimrec.config import EvaluateConfig, IngestConfig
from slimrec.data import slicing
from slimrec.data.dataset import Dataset, Split
from slimrec.data.novelty import Novelty, fitted
from slimrec.data.plan import Plan, make_plan
from slimrec.data.repeats import Repeats
from slimrec.data.source import open_source
from slimrec.data.split import SPLITS, Tally
from slimrec.schema import Schema
from slimrec.stages.count import count
from slimrec.stages.encode import encode
from slimrec.verdict import leaks, pilot, sequence, tasks
from slimrec.written import parse

CONFIG = IngestConfig


def run(config: IngestConfig, tracker, dataset: Path) -> dict:
    """Publish the dataset folder; returns rows and figures. Nothing is written before the first pass has passed."""
    source = open_source(config)
    leaks.check_trusted(source.schema, config.trusted)
    plan = make_plan(config, source, parts=1)
    tally, fitting, files = count(plan, source)
    tally.check(config.split, plan.split_by, source.schema.labels)
    encoder, cut, remarks = fitting.finish()
    del fitting  # its counts take as much memory as the vocabularies
    with artifacts.publish(dataset, "dataset", **describe(plan, tally, cut, files)) as folder:
        encoder.save(folder)
        found = encode(plan, source, encoder, tally.rows.tolist(), folder)
        schema = told(encoder.schema, found.novelty, folder)
        leaking = [leak.remark for leak in leaks.write(folder, schema, config.trusted)]
    return summary(schema, tally, dataset, remarks, leaking, found.repeats)


def describe(plan: Plan, tally: Tally, cut: dict[str, int], files: list[str]) -> dict:
    """Facts for the dataset's manifest; `files` are the SHA-256 of the files read, in order."""
    return {
        "source": {"address": plan.config.source, "sha256": hashlib.sha256("".join(files).encode()).hexdigest()},
        "split_by": plan.split_by,
        "seed": plan.config.seed,
        "rows": dict(zip(SPLITS, tally.rows.tolist())),
        "cut_values": cut,
    }


def told(schema: Schema, found: Novelty, folder: Path) -> Schema:
    """The schema in the folder, which now says how many values outside train are new; scoring compares with it."""
    schema = fitted(schema, found)
    artifacts.write_json(folder / "schema.json", schema.model_dump(mode="json"))
    return schema


def summary(
    schema: Schema, tally: Tally, dataset: Path, remarks: list[str], leaking: list[str], repeats: Repeats
) -> dict:
    """The stage's figures, of a dataset that is published; the log hears remarks, an audit's screen what seems to leak."""
    repeated = repeats.remarks()
    for remark in (*remarks, *repeated):
        print(f"ingest: {remark}", file=sys.stderr)
    for remark in leaking:
        print(f"slimrec: warning: {remark}")
    facts, outlook = artifacts.read_json(dataset / artifacts.MANIFEST), _outlook(dataset)
    return {
        "rows": int(tally.rows.sum()),
        **{f"rows_{name}": rows for name, rows in facts["rows"].items()},
        "fields": len(schema.fields),
        **_rates(schema, tally),
        "embedding_rows": sum(field.rows for field in schema.fields),
        "missing_share": {field.name: field.statistics.missing_share for field in schema.fields},
        "unseen_share": {field.name: field.statistics.unseen_share for field in schema.embedded},
        "outside_share": {field.name: field.statistics.unseen_share for field in schema.dense},
        "repeated_share": repeats.share,
        "cut_values": facts["cut_values"],
        "split_by": facts["split_by"],
        "remarks": [*remarks, *leaking, *repeated],
        "pilot": outlook,
        "fingerprint": artifacts.digest(dataset),
    }


def _rates(schema: Schema, tally: Tally) -> dict[str, float]:
    """The share of positive labels; of each task, among the rows that are observed for it."""
    if not schema.tasks:
        return {"positive_rate": float(tally.positive.sum() / tally.rows.sum())}
    rates = tally.positive.sum(axis=0) / tally.observed.sum(axis=0)
    return {f"positive_rate/{task.name}": float(rate) for task, rate in zip(schema.tasks, rates)}


def _outlook(dataset: Path) -> str:
    """What the certification slice can be expected to certify; the screen hears too whether that is what is allowed.

    What is allowed is no setting of ingest, which another limit must not run again: the audit's run tells it.
    """
    allowed, confidence = track.asked("evaluate.allowed_auc_loss"), track.asked("evaluate.confidence")
    whole = Dataset.open(dataset).split("test")
    tests, sure = whole.by_task(), sequence.repeated(float(confidence or 0.95), 1)
    found = {task: pilot.of(test, tasks.share(sure, len(tests))) for task, test in tests.items()}
    limits = parse(EvaluateConfig, json.loads(track.asked("evaluate.slices") or "{}"))
    for task, each in found.items():
        own = limits.allowed_task_loss.get(task, float(allowed) if allowed else None)
        start, mark, said = each.outlook(own).rpartition("warning: ")
        print(f"slimrec: {start}{mark}{tasks.of(task)}{said}")
    for said in _sliced(dataset, whole, tests, limits.model_copy(update={"confidence": tasks.share(sure, len(tests))})):
        print(f"slimrec: {said}")
    return "; ".join(f"{tasks.of(task)}{each.outlook()}" for task, each in found.items())


def _sliced(dataset: Path, whole: Split, tests: dict[str, Split], config: EvaluateConfig) -> Iterator[str]:
    """Whether their rows decide the slices that the audit protects, a sentence for each task."""
    parts = slicing.slices(dataset, config.slices)
    for number, (task, test) in enumerate(tests.items() if parts else ()):
        there = ~np.isnan(whole.label[:, number]) if task else slice(None)
        own = [(name, rows[there], of) for name, rows, of in parts]
        found = pilot.sliced(test.label, test.weight, test.group, config, own)
        yield f"{tasks.of(task)}{pilot.undecided(found)}"
