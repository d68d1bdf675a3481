"""When a training keeps its state: by the clock, seldom where that takes long, and never where there is no place for it."""

import time

import pytest
import torch

from slimrec.training import checkpoint
from slimrec.training.checkpoint import Checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock, to be set."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_minute_of_work_is_the_most_that_is_lost(tmp_path, clock):
    kept = Checkpoint(tmp_path / "x.safetensors", CPU, seconds=60.0)
    assert not kept.due(step=1)
    clock[0] += 60
    assert kept.due(step=2)
    kept.rest(began=clock[0])
    assert not kept.due(step=3)


def test_checkpoints_that_take_long_become_rarer_and_take_a_twentieth_of_the_time(tmp_path, clock):
    kept = Checkpoint(tmp_path / "x.safetensors", CPU, seconds=60.0)
    began = clock[0]
    clock[0] += 12  # that long it took
    kept.rest(began)
    clock[0] += 12 / checkpoint.SHARE - 1
    assert not kept.due(step=1)
    clock[0] += 1
    assert kept.due(step=2)


def test_a_bound_in_steps_holds_beside_the_clock_and_without_a_place_nothing_is_due(tmp_path, clock):
    assert [Checkpoint(tmp_path / "x", CPU, steps=3).due(step) for step in (1, 2, 3, 6)] == [False, False, True, True]
    clock[0] += 1e6
    assert not Checkpoint(None, CPU, steps=1).due(1)
