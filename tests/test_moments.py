"""Exact sums: mean and deviation against rational arithmetic, the same bits in any order and any pieces."""

import math
import statistics
from fractions import Fraction

import numpy as np
import pytest

from slimrec.data.moments import Moments

EXTREMES = [5e-324, -5e-324, 2.2e-308, 1e-300, 0.0, -0.0, 1.0, 1 + 2**-52, -1 / 3, 1e17, -1e17, 1.5e300, -1.7e308]


def of(*pieces: np.ndarray) -> Moments:
    moments = Moments(pieces[0].shape[1])
    for piece in pieces:
        moments.add(piece)
    return moments


def columns(name: str) -> np.ndarray:
    random = np.random.default_rng(3)
    return {
        "plain": random.standard_normal((5000, 3)),
        "far from zero": 1.7e9 + random.standard_normal((5000, 2)),
        "many sizes": random.standard_normal((500, 2)) * 10.0 ** random.integers(-300, 150, (500, 2)),
        "extremes": np.array(EXTREMES)[:, None],
        "one row": np.array([[0.1, -7.0]]),
    }[name]


NAMES = ["plain", "far from zero", "many sizes", "extremes", "one row"]


@pytest.mark.parametrize("name", NAMES)
def test_sums_and_means_are_those_of_rational_numbers(name):
    values = columns(name)
    found = of(values)
    for column, x in enumerate(values.T.tolist()):
        exact = [Fraction(each) for each in x]
        assert Fraction(found.sum[column], 2**1126) == sum(exact)
        assert Fraction(found.square[column], 2**2252) == sum(each * each for each in exact)
        assert found.mean()[column] == float(sum(exact) / len(x))


@pytest.mark.parametrize("name", ["plain", "far from zero"])
def test_the_deviation_is_the_one_of_the_standard_library(name):
    values = columns(name)
    wanted = [statistics.pstdev(x) for x in values.T.tolist()]
    assert of(values).deviation() == pytest.approx(wanted, rel=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_order_and_pieces_of_the_rows_change_no_bit(name):
    values = columns(name)
    whole, turned = of(values), of(*np.array_split(values[::-1], 7))
    joined = Moments(values.shape[1])
    for part in np.array_split(np.random.default_rng(0).permutation(values), 3):
        joined.join(of(part).state())
    for other in (turned, joined):
        assert (other.mean(), other.deviation()) == (whole.mean(), whole.deviation())


def test_a_sum_of_floats_would_have_depended_on_the_pieces():
    x = columns("many sizes")[:, 0]
    assert x.sum() != sum(part.sum() for part in np.array_split(x, 3))


def test_missing_values_are_left_out_and_constant_or_empty_columns_keep_their_scale():
    values = np.array([[np.nan, 4.0, np.nan], [1.0, 4.0, np.nan], [3.0, 4.0, np.nan]])
    found = of(values)
    assert (found.count, found.mean(), found.deviation()) == ([2, 3, 0], [2.0, 4.0, 0.0], [1.0, 1.0, 1.0])


def test_squares_beyond_float64_do_no_harm():
    (spread,) = of(np.array([[1.7e308], [-1.7e308]])).deviation()
    assert spread == pytest.approx(1.7e308, rel=1e-15) and math.isfinite(spread)
