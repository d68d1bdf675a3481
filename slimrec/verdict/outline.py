"""What the facts of a report come to, for a page, for Markdown and for a screen: sentences, rows, orders and marks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from slimrec.verdict import sequence
from slimrec.verdict.losses import Facts
from slimrec.verdict.wording import figure, sentence, signed, size, whole


def by_task(facts: Facts) -> list[Facts]:
    """What there is of each task, or of the one label."""
    return facts.get("tasks", [facts])


def headline(facts: Facts) -> str:
    """What is proposed, in a sentence for somebody who decides."""
    fields = facts["fields"]
    dropped = sum(not field["kept"] for field in fields)
    full, slim = facts["size"]["full"]["bytes"], facts["size"]["slim"]["bytes"]
    smaller = round(100 * (full - slim) / full)
    if facts["verdict"] == "certified":
        start = f"{dropped} of {len(fields)} fields can go" if dropped else f"all {len(fields)} fields stay"
    elif facts["verdict"] == "rejected":
        start = f"dropping {dropped} of {len(fields)} fields costs too much"
    else:
        start = f"whether {dropped} of {len(fields)} fields can go is not proven"
    if slim == full:
        return f"{start}; the model keeps its size, {size(full)}."
    verb = "becomes" if facts["verdict"] == "certified" else "would be"
    share = f"{smaller}\u00a0% smaller" if smaller > 0 else "hardly smaller" if slim < full else "larger"
    return f"{start}; the model {verb} {share}, {size(slim)} instead of {size(full)}."


def consequence(facts: Facts) -> str:
    """What it costs, with the interval."""
    auc = facts["auc"]
    if auc["low"] is None:
        return "No interval for the change in AUC can be stated."
    percent = f"{100 * facts['confidence']:g} %"
    start = f"Of the tasks '{facts['task']}' decides: " if "tasks" in facts else ""
    return (
        f"{start}AUC goes from {auc['full']:.5f} to {auc['slim']:.5f}, a change of {signed(auc['difference'])}. "
        f"With {percent} confidence it is not below {signed(auc['low'])}, and with {percent} not above "
        f"{signed(auc['high'])}; the allowed loss is {figure(facts['allowed_auc_loss'])}."
    )


def before_after(facts: Facts) -> list[tuple[str, str, str, str]]:
    """Rows (what, full, slim, change) of the table of costs and quality."""
    full, slim = facts["size"]["full"], facts["size"]["slim"]
    fields, kept = facts["fields"], [field for field in facts["fields"] if field["kept"]]
    rows = [("Fields", *_ratio(len(fields), len(kept), whole))]
    rows.append(("Input columns", *_ratio(sum(f["width"] for f in fields), sum(f["columns"] for f in kept), whole)))
    if facts["pairs"] is not None:
        rows.append(("Pairs of fields that meet", *_ratio(math.comb(len(fields), 2), len(facts["pairs"]), whole)))
    hidden = facts["hidden"]
    if hidden["full"] != hidden["slim"]:
        rows.append(("Hidden units", *_ratio(sum(hidden["full"]), sum(hidden["slim"]), whole)))
    rows.append(("Embedding rows", *_ratio(full["embedding_rows"], slim["embedding_rows"], whole)))
    rows.append(("Embedding tables", *_ratio(full["embedding_bytes"], slim["embedding_bytes"], size)))
    rows.append(("Other weights", *_ratio(full["dense_bytes"], slim["dense_bytes"], size)))
    rows.append(("Model", *_ratio(full["bytes"], slim["bytes"], size)))
    rows.append(("Multiply-adds a row", *_ratio(full["multiply_adds"], slim["multiply_adds"], whole)))
    for entry in facts["latency"]:
        name = f"Latency, {whole(entry['batch'])} row{'s' * (entry['batch'] > 1)}"
        rows.append((name, *_ratio(entry["full_ms"], entry["slim_ms"], lambda ms: f"{ms:.3g} ms")))
    for part in by_task(facts):
        auc, quality, of = part["auc"], part["quality"], f", {part['task']}" if "task" in part else ""
        trainings = len(part["retrains"]["differences"])
        name = f"AUC{of}, mean of {trainings} trainings" if trainings else f"AUC{of}"
        rows.append((name, *_difference(auc["full"], auc["slim"])))
        for name, key in (
            ("Log-loss", "logloss"),
            ("Predicted / observed", "ratio"),
            ("Calibration error (ECE)", "error"),
        ):
            rows.append((f"{name}{of}", *_difference(quality["full"][key], quality["slim"][key])))
    return rows


def ranked(facts: Facts) -> list[Facts]:
    """The fields, the best first."""
    return sorted(facts["fields"], key=lambda field: (-field["score"], field["name"]))


def probed(facts: Facts) -> bool:
    """Whether the search had probes, so that fields have a q-value."""
    return any(field["q_value"] is not None for field in facts["fields"])


def stoppable_title(facts: Facts) -> str:
    """What the list of columns is, which depends on the verdict."""
    return "Safe to stop computing" if facts["verdict"] == "certified" else "Columns that no kept field reads"


def evidence(facts: Facts) -> dict[str, Any]:
    """The search's own figures for the page: `plain` by name; `by_field`, a row a field; `others` by what they are of.

    A figure `kind/field` is of a field; one of something else, as `on/a x b`, stays under its whole name.
    """
    names = {field["name"] for field in facts["fields"]}
    plain: dict[str, Any] = {}
    others: dict[str, Any] = {}
    kinds: list[str] = []
    found: dict[str, dict[str, Any]] = {}
    for name, value in facts["made"]["evidence"].items():
        kind, _, of = name.partition("/")
        if of in names:
            kinds += [kind] * (kind not in kinds)
            found.setdefault(of, {})[kind] = value
        else:
            (others if of else plain)[name] = value
    kinds.sort(key=lambda kind: (kind.rstrip("0123456789"), len(kind), kind))  # width_2 before width_16
    by_field = [(name, [found[name].get(kind) for kind in kinds]) for name in sorted(found)]
    return {"plain": plain, "kinds": kinds, "by_field": by_field, "others": others}


def against_champion(facts: Facts) -> str:
    """How the slim model compares with the model that serves now; "" where there is none."""
    champion = facts["champion"]
    if not champion:
        return ""
    start = f"{champion['model']} version {champion['version']} is champion"
    if not champion["auc"] or champion["auc"]["difference"] is None:
        return f"{start}. {sentence(champion['reason'])}"
    auc = champion["auc"]
    return (
        f"{start}, with an AUC of {figure(auc['champion'])} on the same rows; the slim model has {figure(auc['slim'])}, "
        f"{signed(auc['difference'])}. {champion['verdict'].capitalize()}: {champion['reason']}. "
        f"{sequence.challenged(champion)}"
    )


def changes(facts: Facts) -> list[tuple[str, str]]:
    """Fields whose fate changed since the champion's audit, and how; those that need a decision first."""
    found = facts["diff"]["changes"] if facts["diff"] else {}
    order = ("died", "revived", "born", "gone", "unstable")
    ranked = sorted(found.items(), key=lambda item: (order.index(item[1]["what"]), item[0]))
    return [(name, _change(change)) for name, change in ranked]


def _change(change: Facts) -> str:
    scores = [f"{change[name]:.3f}" for name in ("score_before", "score_after") if change[name] is not None]
    fates = [change[name] for name in ("before", "after") if change[name]]
    turn = " to ".join(dict.fromkeys(fates))
    return f"{change['what']}, {turn}, score {' to '.join(scores)}"


def axis(facts: Facts) -> dict[str, float] | None:
    """Positions, in 0..100 from left to right, of the marks in the figure of the AUC difference."""
    auc = facts["auc"]
    if auc["low"] is None:
        return None
    marks = {"zero": 0, "allowed": -facts["allowed_auc_loss"], **{k: auc[k] for k in ("low", "high", "difference")}}
    left, right = min(marks.values()), max(marks.values())
    room = (right - left or 1) / 10
    return {name: 100 * (value - left + room) / (right - left + 2 * room) for name, value in marks.items()}


def scored(field: Facts) -> str:
    """A field's score, with its deviation where the search was repeated."""
    spread = "" if field["spread"] is None else f" ± {field['spread']:.3f}"
    small = field["score"] and abs(field["score"]) < 0.01  # nats
    return f"{field['score']:{'.2g' if small else '.3f'}}{spread}"


def _ratio(full: float, slim: float, text: Callable[[Any], str]) -> tuple[str, str, str]:
    change = f"{100 * (slim / full - 1):+.0f} %".replace("-", "\u2212") if full else ""
    return text(full), text(slim), "0 %" if change in ("+0 %", "\u22120 %") else change


def _difference(full: float | None, slim: float | None) -> tuple[str, str, str]:
    if full is None or slim is None:
        return "undefined", "undefined", ""
    return figure(full), figure(slim), signed(slim - full)
