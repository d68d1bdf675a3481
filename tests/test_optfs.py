"""OptFS against its equations, what its masks are over bags and numbers, and planted noise."""

import math

import pytest
import torch
from recovery import STRONG, make_dataset, search
from test_contract import inputs, mixed_schema

from slimrec.batch import Batch
from slimrec.gates.optfs import OptFSGate
from slimrec.selection import Budget


def gate_of(**options):
    gate = OptFSGate(mixed_schema(), 4, **options)
    torch.manual_seed(3)
    gate.values.data = torch.randn(gate.values.shape)
    return gate


def sigma(value):
    return 1 / (1 + math.exp(-value))


def test_a_block_is_scaled_by_the_mask_of_the_value_that_stands_in_the_row():
    gate = gate_of(start=0.5, hottest=100.0)
    gate.step(0.5)
    assert float(gate.temperature) == pytest.approx(10.0)
    ids, _ = inputs(gate.schema, rows=4)
    ids[0, :3], ids[1, :3] = torch.tensor([3, 7, 0]), 0  # the bag `genres` comes first among the slots
    masks = gate.by_field(ids, gate.mask)
    c, names = gate.values.detach().squeeze(1).tolist(), gate.schema.names
    starts, start = {}, 0
    for field in gate.schema.fields:
        starts[field.name], start = start, start + (field.rows if field.embedded else 1)
    user = c[starts["user"] + int(ids[0, -1])]
    genres = [sigma(10 * c[starts["genres"] + value]) / sigma(0.5) for value in (3, 7)]
    found = dict(zip(names, masks[0].tolist()))
    assert found["user"] == pytest.approx(sigma(10 * user) / sigma(0.5), abs=1e-6)
    assert found["genres"] == pytest.approx(sum(genres) / 2, abs=1e-6)
    assert found["price"] == pytest.approx(sigma(10 * c[starts["price"]]) / sigma(0.5), abs=1e-6)
    assert masks[1, names.index("genres")] == 0
    x = torch.randn(4, len(gate.owner))
    assert torch.allclose(gate.train()(x, ids), x * masks[:, gate.owner])


def test_masks_begin_at_one_and_end_as_a_step_at_zero():
    gate = OptFSGate(mixed_schema(), 4, start=0.5, hottest=1e4)
    ids, _ = inputs(gate.schema, rows=4)
    ids[:, :3] = 3
    assert torch.allclose(gate.by_field(ids, gate.mask), torch.ones(4, 6))
    gate.step(1.0)
    hard = gate.mask(torch.tensor([-0.01, 0.01])) * sigma(0.5)
    assert hard.tolist() == pytest.approx([0.0, 1.0], abs=1e-6)


def test_the_penalty_is_the_sum_over_all_values():
    gate = gate_of(strength=0.25)
    expected = 0.25 * sum(sigma(value) for value in gate.values.detach().squeeze(1).tolist())
    assert gate.penalty().item() == pytest.approx(expected, rel=1e-5)


def test_a_field_stays_whose_values_are_on_for_the_typical_held_out_row():
    gate = gate_of()
    gate.values.data.fill_(-1.0)
    start = sum(
        field.rows if field.embedded else 1 for field in gate.schema.fields[:-2]
    )  # of `user`, behind it `vector`
    assert gate.schema.names[-2:] == ("user", "vector")
    gate.values.data[start + 3] = 2.0
    ids, dense = inputs(gate.schema, rows=10)
    ids[:, -1], ids[:2, -1] = 3, 4
    gate.survey(None, lambda: [Batch(ids, dense, torch.zeros(10), torch.ones(10))])
    assert gate.scores()["user"] == pytest.approx(0.8 * sigma(2) + 0.2 * sigma(-1), abs=1e-6)
    assert gate.select(Budget(), seed=0).kept == ("user",)
    assert gate.evidence()["on/user"] == pytest.approx(0.8)


def test_by_its_own_rule_planted_fields_stay_and_noise_goes(tmp_path):
    dataset = make_dataset(tmp_path, rows=60_000)
    options = {"strength": 0.001, "learning_rate": 0.05}
    gate = search(tmp_path, dataset, "optfs", options, rows=29_000, epochs=1)
    assert gate.select(Budget(), seed=0).kept == STRONG
