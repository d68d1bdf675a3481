"""MvFS against its equations, view by view, and what becomes of the answers of rows."""

import math

import pytest
import torch
from test_contract import inputs, mixed_schema

from slimrec.batch import Batch
from slimrec.config import ModelConfig
from slimrec.gates.mvfs import MvFSGate
from slimrec.model import build
from slimrec.selection import Budget


def gate_of(**options):
    torch.manual_seed(4)
    return MvFSGate(mixed_schema(), 4, **options)


def test_importance_is_a_mix_of_softmaxes_weighed_by_a_softmax_over_all_of_them():
    gate, x = gate_of(views=3), torch.randn(5, 23)
    found = gate.importance(x)
    for row, each in zip(x, found):
        views = [torch.softmax(gate.views(row)[6 * k : 6 * k + 6], dim=0) for k in range(3)]
        share = torch.softmax(gate.referee.weight @ torch.cat(views) + gate.referee.bias, dim=0)
        assert torch.allclose(each, sum(r * view for r, view in zip(share, views)), atol=1e-6)
    assert torch.allclose(found.sum(1), torch.ones(5))


def test_a_weight_is_one_half_at_the_bar_and_steeper_later_in_the_search():
    gate, x = gate_of(bar=0.15, tau=5.0), torch.randn(5, 23)
    importance = gate.importance(x)
    expected = [[(1 + math.tanh(5 * (value - 0.15))) / 2 for value in row] for row in importance.tolist()]
    assert torch.allclose(gate.weigh(x), torch.tensor(expected), atol=1e-6)
    for _ in range(9000):
        gate.step(0.5)
    expected = [[(1 + math.tanh(10 * (value - 0.15))) / 2 for value in row] for row in importance.tolist()]
    assert torch.allclose(gate.weigh(x), torch.tensor(expected), atol=1e-5)


def test_the_score_is_the_mean_answer_over_held_out_rows_and_one_half_keeps_a_field():
    gate = gate_of(bar=1 / 6)
    model = build(gate.schema, ModelConfig(backbone="mlp", embedding_dim=4, embedding_std=0.5), seed=0)
    ids, dense = inputs(gate.schema)
    weight = torch.rand(len(ids), generator=torch.Generator().manual_seed(0))
    gate.survey(model, lambda: [Batch(ids, dense, torch.zeros(len(ids)), weight)])
    x = model.arena(ids, dense)
    normal = torch.nn.functional.batch_norm(x, None, None, training=True)
    mean = (weight[:, None] * gate.weigh(normal)).sum(0) / weight.sum()
    assert list(gate.scores().values()) == pytest.approx(mean.tolist(), abs=1e-5)
    kept = {name for name, score in gate.scores().items() if score >= 0.5}
    assert 0 < len(kept) < 6 and set(gate.select(Budget(), seed=0).kept) == kept
