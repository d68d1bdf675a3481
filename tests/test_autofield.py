"""AutoField against its formulas, and on planted noise."""

import math

import pytest
import torch
from recovery import NOISE, STRONG, make_dataset, search

from slimrec.gates.autofield import AutoFieldGate
from slimrec.schema import Field, Schema, Statistics
from slimrec.selection import Budget


def gate_of(fields=3, **options):
    fields = [Field(name=f"f{i}", kind="vector", width=2, statistics=Statistics()) for i in range(fields)]
    return AutoFieldGate(Schema(label="y", fields=fields), 4, **options)


@pytest.mark.parametrize("every", [1, 10])
def test_the_temperature_falls_by_a_fixed_amount_a_training_step_and_stops_at_one_hundredth(every):
    gate = gate_of(every=every, cooling=5e-5)
    for _ in range(10):  # gate steps, one at every so many of training
        gate.step(0.5)
    assert float(gate.temperature()) == pytest.approx(1 - 5e-4 * every)
    gate.steps.fill_(1e6)
    assert float(gate.temperature()) == pytest.approx(0.01)


def test_by_default_the_temperature_falls_by_the_share_of_the_search_from_its_warm_up_on():
    gate, found = gate_of(warmup=0.2), []
    for progress in (0.2, 0.4, 0.6, 1.0):
        gate.step(progress)
        found.append(float(gate.temperature()))
    assert found == pytest.approx([1.0, 0.75, 0.5, 0.01])


def test_at_temperature_one_the_draw_is_a_logistic_one_around_the_difference_of_the_logits():
    torch.manual_seed(0)
    gate = gate_of(fields=1)
    gate.logits.data = torch.tensor([[0.2, 1.0]])
    draws = torch.logit(torch.cat([gate.draw().detach() for _ in range(20_000)]))
    assert float(draws.mean()) == pytest.approx(0.8, abs=0.05)
    assert float(draws.std()) == pytest.approx(math.pi / math.sqrt(3), abs=0.05)
    assert float((draws > 0).float().mean()) == pytest.approx(float(gate.keep_probability().detach()), abs=0.01)


def test_a_cold_draw_is_all_or_nothing():
    torch.manual_seed(0)
    gate = gate_of(fields=200)
    gate.steps.fill_(1e6)
    draw = gate.draw().detach()
    assert float(((draw < 0.01) | (draw > 0.99)).float().mean()) > 0.95


def test_one_draw_serves_a_whole_batch_and_the_frozen_gate_is_the_keep_probability():
    gate = gate_of()
    gate.logits.data = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [math.log(4), 0.0]])
    drawn = gate(torch.ones(5, 6), None).detach()
    assert torch.equal(drawn, drawn[:1].expand(5, 6))
    assert gate.eval()(torch.ones(1, 6), None)[0].tolist() == pytest.approx([0.5, 0.5, 0.75, 0.75, 0.2, 0.2])
    assert gate.select(Budget(), seed=0).kept == ("f0", "f1")
    assert gate.select(Budget(fields=1), seed=0).kept == ("f1",)


def test_noise_fields_end_below_useful_ones(tmp_path):
    scores = search(tmp_path, make_dataset(tmp_path), "autofield").scores()
    assert min(scores[name] for name in STRONG) > max(scores[name] for name in NOISE)


@pytest.mark.parametrize("options", [{"cooling": -1.0}, {"every": 0}, {"warmup": 1.0}, {"stream": "valid"}])
def test_an_option_outside_its_range_is_refused(options):
    with pytest.raises(ValueError, match="got"):
        gate_of(**options)
