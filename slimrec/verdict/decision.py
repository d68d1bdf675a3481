"""The decision: what a comparison says, and what speaks against believing it; the same where an audit makes it and replays it."""

from __future__ import annotations

from typing import Any

from slimrec.verdict import leaks
from slimrec.verdict.certify import Comparison, verdict
from slimrec.verdict.signs import Leak


def decide(
    comparison: Comparison, allowed_loss: float, leaking: list[Leak], tested: dict[str, Any], training: dict[str, Any]
) -> tuple[str, str]:
    """`certified`, `rejected` or `inconclusive`, and the reason in one sentence.

    `tested` and `training` are what report.json holds of the self-test and of both trainings.
    """
    outcome, reason = verdict(comparison, allowed_loss)
    if outcome == "certified" and (doubt := leaks.suspicion(leaking) or tested["failed"]):
        outcome, reason = "inconclusive", doubt
    if training["longer"] == "slim":
        reason += "; the slim model trained longer than the full one"
    return outcome, reason
