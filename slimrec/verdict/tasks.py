"""One verdict from several tasks': certified where every one is, with bounds that hold for all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Facts = dict[str, Any]
GRAVITY = ("rejected", "inconclusive", "certified")  # the gravest first


def share(confidence: float, count: int) -> float:
    """Confidence of each task's bounds, so that those of `count` tasks hold together with `confidence` (Bonferroni)."""
    return confidence if count == 1 else 1 - (1 - confidence) / count


def of(task: str) -> str:
    """How a sentence about one of several tasks begins; "" where there is one label."""
    return f"task '{task}': " if task else ""


def deciding(found: Sequence[Facts]) -> int:
    """Which of the tasks the whole rests on: of the gravest verdict, the one whose lower bound leaves the least room."""

    def room(facts: Facts) -> float:
        low = facts["auc"]["low"]
        return float("-inf") if low is None else low + facts["allowed_auc_loss"]

    return min(range(len(found)), key=lambda i: (GRAVITY.index(found[i]["verdict"]), room(found[i])))
