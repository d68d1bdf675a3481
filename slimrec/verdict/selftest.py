"""Would this comparison tell good from bad here? The slim model against itself, and against itself with its best field shuffled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from slimrec.verdict.certify import Comparison

Compare = Callable[[np.ndarray, np.ndarray], Comparison]  # scores (n,) of two models -> how the second does


def check(compare: Compare, scores: np.ndarray, damaged: dict[str, np.ndarray]) -> dict[str, Any]:
    """What report.json holds: `failed` says what went wrong, "" where the comparison can be trusted.

    `scores` (n,) are the slim model's, `damaged` what it gives with a field shuffled, by field. The same model must come out
    as no change; scores that stand in the wrong rows must not come out as better. Whether they come out as worse, else the
    model knows too little to lose anything, and whether the worst damage by one field does, is stated and decides nothing.
    """
    same = compare(scores, scores)
    mixed = compare(scores, np.random.default_rng(0).permutation(scores))
    found = {name: compare(scores, other) for name, other in damaged.items()}
    measured = {name: each.difference for name, each in found.items() if each.difference is not None}
    worst = min(measured, key=lambda name: measured[name], default="")
    failed = ""
    if same.difference or (same.low is not None and same.high is not None and not same.low <= 0 <= same.high):
        failed = "the slim model does not come out as good as itself"
    elif mixed.low is not None and mixed.low > 0:
        failed = "the slim model's scores come out as better in the wrong rows"
    return {
        "failed": failed,
        "same": same.difference,
        "mixed": mixed.difference,
        "knows": bool(mixed.high is not None and mixed.high < 0),
        "field": worst,
        "shuffled": measured.get(worst),
        "told": bool(worst and (high := found[worst].high) is not None and high < 0),
    }
