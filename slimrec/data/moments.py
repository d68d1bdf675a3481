"""Mean and deviation from exact sums: the same bits in whatever order and in whatever pieces the rows come."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_DIGIT = 26  # bits of a digit, so that its sum over a piece is exact in float64
_PIECE = 1 << 20  # rows added at once, for the same reason
_LOWEST = -1126  # every float64 is a whole multiple of 2**_LOWEST, its square one of 2**(2 * _LOWEST)


class Moments:
    """Count, sum and sum of squares of each column as whole numbers (of 2**-1126 and 2**-2252); NaN is left out.

    Sums of floats depend on their order, and on where a log is cut for several machines; whole numbers do not.
    """

    def __init__(self, width: int):
        self.count, self.sum, self.square = [0] * width, [0] * width, [0] * width

    def add(self, values: np.ndarray) -> None:
        """Take float64 (n, width), finite or NaN."""
        for start in range(0, len(values), _PIECE):
            self._add(values[start : start + _PIECE])

    def _add(self, values: np.ndarray) -> None:
        present = ~np.isnan(values)
        mantissa, exponent = np.frexp(np.where(present, values, 0.0))
        whole = (mantissa * 2.0**53).astype(np.int64)  # value = whole * 2**(exponent - 53)
        low = int(exponent.min())
        binned = _Bins(exponent - low)
        high, rest = whole >> _DIGIT, whole & ((1 << _DIGIT) - 1)  # whole = high * 2**26 + rest
        sums = binned.sums([rest, high], step=1)
        squares = binned.sums(_digits(rest * rest, 2 * high * rest, high * high), step=2)
        self.join(
            {
                "count": present.sum(axis=0).tolist(),
                "sum": [total << (low - 53 - _LOWEST) for total in sums],
                "square": [total << 2 * (low - 53 - _LOWEST) for total in squares],
            }
        )

    def state(self) -> dict[str, list[int]]:
        """What `join` takes, as JSON."""
        return {"count": self.count, "sum": self.sum, "square": self.square}

    def join(self, state: dict[str, Any]) -> None:
        """Take all values that other moments have taken."""
        for name, values in self.state().items():
            values[:] = [mine + int(theirs) for mine, theirs in zip(values, state[name], strict=True)]

    def mean(self) -> list[float]:
        """The mean of each column, correctly rounded; 0 for a column without values."""
        return [total / (count << -_LOWEST) if count else 0.0 for total, count in zip(self.sum, self.count)]

    def deviation(self) -> list[float]:
        """The standard deviation (over n) of each column, 1 where the column is constant."""
        spreads = []
        for count, total, square, mean in zip(self.count, self.sum, self.square, self.mean()):
            spread = _root(count * square - total * total, count * count << -2 * _LOWEST) if count else 0.0
            spreads.append(spread if spread > 1e-12 * max(1.0, abs(mean)) else 1.0)
        return spreads


class _Bins:
    """Sums of whole numbers (n, width) by column and by the exponent (n, width) that each stands under, from 0 on."""

    def __init__(self, exponent: np.ndarray):
        self.width, self.span = exponent.shape[1], int(exponent.max()) + 1
        self.bins = (exponent + self.span * np.arange(self.width)).reshape(-1)

    def sums(self, digits: list[np.ndarray], step: int) -> list[int]:
        """For each column the sum of digit * 2**(26 * place + step * exponent)."""
        totals = [0] * self.width
        for place, digit in enumerate(digits):
            found = np.bincount(self.bins, digit.reshape(-1), self.width * self.span).reshape(self.width, self.span)
            for column, exponent in zip(*(at.tolist() for at in np.nonzero(found))):
                totals[column] += int(found[column, exponent]) << (_DIGIT * place + step * exponent)
        return totals


def _digits(*terms: np.ndarray) -> list[np.ndarray]:
    """Whole numbers term 0 + term 1 * 2**26 + term 2 * 2**52 ... as digits of 26 bits, the last one larger."""
    digits, carry = [], 0
    for term in terms:
        number = term + carry
        digits.append(number & ((1 << _DIGIT) - 1))
        carry = number >> _DIGIT
    return [*digits, carry]


def _root(over: int, under: int) -> float:
    """Square root of over / under, also where the quotient itself is beyond float64."""
    shift = (over.bit_length() - under.bit_length()) // 2
    if shift > 0:
        return math.ldexp(math.sqrt(over / (under << 2 * shift)), shift)
    return math.ldexp(math.sqrt((over << -2 * shift) / under), shift)
