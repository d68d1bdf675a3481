"""Numbers so far off that, scaled by the deviation of all, the others come out as one."""

from __future__ import annotations

import numpy as np

_ENDS = (0.01, 0.99)  # of the numbers, between which the others lie
_NARROW = 0.02  # deviations, within which they are one number to a network
_FEW = 100  # numbers that tell nothing of their ends


def far_off(sample: np.ndarray, low: float, high: float, mean: float, deviation: float) -> tuple[float, ...] | None:
    """Between which two numbers of a sample (n,) nearly all lie, and the farthest; None where they stay apart.

    The others are all but 1 % at either end. Where these hold one value, as a number that is seldom there does, there is
    nothing to keep apart.
    """
    if len(sample) < _FEW:
        return None
    start, end = (float(edge) for edge in np.quantile(sample, _ENDS, method="inverted_cdf"))
    if not 0 < end - start < _NARROW * deviation:
        return None
    return start, end, max(low, high, key=lambda edge: abs(edge - mean))


def remark(found: tuple[float, ...], scale: str | None) -> str:
    """What `far_off` found of a number with such a scale, in words, and what to do."""
    start, end, far = (np.sign(edge) * np.expm1(abs(edge)) if scale == "log" else edge for edge in found)
    log = "" if scale == "log" else " or `scale: log`"
    return (
        f"98 % of its numbers lie from {start:.6g} to {end:.6g}, and one is {far:.6g}: scaled by the deviation of all they "
        f"come out alike; correct it, or say `discretise: quantile`{log}"
    )
