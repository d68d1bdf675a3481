"""What an ingest settles before it reads whole rows: how rows are split, and which machine reads which files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from slimrec import artifacts
from slimrec.config import IngestConfig
from slimrec.data.keys import check_units, epoch_units, key_column, read_time, time_form
from slimrec.data.source import Part, Source, open_source
from slimrec.data.split import Splitter, resolve, time_thresholds
from slimrec.errors import ConfigError, InputError, SecurityError
from slimrec.schema import Schema
from slimrec.written import parse, read_schema


class Plan(BaseModel):
    """All that counting and encoding need to know; the same for every part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: IngestConfig
    split_by: str
    thresholds: tuple[int, int, int] | None  # first times of gate, valid and test
    parts: tuple[Part, ...]

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """The plan of a verified artifact folder."""
        artifacts.verify(folder, "plan")
        return parse(cls, artifacts.read_json(folder / "plan.json"), SecurityError)

    def save(self, folder: Path) -> None:
        """Write what `load` reads."""
        artifacts.write_json(folder / "plan.json", self.model_dump(mode="json"))

    def source(self, part: int) -> Source:
        """What a part has to read; raises ConfigError for a part that there is not."""
        if part >= len(self.parts):
            raise ConfigError(f"the plan has {len(self.parts)} parts, numbered from 0; there is no part {part}")
        return open_source(self.config, self.parts[part])

    @property
    def schema(self) -> Schema:
        """The schema before it is fitted."""
        return read_schema(self.config.fields)

    @property
    def splitter(self) -> Splitter:
        return Splitter(self.split_by, self.config.split, self.config.seed, self.thresholds)


def in_order(folders: Iterable[Path], kind: str, of: Path, parts: int) -> dict[Path, dict]:
    """The verified folders that were made of the artifact `of`, one a part, with the facts in their manifests."""
    found = {folder: artifacts.verify(folder, kind) for folder in folders}
    strange = [folder for folder, facts in found.items() if facts["of"] != artifacts.digest(of)]
    if strange:
        raise InputError(f"{strange[0]} was made of another artifact than {of}; make it again")
    numbers = sorted(facts["part"] for facts in found.values())
    if numbers != list(range(parts)):
        raise InputError(f"{kind} of the parts {numbers} came, of 0..{parts - 1} one each is needed; run those missing")
    return dict(sorted(found.items(), key=lambda pair: pair[1]["part"]))


def make_plan(config: IngestConfig, source: Source, parts: int) -> Plan:
    """Put the times in order if they decide the splits, and share the files out.

    Files stay whole and in order, so there are at most as many parts as files. Several parts need to know how many
    rows each file has: Parquet says so, of CSV one column is read for it.
    """
    config = config.model_copy(update={"fields": source.schema.model_dump(mode="json")})  # the file may lie elsewhere
    by = resolve(config.split, source.schema)
    rows = {file: source.rows_of(file) for file in source.files}
    thresholds = None
    if by == "time":
        thresholds = tuple(time_thresholds(config.split, _times(source, rows)).tolist())
    elif parts > 1 and None in rows.values():
        _count_rows(source, rows)
    shared = _share_out(rows, config.max_rows, parts) if parts > 1 else (Part(files=source.files, start=0),)
    return Plan(config=config, split_by=by, thresholds=thresholds, parts=shared)


def _times(source: Source, rows: dict[str, int | None]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers and times, piece by piece; fills in the rows of each file."""
    name = source.schema.time
    forms: dict[str, str] = {}
    units: dict[str, str] = {}
    for chunk in source.shown("order", [name]):
        rows[chunk.file] = chunk.first + chunk.data.num_rows
        column = key_column(source.schema, chunk.data, name, chunk.where)
        forms.setdefault(time_form(column), chunk.where(0))
        if len(forms) > 1:
            raise InputError(
                f"the time column '{name}' holds a number in {forms['number']} and a date in {forms['date']}, which have "
                "no common order; write one of them"
            )
        times = read_time(name, column, chunk.where)
        if "number" in forms:
            for unit, row in epoch_units(times).items():
                units.setdefault(unit, chunk.where(row))
            check_units(name, units)
        yield chunk.rows, times


def _count_rows(source: Source, rows: dict[str, int | None]) -> None:
    for chunk in source.shown("order", [source.schema.label.column]):
        rows[chunk.file] = chunk.first + chunk.data.num_rows


def _share_out(rows: dict[str, int | None], limit: int | None, parts: int) -> tuple[Part, ...]:
    """Runs of files with about the same number of rows; files beyond the limit are left out."""
    start, first_rows = 0, {}
    for file, count in rows.items():
        if count is None or start == limit:
            break
        first_rows[file] = start
        start += count if limit is None else min(count, limit - start)
    ends = [*list(first_rows.values())[1:], start]
    shares: dict[int, list[str]] = {}
    for (file, first), end in zip(first_rows.items(), ends):
        shares.setdefault((first + end) * parts // (2 * start), []).append(file)  # by the middle of the file
    return tuple(Part(files=tuple(share), start=first_rows[share[0]]) for share in shares.values())
