"""Protected slices: rows that may not lose more AUC than they are allowed, each with a bound, all bounds valid together.

Lower bounds are Holm's (1979), made compatible with his test as Strassburger and Bretz (2008) have it: of m slices those
pass that are certified at 1 - alpha / m, then of the k left those at 1 - alpha / k, until none does. A slice that passed is
bounded by what it is allowed, and more closely where all passed. Upper bounds, which tell a loss, are Bonferroni's. Neither
needs slices to be apart from each other.

What a slice does to the verdict. `rejected`: it surely loses more than it is allowed; so is the whole. `open`: it may lose
more, and has rows enough to show that it does not, had it lost nothing (nine times in ten); the whole is inconclusive.
`scarce`: it has too few rows for that. Then the whole is inconclusive as well, unless the recipe takes it for a remark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from slimrec.verdict import certify
from slimrec.verdict.certify import Comparison
from slimrec.verdict.decision import Veto
from slimrec.verdict.evidence import FEWEST
from slimrec.verdict.sketch import Sketch

Facts = dict[str, Any]
_REMEDY = (
    "allow it more, or let such slices pass with `unproven_slices` as a remark"  # of a recipe, and of scores alone
)


def judge(parts: Sequence[tuple[str, Sketch, float]], confidence: float) -> list[Facts]:
    """What report.json holds of slices, each a name, what is known of its rows and the loss it is allowed, in their order.

    `verdict` is certified, rejected, open or scarce; `low` and `high` are bounds of `difference`, each side valid for all
    slices at once with `confidence`, None where the AUC is undefined; `rows_needed` is how many would tell the allowed loss.
    """
    alpha = 1 - confidence
    first = [certify.conclude(sketch, 1 - alpha / len(parts)) for _, sketch, _ in parts]
    last, left = list(first), list(range(len(parts)))
    while left:
        still = [i for i in left if certify.verdict(last[i], parts[i][2])[0] != "certified"]
        if len(still) == len(left):
            break
        left = still
        for i in left:
            last[i] = certify.conclude(parts[i][1], 1 - alpha / len(left))
    found = []
    for i, (name, _, allowed) in enumerate(parts):
        outcome = _doubtful(first[i], last[i], allowed) if i in left else "certified"
        low = last[i].low if i in left else -allowed
        if not left and (sure := first[i].low) is not None:
            low = max(-allowed, sure)
        found.append(_facts(name, allowed, outcome, replace(last[i], low=low, high=first[i].high)))
    return found


def _doubtful(first: Comparison, last: Comparison, allowed: float) -> Literal["rejected", "open", "scarce"]:
    """What a slice is that did not pass."""
    if certify.verdict(first, allowed)[0] == "rejected":
        return "rejected"
    if min(last.positive_effective, last.negative_effective) < FEWEST or last.error is None:
        return "scarce"
    enough = certify.rows_needed(replace(last, difference=0), allowed)
    return "open" if enough is not None and enough <= last.rows else "scarce"


def _facts(name: str, allowed: float, outcome: str, found: Comparison) -> Facts:
    figures = ("rows", "clusters", "difference", "low", "high")
    return {
        "name": name,
        "allowed": allowed,
        "verdict": outcome,
        "full": found.full_auc,
        "slim": found.slim_auc,
        **{figure: getattr(found, figure) for figure in figures},
        "rows_needed": None if outcome == "certified" else _enough(found, allowed),
    }


def _enough(found: Comparison, allowed: float) -> int | None:
    """Rows of the whole kind of this slice that a clear answer takes, if it lost nothing; None where none tell."""
    fewest = min(found.positive_effective, found.negative_effective)
    if found.error is None or not fewest:
        return None
    enough = certify.rows_needed(replace(found, difference=0), allowed)
    return None if enough is None else max(enough, round(found.rows * FEWEST / fewest))


def veto(found: Sequence[Facts], unproven: Literal["veto", "remark"]) -> Veto:
    """What the slices say against certifying the whole, those that decide it named first."""
    by = {kind: [each for each in found if each["verdict"] == kind] for kind in ("rejected", "open", "scarce")}
    if by["rejected"]:
        worst = min(by["rejected"], key=lambda each: each["high"] + each["allowed"])
        told = f"{worst['name']} loses at least {-worst['high']:.5f} of AUC, and {worst['allowed']:.5f} is allowed"
        return Veto("rejected", f"{told}{_more(by['rejected'])}")
    doubtful = by["open"] + by["scarce"] * (unproven == "veto")
    if doubtful:
        return Veto("inconclusive", f"{_doubt(doubtful[0])}{_more(doubtful)}")
    names = ", ".join(each["name"] for each in by["scarce"])
    return Veto("", f"not protected, for want of rows: {names}" if names else "")


def _doubt(each: Facts) -> str:
    start, enough = each["name"], f"about {each['rows_needed']:,} rows would tell" if each["rows_needed"] else ""
    if each["verdict"] == "open":
        return f"{start} may lose {-each['low']:.5f} of AUC, and {each['allowed']:.5f} is allowed"
    told = f"{start} has too little evidence: its {each['rows']:,} rows do not rule out a loss of {each['allowed']:.5f}"
    return "; ".join(filter(None, (told, enough, _REMEDY)))


def _more(found: Sequence[Facts]) -> str:
    return f" (and {len(found) - 1} more slices, see the report)" if len(found) > 1 else ""
