"""Looks that follow one another: at which confidence each bound has to hold, so that all of them together are seldom wrong.

Look k against a champion may be wrong with the share 1 / (k (k + 1)) of what all may: the shares sum to 1, so however many
looks there are and however their rows and models hang together, the chance that any is ever wrong is at most what was asked
for. At a certification slice, which most audits look at once, the first look has the share FIRST and those after it divide
what is left in the same way.
A mixture over time (Robbins 1970; Waudby-Smith et al. 2021) is narrower after many looks, but holds for one pair of models
on rows that add up; audits of a sequence bring another model each, on rows that are the same, partly so or all new.
"""

from __future__ import annotations

from typing import Any

FIRST = 0.8  # of what all looks at a slice may be wrong


def challenge(confidence: float, look: int) -> float:
    """Confidence of the look-th bound against one champion (from 1), so that all of them hold with `confidence`."""
    return 1 - (1 - confidence) / (look * (look + 1))


def repeated(confidence: float, look: int) -> float:
    """Confidence of the look-th bound on one slice (from 1), so that all of them hold with `confidence`."""
    if look == 1:
        return 1 - FIRST * (1 - confidence)
    return challenge(1 - (1 - FIRST) * (1 - confidence), look - 1)


def told(facts: dict[str, Any]) -> str:
    """Which bound the verdict in report.json rests on, and which look at its slice it was."""
    tasks = len(facts.get("tasks", ()))
    many = f"; the bounds of {tasks} tasks pay for each other, so that all hold at once (Bonferroni)" if tasks else ""
    return _told(facts) + many


def _told(facts: dict[str, Any]) -> str:
    look, percent = facts["look"], f"{100 * facts['confidence']:g} %"
    if look["number"] is None:
        return f"for one look, at {percent}; looks at this slice are not counted without a tracking store"
    return (
        f"for look {look['number']} at this slice, at {percent}: all looks at it together are ever wrong with a chance of "
        f"at most {100 * (1 - look['asked']):.3g} %"
    )


def challenged(champion: dict[str, Any]) -> str:
    """The same of the comparison with a champion."""
    look = champion["look"]
    if look["number"] is None:
        return "Looks against it are not counted without a tracking store."
    return (
        f"This is look {look['number']} against this champion, at {100 * look['confidence']:g} %: all looks together are "
        f"ever wrong with a chance of at most {100 * (1 - look['asked']):.3g} %."
    )
