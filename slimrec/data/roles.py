"""Which columns of a log play which part, by what they are called and hold: labels, time, weight and group."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slimrec.config import SplitConfig
from slimrec.data.keys import check_units, epoch_units, read_time, read_weight, time_form
from slimrec.data.looks import guess_label, spelled
from slimrec.data.sampling import sampled_row
from slimrec.data.split import time_thresholds
from slimrec.data.values import flat
from slimrec.errors import InputError

_CYCLE = 366  # whole numbers up to here may be hours of a day or days of a year
LABELS = ("label", "click", "clicked", "is_click", "is_clicked", "target", "y", "conversion", "converted", "rating")
_EVENTS = (
    *LABELS,
    *"bought purchase purchased order ordered sale sold like liked share shared cart add_to_cart".split(),
)
_WEIGHTS = ("sample_weight", "instance_weight", "weight")
_TIMES = tuple(
    """
    time timestamp event_time event_timestamp datetime date ts dt day event_date created_at shown_at unix_time
    unixtime unix_timestamp timestamp_ms click_time impression_time
    """.split()
)
_GROUPS = ("user", "user_id", "userid", "uid", "visitor_id", "customer_id", "member_id", "client_id", "session_id")


def roles(table: pa.Table, label: str) -> tuple[dict[str, str], list[str]]:
    """The columns for time, weight and group that ingest takes as such, with their lines."""
    names, found, lines = [name for name in table.column_names if name != label], {}, []
    moments = [name for name in names if pa.types.is_date(table[name].type) or pa.types.is_timestamp(table[name].type)]
    texts = [name for name in names if pa.types.is_string(table[name].type)]
    by_name = [name for word in _TIMES if (name := named(names, (word,)))]
    for name in dict.fromkeys([*by_name, *moments, *texts]):
        reason = _refused(_orders, name, table)
        if not reason:
            found["time"] = name
            lines.append(f"time: {spelled(name)}")
            break
        if name in by_name:
            lines.append(f"# time: {spelled(name)}  # not drafted: {reason}")
    weight = named(names, _WEIGHTS)
    if weight and weight != found.get("time") and not _refused(_weighs, weight, table):
        found["weight"] = weight
        lines.append(f"weight: {spelled(weight)}  # how much each row counts; remove it if this is a feature")
    filled = [name for name in names if name not in found.values() and not pa.types.is_null(table[name].type)]
    group = named(filled, _GROUPS)
    if group and pc.count_distinct(flat(table[group])).as_py() > 1:
        lines.append(f"group: {spelled(group)}")
    return found, lines


def _refused(role: Callable[[str, pa.Array], None], name: str, table: pa.Table) -> str:
    """Why a column cannot play a role; "" if it can."""
    try:
        role(name, flat(table[name]))
    except InputError as error:
        return str(error).partition(": ")[2] or str(error)
    return ""


def _orders(name: str, column: pa.Array) -> None:
    times = read_time(name, column, sampled_row)
    if time_form(column) == "number":
        check_units(name, {unit: sampled_row(row) for unit, row in epoch_units(times).items()})
    if len(np.unique(times)) < 2:
        raise InputError(f"{name}: all rows have one time")
    if pa.types.is_integer(column.type) and pc.max(column).as_py() < _CYCLE:
        raise InputError(f"{name}: it looks like an hour or day that comes again")
    time_thresholds(SplitConfig(), [(np.arange(len(times)), times)])


def _weighs(name: str, column: pa.Array) -> None:
    if not pa.types.is_floating(column.type) and not pa.types.is_integer(column.type):
        raise InputError(f"{name}: is {column.type}")
    if not read_weight(name, column, sampled_row).any():
        raise InputError(f"{name}: all are 0")


def named(names: list[str], wanted: tuple[str, ...]) -> str | None:
    """The first of the wanted names that a column has, in any case and with words parted in any way."""
    known = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(names)}
    words = (re.sub(r"[^a-z0-9]", "", word) for word in wanted)
    return next((known[word] for word in words if word in known), None)


def tasks(table: pa.Table, said: str, names: list[str]) -> list[str]:
    """Comments on columns that look like labels beside the one of the label's line: by name, and as they have two values."""
    others = {}
    for name in names:
        if named([name], _EVENTS):
            with contextlib.suppress(InputError):  # it is none
                rule = guess_label(name, flat(table[name]).drop_null())
                others |= {} if "positive_above" in rule else {name: rule}
    if not others:
        return []
    look = "looks like a label too: a field" if len(others) == 1 else "look like labels too: fields"
    rules = [said.removeprefix("label: "), *others.values()]
    return [
        f"# {', '.join(map(spelled, others))} {look} only if known before the label. To learn all with one model, put in place",
        "# of `label`, and take out of `fields`:",
        "# tasks:",
        *(f"#   - {rule}" for rule in rules),
    ]
