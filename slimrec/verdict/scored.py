"""The certification slice as both models score it, and what comes of it: of one label, or of each of several tasks."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from slimrec import metrics
from slimrec.config import EvaluateConfig
from slimrec.data import slicing
from slimrec.data.dataset import Split
from slimrec.verdict import case, certify, losses, pilot, seeds, selftest, tasks
from slimrec.verdict.decision import decide
from slimrec.verdict.losses import Facts
from slimrec.verdict.signs import Leak


class Scored(NamedTuple):
    """The certification slice with the logits of both models, and all that is asked of them: of one label, or of several."""

    test: Split
    logits: dict[str, np.ndarray]  # full and slim, (n,), or (n, T) of T tasks
    damaged: dict[str, np.ndarray]  # of the slim model with a field in the wrong rows
    content: np.ndarray
    slices: list[slicing.Slice]
    retrained: np.ndarray | None  # (n, 2, N), or (n, 2, N, T): by further trainings of full and slim

    def of_task(self, name: str) -> Scored:
        """The rows that are observed for one of several tasks, with its label and logits alone."""
        number = [task.name for task in self.test.schema.tasks].index(name)
        rows = np.flatnonzero(~np.isnan(self.test.label[:, number]))
        logits, damaged = (
            {name: values[rows, number] for name, values in each.items()} for each in (self.logits, self.damaged)
        )
        parts = [part._replace(rows=part.rows[rows]) for part in self.slices]
        retrained = None if self.retrained is None else self.retrained[rows][..., number]
        return Scored(self.test.by_task()[name], logits, damaged, self.content[rows], parts, retrained)

    def rows(self) -> losses.Rows:
        """For the verdict."""
        test, both = self.test, (self.logits["full"], self.logits["slim"])
        return losses.Rows(test.label, *both, test.weight, test.group, self.content, self.retrained)

    def compare(self, one: np.ndarray, other: np.ndarray, confidence: float) -> certify.Comparison:
        """Two scores (n,) of these rows."""
        test = self.test
        return certify.compare(test.label, one, other, test.weight, test.group, confidence, self.content)

    def roc(self) -> dict[str, list[float]]:
        """The curve of the slim model."""
        return metrics.roc(self.test.label, self.logits["slim"], self.test.weight)

    def quality(self) -> Facts:
        """Log-loss and calibration of both models."""
        label, weight = self.test.label, self.test.weight
        return {
            name: {"logloss": metrics.log_loss(label, each, weight), **metrics.calibration(label, each, weight)}
            for name, each in self.logits.items()
        }


def judge(
    config: EvaluateConfig, scored: Scored, leaking: list[Leak], training: Facts
) -> tuple[dict[str, case.Case], Facts]:
    """The case of each task ("" of one label), and what report.json holds of the verdict."""
    names = [task.name for task in scored.test.schema.tasks]
    if not names:
        found, facts = _judge_label(config, scored, leaking, training)
        return {"": found}, facts
    cases, judged = {}, []
    for name in names:
        limits = tasks.limits(config, name, len(names))
        own = [leak for leak in leaking if leak.task in ("", name)]
        cases[name], facts = _judge_label(limits, scored.of_task(name), own, training)
        judged.append({"task": name, **facts})
    return cases, tasks.joined(judged)


def _judge_label(
    config: EvaluateConfig, scored: Scored, leaking: list[Leak], training: Facts
) -> tuple[case.Case, Facts]:
    """The case of one label, and what report.json holds of its verdict."""
    gathered, test = case.gather(scored.rows(), config, scored.slices), scored.test
    judgement = gathered.judge(config.confidence)
    comparison = judgement.comparison
    tested = selftest.check(
        partial(scored.compare, confidence=config.confidence), scored.logits["slim"], scored.damaged
    )
    outcome, reason = decide(comparison, config.allowed_auc_loss, leaking, tested, training, judgement.vetoes)
    return gathered, {
        **_judged(config, comparison, outcome, reason, test),
        "slices": judgement.slices,
        "losses": judgement.losses,
        "retrains": seeds.facts(gathered.whole.differences, gathered.whole.mixed, config.allowed_auc_loss),
        "self_test": tested,
        "pilot": {
            **pilot.against(pilot.of(test, config.confidence), comparison, config.allowed_auc_loss),
            "slices": pilot.sliced(test.label, test.weight, test.group, config, scored.slices),
        },
        "quality": scored.quality(),
    }


def _judged(config: EvaluateConfig, comparison: certify.Comparison, outcome: str, reason: str, test: Split) -> Facts:
    auc = {"full": comparison.full_auc, "slim": comparison.slim_auc}
    return {
        "format": 1,
        "decision": "accept" if outcome == "certified" else "reject",
        "verdict": outcome,
        "reason": reason,
        "allowed_auc_loss": config.allowed_auc_loss,
        "confidence": config.confidence,
        "auc": {**auc, **{name: getattr(comparison, name) for name in ("difference", "error", "low", "high")}},
        "rows": comparison.rows,
        "clusters": comparison.clusters,
        "grouped": test.group is not None,
        "evidence": {
            name: getattr(comparison, name)
            for name in ("positive_effective", "negative_effective", "largest_share", "copies", "unseen")
        },
        "weighted": bool(np.ptp(test.weight) > 0),
    }
