"""One verdict from several tasks': certified where every one is, with bounds that hold for all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slimrec.config import EvaluateConfig

Facts = dict[str, Any]
GRAVITY = ("rejected", "inconclusive", "certified")  # the gravest first


def share(confidence: float, count: int) -> float:
    """Confidence of each task's bounds, so that those of `count` tasks hold together with `confidence` (Bonferroni)."""
    return confidence if count == 1 else 1 - (1 - confidence) / count


def limits(config: EvaluateConfig, task: str, count: int) -> EvaluateConfig:
    """The section as it is for one of `count` tasks."""
    allowed = config.allowed_task_loss.get(task, config.allowed_auc_loss)
    return config.model_copy(update={"confidence": share(config.confidence, count), "allowed_auc_loss": allowed})


def of(task: str) -> str:
    """How a sentence about one of several tasks begins; "" where there is one label."""
    return f"task '{task}': " if task else ""


def deciding(found: Sequence[Facts]) -> int:
    """Which of the tasks the whole rests on: of the gravest verdict, the one whose lower bound leaves the least room."""

    def room(facts: Facts) -> float:
        low = facts["auc"]["low"]
        return float("-inf") if low is None else low + facts["allowed_auc_loss"]

    return min(range(len(found)), key=lambda i: (GRAVITY.index(found[i]["verdict"]), room(found[i])))


def joined(found: Sequence[Facts]) -> Facts:
    """What report.json holds of several tasks: `tasks`, and beside it, as of one label, the one that decides.

    Certified where every task is, so that the whole is wrong no more often than one of them is (Berger 1982); else the
    gravest verdict, with the reasons of all that have it.
    """
    head = found[deciding(found)]
    said = [each for each in found if each["verdict"] == head["verdict"]]
    reasons = "; ".join(f"{of(each['task'])}{each['reason']}" for each in said)
    return {**head, "reason": reasons, "tasks": list(found)}
