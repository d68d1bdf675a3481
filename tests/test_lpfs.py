"""LPFS against its formulas, its zeros, and on planted noise."""

import math

import pytest
import torch
from recovery import NOISE, STRONG, make_dataset, search

from slimrec.gates.lpfs import LpfsGate
from slimrec.schema import Field, Schema, Statistics
from slimrec.selection import Budget


def gate_of(values, **options):
    fields = [Field(name=f"f{i}", kind="vector", width=2, statistics=Statistics()) for i in range(len(values))]
    gate = LpfsGate(Schema(label="y", fields=fields), 4, **options)
    gate.x.data = torch.tensor(values)
    return gate


def test_the_gate_is_x_squared_over_x_squared_plus_epsilon():
    gates = gate_of([1.0, 0.3, 0.0, -0.3], variant="lpfs", epsilon=0.1).gates()
    assert gates.tolist() == pytest.approx([1 / 1.1, 0.09 / 0.19, 0.0, 0.09 / 0.19])


def test_the_plus_variant_adds_an_arc_tangent_and_is_odd():
    gates = gate_of([0.3, -0.3], variant="lpfs++", epsilon=0.04, alpha=10.0, tau=2.0).gates().tolist()
    expected = 0.09 / 0.13 + 10 * 0.2 * math.atan(0.3)
    assert gates == pytest.approx([expected, -expected])


@pytest.mark.parametrize(("variant", "slope"), [("lpfs", 0.0), ("lpfs++", 10 * math.sqrt(0.1))])
def test_only_the_plus_variant_lets_a_field_at_zero_come_back(variant, slope):
    gate = gate_of([0.0], variant=variant)
    gate.gates().sum().backward()
    assert float(gate.x.grad) == pytest.approx(slope)


def test_a_small_epsilon_polarises_the_gate():
    gates = gate_of([0.5, 1e-4], variant="lpfs", epsilon=1e-5).gates()
    assert gates[0].item() > 0.999 and gates[1].item() < 0.001


def test_a_step_shrinks_towards_zero_and_stops_there():
    gate = gate_of([0.5, -0.5, 0.002, -0.002], strength=0.5, learning_rate=0.01)
    gate.step(0.1)
    assert gate.x.tolist() == pytest.approx([0.495, -0.495, 0.0, 0.0])


def test_a_hundred_steps_lower_epsilon_by_the_published_factor():
    gate = gate_of([1.0])
    for _ in range(100):
        gate.step(0.1)
    assert float(gate.epsilon) == pytest.approx(0.1 * 0.9978, rel=1e-5)


def test_without_a_budget_the_fields_within_one_step_of_zero_go():
    gate = gate_of([0.7, 0.0, 0.009, -0.2, -0.011], learning_rate=0.01)
    selection = gate.select(Budget(), seed=0)
    assert selection.dropped == ("f1", "f2")
    assert all(0 <= decision.score <= 1 for decision in selection.fields.values())
    assert selection.fields["f3"].scale == pytest.approx((float(gate.gates()[3].detach()),) * 2)


def test_a_budget_orders_fields_by_how_far_they_are_from_zero_and_fallen_ones_by_how_long_they_held_out():
    gate = gate_of([0.012, -0.5, 0.05, 1.0], learning_rate=0.01, strength=1.0)
    for i in range(4):  # f0 falls at once, f2 after four steps
        gate.step((i + 1) / 4)
    assert gate.x.tolist() == pytest.approx([0.0, -0.46, 0.01, 0.96], abs=1e-6)
    kept = [gate.select(Budget(fields=count), seed=0).kept for count in (1, 2, 3)]
    assert kept == [("f3",), ("f1", "f3"), ("f1", "f2", "f3")]
    assert gate.select(Budget(), seed=0).kept == ("f1", "f3")


def test_where_all_fields_have_fallen_the_one_that_held_out_longest_stays():
    gate = gate_of([0.03, 0.05, 0.04], learning_rate=0.01, strength=1.0)
    for i in range(6):
        gate.step((i + 1) / 6)
    assert gate.select(Budget(), seed=0).kept == ("f1",)


@pytest.mark.parametrize("variant", ["lpfs", "lpfs++"])
def test_noise_fields_end_below_useful_ones(tmp_path, variant):
    gate = search(tmp_path, make_dataset(tmp_path), "lpfs", {"variant": variant})
    scores = gate.scores()
    assert min(scores[name] for name in STRONG) > max(scores[name] for name in NOISE)
    kept = gate.select(Budget(), seed=0).kept
    assert set(STRONG) <= set(kept) and len(kept) <= 6


@pytest.mark.parametrize("options", [{"variant": "soft"}, {"epsilon": 0.0}, {"strength": -1.0}, {"stream": "valid"}])
def test_an_option_outside_its_range_is_refused(options):
    with pytest.raises(ValueError, match="got"):
        gate_of([1.0], **options)
