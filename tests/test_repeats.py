"""Rows that repeat another one are counted to a per cent in bounded memory, the same however the log is cut."""

import numpy as np
import pytest

from slimrec.data.keys import Keys
from slimrec.data.repeats import Repeats
from slimrec.schema import UNSEEN


def rows(count: int, copies: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Keys]:
    """`count` different rows, each `copies` times, in random order."""
    random = np.random.default_rng(seed)
    order = random.permutation(np.repeat(np.arange(count), copies))
    ids, dense = random.integers(3, 9, (count, 5)).astype(np.int32), random.normal(size=(count, 3)).astype(np.float32)
    label = random.integers(0, 2, count).astype(np.float32)
    return ids[order], dense[order], Keys(label[order], None, None, None)


def counted(ids, dense, keys, pieces: int = 1) -> Repeats:
    found = Repeats()
    for at in np.array_split(np.arange(len(ids)), pieces):
        found.add(ids[at], dense[at], Keys(*(None if key is None else key[at] for key in keys)))
    return found


@pytest.mark.parametrize("count, copies, share", [(1000, 1, 0), (1000, 10, 0.9), (100_000, 3, 2 / 3), (100_000, 1, 0)])
def test_the_share_of_copies_is_found_wherever_they_stand(count, copies, share):
    assert counted(*rows(count, copies), pieces=7).share == pytest.approx(share, abs=0.01)


def test_parts_join_to_what_one_machine_finds():
    ids, dense, keys = rows(60_000, 2)
    halves = [
        counted(ids[at], dense[at], Keys(keys.label[at], None, None, None)).state()
        for at in (slice(0, 31_000), slice(31_000, None))
    ]
    assert Repeats.joined(halves).state() == counted(ids, dense, keys, pieces=5).state()


@pytest.mark.parametrize("what", ["id", "number", "label", "time"])
def test_rows_that_differ_in_one_thing_are_no_copies(what):
    ids, dense, keys = (np.zeros((4, 3), np.int32), np.zeros((4, 3), np.float32), np.zeros(4, np.float32))
    time, label = np.zeros(4, np.int64), keys
    if what == "id":
        ids[:, 2] = range(4)
    elif what == "number":
        dense[:, 2] = range(4)
    elif what == "time":
        time += np.arange(4)
    else:
        label = np.array([0, 1, 0, 1], np.float32)
    assert counted(ids, dense, Keys(label, None, None, time)).share == (0.5 if what == "label" else 0)


def test_rows_of_unseen_values_are_not_taken_for_copies():
    ids, dense, keys = rows(1000, 5)
    ids[:, 0] = UNSEEN
    assert counted(ids, dense, keys).share == 0
