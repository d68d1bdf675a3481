"""Two audits of one model compared: which fields died, revived, were born or gone, and which are too close to call."""

from __future__ import annotations

from statistics import median
from typing import Literal

from slimrec.schema import Frozen
from slimrec.selection import Decision, Selection

NOISE = 3.0  # times its noise that a score has to move before a turn counts as more than chance

Fate = Literal["kept", "dropped", ""]  # "" where the audit did not know the field


class Change(Frozen):
    """What became of one field between two audits."""

    what: Literal["died", "revived", "born", "gone", "unstable"]
    before: Fate
    after: Fate
    score_before: float | None
    score_after: float | None
    margin: float | None  # from the later audit's cut to the score, negative below; None where nothing was dropped
    noise: float | None  # by how much the score moves for no reason; None where that is not known


class Diff(Frozen):
    """diff.json: the changes by field, in order of name; fields that are not named kept their fate."""

    method_before: str
    method_after: str
    unchanged: int
    changes: dict[str, Change]

    def names(self, what: str) -> list[str]:
        """Fields of one kind of change."""
        return [name for name, change in self.changes.items() if change.what == what]


def compare(before: Selection, after: Selection) -> Diff:
    """The later audit against the earlier one.

    A field *died* when it was kept and is dropped, *revived* the other way round, was *born* when only the later log has
    it, is *gone* when only the earlier one had it. A field is *unstable* instead when its decision is a matter of chance:
    it turned although its score moved by less than NOISE times its noise; or it did not turn, but its score lies within
    one deviation of the cut, between repeats of the later search. The noise of a field is the deviation of its score
    over repeats, the larger one of both audits; without repeats, the median movement of the scores of fields that did
    not turn, which is only known where both audits used one method. The cut lies halfway between the lowest score kept
    and the highest dropped.
    """
    usual, cut = _usual_movement(before, after), _cut(after)
    names = sorted(before.fields.keys() | after.fields.keys())
    found = {name: _change(before.fields.get(name), after.fields.get(name), usual, cut) for name in names}
    changes = {name: change for name, change in found.items() if change is not None}
    return Diff(
        method_before=before.method, method_after=after.method, unchanged=len(names) - len(changes), changes=changes
    )


def _change(old: Decision | None, new: Decision | None, usual: float | None, cut: float | None) -> Change | None:
    spreads = [decision.spread for decision in (old, new) if decision and decision.spread is not None]
    noise = max(spreads) if spreads else usual
    evidence = {
        "before": _fate(old),
        "after": _fate(new),
        "score_before": old.score if old else None,
        "score_after": new.score if new else None,
        "margin": new.score - cut if new and cut is not None else None,
        "noise": noise,
    }
    if old is None or new is None:
        return Change(what="gone" if new is None else "born", **evidence)
    if old.kept == new.kept:
        near = cut is not None and new.spread is not None and abs(new.score - cut) < new.spread
        return Change(what="unstable", **evidence) if near else None
    if noise is not None and abs(new.score - old.score) < NOISE * noise:
        return Change(what="unstable", **evidence)
    return Change(what="revived" if new.kept else "died", **evidence)


def _fate(decision: Decision | None) -> Fate:
    if decision is None:
        return ""
    return "kept" if decision.kept else "dropped"


def _cut(selection: Selection) -> float | None:
    kept = [decision.score for decision in selection.fields.values() if decision.kept]
    dropped = [decision.score for decision in selection.fields.values() if not decision.kept]
    return (min(kept) + max(dropped)) / 2 if dropped else None


def _usual_movement(before: Selection, after: Selection) -> float | None:
    if before.method != after.method:
        return None
    shared = before.fields.keys() & after.fields.keys()
    moved = [
        abs(after.fields[name].score - before.fields[name].score)
        for name in shared
        if before.fields[name].kept == after.fields[name].kept
    ]
    return median(moved) if moved else None
