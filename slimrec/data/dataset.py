"""Dataset folder -> batches: mapped shards, read a window of rows at a time, batches as slices of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from slimrec import artifacts
from slimrec.batch import Batch
from slimrec.data.hashing import permuted
from slimrec.data.order import part_of, windows
from slimrec.data.shards import GROUP, LABEL, ROW, TIME, WEIGHT, field_column, matrix, read_shards
from slimrec.data.split import SPLITS
from slimrec.errors import ConfigError, InputError, SecurityError, did_you_mean
from slimrec.probes import is_probe, source_of, with_probes
from slimrec.schema import Schema
from slimrec.written import parse

_BLOCK = 4096  # rows put together at once: a block of ids stays in the processor's cache


class Dataset:
    """An ingested dataset, read only in the fields that are asked for."""

    def __init__(self, path: Path, schema: Schema, probe_seed: int = 0):
        self.path, self.schema, self.probe_seed = path, schema, probe_seed

    @classmethod
    def open(cls, path: str | Path, fields: Iterable[str] | None = None, check: bool = False) -> Dataset:
        """Open the dataset folder; `fields` narrows the reading, `check` verifies the SHA-256 of every file.

        Raises InputError where there is no dataset, SecurityError where `check` finds another content, ConfigError
        for a field that the dataset does not have.
        """
        path = Path(path)
        if check:
            artifacts.verify(path, "dataset")
        else:
            facts = artifacts.read_manifest(path)
            if facts.get("kind") != "dataset":
                raise InputError(f"{path} holds a '{facts.get('kind')}', a 'dataset' is needed here")
        schema = parse(Schema, artifacts.read_json(path / "schema.json"), SecurityError)
        if fields is not None:
            fields = list(fields)
            for name in fields:
                if name not in schema.names:
                    raise ConfigError(f"{path} has no field '{name}'; {did_you_mean(name, schema.names)}")
            schema = schema.narrow(fields)
        return cls(path, schema)

    def probed(self, per_field: float, seed: int) -> Dataset:
        """The same rows with probes beside the fields (see `slimrec.probes`); nothing is written anywhere."""
        return Dataset(self.path, with_probes(self.schema, per_field, seed), seed) if per_field else self

    @cached_property
    def fingerprint(self) -> str:
        """One SHA-256 for the whole content."""
        return artifacts.digest(self.path)

    def split(self, name: str, rows: np.ndarray | None = None) -> Split:
        """One of train, gate, valid, test, or several one after the other (`train+gate`).

        `rows` are ascending positions (int64) to look at, None for all.
        """
        batches = []
        for part in name.split("+"):
            if part not in SPLITS:
                raise ConfigError(f"there is no split '{part}'; {did_you_mean(part, SPLITS)}")
            batches += read_shards(self.path / part)
        return Split(self.schema, batches, rows, self.probe_seed)


class Split:
    """Rows of one split; the per-row arrays are read when first asked for.

    A probe in the schema reads its field in the row that a permutation of the whole split, fixed by `probe_seed`,
    puts in the place of a row: the same in every epoch, so that it can be memorised as noise can.
    """

    def __init__(
        self,
        schema: Schema,
        batches: list[pa.RecordBatch],
        rows: np.ndarray | None,
        probe_seed: int = 0,
        task: int | None = None,
    ):
        self.schema, self._batches, self._probe_seed, self._task = schema, batches, probe_seed, task
        self._ends = np.cumsum([batch.num_rows for batch in batches], dtype=np.int64)
        total = int(self._ends[-1]) if batches else 0
        self._rows = rows
        self._count = total if rows is None else len(rows)
        if rows is not None and len(rows) and not (0 <= rows[0] and rows[-1] < total and (np.diff(rows) > 0).all()):
            raise InputError(
                f"rows must ascend within 0..{total - 1}, got {rows[0]}..{rows[-1]}; sample this dataset again"
            )

    def __len__(self) -> int:
        return self._count

    def some(self, count: int, seed: int) -> Split:
        """At most `count` of these rows, drawn at random, in stored order."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return Split(self.schema, self._batches, self._positions(chosen), self._probe_seed, self._task)

    @cached_property
    def label(self) -> np.ndarray:
        """float32 (n,), 0 or 1; of several tasks (n, T), NaN where a row is not observed for one."""
        return self._column(LABEL, np.float32) if self._task is None else self._column(LABEL, np.float32)[:, self._task]

    def by_task(self) -> dict[str, Split]:
        """For each task the rows that are observed for it, as a split with that label alone; {"": all rows} for one label."""
        if not self.schema.tasks:
            return {"": self}
        found = {}
        for number, task in enumerate(self.schema.tasks):
            rows = self._positions(np.flatnonzero(~np.isnan(self.label[:, number])))
            alone = self.schema.model_copy(update={"label": task, "tasks": ()})
            found[task.name] = Split(alone, self._batches, rows, self._probe_seed, number)
        return found

    def _positions(self, rows: np.ndarray) -> np.ndarray:
        """Where rows of this split stand among all that are stored."""
        return rows if self._rows is None else self._rows[rows]

    @cached_property
    def weight(self) -> np.ndarray:
        """float32 (n,), ones when the schema has no weight."""
        return self._column(WEIGHT, np.float32) if self.schema.weight else np.ones(len(self), np.float32)

    @cached_property
    def group(self) -> np.ndarray | None:
        """uint64 (n,) hashes of the group column."""
        return self._column(GROUP, np.uint64) if self.schema.group else None

    @cached_property
    def time(self) -> np.ndarray | None:
        """int64 (n,), ascending in time."""
        return self._column(TIME, np.int64) if self.schema.time else None

    @cached_property
    def row(self) -> np.ndarray:
        """int64 (n,), the number of each row in the source."""
        return self._column(ROW, np.int64)

    def stored(self, column: str) -> np.ndarray:
        """A column of the shards as it is stored, (n,) or (n, width)."""
        if not self._batches:
            return np.empty(0)
        values = np.concatenate([matrix(batch.column(column)) for batch in self._batches])
        return values if self._rows is None else values[self._rows]

    def _column(self, name: str, kind: type) -> np.ndarray:
        values = [matrix(batch.column(name)) for batch in self._batches]
        joined = np.concatenate(values) if values else np.empty(0, kind)
        return joined if self._rows is None else joined[self._rows]

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: Literal["window", "none"] = "window",
        window_rows: int = 1_048_576,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> Iterator[Batch]:
        """One pass over the rows, `batch_count` batches, each row once; slices of a window, valid as long as held.

        See `slimrec.data.order` for their order: it depends on (seed, epoch), not on `world`. Rank r of `world` gets
        the r-th part of every batch. A part of fewer than two rows, as the last batch may leave, is filled up with
        rows of that batch at weight 0, because networks and gates look at the variance of what they see.
        """
        order = windows(
            len(self), batch_size, seed=seed, epoch=epoch, shuffle=shuffle, window_rows=window_rows, start=start
        )
        for window in order:
            rows = self._window(window.start, window.stop, window.place)
            for batch in window.batches:
                whole = Batch(*(values[batch] for values in rows))
                yield whole if world == 1 else _part(whole, rank, world)

    def _window(self, start: int, stop: int, place: np.ndarray | None) -> Batch:
        """Rows start..stop, each at its `place` in the window (where it stands if None)."""
        import torch  # takes seconds, and who only counts rows and reads labels needs none of it

        fields, count = self.schema.fields, stop - start
        ids = np.empty((count, sum(field.slots for field in fields)), np.int32)
        dense = np.empty((count, sum(field.dense_width for field in fields)), np.float32)
        shape = (count, len(self.schema.tasks)) if self.schema.tasks else count
        label, weight = np.empty(shape, np.float32), np.ones(count, np.float32)
        done, shuffled = 0, self._probes(start, stop)
        for batch, local in self._pieces(start, stop):
            columns = {
                f.name: matrix(batch.column(field_column(f.name)))[local] for f in fields if f.name not in shuffled
            }
            label_part = matrix(batch.column(LABEL))[local]
            rows, label_part = len(label_part), label_part if self._task is None else label_part[:, self._task]
            columns |= {name: values[done : done + rows] for name, values in shuffled.items()}
            at = slice(done, done + rows) if place is None else place[done : done + rows]
            label[at] = label_part
            if self.schema.weight:
                weight[at] = batch.column(WEIGHT).to_numpy()[local]
            for low in range(0, rows, _BLOCK):
                high = min(low + _BLOCK, rows)
                target = slice(done + low, done + high) if place is None else place[done + low : done + high]
                ids[target] = _side_by_side([columns[f.name][low:high] for f in fields if f.embedded], high - low)
                dense[target] = _side_by_side([columns[f.name][low:high] for f in fields if not f.embedded], high - low)
            done += rows
        if self.schema.tasks:
            label, weight = self._masked(label, weight)
        return Batch(*(torch.from_numpy(values) for values in (ids, dense, label, weight)))

    def _masked(self, label: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels (n, T) without gaps, and weights (n, T): a row's own times its task's, 0 where it is not observed."""
        observed = ~np.isnan(label)
        shares = np.array([task.loss_weight for task in self.schema.tasks], np.float32)
        return np.where(observed, label, np.float32(0)), weight[:, None] * shares * observed

    def _probes(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """The values of every probe in the rows start..stop, (n,) or (n, width)."""
        turns: dict[int, dict[str, str]] = {}
        for name in filter(is_probe, self.schema.names):
            turn, source = source_of(name)
            turns.setdefault(turn, {})[name] = field_column(source)
        places = np.arange(start, stop) if self._rows is None else self._rows[start:stop]
        values: dict[str, np.ndarray] = {}
        for turn, columns in turns.items():
            wanted = permuted(places, int(self._ends[-1]), self._probe_seed, turn)
            order = np.argsort(wanted, kind="stable")
            edges = np.searchsorted(wanted[order], [0, *self._ends.tolist()])
            for batch, begin, low, high in zip(self._batches, [0, *self._ends.tolist()], edges, edges[1:]):
                rows, local = order[low:high], wanted[order[low:high]] - begin
                for name, column in columns.items():
                    stored = matrix(batch.column(column))
                    values.setdefault(name, np.empty((len(places), *stored.shape[1:]), stored.dtype))
                    values[name][rows] = stored[local]
        return values

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[pa.RecordBatch, slice | np.ndarray]]:
        """Stored batches that hold the rows start..stop, with the rows wanted of each."""
        positions = None if self._rows is None else self._rows[start:stop]
        begin = 0
        for batch, end in zip(self._batches, self._ends.tolist()):
            if positions is None:
                low, high = max(start, begin), min(stop, end)
                if low < high:
                    yield batch, slice(low - begin, high - begin)
            else:
                low, high = np.searchsorted(positions, [begin, end])
                if low < high:
                    yield batch, positions[low:high] - begin
            begin = end


def _part(batch: Batch, rank: int, world: int) -> Batch:
    """A rank's part of a batch, filled up to two rows with rows of weight 0."""
    import torch

    own = part_of(len(batch.label), rank, world)
    rows = torch.arange(own.start, own.stop)
    if len(rows) >= 2:
        return Batch(*(values[own] for values in batch))
    rows = torch.cat([rows, torch.arange(2 - len(rows)) % len(batch.label)])
    part = Batch(*(values[rows] for values in batch))
    part.weight[own.stop - own.start :] = 0
    return part


def read_subset(path: str | Path) -> np.ndarray:
    """Ascending positions (int64) in the train split, from a verified subset folder."""
    artifacts.verify(path, "subset")
    return np.load(Path(path) / "rows.npy", allow_pickle=False)


def _side_by_side(columns: list[np.ndarray], rows: int) -> np.ndarray:
    if not columns:
        return np.empty((rows, 0), np.float32)
    return np.concatenate([column.reshape(rows, -1) for column in columns], axis=1)
