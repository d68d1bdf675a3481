"""A question about a field is put to the first rows, and to more of them, or to all, only where it takes more to be sure."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from test_contract import gated, inputs, mixed_schema, placed

from slimrec.batch import Batch
from slimrec.pruning.asking import _enough, _estimated, _parts, _seen, ask, blocks
from slimrec.pruning.change import change

CPU, ROWS, FIRST = torch.device("cpu"), 1600, 100
FIELDS = [("item",), ("price",), ("genres", "vector")]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr("slimrec.pruning.asking.FIRST", FIRST)
    monkeypatch.setattr("slimrec.pruning.asking.PIECE", 5 * FIRST)


def network(backbone: str, curved: float = 1.0):
    """A model whose tower counts for so much; with 0 its logits are a line in the blocks."""
    model = gated("random", backbone).eval()
    with torch.no_grad():
        model.backbone.tower.layers[-1].weight.mul_(curved)
    return model


def clicks(model, seed: int = 0, sure: float = 1.0, tasks: int = 0) -> Batch:
    """Rows with labels that the model's logits, `sure` times, tell; the first are as random as the others."""
    ids, dense = inputs(model.schema, rows=ROWS)
    draw = np.random.default_rng(seed)
    with torch.no_grad():
        chance = torch.sigmoid(sure * model(ids, dense)).numpy()
    shape = (ROWS, tasks) if tasks else (ROWS,)
    label = draw.random(shape) < (chance if chance.shape == shape else chance[:, None])
    weight = torch.from_numpy(draw.uniform(0.5, 2, shape)).float()
    return Batch(ids, dense, torch.from_numpy(label).float(), weight)


def asked(model, batch, groups=FIELDS, whole=(), refit=False):
    """What `ask` says when the blocks stand at 0, and how many rows went through the network for each group, in the mean."""
    rows, layer = [], model.backbone.tower.layers[-1]
    hook = layer.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    rises = ask(model, batch, groups, lambda x, _: torch.zeros_like(x), None, CPU, whole, refit)
    hook.remove()
    return rises, (sum(rows) - ROWS) / len(groups)


def whole(model, batch, group, refit=False):
    """The same for one group, by a network run whole on all rows, with SciPy's intercept."""
    owners = [model.blocks[i].name for i in model.gate.owner.tolist()]
    columns = torch.tensor([owner in group for owner in owners])
    with torch.no_grad():
        x = model.gate(model.arena(batch.ids, batch.dense), batch.ids)
        before, after = (model.backbone(blocks).double() for blocks in (x, torch.where(columns, 0.0, x)))
    label, weight = batch.label.double(), batch.weight.double()

    def losses(logits, shift=0.0):
        return F.binary_cross_entropy_with_logits(logits + shift, label, weight, reduction="none")

    def best(logits):
        return minimize_scalar(lambda shift: float(losses(logits, shift).sum()), tol=1e-12).x if refit else 0.0

    return losses(after, best(after)) - losses(before, best(before))


def mean_of(rise, batch):
    return change(rise, torch.ones(ROWS, dtype=torch.bool), batch.row_weight)


@pytest.mark.parametrize("refit", [False, True])
def test_where_the_slope_says_all_the_first_rows_are_enough_and_the_answer_is_that_of_all_rows(refit):
    model = network("widedeep", curved=0.0)
    batch = clicks(model, sure=0.0)  # labels that nothing tells: no field is clear
    rises, rows = asked(model, batch, refit=refit)
    assert rows == FIRST
    for rise, group in zip(rises, FIELDS, strict=True):
        assert torch.allclose(rise, whole(model, batch, group, refit), atol=1e-5)


@pytest.mark.parametrize("refit", [False, True])
def test_where_the_slope_says_little_and_nothing_is_clear_all_rows_are_asked(refit):
    model = network("mlp", curved=3.0)
    batch = clicks(model, sure=0.0)
    rises, rows = asked(model, batch, [("item",), ("user",)], refit=refit)
    assert rows == ROWS
    for rise, group in zip(rises, ("item", "user"), strict=True):
        assert torch.allclose(rise, whole(model, batch, [group], refit), atol=1e-5)


@pytest.mark.parametrize("refit", [False, True])
def test_a_field_that_clearly_costs_something_on_the_first_rows_is_asked_no_more_and_decided_as_by_all(
    refit, monkeypatch
):
    monkeypatch.setattr("slimrec.pruning.asking.FIRST", 400)
    monkeypatch.setattr("slimrec.pruning.asking.PIECE", 800)
    model, groups = network("mlp", curved=2.0), [("genres", "vector"), ("vector",)]
    batch = clicks(model, sure=4.0)
    rises, rows = asked(model, batch, groups, refit=refit)
    assert rows == 400
    for rise, group in zip(rises, groups, strict=True):
        found, exact = mean_of(rise, batch), mean_of(whole(model, batch, group, refit), batch)
        assert found.certain and exact.certain and found.mean > 6 * found.error
        assert found.mean == pytest.approx(exact.mean, abs=4 * found.error) and found.error > exact.error


def test_what_is_asked_of_few_rows_errs_to_both_sides_by_no_more_than_it_says(monkeypatch):
    """The same rows in many orders, all stopped at the first ones: their mean is that of all rows."""
    monkeypatch.setattr("slimrec.pruning.asking._CLEAR", -1e9)
    model = network("mlp", curved=3.0)
    batch, draw = clicks(model), np.random.default_rng(1)
    exact, found = mean_of(whole(model, batch, ["item"]), batch), []
    for _ in range(100):
        order = torch.from_numpy(draw.permutation(ROWS))
        rises, rows = asked(model, Batch(*(part[order] for part in batch)), [("item",)])
        assert rows == FIRST
        found.append(mean_of(rises[0], Batch(*(part[order] for part in batch))))
    off = np.array([each.mean - exact.mean for each in found])
    added = np.sqrt(np.mean([each.error**2 for each in found]) - exact.error**2)
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(100)
    assert off.std() == pytest.approx(added, rel=0.2) and off.std() > 0.3 * exact.error


def test_a_few_times_as_many_rows_as_the_first_are_asked_where_that_is_enough(monkeypatch):
    """Four times the variance of all rows is missed by the first ones: by up to 0.8 of it that takes five times as many."""
    monkeypatch.setattr("slimrec.pruning.asking._ADDED", 0.8)
    model = network("mlp", curved=3.0)
    batch = clicks(model, sure=0.0)
    rises, rows = asked(model, batch, [("item",), ("genres", "vector")], whole=["genres"])
    assert rows == (5 * FIRST + ROWS) / 2
    found, exact = (mean_of(rise, batch) for rise in (rises[0], whole(model, batch, ["item"])))
    assert 0 < abs(found.mean - exact.mean) < 2 * found.error and found.error > exact.error
    assert torch.allclose(rises[1], whole(model, batch, ["genres", "vector"]), atol=1e-5)


def test_fields_that_are_seldom_there_are_asked_on_all_rows():
    model = network("widedeep", curved=0.0)
    batch = clicks(model)
    assert asked(model, batch, [("item",), ("genres", "user")], whole=["user"])[1] == (FIRST + ROWS) / 2


def test_where_the_first_rows_weigh_nothing_all_are_asked():
    model = network("widedeep", curved=0.0)
    batch = clicks(model)
    batch.weight[:FIRST] = 0
    (rise,), rows = asked(model, batch, [("item",)], refit=True)
    assert rows == ROWS and torch.allclose(rise, whole(model, batch, ["item"], refit=True), atol=1e-5)


def test_a_log_of_fewer_rows_than_four_times_the_first_is_asked_whole():
    model = network("widedeep", curved=0.0)
    batch = clicks(model)
    for rows, each in ((399, 399), (400, FIRST)):
        some = Batch(*(part[:rows] for part in batch))
        assert asked(model, some, [("item",)])[1] == each + rows - ROWS


def test_each_of_several_tasks_has_a_slope_and_an_intercept():
    model = network("widedeep", curved=0.0)
    batch = clicks(model, tasks=2)
    one, other = batch.of_task(0), batch.of_task(1)
    other = other._replace(label=1 - other.label)  # the loss of the opposite logit is that of the opposite label
    apart = whole(model, one, ["item"], refit=True) + whole(model, other, ["item"], refit=True)
    model.backbone = Opposed(model.backbone)
    (rise,), rows = asked(model, batch, [("item",)], refit=True)
    assert torch.allclose(rise, apart, atol=1e-5) and rows == ROWS + FIRST  # each row once more, for its second task


class Opposed(torch.nn.Module):
    """A network of two tasks: the second has the opposite logits of the first."""

    def __init__(self, one):
        super().__init__()
        self.one, self.tower = one, one.tower

    def forward(self, x, pairs=None):
        return torch.stack([self.one(x), -self.one(x)], 1)

    def replacing(self, x):
        replaced = self.one.replacing(x)
        return lambda start, columns: torch.stack([(found := replaced(start, columns)), -found], 1)


def test_the_order_of_the_columns_changes_no_answer():
    model, other = gated("random", "mlp").eval(), gated("random", "mlp", mixed_schema(order=-1)).eval()
    assert [block.name for block in model.blocks] == [block.name for block in other.blocks]
    batch = clicks(model)
    assert torch.equal(asked(model, batch)[0][0], asked(other, batch)[0][0])


def parts(mean: float, rest: float, added: float) -> tuple[torch.Tensor, torch.Tensor, Batch]:
    """Rises with this mean and these squared errors, of what is known of all rows and of what the first rows miss."""
    sign = torch.tensor([1.0, -1.0]).repeat(ROWS // 2).double()
    turned = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(ROWS // 4).double()
    rise, missed = mean + sign * (rest * ROWS) ** 0.5, turned * (added * ROWS) ** 0.5
    return rise, missed, Batch(*[torch.ones(ROWS)] * 4)


@pytest.mark.parametrize(
    ("mean", "rest", "added", "rows"),
    [
        (0.0, 1.0, 0.0499, FIRST), (0.0, 1.0, 0.0501, 2 * FIRST), (0.0, 1.0, 0.1001, 3 * FIRST),
        (0.0, 1.0, 0.3999, 8 * FIRST), (0.0, 1.0, 0.4001, ROWS), (0.0, 1.0, 0.0, FIRST), (0.0, 0.0, 0.0, FIRST),
        (0.0, 0.0, 1.0, ROWS), (6.0, 0.0, 1.0, ROWS), (5.99 * 2**0.5, 1.0, 1.0, ROWS), (6.01 * 2**0.5, 1.0, 1.0, FIRST),
        (-9.0 * 2**0.5, 1.0, 1.0, ROWS),
    ],
)  # fmt: skip
def test_so_many_rows_are_asked_that_what_is_missed_adds_a_twentieth_to_the_variance(mean, rest, added, rows):
    assert _enough(*parts(mean, rest, added), None) == rows


def test_how_far_all_rows_are_in_doubt_is_told_by_what_is_known_and_what_is_missed_together():
    """Errors of 3 and 1 to opposite sides: of 4 in all 3 are left, of which a twentieth is in 1 more than six times."""
    rise, _, batch = parts(0.0, 9.0, 0.0)
    assert _enough(rise, -rise / 3, batch, None) == 7 * FIRST
    assert _enough(rise, rise / 3, batch, None) == 2 * FIRST  # 16 in all, 15 left
    assert _enough(rise, -2 * rise, batch, None) == ROWS  # none left


def logistic(logits, label):
    return np.logaddexp(0, logits) - label * logits


@pytest.mark.parametrize("refit", [False, True])
def test_what_is_told_of_the_first_rows_stands_for_all_by_their_weight(refit):
    """The difference estimator by numpy, its intercept by SciPy: of 40 rows ten are asked."""
    draw = np.random.default_rng(2)
    moved, exact, before = draw.normal(0.5, 1, 40), draw.normal(-0.5, 1, 10), draw.uniform(0.1, 1, 40)
    label, weight = (draw.random(40) < 0.3).astype(float), draw.uniform(0.5, 2, 40)
    times = weight.sum() / weight[:10].sum()

    def losses(shift):
        return weight * logistic(moved + shift, label), weight[:10] * logistic(exact + shift, label[:10])

    def estimate(shift):
        all_, first = losses(shift)
        return all_.sum() + times * (first - all_[:10]).sum()

    shift = minimize_scalar(estimate, bracket=(-1, 1), tol=1e-12).x if refit else 0
    batch = Batch(*[torch.zeros(40)] * 2, torch.from_numpy(label), torch.from_numpy(weight))
    rise, missed = _estimated(*map(torch.from_numpy, (moved, exact, before)), batch, refit)
    assert float(rise.sum()) == pytest.approx(estimate(shift) - before.sum(), rel=1e-7)
    all_, first = losses(shift)
    mean = (first - all_[:10]).sum() / weight[:10].sum()
    assert rise.numpy() == pytest.approx(all_ - before + mean * weight, abs=1e-6)
    assert missed[:10].numpy() == pytest.approx(times * (first - all_[:10] - mean * weight[:10]), abs=1e-6)
    assert float(missed.sum()) == pytest.approx(0, abs=1e-6) and not missed[10:].any()


def test_what_a_slope_says_of_each_block_is_what_a_small_step_towards_the_other_one_brings():
    model = network("mlp")
    ids, dense = inputs(model.schema, rows=20)
    with torch.no_grad():
        x, step = model.arena(ids, dense).double(), 1e-7
        model.backbone.double()
        other = torch.randn_like(x)
        logits, slopes = _seen(model, x, other, None, sloping=True)
        assert logits.tolist() == pytest.approx(model.backbone(x).tolist()) and slopes.dtype == torch.double
        assert slopes.shape == (len(model.blocks), 20)
        for block, name in enumerate(model.schema.names):
            columns = torch.tensor([model.blocks[i].name == name for i in model.gate.owner.tolist()])
            brought = model.backbone(torch.where(columns, x + step * (other - x), x)) - model.backbone(x)
            assert (brought / step).tolist() == pytest.approx(slopes[block].tolist(), abs=1e-4)
        assert _seen(model, x, other, None, sloping=False)[1].shape == (0, 20)


@pytest.mark.parametrize("grain", ["value", "field"])
def test_rows_come_in_parts_each_with_the_weights_of_its_own_pairs(grain, monkeypatch):
    """Fewer rows in a part than there are pairs: weights of pairs that all rows share are never cut."""
    monkeypatch.setattr("slimrec.pruning.asking.FIRST", 10)
    monkeypatch.setattr("slimrec.pruning.asking.PIECE", 25)
    model = placed("optfeature", options={"grain": grain}).eval()
    ids, dense = inputs(model.schema, rows=60)
    batch = Batch(ids, dense, torch.zeros(60), torch.ones(60))
    with torch.no_grad():
        logits = model(ids, dense)
        parts = list(_parts(model, batch, lambda x, number: x + number, CPU))
        assert [first for first, *_ in parts] == [0, 10, 20, 25, 35, 45, 50]
        assert torch.cat([model.backbone(x, pairs) for _, x, _, pairs in parts]).tolist() == pytest.approx(
            logits.tolist()
        )
        for first, x, other, _ in parts:
            assert torch.equal(other, x + first // 25)
        assert torch.equal(torch.cat([weight for *_, weight in blocks(model, batch, CPU)]), batch.weight)
