"""Whether rows hold more than one thing, against the rows themselves."""

import numpy as np
import pyarrow as pa
import pytest

from slimrec.data.values import bags, categories
from slimrec.data.varying import Varying
from slimrec.schema import Field

BAG = Field(name="b", kind="bag", max_length=2)


def added(pieces, take):
    found = Varying()
    for piece in pieces:
        found.add(take(piece))
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", ["categories", "bags"])
def test_rows_vary_where_two_of_them_differ_as_they_are_encoded_in_whatever_pieces_they_come(shape, seed):
    random = np.random.default_rng(seed)
    for _ in range(60):
        rows = int(random.integers(1, 6))
        if shape == "bags":
            few = [[], ["x"], ["x", "y"], ["x", "y", "z"], ["y", "x"], ["x", None]]
            drawn = [few[i] for i in random.integers(0, 6, rows)]
            contents = {str(bag[:2]) for bag in drawn}
            column, take = pa.array(drawn, pa.list_(pa.string())), lambda piece: bags(BAG, piece)
        else:
            drawn = [[None, "x", "y", "1", "1.0"][i] for i in random.integers(0, 5, rows)]
            contents = {"1" if value == "1.0" else value for value in drawn}
            column, take = pa.array(drawn, pa.string()), categories
        at = int(random.integers(0, rows + 1))
        first, second = added([column[:at]], take), added([column[at:]], take)
        whole, both = added([column], take), added([column[:at], column[at:]], take)
        first.join(second.held)
        assert {each.varies for each in (whole, both, first)} == {len(contents) > 1}, drawn
        assert len(whole.held) <= 2


def test_two_spellings_of_one_value_in_a_bag_do_not_vary():
    assert not added([pa.array([["4.1"], ["4.10"]])], lambda piece: bags(BAG, piece)).varies


def test_no_rows_do_not_vary():
    for empty, take in (
        (pa.array([], pa.string()), categories),
        (pa.array([], pa.list_(pa.string())), lambda p: bags(BAG, p)),
    ):
        assert not added([empty], take).varies
