"""The noise of training: how much wider bounds are that hold for networks of any seed, not for those at hand alone.

Trainings and groups of rows are crossed, every training meets every group, as readers and cases are in studies of diagnosis
(Obuchowski and Rockette 1995). Of K trainings of either side, the difference of training k being D_k and their mean D, the
bounds are of what D is expected to be over seeds and groups. Its variance is at most that between seeds,
S^2 = sum (D_k - D)^2 / (K (K - 1)) with K - 1 degrees of freedom, and that between groups, of what each adds on average over
the trainings (`slimrec.verdict.certify.reach`); what is peculiar to one training on one group is in both, to be on the safe
side. A bound lies sqrt((t S)^2 + r^2) away from D, t being the quantile of Student's law with K - 1 degrees of freedom and r
how far it would lie away without S: each part keeps its own degrees of freedom, and where one part is nothing the bound is
exactly that of the other (Graybill and Wang 1980; Zou and Donner 2008, "variance estimates recovery").

Whether seeds disagree is Cochran's (1954) question: are the D_k further apart than what the rows do to each of them?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special, stats

from slimrec.verdict.wording import signed

_DOUBT = 0.05  # how often seeds are said to disagree where none matters


def widen(differences: Sequence[float], down: float, up: float, confidence: float) -> tuple[float, tuple[float, float]]:
    """The error that seeds make, and how far below and above the truth may lie, from how far it may for one training.

    `differences` are those of the trainings, none where there was one.
    """
    if not differences:
        return 0.0, (down, up)
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    margin = float(stats.t.ppf(confidence, len(differences) - 1)) * error
    return error, (math.hypot(down, margin), math.hypot(up, margin))


def mixed(sums: np.ndarray) -> float:
    """Variance of a difference that rows make, beside what they do to all alike; of what each cluster adds (K, m)."""
    return float(np.square(sums - sums.mean(axis=0)).sum()) / (len(sums) - 1)


def facts(differences: Sequence[float], mixed: float, allowed_loss: float) -> dict[str, Any]:
    """What report.json holds of the trainings: their `differences`, and whether they `disagree` by more than is allowed."""
    disagree = False
    if differences:
        apart = float(np.var(differences, ddof=1)) * (len(differences) - 1)
        chance = float(mixed * special.chdtri(len(differences) - 1, _DOUBT))
        disagree = apart > chance and max(differences) - min(differences) > allowed_loss
    return {"differences": list(differences), "disagree": disagree}


def told(found: dict[str, Any]) -> str:
    """Of which two statements the bound is, for a person."""
    count = len(found["differences"])
    if not count:
        return (
            "of these two trained networks: another seed may train others; evaluate.retrains makes it one of any seed"
        )
    low, high = signed(min(found["differences"])), signed(max(found["differences"]))
    return f"of networks trained from any seed: {count} trainings of both changed the AUC by {low} to {high}"


def warned(found: dict[str, Any]) -> str:
    """What a person has to know before all else, "" where seeds agree."""
    if not found["disagree"]:
        return ""
    return (
        "Trainings from other seeds disagree by more than is allowed: the AUC changes by "
        f"{', '.join(signed(each) for each in found['differences'])}"
    )
