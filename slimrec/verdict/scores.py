"""The verdict alone: anybody's two columns of scores, read as ingest reads a log, compared, in words, data and a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from slimrec.config import EvaluateConfig, IngestConfig, SliceConfig
from slimrec.data.keys import Keys, read_keys
from slimrec.data.source import Chunk, open_source
from slimrec.data.values import field_categories, flat, numbers
from slimrec.errors import ConfigError, InputError, did_you_mean
from slimrec.schema import Field, Schema, repeated
from slimrec.verdict import case, certify, pilot
from slimrec.verdict.losses import Facts, Rows, titled
from slimrec.verdict.wording import bound, figure, signed, whole
from slimrec.written import parse, read_yaml

Scale = Literal["rank", "probability", "logit"]
SCALES = get_args(Scale)
LIMITS = {"allowed_slice_loss", "unproven_slices", "binding", "ndcg_at"}
OF_ORDER = {"grouped_auc", "ndcg"}  # losses that ask for an order of the rows alone
LEAST = 0.01  # of the rows: what holds fewer is no slice of its own


class _Read(NamedTuple):
    """A file of scores."""

    rows: Rows
    parts: list[tuple[str, np.ndarray, SliceConfig]]


def judge(
    path: str,
    label: str,
    full: str,
    slim: str,
    group: str | None = None,
    weight: str | None = None,
    allowed_loss: float = 0.001,
    confidence: float = 0.95,
    scale: Scale = "rank",
    slices: Sequence[str] = (),
    ranges: Sequence[str] = (),
    schema: Mapping[str, Any] | str | Path | None = None,
    **limits: Any,
) -> dict[str, Any]:
    """Compare two columns of scores in a Parquet or CSV file, a folder or an s3:// address of them.

    `slices` names columns whose most frequent values are protected, and all others together; `ranges` columns with
    numbers, of which four ranges are. `limits` are those of a recipe's section `evaluate` that scores can be held to:
    LIMITS. `scale`: what scores are; of ranks only losses are told that ask for an order alone.

    `schema`, a file or its content, says how the rows are read as it does of a log: `csv`, `missing`, and the rule of this
    `label`; the rest of it says nothing here.

    Returns `verdict`, `reason`, `allowed_loss`, `comparison` (the figures of `Comparison`), `rows_needed`, `slices` and
    `losses` as report.json holds them, and `pilot`. Rows without a group count one by one. Raises InputError for a column that
    is missing or whose values cannot serve, ConfigError for limits that cannot be.
    """
    config = _held_to(allowed_loss, confidence, scale, bool(group), slices, ranges, limits)
    columns = {"label": label, "full": full, "slim": slim, "group": group, "weight": weight}
    said = schema if isinstance(schema, Mapping) else read_yaml(schema) if schema else {}
    rows, parts = _read(path, columns, slices, ranges, said)
    gathered = case.gather(_as_logits(rows, scale), config, parts)
    if scale == "rank":
        gathered = replace(gathered, losses=tuple(loss for loss in gathered.losses if loss.name in OF_ORDER))
    judgement = gathered.judge(confidence)
    outcome, reason = judgement.outcome(allowed_loss)
    planned = pilot.plan(rows.label, rows.weight, rows.group, confidence)
    sliced = pilot.sliced(rows.label, rows.weight, rows.group, config, parts)
    return {
        "verdict": outcome,
        "reason": reason,
        "allowed_loss": allowed_loss,
        "comparison": asdict(judgement.comparison),
        "rows_needed": certify.rows_needed(judgement.comparison, allowed_loss),
        "slices": judgement.slices,
        "losses": judgement.losses,
        "pilot": [planned.outlook(allowed_loss), *([pilot.undecided(sliced)] if sliced else [])],
        "source": path,
        "columns": columns,
    }


def _held_to(
    allowed_loss: float,
    confidence: float,
    scale: Scale,
    grouped: bool,
    slices: Sequence[str],
    ranges: Sequence[str],
    limits: Mapping[str, Any],
) -> EvaluateConfig:
    """What scores of this kind are held to; ConfigError for limits that cannot be."""
    for limit in sorted(set(limits) - LIMITS):
        raise ConfigError(f"there is no limit '{limit}'; {did_you_mean(limit, LIMITS)}")
    for option, named in (("slices", slices), ("ranges", ranges)):
        if twice := repeated(named):
            raise ConfigError(f"`{option}` names '{twice[0]}' twice; once is enough")
    wanted = [SliceConfig(of=column) for column in dict.fromkeys((*slices, *ranges))]
    given = {"allowed_auc_loss": allowed_loss, "confidence": confidence, "slices": wanted, **limits}
    config = parse(EvaluateConfig, given)
    unknown = sorted(set(config.binding) - OF_ORDER) if scale == "rank" else []
    if unknown:
        raise ConfigError(f"{titled(unknown[0])} is of probabilities: say that scores are a `probability` or a `logit`")
    if not grouped and (by_group := sorted(OF_ORDER & set(config.binding))):
        raise ConfigError(f"{titled(by_group[0])} needs a group: name the column of the user")
    return config


def _read(
    path: str,
    columns: Mapping[str, str | None],
    slices: Sequence[str],
    ranges: Sequence[str],
    said: Mapping[str, Any],
) -> _Read:
    """Scores, and slices by the values of some columns and by ranges of others."""
    fields = [{"name": name, "column": columns[name], "kind": "number"} for name in ("full", "slim")]
    fields += [{"name": f"range {column}", "column": column, "kind": "number"} for column in ranges]
    fields += [{"name": f"slice {column}", "column": column, "kind": "category"} for column in slices]
    keys: dict[str, Any] = {name: columns[name] for name in ("label", "group", "weight") if columns[name] is not None}
    keys |= {name: said[name] for name in ("csv", "missing") if name in said}
    rule = said.get("label")
    if isinstance(rule, Mapping) and rule.get("column") == columns["label"]:
        keys["label"] = rule
    source = open_source(IngestConfig(source=path, fields={"fields": fields, **keys}))
    found: list[Keys] = []
    held: dict[str, list[np.ndarray]] = {field.name: [] for field in source.schema.fields}
    for chunk in source.chunks():
        found.append(read_keys(source.schema, chunk.data, chunk.rows, chunk.where))
        for name, values in _columns(source.schema, chunk):
            held[name].append(values)
    if not found:
        raise InputError(f"{path} has no rows; fill it")
    label = np.concatenate([part.label for part in found])
    weight = np.concatenate([part.weight for part in found]) if columns["weight"] else np.ones(len(label))
    if not weight.any():
        raise InputError(
            f"the weights in column '{columns['weight']}' of {path} are all zero; at least one row must count"
        )
    group = np.concatenate([part.group for part in found]) if columns["group"] else None
    whole = {name: np.concatenate(parts) for name, parts in held.items()}
    parts = [part for column in slices for part in _by_value(column, whole[f"slice {column}"])]
    parts += [part for column in ranges for part in _by_range(column, whole[f"range {column}"])]
    return _Read(Rows(label, whole["full"], whole["slim"], weight, group, None), parts)


def _columns(schema: Schema, chunk: Chunk) -> Iterator[tuple[str, np.ndarray]]:
    """Numbers as they are; of categories the values, "" where there is none."""
    for field in schema.fields:
        yield field.name, _values(field, chunk)


def _values(field: Field, chunk: Chunk) -> np.ndarray:
    column = flat(chunk.data.column(field.column))
    if field.kind == "number":
        return numbers(field, column, chunk.where)[:, 0]
    held = field_categories(field, column, chunk.where)
    return np.array([*(value or "" for value in held.values), ""], dtype=object)[held.codes]  # -1, null, is the last


def _by_value(column: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray, SliceConfig]]:
    of, (names, place, counts) = SliceConfig(of=column), np.unique(values, return_inverse=True, return_counts=True)
    often = np.argsort(-counts, kind="stable")[: of.parts]
    rest = np.ones(len(values), bool)
    for number in often[counts[often] >= LEAST * len(values)].tolist():
        rows = place == number
        rest &= ~rows
        yield f"{column} = {names[number]}" if names[number] else f"{column} missing", rows, of
    if rest.mean() >= LEAST:
        yield f"{column}, other values", rest, of


def _by_range(column: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray, SliceConfig]]:
    of, held = SliceConfig(of=column), values[~np.isnan(values)]
    inner = np.quantile(held, np.arange(1, of.parts) / of.parts, method="inverted_cdf") if len(held) else held
    edges = np.unique(inner[inner < held.max(initial=-np.inf)])
    place = np.where(np.isnan(values), -1, np.searchsorted(edges, values))
    for number, (low, high) in enumerate(zip([None, *edges.tolist()], [*edges.tolist(), None])):
        start, end = ("" if low is None else f" above {low:.4g}"), ("" if high is None else f" up to {high:.4g}")
        yield f"{column}{start}{',' if start and end else ''}{end}", place == number, of
    if (place < 0).mean() >= LEAST:
        yield f"{column} missing", place < 0, of


def _as_logits(rows: Rows, scale: Scale) -> Rows:
    if scale != "probability":
        return rows
    sides = []
    for name in ("full", "slim"):
        score = getattr(rows, name)
        if ((score < 0) | (score > 1)).any():
            raise InputError(f"the {name} scores are said to be probabilities, and some are not from 0 to 1")
        with np.errstate(divide="ignore"):
            sides.append(np.nan_to_num(np.log(score) - np.log1p(-score), nan=np.nan, posinf=800.0, neginf=-800.0))
    return rows._replace(full=sides[0], slim=sides[1])


def told(facts: dict[str, Any]) -> str:
    """What `judge` found, for a screen."""
    found = facts["comparison"]
    lines = [f"{facts['verdict']}: {facts['reason']}"]
    if found["difference"] is not None:
        change = f"{figure(found['full_auc'])} -> {figure(found['slim_auc'])}, {signed(found['difference'])}"
        lines.append(f"AUC        {change}")
    lines.append(f"evidence   {_worth(found)}")
    if found["copies"]:
        lines.append(f"copies     {whole(found['copies'])} rows repeat another one and do not count again")
    for each in facts["slices"]:
        lines.append(f"slice      {each['name']}: {each['verdict']}, {bound(each['difference'])}")
    for each in facts["losses"]:
        verdict = f"{each['verdict']}, " if each["verdict"] else ""
        lines.append(f"loss       {titled(each['name'])}: {verdict}worse by {bound(each['worse'])}")
    if facts["rows_needed"]:
        lines.append(f"pilot      about {whole(facts['rows_needed'])} such rows end with a verdict, nine times in ten")
    return "\n".join(lines)


def _worth(found: Facts) -> str:
    sides = (f"{whole(round(found[f'{side}_effective']))} {side}" for side in ("positive", "negative"))
    return f"{whole(found['rows'])} rows tell as much as {' and '.join(sides)} independent observations"


HEADLINES = {
    "certified": "{slim} can take the place of {full}",
    "rejected": "{slim} is worse than {full}",
    "inconclusive": "whether {slim} can take the place of {full} is not proven",
}


def html(facts: dict[str, Any]) -> str:
    """What `judge` found, as a page of the report's kind: no script, no request, no server."""
    from slimrec.verdict.outline import axis, consequence
    from slimrec.verdict.report import page

    found, columns = facts["comparison"], facts["columns"]
    about = {
        "verdict": facts["verdict"],
        "reason": facts["reason"],
        "allowed_auc_loss": facts["allowed_loss"],
        "confidence": found["confidence"],
        "auc": {
            "full": found["full_auc"],
            "slim": found["slim_auc"],
            **{name: found[name] for name in ("difference", "error", "low", "high")},
        },
        "rows": found["rows"],
        "clusters": found["clusters"],
        "grouped": columns["group"] is not None,
        "slices": facts["slices"],
        "losses": facts["losses"],
    }
    return page(
        "scores.html.jinja",
        about,
        headline=HEADLINES[facts["verdict"]].format(**columns),
        consequence=consequence(about),
        axis=axis(about),
        leaks=[],
        minds=[],
        parts=[about],
        several=False,
        worth=_worth(found),
        outlook=facts["pilot"],
        source=facts["source"],
        columns=columns,
    )
