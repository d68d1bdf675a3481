"""The verdict alone: anybody's two columns of scores, read as ingest reads a log, compared, in words and as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from slimrec.config import IngestConfig
from slimrec.data.keys import read_keys
from slimrec.data.source import open_source
from slimrec.data.values import flat, numbers
from slimrec.errors import InputError
from slimrec.verdict import certify
from slimrec.verdict.wording import figure, signed, whole


def judge(
    path: str,
    label: str,
    full: str,
    slim: str,
    group: str | None = None,
    weight: str | None = None,
    allowed_loss: float = 0.001,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Compare two columns of scores in a Parquet or CSV file, a folder or an s3:// address of them.

    Returns `verdict`, `reason`, `allowed_loss`, `comparison` (the figures of `Comparison`) and `rows_needed`; rows
    without a group count one by one. Raises InputError for a column that is missing or whose values cannot serve.
    """
    scores = [{"name": name, "column": column, "kind": "number"} for name, column in (("full", full), ("slim", slim))]
    fields = {"label": label, "fields": scores, "group": group, "weight": weight}
    source = open_source(IngestConfig(source=path, fields={k: v for k, v in fields.items() if v is not None}))
    keys, columns = [], []
    for chunk in source.chunks():
        keys.append(read_keys(source.schema, chunk.data, chunk.rows, chunk.where))
        parts = (numbers(f, flat(chunk.data.column(f.column)), chunk.where)[:, 0] for f in source.schema.fields)
        columns.append(np.column_stack(list(parts)))
    if not keys:
        raise InputError(f"{path} has no rows; fill it")
    labels = np.concatenate([part.label for part in keys])
    weights = None if weight is None else np.concatenate([part.weight for part in keys])
    groups = None if group is None else np.concatenate([part.group for part in keys])
    first, second = np.concatenate(columns).T
    found = certify.compare(labels, first, second, weights, groups, confidence)
    outcome, reason = certify.verdict(found, allowed_loss)
    facts = {"verdict": outcome, "reason": reason, "allowed_loss": allowed_loss, "comparison": asdict(found)}
    return {**facts, "rows_needed": certify.rows_needed(found, allowed_loss)}


def told(facts: dict[str, Any]) -> str:
    """What `judge` found, for a screen."""
    found = facts["comparison"]
    lines = [f"{facts['verdict']}: {facts['reason']}"]
    if found["difference"] is not None:
        change = f"{figure(found['full_auc'])} -> {figure(found['slim_auc'])}, {signed(found['difference'])}"
        lines.append(f"AUC        {change}")
    sides = (f"{whole(round(found[f'{side}_effective']))} {side}" for side in ("positive", "negative"))
    lines.append(
        f"evidence   {whole(found['rows'])} rows tell as much as {' and '.join(sides)} independent observations"
    )
    if found["copies"]:
        lines.append(f"copies     {whole(found['copies'])} rows repeat another one and do not count again")
    if facts["rows_needed"]:
        lines.append(f"pilot      about {whole(facts['rows_needed'])} such rows end with a verdict, nine times in ten")
    return "\n".join(lines)
