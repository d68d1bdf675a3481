"""Scores into what `--output` names: as its ending says, and a plain file whole or not at all."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from slimrec.data.storage import is_address
from slimrec.errors import ConfigError

SCORE = "probability"  # name of the column; of several tasks each one's begins so
ENDINGS = (".parquet", ".pq", ".csv", ".csv.gz")  # in capitals too


class Output:
    """Where scores go. Raises ConfigError at once for an ending that is not written, a folder, or a folder that is not.

    A link is followed to the file behind it. A device or a pipe is written to, never replaced; without an ending it
    gets CSV.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        mode = self.path.stat().st_mode if self.path.exists() else stat.S_IFREG
        # /dev/stdout may be a file that somebody else has open: another file in its place would not reach them
        self.plain = stat.S_ISREG(mode) and not str(self.path.absolute()).startswith(("/dev/", "/proc/"))
        name = self.path.name.lower()
        if stat.S_ISDIR(mode):
            raise ConfigError(f"--output names a file, '{path}' is a folder")
        if not name.endswith(ENDINGS) and (self.plain or "." in name):
            raise ConfigError(f"scores are written as {', '.join(ENDINGS)}, got '{path}'")
        self.parquet, self.packed = name.endswith((".parquet", ".pq")), name.endswith(".gz")
        self.target = Path(os.path.realpath(self.path))
        if self.target.is_symlink():
            raise ConfigError(f"{path} is a link that leads to itself; name another file")
        if self.plain and not self.target.parent.is_dir():
            if is_address(str(path)):
                raise ConfigError(
                    f"scores are written to a file of this machine, got '{path}'; copy them there yourself"
                )
            raise ConfigError(f"no such folder: {self.target.parent}; make it, or write elsewhere")

    def write(self, pieces: Iterable[pa.Table], schema: pa.Schema) -> int:
        """Write tables of one schema, piece by piece; returns how many rows. What fails leaves what was there before."""
        nested = [field.name for field in schema if pa.types.is_nested(field.type)]
        if nested and not self.parquet:
            raise ConfigError(
                f"the column '{nested[0]}' holds lists, which CSV cannot: write .parquet, or leave it out"
            )
        if not self.plain:
            with tempfile.TemporaryDirectory() as folder:
                scratch = Path(folder) / "scores"
                rows = self._write(scratch, pieces, schema)
                with scratch.open("rb") as made, self.path.open("wb", buffering=0) as stream:
                    shutil.copyfileobj(made, stream)
            return rows
        scratch = self.target.with_name(f".{self.target.name[:200]}.{uuid4().hex[:8]}.partial")
        try:
            rows = self._write(scratch, pieces, schema)
            if self.target.exists():
                shutil.copymode(self.target, scratch)
            scratch.replace(self.target)
        finally:
            scratch.unlink(missing_ok=True)
        return rows

    def _write(self, scratch: Path, pieces: Iterable[pa.Table], schema: pa.Schema) -> int:
        rows = 0
        writer = pq.ParquetWriter if self.parquet else pyarrow.csv.CSVWriter
        packing = "gzip" if self.packed else None
        with pa.output_stream(str(scratch), compression=packing) as stream, writer(stream, schema) as file:
            for piece in pieces:
                file.write_table(piece)
                rows += len(piece)
        return rows
