"""The decision: what a comparison says, and what speaks against believing it; the same where an audit makes it and replays it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from slimrec.verdict import leaks
from slimrec.verdict.certify import Comparison, verdict
from slimrec.verdict.signs import Leak


class Veto(NamedTuple):
    """What a part of the audit says against certifying the whole; no outcome: a remark at most."""

    outcome: Literal["rejected", "inconclusive", ""]
    said: str


def decide(
    comparison: Comparison,
    allowed_loss: float,
    leaking: list[Leak],
    tested: dict[str, Any],
    training: dict[str, Any],
    vetoes: Sequence[Veto] = (),
) -> tuple[str, str]:
    """`certified`, `rejected` or `inconclusive`, and the reason in one sentence.

    `tested` and `training` are what report.json holds of the self-test and of both trainings; `vetoes` what else must not
    get worse says, the gravest of which is named first.
    """
    outcome, reason = verdict(comparison, allowed_loss)
    outcome, reason = heed(outcome, reason, vetoes)
    if outcome == "certified" and tested["failed"]:
        outcome, reason = "inconclusive", tested["failed"]
    if doubt := leaks.suspicion(leaking):  # first, whatever was found: no figure means much beside it
        outcome, reason = "rejected" if outcome == "rejected" else "inconclusive", f"{doubt}; over all rows {reason}"
    if training["longer"] == "slim":
        reason += "; the slim model trained longer than the full one"
    return outcome, reason


def heed(outcome: str, reason: str, vetoes: Sequence[Veto]) -> tuple[str, str]:
    """The verdict of all rows after what stands against it: `rejected` always counts, `inconclusive` against certified."""
    for kind in ("rejected", "inconclusive"):
        said = [veto.said for veto in vetoes if veto.outcome == kind]
        if said and (kind == "rejected" or outcome == "certified"):
            return kind, f"{'; '.join(said)}; over all rows {reason}"
    remarks = [veto.said for veto in vetoes if not veto.outcome and veto.said]
    return outcome, "; ".join([reason, *remarks]) if outcome == "certified" else reason
