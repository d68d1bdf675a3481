"""AdaFS: weights of the rows that add up to the number of fields, the k largest of each row, and their mean as the score."""

import pytest
import torch
from test_contract import inputs, mixed_schema

from slimrec.batch import Batch
from slimrec.config import ModelConfig
from slimrec.gates.adafs import AdaFSGate
from slimrec.model import build
from slimrec.selection import Budget


def gate_of(**options):
    torch.manual_seed(4)
    return AdaFSGate(mixed_schema(), 4, **options)


def test_soft_weights_of_a_row_are_a_softmax_of_the_controller_on_normalised_columns():
    gate, x = gate_of(), torch.randn(50, 23) * 7 + 3
    weights = gate.weights(x)
    normal = torch.nn.functional.batch_norm(x, None, None, training=True)
    first, _, last = gate.controller
    expected = torch.softmax(last(torch.relu(first(normal))), dim=1) * 6
    assert torch.allclose(weights, expected, atol=1e-5)
    assert torch.allclose(gate.weights(x * 100), weights, atol=1e-3)  # the scale of a block says nothing


def test_hard_weights_are_those_of_the_k_largest_over_their_sum():
    soft, hard = gate_of(), gate_of(variant="hard", share=0.5)
    x = torch.randn(50, 23)
    among, kept = soft.weights(x), hard.weights(x)
    for row, each in zip(among, kept):
        best = row.topk(3).indices
        assert set(each.nonzero().flatten().tolist()) == set(best.tolist())
        assert torch.allclose(each[best], 6 * row[best] / row[best].sum(), atol=1e-5)


def test_the_score_is_the_mean_weight_over_held_out_rows_each_by_its_own_weight():
    gate = gate_of()
    model = build(gate.schema, ModelConfig(backbone="mlp", embedding_dim=4, embedding_std=0.5), seed=0)
    ids, dense = inputs(gate.schema)
    weight = torch.rand(len(ids), generator=torch.Generator().manual_seed(0))
    gate.survey(model, lambda: [Batch(ids, dense, torch.zeros(len(ids)), weight)])
    mean = (weight[:, None] * gate.weights(model.arena(ids, dense))).sum(0) / weight.sum() / 6
    assert list(gate.scores().values()) == pytest.approx(mean.tolist(), abs=1e-6)
    assert sum(gate.scores().values()) == pytest.approx(1.0, abs=1e-6)


def test_without_a_budget_fields_stay_that_come_near_an_equal_share():
    gate = gate_of(least=0.8)
    gate.level.copy_(torch.tensor([3.0, 0.7, 0.9, 0.1, 0.81, 0.49]))
    kept = set(gate.select(Budget(), seed=0).kept)
    assert kept == {name for name, level in zip(gate.schema.names, gate.level.tolist()) if level >= 0.8}
