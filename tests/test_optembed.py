"""OptEmbed: its step and thresholds, widths that are drawn and evolve, and what the cut takes of them."""

from itertools import product

import pytest
import torch
from test_contract import gated, inputs, mixed_schema

from slimrec.batch import Batch
from slimrec.gates.optembed import OptEmbedGate, Step
from slimrec.selection import Budget


def gate_of(**options):
    torch.manual_seed(6)
    return OptEmbedGate(mixed_schema(), 4, **options)


def test_the_step_is_hard_and_its_gradient_has_a_long_tail():
    v = torch.tensor([-1.5, -1.0, -0.4, -0.1, 0.0, 0.25, 0.5, 2.0], requires_grad=True)
    on = Step.apply(v)
    on.sum().backward()
    assert on.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert v.grad.tolist() == pytest.approx([0, 0.4, 0.4, 1.6, 2.0, 1.0, 0.4, 0], abs=1e-6)


def test_a_value_passes_where_its_l1_norm_is_over_the_threshold_of_its_field_and_dense_ones_always():
    gate, x = gate_of(), torch.randn(40, 23) * 0.6
    assert gate.schema.names == ("genres", "item", "noise", "price", "user", "vector")
    gate.thresholds.data = torch.tensor([1.0, 2.0, 0.0, 3.0])  # genres, item, noise, user
    passes = gate.passes(x)
    norms = [x[:, start : start + 4].abs().sum(1) for start in (0, 4, 8, 13)]
    for column, norm, threshold in zip((0, 1, 2, 4), norms, (1.0, 2.0, 0.0, 3.0)):
        assert torch.equal(passes[:, column] > 0, norm > threshold)
    assert (passes[:, [3, 5]] == 1).all()


def test_while_training_each_row_has_the_first_columns_up_to_a_width_drawn_uniformly():
    gate = gate_of().train()
    gate.thresholds.data.fill_(-1.0)
    out = gate(torch.ones(4000, 23), None)
    widths = out[:, 4:8].sum(1)  # of `item`
    assert all((row == 0).tolist() == sorted((row == 0).tolist()) for row in out[:100, 4:8])
    assert torch.bincount(widths.long(), minlength=5)[1:].tolist() == pytest.approx([1000] * 4, abs=120)
    assert (out[:, 12] == 1).all() and (out[:, 17:] == 1).all()  # the number and the vector


def test_evolution_finds_the_fittest_widths_of_all_there_are():
    gate = gate_of(population=40, generations=25, mutation=0.2)
    target = torch.tensor([2, 4, 1, 1, 3, 6])
    tried = []

    def fitness(widths):
        tried.append(tuple(widths.tolist()))
        return -float((widths - target).abs().sum())

    assert gate.evolve(fitness).tolist() == target.tolist()
    assert tried[0] == (4, 4, 4, 1, 4, 6)
    assert len(tried) <= 40 * 25 and set(tried) <= set(product(*(range(1, 5),) * 3, [1], range(1, 5), [6]))


def test_evolution_never_does_worse_than_native_widths_on_the_rows_it_looks_at():
    model = gated("optembed")
    gate, (ids, dense) = model.gate.eval(), inputs(model.schema, rows=400)
    gate.thresholds.data.fill_(-1.0)
    label = (torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    gate.survey(model, lambda: [Batch(ids, dense, label, torch.ones(400))])
    from sklearn.metrics import roc_auc_score

    x = model.arena(ids, dense).detach()
    found, native = (
        roc_auc_score(label, model.backbone(x * gate.within(widths)).detach()) for widths in (gate.widths, gate.native)
    )
    assert found >= native


def test_the_cut_has_the_widths_found_and_no_field_of_which_nothing_passes():
    gate = gate_of()
    gate.widths.copy_(torch.tensor([1, 2, 3, 1, 4, 6]))
    gate.passing.copy_(torch.tensor([0.5, 1.0, 0.0, 1.0, 0.25, 1.0]))
    selection = gate.select(Budget(), seed=0)
    assert {name: len(d.columns) for name, d in selection.fields.items()} == {
        "genres": 1,
        "item": 2,
        "noise": 0,
        "price": 1,
        "user": 4,
        "vector": 6,
    }
    assert gate.scores()["genres"] == pytest.approx(0.5 * 1 / 4)
    assert gate.select(Budget(fields=2), seed=0).kept == ("price", "vector")
