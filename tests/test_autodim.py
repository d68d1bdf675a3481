"""AutoDim: draws that anneal, prefixes that overlap, the likeliest width, and its tie to the threshold search."""

import pytest
import torch

from slimrec.gates.autodim import AutoDimGate
from slimrec.gates.irazor import chosen_regions
from slimrec.schema import Field, Schema, Statistics
from slimrec.selection import Budget


def schema():
    fields = [Field(name=n, kind="category", statistics=Statistics(rows=r)) for n, r in {"a": 10, "b": 100}.items()]
    number = Field(name="price", kind="number", statistics=Statistics(mean=(0.0,), deviation=(1.0,)))
    return Schema(label="click", fields=[*fields, number])


def placed(alpha, **options):
    gate = AutoDimGate(schema(), 6, candidates=[1, 3, 6], **options)
    gate.logits.data = torch.tensor(alpha).log().flatten()
    return gate


ALPHA = [[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]


def test_a_frozen_column_weighs_the_probability_that_the_width_reaches_it():
    gate = placed(ALPHA)
    expected = [1.0, 0.8, 0.8, 0.3, 0.3, 0.3, 1.0, 0.4, 0.4, 0.3, 0.3, 0.3, 1.0]
    assert gate.column_weights(gate.alpha()).tolist() == pytest.approx(expected, abs=1e-6)


def test_a_training_batch_is_normalised_and_sees_prefixes_of_one_draw():
    torch.manual_seed(0)
    gate = placed(ALPHA)
    x = torch.randn(512, 13) * 3 + 1
    normal = (x - x.mean(0)) / x.std(0, correction=0)
    weights = (gate(x, torch.zeros(512, 2)) / normal).detach()
    assert torch.allclose(weights.std(0), torch.zeros(13), atol=1e-3)  # one draw a batch
    drawn = weights.mean(0)
    assert torch.allclose(drawn[[0, 6, 12]], torch.ones(3), atol=1e-4)  # every candidate holds the first column
    assert (drawn[:5] >= drawn[1:6] - 1e-4).all() and (drawn[6:11] >= drawn[7:12] - 1e-4).all()


def test_cold_draws_are_one_hot_and_as_frequent_as_their_probability():
    torch.manual_seed(0)
    gate = placed(ALPHA)
    gate.gate_steps.fill_(10_000)
    draws = torch.stack([gate.draw() for _ in range(4000)])
    assert draws.max(2).values.mean().item() > 0.98
    assert torch.allclose(draws.mean(0)[:2], torch.tensor(ALPHA), atol=0.03)


@pytest.mark.parametrize(
    ("steps", "reference", "expected"),
    [(0, "paper", 1.0), (1000, "paper", 0.5), (100_000, "paper", 0.01), (0, "code", 0.2), (1900, "code", 0.05)],
)
def test_the_temperature_falls_by_training_steps_to_a_hundredth(steps, reference, expected):
    gate = AutoDimGate(schema(), 6, reference=reference, stream="gate", every=10)
    gate.gate_steps.fill_(steps)
    assert float(gate.annealed()) == pytest.approx(expected, abs=1e-5)


def test_by_default_the_temperature_falls_by_the_share_of_the_search():
    gate, found = AutoDimGate(schema(), 6, warmup=0.5), []
    for progress in (0.25, 0.5, 0.75, 1.0):
        gate.step(progress)
        found.append(float(gate.annealed()))
    assert found == pytest.approx([1.0, 1.0, 0.5, 0.01])


def test_the_released_code_steps_logits_and_network_together_on_training_rows():
    assert AutoDimGate(schema(), 6, reference="code").stream == "train"
    assert AutoDimGate(schema(), 6, reference="code", stream="gate").stream == "gate"
    assert (AutoDimGate(schema(), 6).stream, AutoDimGate(schema(), 6).every) == ("gate", 10)


def test_every_field_keeps_the_prefix_of_its_likeliest_width():
    selection = placed(ALPHA).select(Budget(), seed=0)
    columns = {name: decision.columns for name, decision in selection.fields.items()}
    assert columns == {"a": (0, 1, 2), "b": (0,), "price": (0,)}


def test_the_decision_is_the_threshold_search_at_zero_over_the_same_weights():
    gate = placed(ALPHA)
    for block, masses, widths in zip(gate.blocks, gate.masses(), gate.widths):
        (likeliest,) = chosen_regions(masses, cpt=0.0)
        assert gate.decide()[block.name] == block.columns[: widths[likeliest]]


def test_fields_rank_by_their_expected_share_of_width_and_bytes_are_kept():
    gate = placed(ALPHA)
    shares = {"a": (0.2 + 1.5 + 1.8) / 6, "b": (0.6 + 0.3 + 1.8) / 6, "price": 1.0}
    assert gate.scores() == pytest.approx(shares, abs=1e-6)
    assert gate.select(Budget(fields=2), seed=0).kept == ("a", "price")
    assert gate.select(Budget(max_bytes=4 * 30), seed=0).kept == ("a", "price")
    assert gate.select(Budget(max_bytes=4 * 130), seed=0).kept == ("a", "b", "price")


def test_width_zero_is_refused_because_no_field_is_dropped_by_width():
    with pytest.raises(ValueError, match="width 0"):
        AutoDimGate(schema(), 6, candidates=[0, 1, 3])


@pytest.mark.parametrize("options", [{"stream": "valid"}, {"every": 0}, {"reference": "blog"}])
def test_an_option_outside_its_range_is_refused(options):
    with pytest.raises(ValueError, match="got"):
        AutoDimGate(schema(), 6, **options)
