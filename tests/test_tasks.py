"""Several labels: masked losses, shared embeddings and gate, a tower a task, and the product of two chances."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shop
import torch
from scipy.stats import entropy
from two_ranks import stop_after

from slimrec.artifacts import publish
from slimrec.config import EvaluateConfig, IngestConfig, ModelConfig, SampleConfig, TrainConfig, parse
from slimrec.data.dataset import Dataset
from slimrec.data.encode import Encoder
from slimrec.errors import ConfigError, InputError, Preempted
from slimrec.metrics import auc
from slimrec.model import build, with_gate
from slimrec.model.files import load_model, save_model
from slimrec.model.scoring import score
from slimrec.plugins import BACKBONES, GATES
from slimrec.pruning.findings import find
from slimrec.schema import Schema
from slimrec.selection import Budget
from slimrec.stages import ingest
from slimrec.stages.sample import choose
from slimrec.track import Tracker
from slimrec.training.loop import Trainer
from slimrec.training.validation import validate
from slimrec.verdict.tasks import deciding, joined, limits, of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return shop.shop(tmp_path_factory.mktemp("shop"), ["click", "buy"])


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return shop.shop(tmp_path_factory.mktemp("both"), shop.ESMM)


def schema(**given) -> Schema:
    return parse(Schema, {"fields": shop.FIELDS, **given})


def test_a_schema_with_one_label_is_written_as_it_was_before_there_were_tasks():
    assert "tasks" not in schema(label="click").model_dump(mode="json")


def test_a_schema_with_tasks_reads_itself_again():
    one = schema(tasks=["click", {"column": "buy", "name": "sale", "after": "click", "loss_weight": 2}])
    assert parse(Schema, one.model_dump(mode="json")) == one
    assert [(task.name, task.column, task.after) for task in one.tasks] == [
        ("click", "click", None),
        ("sale", "buy", "click"),
    ]


@pytest.mark.parametrize(
    "given, said",
    [
        ({"tasks": ["click"]}, "alone as `label`"),
        ({"tasks": ["click", "click"]}, "tasks named twice: click"),
        ({"tasks": ["click", {"column": "buy", "after": "view"}]}, "names an earlier task, one of \\['click'\\]"),
        ({"tasks": [{"column": "click", "after": "buy"}, "buy"]}, "names an earlier task"),
        ({"label": "buy", "tasks": ["click", "buy"]}, "leave `label` out"),
        ({"tasks": ["click", "price"]}, "field 'price' reads the label column 'price'"),
        ({}, "label"),
    ],
)
def test_a_schema_whose_tasks_cannot_be_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        schema(**given)


def test_a_row_without_an_answer_counts_for_the_other_task_only(data):
    raw, train = pq.read_table(data.path.parent / "raw.parquet"), data.split("train")
    batch = next(train.batches(len(train), shuffle="none"))
    asked = raw["buy"].is_valid().to_numpy()[train.row]
    assert batch.label.shape == batch.weight.shape == (len(train), 2)
    assert np.array_equal(batch.weight.numpy(), np.column_stack([np.ones(len(train)), asked]))
    assert np.array_equal(batch.label[:, 1].numpy(), raw["buy"].fill_null(0).to_numpy()[train.row])
    assert 0.2 < asked.mean() < 0.9
    assert np.array_equal(batch.row_weight.numpy(), 1.0 + asked)
    alone = train.by_task()
    assert len(alone["click"]) == len(train)
    assert np.array_equal(
        alone["buy"].label, raw["buy"].drop_null().to_numpy()[np.cumsum(raw["buy"].is_valid())[alone["buy"].row] - 1]
    )


def test_a_row_without_any_answer_is_named_and_refused(tmp_path):
    table = shop.rows_of_a_shop(500)
    bare = pa.array([None if i == 7 else value for i, value in enumerate(table["click"].to_pylist())])
    empty = pa.array([None if i == 7 else value for i, value in enumerate(table["buy"].to_pylist())])
    table = table.set_column(4, "click", bare).set_column(5, "buy", empty)
    with pytest.raises(InputError, match="row 8: no task has a label here, 'click', 'buy' hold nothing"):
        shop.shop(tmp_path, ["click", "buy"], table=table)
    assert not (tmp_path / "dataset").exists()


def test_a_purchase_without_a_click_is_refused_where_it_comes_after_one(tmp_path):
    table = shop.rows_of_a_shop(500)
    table = table.set_column(5, "buy", pa.array(np.ones(500, np.int64)))
    with pytest.raises(InputError, match="the label of 'buy' is 1 where that of 'click' is 0"):
        shop.shop(tmp_path, shop.ESMM, table=table)


def test_a_split_without_an_answer_of_both_kinds_is_refused_and_the_task_named(tmp_path):
    table = shop.rows_of_a_shop(500)
    table = table.set_column(5, "buy", pa.array([0] * 499 + [None]))
    with pytest.raises(InputError, match="labels of task 'buy' in the split 'train' are 0"):
        shop.shop(tmp_path, ["click", "buy"], table=table)


def trainer(data, method="none", backbone="mlp", epochs=4, options=None, checkpoint=None, **train):
    network = ModelConfig(backbone=backbone, embedding_dim=4, options={"hidden": [8]})
    model = with_gate(build(data.schema, network, seed=0), method, options or {}, seed=0)
    settings = {"epochs": epochs, "batch_size": 128, "learning_rate": 0.01, "embedding_learning_rate": 0.02, **train}
    one = Trainer(
        model,
        TrainConfig(device="cpu", **settings),
        *(data.split(name) for name in ("train", "valid", "gate")),
        checkpoint=checkpoint,
    )
    return one


def trained(*given, **more):
    one = trainer(*given, **more)
    one.fit()
    return one


def areas(model, split):
    logits = score(model, split)
    return [auc(part.label, logits[~np.isnan(split.label[:, i]), i]) for i, part in enumerate(split.by_task().values())]


def test_each_tower_learns_its_own_label(data):
    one = trained(data)
    found = areas(one.model, data.split("test"))
    assert found[0] > 0.78 and found[1] > 0.78
    last = validate(one.model, data.split("valid"), one.ranks)
    assert [last["valid_auc/click"], last["valid_auc/buy"]] == pytest.approx(areas(one.model, data.split("valid")))
    assert last["valid_auc"] == pytest.approx((last["valid_auc/click"] + last["valid_auc/buy"]) / 2)


def test_the_loss_is_the_mean_log_loss_of_all_labels_that_there_are(data):
    model = build(data.schema, ModelConfig(embedding_dim=4), seed=0)
    one = Trainer(model, TrainConfig(device="cpu"), data.split("train"), data.split("valid"))
    batch = next(data.split("train").batches(256, shuffle="none"))
    logits = model(batch.ids, batch.dense).detach().double().numpy()
    chance = 1 / (1 + np.exp(-logits))
    label, there = batch.label.numpy(), batch.weight.numpy() > 0
    expected = -np.where(label == 1, np.log(chance), np.log(1 - chance))[there].mean()
    assert one._loss(batch).item() == pytest.approx(expected, rel=1e-5)


def test_what_stands_in_place_of_an_answer_that_is_not_there_moves_nothing(data):
    model = build(data.schema, ModelConfig(embedding_dim=4), seed=0)
    one = Trainer(model, TrainConfig(device="cpu"), data.split("train"), data.split("valid"))
    batch = next(data.split("train").batches(256, shuffle="none"))
    other = batch._replace(label=torch.where(batch.weight > 0, batch.label, 1 - batch.label))
    assert not torch.equal(other.label, batch.label)
    assert torch.equal(one._loss(batch), one._loss(other))


def test_the_chance_of_a_purchase_is_the_product_of_two(both):
    model = build(both.schema, ModelConfig(embedding_dim=4), seed=0).eval()
    batch = next(both.split("test").batches(512, shuffle="none"))
    x = model.arena(batch.ids, batch.dense)
    apart = [torch.sigmoid(network(x).double()) for network in model.backbone.networks]
    joined = torch.sigmoid(model(batch.ids, batch.dense).double())
    assert torch.allclose(joined[:, 0], apart[0], atol=1e-7)
    assert torch.allclose(joined[:, 1], apart[0] * apart[1], atol=1e-6)


def test_the_product_is_learnt_from_all_rows_and_known_for_those_without_a_click(both):
    split = both.split("train")
    batch = next(split.batches(len(split), shuffle="none"))
    assert bool((batch.weight == 1).all())  # the entire space: no click, no purchase
    raw = pq.read_table(both.path.parent / "raw.parquet")
    assert np.array_equal(split.label[:, 1], raw["buy"].fill_null(0).to_numpy()[split.row])
    assert min(areas(trained(both).model, both.split("test"))) > 0.78


@pytest.mark.parametrize("backbone", sorted(BACKBONES.table))
def test_a_cut_gives_the_logits_of_the_masked_model_in_every_tower(both, tmp_path, backbone):
    model = build(both.schema, ModelConfig(backbone=backbone, embedding_dim=4, options={"hidden": [8]}), seed=0).eval()
    chosen = shop.selection(both.schema)
    cut = model.narrow(chosen)
    batch = next(both.split("test").batches(256, shuffle="none"))
    small = next(Dataset.open(both.path, chosen.kept).split("test").batches(256, shuffle="none"))
    with torch.no_grad():
        expected, found = model.masked_logits(batch.ids, batch.dense, chosen), cut(small.ids, small.dense)
        assert found.shape == (256, 2)
        assert torch.allclose(expected, found, atol=1e-5)
        with publish(tmp_path / "slim", "slim") as folder:
            save_model(cut, folder, Encoder.load(both.path))
        assert torch.equal(load_model(tmp_path / "slim")(small.ids, small.dense), found)


@pytest.mark.parametrize("method", sorted(GATES.table))
def test_every_method_searches_two_tasks_and_its_cut_is_exact(data, method):
    if method == "lightgbm":
        pytest.importorskip("lightgbm")
    one = trained(data, method, "pnn", epochs=1, precision="float32")
    model, gate_rows = one.model.eval(), data.split("gate")
    model.gate.survey(model, lambda: gate_rows.batches(128, shuffle="none"))
    found = find(model, gate_rows, 0, torch.device("cpu"), [])
    assert all(np.isfinite(each.mean) for each in [*found.importance.values(), *found.removed.values()])
    assert all(np.isfinite(score) for score in model.gate.scores().values())
    chosen = model.gate.select(Budget() if method == "none" else Budget(fields=3), 0)
    batch = next(gate_rows.batches(64, shuffle="none"))
    small = next(Dataset.open(data.path, chosen.kept).split("gate").batches(64, shuffle="none"))
    with torch.no_grad():
        cut = model.narrow(chosen)
        expected, left = model.masked_logits(batch.ids, batch.dense, chosen), cut(small.ids, small.dense)
    assert left.shape == (64, 2) and torch.allclose(expected, left, atol=1e-4)


@pytest.mark.parametrize("method", ["leap", "permutation", "shark"])
def test_a_search_ranks_by_both_tasks_what_only_one_of_them_needs(data, method):
    model = trained(data, method).model.eval()
    model.gate.survey(model, lambda: data.split("gate").batches(128, shuffle="none"))
    scores = model.gate.scores()
    assert min(scores["shown"], scores["price"]) > 2 * scores["noise"]


def test_without_a_model_a_field_stays_that_any_task_needs(data):
    gate = with_gate(build(data.schema, ModelConfig(embedding_dim=4), seed=0), "mutual_information", {}, seed=0).gate
    model = build(data.schema, ModelConfig(embedding_dim=4), seed=0)
    gate.survey(model, lambda: data.split("gate").batches(128, shuffle="none"))
    needed = dict(zip(data.schema.names, gate.needed().tolist()))
    assert needed["shown"] and needed["price"] and not needed["noise"]


def test_a_method_that_fits_one_label_draws_its_rows_anew_for_each_task_and_adds_up(data):
    gates = {}
    for name, schema in (("both", data.schema), ("click", data.split("gate").by_task()["click"].schema)):
        model = build(schema, ModelConfig(embedding_dim=4), seed=0)
        gates[name] = with_gate(model, "lasso", {"rows": 1000}, seed=0).gate
        rows = data.split("train") if name == "both" else data.split("train").by_task()["click"]
        gates[name].survey(model, lambda rows=rows: rows.batches(512, shuffle="none"))
    both, click = (dict(zip(data.schema.names, gates[name].importance.tolist())) for name in ("both", "click"))
    assert both["shown"] >= click["shown"] > 0 and both["price"] > 10 * click["price"]


def test_what_only_the_second_task_loses_counts(data):
    model = trained(data).model.eval()
    found = find(model, data.split("gate"), 0, torch.device("cpu"), [])
    assert found.importance["price"].certain and found.removed["price"].certain


def test_the_entropy_that_a_search_goes_by_is_the_mean_over_all_labels_that_there_are(data):
    one = trainer(data, "leap")
    one.model.eval().gate.survey(one.model, lambda: data.split("gate").batches(128, shuffle="none"))
    label = data.split("gate").label
    entropies = [entropy([rate, 1 - rate]) for rate in np.nanmean(label, axis=0)]
    expected = np.average(entropies, weights=(~np.isnan(label)).sum(axis=0))
    assert float(one.model.gate.entropy) == pytest.approx(expected, rel=1e-5)


def test_a_search_over_two_tasks_resumes_to_the_bit(data, tmp_path):
    options = {"alpha": 0.001}
    undisturbed = trained(data, "leap", epochs=1, options=options)
    stopped = trainer(data, "leap", epochs=1, options=options, checkpoint=tmp_path / "c.safetensors")
    stop_after(stopped, 9)
    with pytest.raises(Preempted):
        stopped.fit()
    resumed = trained(data, "leap", epochs=1, options=options, checkpoint=tmp_path / "c.safetensors")
    expected = undisturbed.model.state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in resumed.model.state_dict().items())
    assert resumed.history[-1]["train_loss"] == undisturbed.history[-1]["train_loss"]


def test_a_stratified_sample_keeps_the_shares_of_every_combination_of_answers(data):
    train = data.split("train")
    rows = choose(SampleConfig(fraction=0.25), train)
    assert len(rows) == round(len(train) / 4) and (np.diff(rows) > 0).all()
    for part in (train.label == 1, train.label == 0, np.isnan(train.label)):
        assert part[rows].mean(axis=0) == pytest.approx(part.mean(axis=0), abs=2 / len(rows))


def test_the_gate_and_the_tables_are_one_and_the_networks_two(data):
    model = with_gate(build(data.schema, ModelConfig(embedding_dim=4), seed=0), "leap", {"alpha": 0.001}, seed=0)
    alone = build(data.schema.model_copy(update={"tasks": ()}), ModelConfig(embedding_dim=4), seed=0)
    assert len(model.arena.tables) == len(alone.arena.tables)
    networks = model.backbone.networks
    assert [p.shape for p in networks[0].parameters()] == [p.shape for p in alone.backbone.parameters()]
    assert not torch.equal(networks[0].tower.first.weight, networks[1].tower.first.weight)
    assert model.gate.theta.shape == (len(data.schema.fields),)


def test_ranks_share_a_batch_of_two_tasks(data):
    train = data.split("train")
    whole, *parts = (
        next(train.batches(101, shuffle="none", rank=rank, world=world)) for rank, world in ((0, 1), (0, 2), (1, 2))
    )
    for mine, shared in zip(whole, zip(*parts)):
        assert torch.equal(mine, torch.cat(shared))
    lone = next(train.batches(3, shuffle="none", rank=0, world=2))  # filled up with a row that does not count
    assert lone.weight.shape == (2, 2) and not lone.weight[1:].any()


def test_with_one_label_there_is_one_network_and_arrays_have_one_axis(tmp_path):
    table, one = shop.rows_of_a_shop(1000), tmp_path / "raw.parquet"
    pq.write_table(table, one)
    config = IngestConfig(source=str(one), fields={"label": "click", "fields": shop.FIELDS}, split=shop.SPLIT)
    ingest.run(config, Tracker(), dataset=tmp_path / "dataset")
    data = Dataset.open(tmp_path / "dataset")
    batch = next(data.split("train").batches(64, shuffle="none"))
    assert batch.label.shape == batch.weight.shape == (64,)
    model = build(data.schema, ModelConfig(embedding_dim=4), seed=0)
    assert type(model.backbone) is BACKBONES.load("mlp") and model(batch.ids, batch.dense).shape == (64,)
    assert list(data.split("test").by_task()) == [""]
    assert "tasks" not in (tmp_path / "dataset" / "schema.json").read_text()


def judged(task, verdict, low, allowed=0.0, reason="r"):
    return {"task": task, "verdict": verdict, "reason": reason, "auc": {"low": low}, "allowed_auc_loss": allowed}


def test_of_the_gravest_verdicts_the_one_with_the_least_room_decides_and_the_first_of_equals():
    certified = [judged("a", "certified", -0.01, 0.02), judged("b", "certified", -0.03, 0.035)]
    assert deciding(certified) == 1 and deciding(certified[::-1]) == 0
    assert deciding([judged("a", "certified", 0.1), judged("b", "certified", 0.1)]) == 0
    unknown = judged("c", "inconclusive", None)
    assert deciding([judged("a", "inconclusive", -0.5), unknown]) == 1
    assert deciding([*certified, unknown, judged("d", "rejected", 0.3)]) == 3


def test_the_whole_gives_the_reasons_of_all_tasks_that_have_its_verdict_and_of_no_other():
    found = [
        judged("a", "inconclusive", 0.1, reason="x"),
        judged("b", "certified", 0.0),
        judged("c", "inconclusive", 0.0),
    ]
    whole = joined(found)
    assert whole["reason"] == "task 'a': x; task 'c': r" and whole["task"] == "c" and whole["tasks"] == found


def test_bounds_of_tasks_share_what_may_be_wrong_and_each_has_its_own_limit_or_the_one_of_all():
    config = EvaluateConfig(confidence=0.94, allowed_auc_loss=0.02, allowed_task_loss={"buy": 0.1})
    assert (
        limits(config, "buy", 3).confidence == pytest.approx(0.98) and limits(config, "buy", 3).allowed_auc_loss == 0.1
    )
    assert limits(config, "click", 1).confidence == 0.94 and limits(config, "click", 1).allowed_auc_loss == 0.02
    assert (of("buy"), of("")) == ("task 'buy': ", "")
