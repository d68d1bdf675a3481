"""The files of a dataset: Arrow IPC shards per split, one column a field, written in pieces and mapped when read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from slimrec.data.keys import Keys
from slimrec.schema import Schema

ROW, LABEL, WEIGHT, GROUP, TIME = "row", "label", "weight", "group", "time"


def field_column(name: str) -> str:
    """The column of a field in a shard: prefixed, so that no field can hide the label."""
    return f"field.{name}"


class ShardWriter:
    """Appends encoded rows of one split to `folder/00000.arrow`, 00001, ...; holds at most `batch_rows` rows."""

    def __init__(self, folder: Path, schema: Schema, shard_rows: int, batch_rows: int):
        self.folder, self.schema = folder, schema
        self.piece = min(batch_rows, shard_rows)
        self.pieces_a_shard = max(1, shard_rows // self.piece)
        self._held: list[pa.RecordBatch] = []
        self._count = self._pieces = self._shards = 0
        self._file: pa.ipc.RecordBatchFileWriter | None = None

    def append(self, ids: np.ndarray, dense: np.ndarray, keys: Keys, rows: np.ndarray) -> None:
        """Take ids (n, S), dense (n, N), keys and row numbers (n,)."""
        if len(rows):
            self.add(self._pack(ids, dense, keys, rows))

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows as a writer over the same schema has written them."""
        self._held.append(batch)
        self._count += batch.num_rows
        while self._count >= self.piece:
            joined = pa.concat_batches(self._held)
            self._write(joined.slice(0, self.piece))
            self._held, self._count = [joined.slice(self.piece)], self._count - self.piece

    def close(self) -> None:
        """Write what is held and end the last shard."""
        if self._count:
            self._write(pa.concat_batches(self._held))
        self._end_shard()

    def _pack(self, ids: np.ndarray, dense: np.ndarray, keys: Keys, rows: np.ndarray) -> pa.RecordBatch:
        columns: dict[str, pa.Array] = {}
        slot = place = 0
        for field in self.schema.fields:
            columns[field_column(field.name)] = (
                _column(ids[:, slot : slot + field.slots])
                if field.embedded
                else _column(dense[:, place : place + field.dense_width])
            )
            slot, place = slot + field.slots, place + field.dense_width
        named = {LABEL: keys.label, WEIGHT: keys.weight, GROUP: keys.group, TIME: keys.time, ROW: rows}
        columns |= {
            name: pa.array(values) if values.ndim == 1 else _column(values)
            for name, values in named.items()
            if values is not None
        }
        return pa.RecordBatch.from_pydict(columns)

    def _write(self, batch: pa.RecordBatch) -> None:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = pa.ipc.new_file(self.folder / f"{self._shards:05d}.arrow", batch.schema)
        self._file.write_batch(batch)
        self._pieces += 1
        if self._pieces == self.pieces_a_shard:
            self._end_shard()

    def _end_shard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file, self._pieces, self._shards = None, 0, self._shards + 1


def read_shards(folder: Path) -> list[pa.RecordBatch]:
    """All record batches of a split in order, mapped and not copied; none where the split has no rows."""
    readers = [pa.ipc.open_file(pa.memory_map(str(file))) for file in sorted(folder.glob("*.arrow"))]
    return [reader.get_batch(i) for reader in readers for i in range(reader.num_record_batches)]


def matrix(column: pa.Array) -> np.ndarray:
    """A shard's column as a view: (n,) of single values, (n, width) of lists."""
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy().reshape(-1, column.type.list_size)
    return column.to_numpy()


def _column(values: np.ndarray) -> pa.Array:
    if values.shape[1] == 1:
        return pa.array(np.ascontiguousarray(values[:, 0]))
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])
