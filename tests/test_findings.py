"""What a search shows on held-out rows, worked out by hand and by whole forward passes of a model with random weights."""

from functools import partial

import numpy as np
import pytest
import torch
from test_contract import gated, inputs, mixed_schema, placed
from torch.nn.modules.module import register_module_forward_hook

from slimrec.batch import Batch
from slimrec.config import ModelConfig
from slimrec.data.dataset import Dataset
from slimrec.model import build
from slimrec.model.arena import Arena
from slimrec.probes import with_probes
from slimrec.pruning.asking import _parts
from slimrec.pruning.change import NOTHING, Change, change
from slimrec.pruning.findings import (
    Findings,
    Presence,
    Twins,
    _hidden,
    _judge,
    _missed,
    _most,
    _presence,
    _shuffle,
    _Slice,
    alike,
    drawn,
    field_values,
    find,
    look,
    twins_of,
    usual,
)
from slimrec.pruning.removal import removed
from slimrec.schema import MISSING, UNSEEN, Field, Schema, Statistics
from tests.small import ingest_rows

CPU = torch.device("cpu")
DOUBLE = partial(torch.tensor, dtype=torch.double)


def rows_of(model, rows=330):
    """Random rows, whose clicks the model knows something of, by weights that differ."""
    ids, dense = inputs(model.schema, rows=rows)
    with torch.no_grad():
        label = (torch.rand(rows) < torch.sigmoid(2 * model(ids, dense))).float()
    return Batch(ids, dense, label, torch.rand(rows) + 0.5)


def losses(model, batch):
    """Weighted log-loss of each row."""
    with torch.no_grad():
        p = torch.sigmoid(model(batch.ids, batch.dense)).double().numpy()
    y, w = batch.label.double().numpy(), batch.weight.double().numpy()
    return -w * (y * np.log(p) + (1 - y) * np.log(1 - p))


IDS = {"genres": slice(0, 3), "item": slice(3, 4), "noise": slice(4, 5), "user": slice(5, 6)}  # of `mixed_schema`
DENSE = {"price": slice(0, 1), "vector": slice(1, 7)}


def shuffled(batch, names, rows):
    """The batch with these fields of other rows."""
    ids, dense = batch.ids.clone(), batch.dense.clone()
    for name in names:
        part, whole = (ids, IDS) if name in IDS else (dense, DENSE)
        part[:, whole[name]] = part[rows][:, whole[name]]
    return batch._replace(ids=ids, dense=dense)


@pytest.mark.parametrize(
    ("method", "backbone", "options", "passes"),
    [
        ("optfeature", "pnn", {"grain": "value"}, 41),
        *(("leap", backbone, {}, 21) for backbone in ("dcn", "deepfm", "mlp", "widedeep")),
    ],
)
def test_what_is_found_is_what_whole_forward_passes_over_shuffled_rows_show(
    method, backbone, options, passes, monkeypatch
):
    for module in ("findings", "asking"):
        monkeypatch.setattr(f"slimrec.pruning.{module}.PIECE", 100)
    model = placed(method, backbone, options=options).eval()
    batch, user, ran = rows_of(model), torch.arange(330) // 3, []
    with register_module_forward_hook(lambda module, *_: ran.append(1) if isinstance(module, Arena) else None):
        found = look(model, batch, user, 7, CPU, [("item", "price")])
    assert len(ran) == passes  # of four pieces: as it is, twins, twice for constants; fields together, or each
    random = np.random.default_rng(7)
    rows = np.concatenate([start + random.permutation(min(100, 330 - start)) for start in (0, 100, 200, 300)])
    weight = batch.weight.double().numpy()

    def rises(*names):
        rise = losses(model, shuffled(batch, names, rows)) - losses(model, batch)
        mean = rise.sum() / weight.sum()
        apart = (rise - mean * weight).reshape(110, 3).sum(1)  # by users
        return mean, np.sqrt((apart**2).sum()) / weight.sum()

    assert sorted(found.importance) == list(model.schema.names) == sorted(found.removed)
    for name, told in found.importance.items():
        assert (told.mean, told.error, told.rows) == (*map(partial(pytest.approx, rel=1e-3), rises(name)), 330)
    ((group, together, gone),) = ((twins.fields, twins.together, twins.removed) for twins in found.twins)
    assert group == ("item", "price") and (together.mean, together.error) == pytest.approx(rises(*group), rel=1e-3)
    assert [found.removed["vector"], gone] == removed(model, batch, [("vector",), group], user, CPU, ())
    assert found.presence == {} and list(map(len, found.hidden)) == [layer.out_features for layer in hidden(model)]


def hidden(model):
    return [layer for layer in model.backbone.tower.layers if isinstance(layer, torch.nn.Linear)][:-1]


def test_what_is_usually_absent_is_looked_at_where_it_is_present():
    model = gated("random", "mlp").eval()
    batch = rows_of(model)
    batch.dense[40:, 0] = 0  # price
    found = look(model, batch, None, 0, CPU, ())
    seen, present = _judge(model, batch, CPU), torch.arange(330) < 40
    assert sorted(found.presence) == ["price"] and found.presence["price"].share == 40 / 330
    assert found.presence["price"].missed == _missed(seen, present, batch.weight) and found.twins == ()
    assert found.presence["price"].shuffled.rows == 40 and found.presence["price"].shuffled.mean != 0


def test_probes_are_removed_like_fields_and_neither_shuffled_nor_looked_at_where_they_are_present():
    model = gated("random", "mlp", schema=with_probes(mixed_schema(), 1.0, 0)).eval()
    found = look(model, rows_of(model), None, 0, CPU, ())
    assert sorted(found.importance) == list(mixed_schema().names) and len(found.removed) == 12


def test_no_more_rows_than_16384_go_through_the_network_at_once_and_4096_where_gradients_are_asked_for():
    model, sizes = gated("random", "widedeep").eval(), []
    batch = Batch(*(part[torch.arange(16_385) % 330] for part in rows_of(model)))
    with register_module_forward_hook(lambda module, _, x: sizes.append(len(x)) if isinstance(module, Arena) else None):
        look(model, batch, None, 0, CPU, ())
    assert sizes == [16_384, 1] * 4 + [4096] * 4 + [1]
    parts = _parts(model, batch, lambda x, _: x, CPU)
    assert [first for first, *_ in parts] == [0, 4096, 8192, 12_288, 16_384]


def test_so_many_rows_are_looked_at_that_a_question_takes_ten_million_at_most_and_never_fewer_than_a_thousand():
    most = {1: 65_536, 152: 65_536, 153: 65_359, 1000: 10_000, 9_990: 1001, 10_000: 1000, 30_000: 1000}
    assert {fields: _most(fields) for fields in most} == most


@pytest.fixture(scope="module")
def slice_(tmp_path_factory):
    folder = tmp_path_factory.mktemp("findings")
    ingest_rows(folder, rows=400, gate=0.3)
    return Dataset.open(folder / "dataset").split("gate")


def test_the_rows_looked_at_stand_in_an_order_that_hangs_on_the_seed_alone_and_each_beside_its_user(slice_):
    batch, user = drawn(slice_, 3)
    stored = next(slice_.batches(len(slice_), shuffle="none"))
    order = np.random.default_rng([3, 1]).permutation(len(slice_))
    for part, whole in zip(batch, stored, strict=True):
        assert torch.equal(part, whole[order])
    assert torch.equal(user, torch.from_numpy(np.unique(slice_.group, return_inverse=True)[1])[order])
    assert user.max() == len(set(slice_.group.tolist())) - 1 > 0
    assert drawn(slice_.some(1, 0), 3)[1] is None  # of one user alone nothing is known
    slice_ = slice_.some(50, 0)
    slice_.schema = slice_.schema.model_copy(update={"group": None})
    assert drawn(slice_, 3)[1] is None


def test_two_rows_are_looked_at_and_one_or_none_shows_nothing(slice_):
    model = gated("random", "mlp", schema=slice_.schema).eval()
    with np.errstate(all="raise"):
        for few in (slice_.some(1, 0), slice_.some(0, 0)):
            assert twins_of(few, 0) == [] and find(model, few, 0, CPU, []) == Findings()
    two, three = (slice_.some(count, 0) for count in (2, 3))
    assert find(model, two, 0, CPU, []) == look(model, *drawn(two, 0), 0, CPU, []) != Findings()
    assert twins_of(slice_, 0) == [("device", "device_again")] and find(model, three, 0, CPU, []).removed


def test_twins_are_sought_among_what_a_network_reads_as_one_thing_and_not_among_probes():
    kinds = {"a": "category", "b": "category", "m": "number", "n": "number", "probe0:a": "category"}
    fields = [Field(name=name, kind=kind, statistics=Statistics(rows=9)) for name, kind in kinds.items()]
    fields += [Field(name=name, kind="vector", width=1, statistics=Statistics()) for name in ("v", "w")]
    value = torch.arange(60)[:, None] % 5
    batch = Batch((value + 3).expand(-1, 3), value.expand(-1, 4).float(), torch.zeros(60), torch.ones(60))
    assert alike(Schema(label="y", fields=fields), batch) == [("a", "b", "m", "n")]
    assert alike(Schema(label="y", fields=fields), batch._replace(dense=torch.rand(60, 4))) == [("a", "b")]


def test_each_field_finds_its_own_columns_of_a_batch():
    ids, dense = inputs(mixed_schema(), rows=4)
    found = field_values(mixed_schema(), Batch(ids, dense, torch.zeros(4), torch.ones(4)))
    assert {name: part.tolist() for name, part in found.items()} == {
        **{name: ids[:, columns].tolist() for name, columns in IDS.items()},
        **{name: dense[:, columns].tolist() for name, columns in DENSE.items()},
    }


def test_shuffled_fields_come_from_other_rows_of_their_piece_all_from_the_same_one(monkeypatch):
    monkeypatch.setattr("slimrec.pruning.findings.PIECE", 3)
    ids, dense = inputs(mixed_schema(), rows=5)
    batch = Batch(ids, dense, torch.zeros(5), torch.ones(5))
    order = [torch.tensor([2, 0, 1]), torch.tensor([1, 0])]
    for names in (("genres",), ("vector", "item"), ("price", "user", "noise")):
        found, expected = _shuffle(mixed_schema(), names, batch, order), shuffled(batch, names, [2, 0, 1, 4, 3])
        assert torch.equal(found.ids, expected.ids) and torch.equal(found.dense, expected.dense)
    assert torch.equal(batch.ids, ids) and torch.equal(batch.dense, dense)


def test_a_row_is_judged_by_its_weight_for_all_tasks_together():
    model = gated("random", "mlp").eval()
    batch = rows_of(model, 20)
    seen = _judge(model, batch, CPU)
    with torch.no_grad():
        p = torch.sigmoid(model(batch.ids, batch.dense).double())
    weight = batch.weight.double()
    assert seen.rows is batch and seen.loss.numpy() == pytest.approx(losses(model, batch))
    assert seen.residual.numpy() == pytest.approx(((batch.label - p) * weight).numpy())
    assert seen.variance.numpy() == pytest.approx((p * (1 - p) * weight).numpy())


def test_what_a_constant_wins_back_is_one_newton_step_of_each_task_by_hand():
    batch = Batch(None, None, None, torch.tensor([1.0, 2.0, 3.0]))
    where = torch.tensor([True, True, False])
    one = _Slice(batch, None, DOUBLE([0.5, 2.5, -1.0]), DOUBLE([0.1, 0.3, 0.5]))
    told = _missed(one, where, batch.weight)
    assert told.rows == 2  # 3 ** 2 / (2 * 0.4) of 3, and of squares (1 + 4) / 3
    assert (told.mean, told.error) == pytest.approx((11.25 / 3, 2 * (5 / 3) / 3))
    three = one._replace(
        residual=DOUBLE([[0.5, 0, 1], [2.5, 0, 1], [9, 9, 9]]), variance=DOUBLE([[0.1, 0, 4], [0.3, 0, 4], [9, 9, 9]])
    )
    told = _missed(three, where, batch.weight)  # the second task is asked in none of these rows
    assert (told.mean, told.error) == pytest.approx(((11.25 + 0.25) / 3, 2 * 2**0.5 * (5 / 3) / 3))
    for slice_ in (one, three):
        assert _missed(slice_, where & ~where, batch.weight) == NOTHING


def test_the_few_rows_where_a_field_is_present_are_counted_and_weighed_by_hand():
    weight = torch.tensor([1.0, 2.0, *[1.0] * 8])
    batch = Batch(None, None, None, weight)
    seen = _Slice(batch, None, DOUBLE([0.5, -0.4, *[0.1] * 8]), DOUBLE([0.1, 0.2, *[0.25] * 8]))
    fields = [Field(name=name, kind="number", statistics=Statistics(low=(0,), high=(1,))) for name in "abc"]
    values = {"a": np.arange(10.0)[:, None], "b": np.array([[1.0], [2.0], *[[0.0]] * 8]), "c": np.zeros((10, 1))}
    changes = {name: DOUBLE(np.arange(10) * factor) for name, factor in {"a": 3, "b": 1, "c": 2}.items()}
    absent = {field.name: usual(field, values[field.name]) for field in fields}
    found = _presence(absent, changes, seen, lambda difference, where: change(difference, where, weight))
    b, c = found.pop("b"), found.pop("c")
    assert found == {}  # no value of `a` is usual
    first = torch.arange(10) < 2
    assert b.share == 0.2 and b.shuffled == change(changes["b"], first, weight)
    assert b.missed == _missed(seen, first, weight) != NOTHING
    assert b.information == pytest.approx(0.3**2 / (0.1 + 0.4))
    assert (c.share, c.shuffled, c.missed, c.information) == (0, NOTHING, NOTHING, 0)


@pytest.mark.parametrize(("information", "enough"), [(None, True), (16.0, True), (15.99, False), (0.0, False)])
def test_rows_are_enough_where_they_show_an_effect_of_one_by_four_standard_errors(information, enough):
    assert Presence(share=0.1, shuffled=NOTHING, missed=NOTHING, information=information).enough is enough


def test_a_network_without_hidden_layers_has_no_units_to_judge():
    model = build(mixed_schema(), ModelConfig(backbone="mlp", embedding_dim=2, options={"hidden": []}), seed=0).eval()
    assert _hidden(model, rows_of(model, 20), CPU) == ()


def test_what_a_unit_is_worth_is_what_its_weight_and_its_slope_say_of_each_row():
    model = gated("random", "mlp").eval()
    batch = rows_of(model, 40)
    last = [layer for layer in model.backbone.tower.layers if isinstance(layer, torch.nn.Linear)][-1]
    taken = []
    with last.register_forward_hook(lambda _, inputs, output: taken.append(inputs[0])), torch.no_grad():
        p = torch.sigmoid(model(batch.ids, batch.dense))
    slope = (batch.weight * (p - batch.label)).detach()[:, None] * last.weight.detach()
    assert _hidden(model, batch, CPU)[-1] == pytest.approx((slope * taken[0].detach()).abs().mean(0).tolist(), rel=1e-4)


def told(field, values):
    found = usual(field, np.array(values))
    return found if found is None else found.tolist()


def test_a_field_is_usually_absent_where_one_value_or_none_holds_three_quarters_of_the_rows():
    bag, category, number = (
        Field(name="b", kind="bag", max_length=2),
        Field(name="c", kind="category"),
        Field(name="n", kind="number"),
    )
    assert told(bag, [[1, 0]] * 8 + [[4, 5]] * 2) == [True] * 8 + [False] * 2
    assert told(bag, [[5, 0], [6, 0], [7, 0], [8, 0]]) is None
    assert told(category, [[7]] * 8 + [[1], [3]]) == [True] * 9 + [False]
    assert told(category, [[7], [8], [9], [10]]) is None and told(category, [[7]] * 4) is None
    assert told(category, [[7], [7], [7], [8]]) == [True] * 3 + [False]
    assert told(category, [[7], [7], [8], [9]]) is None
    assert told(category, [[MISSING]] * 4 + [[7]] * 5 + [[8]] * 3) == [True] * 9 + [False] * 3
    assert told(category, [[UNSEEN]] * 4 + [[7]] * 5 + [[8]] * 3) is None
    assert told(number, [[0.0]] * 4 + [[7.0]] * 5 + [[-1.0]] * 3) == [True] * 9 + [False] * 3
    assert told(number, [[1.0]] * 4 + [[7.0]] * 5 + [[2.0]] * 3) is None
    assert told(number, [[-1.0]] * 4 + [[7.0]] * 5 + [[2.0]] * 3) is None


def test_a_vector_is_usually_absent_where_one_value_or_zeros_hold_most_rows():
    vector = Field(name="v", kind="vector", width=2)
    assert told(vector, [[0.5, 2]] * 8 + [[0.5, 3], [1, 2]]) == [True] * 8 + [False] * 2
    assert told(vector, [[0, 1], [1, 0], [0, 0], [1, 1]]) is None
    assert told(vector, [[0, 0]] * 3 + [[5, 5]] * 4 + [[9, 9]]) == [True] * 7 + [False]
    assert told(vector, [[9, 9]] * 3 + [[5, 5]] * 4 + [[7, 9]]) is None


@pytest.mark.parametrize(
    ("kind", "known", "kept"),  # of held-out rows that all hold the same
    [
        ("category", {"rows": 4, "distinct": 1}, False),
        ("category", {"rows": 5, "distinct": 2}, True),
        ("category", {"rows": 4, "distinct": 2}, True),  # of two values one was too rare for a row of the table
        ("category", {"rows": 4, "distinct": 1, "missing_share": 0.5}, True),
        ("category", {"rows": 5, "distinct": 2, "missing_share": 1.0}, False),
        ("category", {"rows": 53, "varies": False}, False),  # hashed, all to one row
        ("category", {"rows": 53, "varies": True}, True),
        ("number", {"low": (2.0,), "high": (2.0,)}, False),
        ("number", {"low": (2.0,), "high": (3.0,)}, True),
        ("number", {"low": (2.0,), "high": (2.0,), "missing_share": 0.5}, True),
        ("number", {"low": (0.0,), "high": (0.0,), "missing_share": 0.5}, False),  # 0 is what a missing one becomes
        ("number", {"low": (2.0,), "high": (2.0,), "missing_share": 0.5, "mean": (2.0,)}, False),  # or the mean
        ("number", None, False),
    ],
)
def test_what_all_held_out_rows_lack_is_rare_only_where_training_held_it(kind, known, kept):
    field = Field(name="f", kind=kind, statistics=known and Statistics(**known))
    for value in (3, UNSEEN) if kind == "number" else (3,):
        assert told(field, [[value]] * 4) == ([True] * 4 if kept else None)


@pytest.mark.parametrize(("least", "kept"), [(1, False), (2, True)])
def test_ids_that_are_new_in_every_row_are_there_and_values_too_rare_to_know_are_not(least, kept):
    field = Field(name="f", kind="category", min_count=least, statistics=Statistics(rows=9, distinct=6))
    assert told(field, [[UNSEEN]] * 3 + [[MISSING]]) == ([True] * 4 if kept else None)
    assert told(field, [[4]] * 3 + [[MISSING]]) == [True] * 4
    assert told(field, [[UNSEEN]] * 3 + [[4]]) == [True] * 3 + [False]


def test_findings_are_plain_data_that_nobody_changes_or_adds_to():
    for plain in (
        NOTHING,
        Presence(share=0, shuffled=NOTHING, missed=NOTHING),
        Twins(fields=(), together=NOTHING),
        Findings(),
    ):
        with pytest.raises(ValueError, match="frozen"):
            plain.share = 1
        with pytest.raises(ValueError, match="Extra"):
            type(plain).model_validate({**plain.model_dump(), "more": 1})
    with pytest.raises(ValueError, match="finite"):
        Change(mean=float("nan"), error=0, rows=0)
