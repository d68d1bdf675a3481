"""What a constant in the place of a field costs on held-out rows, how sure that is, and what scores it overrules."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from test_contract import gated, inputs, placed
from test_decide import found, scored
from torch.nn.modules.module import register_module_forward_hook

from slimrec.backbones.base import Backbone
from slimrec.batch import Batch
from slimrec.pruning.asking import _intercept, losses
from slimrec.pruning.change import Change, change
from slimrec.pruning.decide import decide
from slimrec.pruning.findings import Presence, Twins
from slimrec.pruning.removal import removed
from slimrec.selection import Budget

CPU = torch.device("cpu")
COSTS, HARMS, UNSURE = (Change(mean=mean, error=0.001, rows=100) for mean in (0.05, -0.05, 0.002))


def rows(seed: int = 0, count: int = 500):
    """Differences that already carry their weights, a mask, weights."""
    random = np.random.default_rng(seed)
    weight = random.uniform(0.5, 2, count)
    parts = (weight * random.normal(0.3, 1, count), random.random(count) < 0.7, weight)
    return [torch.tensor(part) for part in parts]


def test_a_mean_change_and_its_error_are_those_of_the_rows_asked_for():
    difference, where, _ = rows()
    plain = change(difference, where, torch.ones(500))
    assert plain.mean == pytest.approx(difference[where].mean().item())
    assert plain.error == pytest.approx(np.std(difference[where].numpy()) / np.sqrt(int(where.sum())))
    assert plain.rows == where.sum()


def test_the_error_of_a_weighted_mean_is_that_of_the_bootstrap():
    difference, where, weight = (part.numpy() for part in rows())
    draws = np.random.default_rng(1).integers(0, where.sum(), (4000, where.sum()))
    means = difference[where][draws].sum(1) / weight[where][draws].sum(1)
    found = change(*map(torch.from_numpy, (difference, where, weight)))
    assert found.mean == pytest.approx(difference[where].sum() / weight[where].sum())
    assert found.error == pytest.approx(means.std(), rel=0.05)


def test_rows_of_a_group_count_as_one():
    difference, where, weight = rows()
    numbers = torch.arange(500)
    once = change(difference, where, weight)
    thrice = change(*(part.repeat(3) for part in (difference, where, weight)), numbers.repeat(3))
    assert (thrice.mean, thrice.error) == pytest.approx((once.mean, once.error)) and thrice.rows == 3 * once.rows
    assert change(difference, where, weight, numbers).error == pytest.approx(once.error)


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_a_change_that_is_no_number_decides_nothing(figure):
    with pytest.raises(ValueError, match="finite number"):
        Change(mean=figure, error=0.0, rows=1)
    with pytest.raises(ValueError, match="finite number"):
        Change(mean=0.0, error=figure, rows=1)


def test_rows_without_weight_say_nothing():
    difference, where, weight = rows()
    assert change(difference, where, weight * 0) == Change(mean=0, error=0, rows=0)
    small, whole = change(difference * 1e-6, where, weight * 1e-6), change(difference, where, weight)
    assert (small.mean, small.error, small.rows) == pytest.approx((whole.mean, whole.error, whole.rows))


@pytest.mark.parametrize("error", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(
    ("errors", "certain", "gain"),
    [(3.01, True, False), (3.0, False, False), (0.0, False, False), (-1.645, False, False), (-1.65, False, True)],
)
def test_a_cost_is_certain_above_three_errors_and_a_gain_below_the_95_percent_bound(errors, certain, gain, error):
    found = Change(mean=errors * error, error=error, rows=9)
    assert (found.certain, found.gain) == (certain and error > 0, gain and error > 0)
    assert found.doubt == pytest.approx(1.645 * error)


def answered(label, weight=None):
    label = torch.tensor(label)
    return Batch(None, None, label, torch.ones_like(label) if weight is None else torch.tensor(weight))


def refitted(logits, batch):
    """Losses with the best constant."""
    return losses(logits + _intercept(logits, batch), batch)


def test_the_best_constant_leaves_the_entropy_of_the_label_for_each_task_that_is_asked():
    label, weight = [1.0, 0.0, 0.0, 1.0], [1.0, 2.0, 1.0, 1.0]  # a share of 2 / 5
    one = refitted(torch.full((4,), -0.7, dtype=torch.double), answered(label, weight))
    assert one.tolist() == pytest.approx([-np.log(0.4), -2 * np.log(0.6), -np.log(0.6), -np.log(0.4)], rel=1e-12)
    both = answered([[value, 1 - value] for value in label], [[w, 1.0] for w in weight])
    found = refitted(torch.tensor([[-0.7, 3.0]] * 4, dtype=torch.double), both)
    assert found.tolist() == pytest.approx((one - np.log(0.5)).tolist(), rel=1e-12)
    unasked = answered([[value, 0.0] for value in label], [[w, 0.0] for w in weight])
    found = refitted(torch.tensor([[-0.7, 3.0]] * 4, dtype=torch.double), unasked)
    assert found.tolist() == pytest.approx(one.tolist(), rel=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_constant_moves_by_two_at_most_eight_times(sign):
    found = refitted(torch.full((2,), sign * 30, dtype=torch.double), answered([0.0, 1.0]))
    assert found.tolist() == pytest.approx([np.logaddexp(0, sign * 14), np.logaddexp(0, -sign * 14)], rel=1e-9)


def test_a_field_alone_is_replaced_without_a_whole_forward_pass(monkeypatch):
    monkeypatch.setattr("slimrec.pruning.asking.PIECE", 100)
    model, ran = gated("random", "mlp").eval(), []
    batch = Batch(*inputs(model.schema, rows=330), torch.ones(330), torch.ones(330))
    with register_module_forward_hook(lambda module, *_: ran.append(1) if isinstance(module, Backbone) else None):
        removed(model, batch, [("item",), ("genres", "vector"), ("price",)], None, CPU, ())
    assert len(ran) == 4 * 2  # of four pieces: as it is, and without the two together


@pytest.mark.parametrize(
    ("method", "backbone"), [("random", "mlp"), ("random", "deepfm"), ("optfeature", "pnn"), ("autofield", "mlp")]
)
def test_a_constant_costs_what_the_mean_and_a_new_intercept_leave_of_the_loss(method, backbone, monkeypatch):
    """Against a network run whole on the changed blocks and SciPy's search for the intercept."""
    monkeypatch.setattr("slimrec.pruning.asking.PIECE", 100)
    model = placed(method, backbone, options={"grain": "field"} if method == "optfeature" else {}).eval()
    ids, dense = inputs(model.schema, rows=330)
    with torch.no_grad():
        x = model.gate(model.arena(ids, dense), ids)
        chance = torch.sigmoid(2 * model.backbone(x, model.gate.pairs(ids)))
    label, weight = (torch.rand(330) < chance).float(), torch.rand(330) + 0.5
    groups = [("item",), ("price",), ("genres", "vector")]

    def least(blocks) -> float:
        with torch.no_grad():
            logits = model.backbone(blocks, model.gate.pairs(ids)).double()
        loss = lambda shift: F.binary_cross_entropy_with_logits(logits + shift, label.double(), weight.double())
        return minimize_scalar(lambda shift: float(loss(shift)), tol=1e-10).fun * 330 / float(weight.sum())

    costs = removed(model, Batch(ids, dense, label, weight), groups, None, CPU, ())
    owners = [model.blocks[i].name for i in model.gate.owner.tolist()]
    for group, cost in zip(groups, costs, strict=True):
        columns = torch.tensor([owner in group for owner in owners])
        constant = torch.where(columns, weight @ x / weight.sum(), x)
        assert cost.mean == pytest.approx(least(constant) - least(x), abs=1e-6) and cost.rows == 330
        assert abs(cost.mean) > 1e-4 and cost.error > 0


def test_rows_of_one_class_cost_nothing_and_break_nothing():
    model = gated("random", "mlp").eval()
    ids, dense = inputs(model.schema)
    (cost,) = removed(model, Batch(ids, dense, torch.ones(64), torch.ones(64)), [("item",)], None, CPU, ())
    assert cost.mean == pytest.approx(0, abs=1e-4)


def judged(budget=None, bar=None, presence=None, twins=(), scores=None, **costs: Change):
    """The decision of a gate whose scores `costs` overrule."""
    gate = scored(**(scores or {"user": 0.1, "price": 0.2}))
    gate.overruled, gate.bar = True, lambda: bar
    return decide(gate, found(removed=costs, presence=presence or {}, twins=twins), budget or Budget(), False, seed=0)


@pytest.mark.parametrize("budget", [Budget(), Budget(threshold=0.5), Budget(fields=4), Budget(keep=0.67)])
def test_a_field_that_does_harm_goes_whatever_it_scores_and_says_what_it_costs_you(budget):
    selection = judged(budget, item=HARMS)
    assert "item" not in selection.kept and len(selection.kept) >= 3
    assert selection.fields["item"].score == -0.05
    assert "costs you 0.05 ± 0.001 nats a row" in selection.fields["item"].note


def test_a_field_that_is_sure_to_cost_something_stays_by_the_own_rule_and_not_past_a_threshold():
    assert set(judged(user=COSTS).kept) == {"genres", "item", "noise", "user", "vector"}
    assert "user" not in judged(user=UNSURE).kept
    assert "user" not in judged(Budget(threshold=0.5), user=COSTS).kept
    assert judged(user=COSTS).fields["user"].score == pytest.approx(0.1)


@pytest.mark.parametrize(("error", "stays"), [(0.1, True), (0.3, False)])
def test_by_the_own_rule_a_field_is_worth_more_than_was_asked_by_as_much_as_its_cost_is_in_doubt(error, stays):
    """A score of 0.9 against a bar of 0.6: 1.645 errors are less than the 0.3 between them, or more."""
    unsure = Change(mean=0.01, error=error, rows=100)
    item = judged(bar=0.6, item=unsure).fields["item"]
    assert item.kept == stays
    assert stays or item.note == "not told from noise on these rows: its worth is in doubt by 0.49 nats a row"
    assert "item" in judged(Budget(threshold=0.5), bar=0.6, item=unsure).kept


def test_where_all_do_harm_the_one_that_scores_best_stays():
    names = ("genres", "item", "noise", "price", "user", "vector")
    worse = {name: Change(mean=-0.1 * (i + 1), error=0.001, rows=9) for i, name in enumerate(names)}
    assert judged(**worse).kept == ("genres",)


def test_twins_are_judged_by_what_both_cost_together():
    """Each alone does harm, as the other says what it says; without both something is missing."""
    pair = (Twins(fields=("item", "user"), together=COSTS, removed=COSTS),)
    selection = judged(twins=pair, item=HARMS, user=HARMS, scores={})
    assert {"item", "user"} <= set(selection.kept)
    assert not {"item", "user"} & set(judged(item=HARMS, user=HARMS, scores={}).kept)


def present(information: float) -> Presence:
    nothing = Change(mean=0.0, error=0.1, rows=7)
    return Presence(share=0.01, shuffled=nothing, missed=nothing, information=information)


def test_a_field_that_too_few_rows_show_stays_until_more_is_seen():
    few, enough = {"user": present(15.9)}, {"user": present(16.0)}
    selection = judged(presence=few, user=UNSURE)
    assert "user" in selection.kept
    assert "present in only 7 of the held-out rows, stays until more is seen" in selection.fields["user"].note
    assert "user" not in judged(presence=enough, user=UNSURE).kept
    assert "user" not in judged(presence=few, user=HARMS).kept
    tight = judged(Budget(fields=2), presence=few, user=UNSURE)
    assert "user" not in tight.kept and "no room to wait for more" in tight.fields["user"].note


@pytest.mark.parametrize(
    ("kept", "stay"),
    [
        ([("item", "user"), ("item",), ("item", "price")], {"item"}),
        ([("item", "user"), ("item", "probe0:user")], {"item", "user"}),  # half of them is enough
        ([("item",), ("price",), ("user",)], {"price"}),  # no majority: the best of those with most votes
    ],
)
def test_without_a_budget_repeats_vote_and_scores_are_their_means(kept, stay):
    gate = scored()
    each = [dict.fromkeys(gate.schema.names, 0.1 * i) | {"price": 0.5} for i in range(len(kept))]
    selection = decide(gate, found(repeats=tuple(each), kept=tuple(kept)), Budget(), False, seed=0)
    assert set(selection.kept) == stay
    mean, deviation = np.mean(range(len(kept))) / 10, np.std(range(len(kept)), ddof=1) / 10
    assert (selection.fields["item"].score, selection.fields["item"].spread) == pytest.approx((mean, deviation))
    assert (selection.fields["price"].score, selection.fields["price"].spread) == (0.5, 0)
    assert selection.evidence["repeats"] == len(kept)
