"""Raw logs -> dataset: split, learn from the training rows, encode, publish. Two passes, bounded memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from slimrec import artifacts
from slimrec.config import IngestConfig
from slimrec.data.encode import Encoder
from slimrec.data.fit import Fitting
from slimrec.data.keys import Keys, read_keys, read_time
from slimrec.data.shards import ShardWriter
from slimrec.data.source import Chunk, Source, open_source
from slimrec.data.split import SPLITS, Splitter, resolve, time_thresholds
from slimrec.data.values import flat
from slimrec.errors import InputError, TransientError
from slimrec.schema import MISSING, UNSEEN, Schema

CONFIG = IngestConfig


class _Tally:
    """Rows, positives and weight of each split."""

    def __init__(self):
        self.rows, self.positive, self.weight = (np.zeros(len(SPLITS)) for _ in range(3))

    def add(self, keys: Keys, split: np.ndarray) -> None:
        for total, values in ((self.rows, None), (self.positive, keys.label), (self.weight, keys.weight)):
            total += np.bincount(split, values, len(SPLITS))

    def check(self, shares: dict[str, float], by: str) -> None:
        """Raise InputError for a split that cannot serve: no rows, no weight, or labels of one class."""
        for name, rows, positive, weight in zip(SPLITS, self.rows, self.positive, self.weight):
            if shares[name] and not rows:
                raise InputError(
                    f"the split '{name}' gets none of the {int(self.rows.sum())} rows when split by {by}; "
                    "give more rows or another `split`"
                )
            if shares[name] and not weight:
                raise InputError(f"the weights of the split '{name}' sum to zero; at least one row must count")
            if name != "gate" and positive in (0, rows):
                raise InputError(
                    f"all {int(rows)} labels of the split '{name}' are {int(positive > 0)}; both classes are needed, "
                    "check the label column or split otherwise"
                )


def run(config: IngestConfig, tracker, dataset: Path) -> dict:
    """Publish the dataset folder; returns rows and figures. Nothing is written before the first pass has passed."""
    source, schema = open_source(config)
    by = resolve(config.split, schema)
    thresholds = time_thresholds(config.split, _times(source, schema)) if by == "time" else None
    splitter = Splitter(by, config.split, config.seed, thresholds)
    fitting, tally = Fitting(schema, config.max_vocabulary), _Tally()
    for chunk in _progress(source, "learn"):
        keys = read_keys(schema, chunk.data, chunk.rows, chunk.where)
        split = splitter.assign(keys, chunk.rows)
        tally.add(keys, split)
        train = np.flatnonzero(split == 0)
        fitting.add(chunk.data.take(train), chunk.rows[train], lambda i, c=chunk, t=train: c.where(t[i]))
    tally.check({name: getattr(config.split, name) for name in SPLITS}, by)
    encoder = Encoder(*fitting.finish())
    facts = {"source": {"address": config.source, "sha256": source.fingerprint()}, "split_by": by, "seed": config.seed}
    facts |= {"rows": dict(zip(SPLITS, tally.rows.astype(int).tolist())), "cut_values": fitting.cut}
    with artifacts.publish(dataset, "dataset", **facts) as folder:
        encoder.save(folder)
        unseen = _encode(config, source, encoder, splitter, tally, folder)
    return _summary(encoder.schema, tally, facts, unseen) | {"fingerprint": artifacts.digest(dataset)}


def _times(source: Source, schema: Schema) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for chunk in _progress(source, "order", [schema.time]):
        yield chunk.rows, read_time(schema.time, flat(chunk.data.column(schema.time)), chunk.where)


def _encode(
    config: IngestConfig, source: Source, encoder: Encoder, splitter: Splitter, expected: _Tally, folder: Path
) -> dict[str, float]:
    """Second pass: encoded rows into the shards of their splits; returns the share of unseen ids outside train."""
    schema = encoder.schema
    writers = [ShardWriter(folder / name, schema, config.shard_rows, config.batch_rows) for name in SPLITS]
    slots, tally = sum(field.slots for field in schema.fields), _Tally()
    unseen, present = np.zeros(slots), np.zeros(slots)
    for chunk in _progress(source, "encode"):
        keys = read_keys(schema, chunk.data, chunk.rows, chunk.where)
        split = splitter.assign(keys, chunk.rows)
        tally.add(keys, split)
        ids, dense = encoder.encode(chunk.data, chunk.where)
        unseen += (ids[split > 0] == UNSEEN).sum(axis=0)
        present += (ids[split > 0] > MISSING).sum(axis=0)
        for index, writer in enumerate(writers):
            rows = np.flatnonzero(split == index)
            part = Keys(*(None if values is None else values[rows] for values in keys))
            writer.append(ids[rows], dense[rows], part, chunk.rows[rows])
    for writer in writers:
        writer.close()
    if tally.rows.tolist() != expected.rows.tolist():
        raise TransientError(f"{config.source} changed while it was read; run the step again")
    return _by_field(schema, unseen, present)


def _by_field(schema: Schema, part: np.ndarray, whole: np.ndarray) -> dict[str, float]:
    """Shares of embedded fields from counts a slot (S,)."""
    shares, slot = {}, 0
    for field in schema.embedded:
        slots = slice(slot, slot + field.slots)
        shares[field.name] = float(part[slots].sum() / max(whole[slots].sum(), 1))
        slot += field.slots
    return shares


def _summary(schema: Schema, tally: _Tally, facts: dict, unseen: dict[str, float]) -> dict:
    return {
        "rows": int(tally.rows.sum()),
        **{f"rows_{name}": rows for name, rows in facts["rows"].items()},
        "fields": len(schema.fields),
        "positive_rate": float(tally.positive.sum() / tally.rows.sum()),
        "embedding_rows": sum(field.rows for field in schema.fields),
        "missing_share": {field.name: field.statistics.missing_share for field in schema.fields},
        "unseen_share": unseen,
        "cut_values": facts["cut_values"],
        "split_by": facts["split_by"],
    }


def _progress(source: Source, what: str, columns: list[str] | None = None) -> Iterator[Chunk]:
    """The chunks, with a bar over rows on a terminal and a line every ten seconds elsewhere."""
    terminal = sys.stderr.isatty()
    with tqdm(
        total=source.total,
        desc=f"ingest: {what}",
        unit=" rows",
        unit_scale=True,
        mininterval=0.2 if terminal else 10,
        delay=0 if terminal else 10,
    ) as bar:
        for chunk in source.chunks(columns):
            yield chunk
            bar.update(chunk.data.num_rows)
