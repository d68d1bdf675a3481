"""From scores to a decision: repeats are pooled, twins never both dropped, and what is rare but vital is noted or kept."""

import json
import math
import statistics

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import optimize
from test_contract import gated

from slimrec.config import IngestConfig, ModelConfig, PretrainConfig, PruneConfig, TrainConfig
from slimrec.data.dataset import Dataset
from slimrec.data.split import Splitter
from slimrec.model.files import load_model
from slimrec.pruning.decide import decide, jaccard
from slimrec.pruning.findings import (
    Change,
    Findings,
    Presence,
    Twins,
    _judge,
    _missed,
    find,
    twins_of,
)
from slimrec.selection import Budget
from slimrec.stages import ingest, pretrain, prune
from slimrec.track import Tracker
from tests import small
from tests.small import ingest_rows

TRAIN = TrainConfig(epochs=1, batch_size=256, learning_rate=0.01, embedding_learning_rate=0.02, device="cpu", threads=1)
NOTHING = Change(mean=0.0, error=0.0, rows=0)
LITTLE, MUCH = (Change(mean=mean, error=1e-5, rows=100) for mean in (0.0001, 0.05))


def scored(**scores):
    """A gate of the small schema with these scores (the others 0.9)."""
    gate = gated("random").gate
    gate.draws.copy_(torch.tensor([scores.get(name, 0.9) for name in gate.schema.names]))
    return gate


def found(**more):
    return Findings(importance=dict.fromkeys(("genres", "item", "noise", "price", "user", "vector"), LITTLE), **more)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dataset, and a search over it made three times."""
    folder = tmp_path_factory.mktemp("decide")
    ingest_rows(folder, rows=4000, gate=0.15)
    config = PretrainConfig(method="leap", repeats=3, model=ModelConfig(embedding_dim=4), train=TRAIN)
    pretrain.run(config, Tracker(), dataset=folder / "dataset", gated=folder / "gated", checkpoints=folder / "points")
    return folder


def test_repeats_give_mean_scores_their_deviation_and_how_alike_the_kept_sets_are(world):
    prune.run(
        PruneConfig(budget=Budget(fields=4), twins_once=False), Tracker(),
        gated=world / "gated", selection=world / "selection", slim=world / "slim",
    )  # fmt: skip
    each = Findings.model_validate_json((world / "gated" / "findings.json").read_text()).repeats
    table = pq.read_table(world / "selection" / "scores.parquet").to_pylist()
    assert len(each) == 3 and each[0] != each[1] != each[2]
    for row in table:
        scores = [scores[row["field"]] for scores in each]
        assert math.isclose(row["score"], statistics.fmean(scores))
        assert math.isclose(row["spread"], statistics.stdev(scores))
    best = sorted(table, key=lambda row: -row["score"])[:4]
    assert {row["field"] for row in best} == {row["field"] for row in table if row["kept"]}
    assert not list((world / "points").iterdir())
    page = (world / "selection" / "selection.md").read_text(encoding="utf-8").splitlines()
    assert page[0] == f"4 of {len(table)} fields stay"
    kept = [line.split(" | ")[0].removeprefix("| ").replace("\\", "") for line in page[4:] if " | yes | " in line]
    assert sorted(kept) == sorted(row["field"] for row in best)


def test_the_first_repeat_of_many_is_the_only_one_of_one(world, tmp_path):
    config = PretrainConfig(method="leap", model=ModelConfig(embedding_dim=4), train=TRAIN)
    pretrain.run(config, Tracker(), dataset=world / "dataset", gated=tmp_path / "gated")
    one, many = (load_model(folder / "gated").state_dict() for folder in (tmp_path, world))
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_jaccard_is_the_mean_over_pairs():
    assert jaccard([{"a", "b"}, {"b", "c"}, {"a", "b"}]) == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)


def test_a_field_stands_twice_in_the_log_and_is_found(world):
    assert find_again(world).twins[0].fields == ("device", "device_again")


def find_again(world):
    gate = Dataset.open(world / "dataset").split("gate")
    return find(load_model(world / "gated"), gate, 0, torch.device("cpu"), twins_of(gate, 0))


def test_importance_is_the_loss_that_shuffling_adds(world):
    found, model = find_again(world), load_model(world / "gated")
    split = Dataset.open(world / "dataset").split("gate")
    batch = next(split.batches(len(split), shuffle="none"))
    rows = np.random.default_rng(9).permutation(len(split))
    position = [f.name for f in model.schema.dense].index("price") + 2  # behind the three columns of the vector
    dense = batch.dense.clone()
    dense[:, position] = dense[rows][:, position]

    def loss(dense):
        with torch.no_grad():
            p = torch.sigmoid(model(batch.ids, dense)).double()
        y = batch.label.double()
        return -(batch.weight * (y * p.log() + (1 - y) * (1 - p).log())).sum() / batch.weight.sum()

    change = found.importance["price"]
    assert float(loss(dense) - loss(batch.dense)) == pytest.approx(change.mean, abs=4 * change.error)
    assert change.certain and not found.importance["noise"].certain


def test_twins_that_matter_are_never_both_dropped_and_the_cheaper_one_comes_back():
    pair = found(twins=(Twins(fields=("item", "user"), together=MUCH),))
    selection = decide(scored(item=0.2, user=0.1), pair, Budget(), False, seed=0)
    assert "user" in selection.kept and "item" not in selection.kept  # 50 rows of table against 200
    assert "'user' came back" in selection.fields["user"].note and "item or user" in selection.fields["item"].note
    idle = found(twins=(Twins(fields=("item", "user"), together=LITTLE.model_copy(update={"error": 1.0})),))
    assert not {"item", "user"} & set(decide(scored(item=0.2, user=0.1), idle, Budget(), False, seed=0).kept)


@pytest.mark.parametrize("budget", [Budget(keep=2 / 3), Budget(fields=4), Budget(max_bytes=12 * 16 + 50 * 16)])
def test_what_comes_back_takes_the_place_of_a_weaker_field_and_no_budget_is_exceeded(budget):
    pair = found(twins=(Twins(fields=("item", "user"), together=MUCH),))
    selection = decide(scored(item=0.2, user=0.1, noise=0.5), pair, budget, False, seed=0)
    assert "user" in selection.kept and len(selection.kept) <= 4
    costs = sum(d.bytes for d in selection.fields.values() if d.kept)
    assert budget.max_bytes is None or costs <= budget.max_bytes
    strong = pair.model_copy(update={"importance": dict.fromkeys(pair.importance, MUCH)})
    full = decide(scored(item=0.2, user=0.1, noise=0.5), strong, Budget(fields=4), False, seed=0)
    assert "user" not in full.kept and "no room" in full.fields["user"].note
    one = decide(scored(item=0.2, user=0.1, noise=0.5), strong, Budget(keep=0.2), False, seed=0)
    assert len(one.kept) == 1 and "no room" in one.fields["user"].note


def test_in_a_flow_that_is_asked_for_as_published_no_twin_comes_back_and_the_report_says_what_that_costs():
    gate = scored(item=0.2, user=0.1)
    gate.published = True
    twins = (Twins(fields=("item", "user"), together=MUCH),)
    selection = decide(gate, found(twins=twins), Budget(threshold=0.5), guard=False, seed=0)
    assert not {"item", "user"} & set(selection.kept)
    assert selection.fields["item"].note.endswith("all were dropped, which costs, but was decided as published")


CERTAIN = {"user": MUCH, "price": LITTLE, "genres": LITTLE, "noise": Change(mean=0.0, error=1e-5, rows=100)}


@pytest.mark.parametrize("budget", [Budget(fields=2), Budget(keep=0.34)])
def test_twins_take_one_place_of_a_budget_and_the_field_that_matters_most_the_other(budget):
    pair = found(twins=(Twins(fields=("item", "vector"), together=MUCH),))
    pair = pair.model_copy(update={"importance": pair.importance | CERTAIN})
    gate = scored(item=1.0, vector=0.95, genres=0.6, price=0.5, user=0.4, noise=0.9)
    once = decide(gate, pair, budget, False, seed=0)
    assert "item" in once.kept and "vector" not in once.kept and "user" in once.kept and "noise" not in once.kept
    assert len(once.kept) == 2
    assert "took its place" in once.fields["vector"].note and "item or vector" in once.fields["item"].note
    each = decide(gate, pair, budget, False, seed=0, twins_once=False)
    assert each.kept == ("item", "vector")


@pytest.mark.parametrize("budget", [Budget(fields=2), Budget(keep=0.34), Budget(max_bytes=16 * 50)])
def test_places_go_to_the_fields_that_matter_where_a_method_judges_only_their_meetings(budget):
    gate, alone = gated("optfeature", options={"grain": "field"}).gate, found()
    worth = dict.fromkeys(alone.importance, CERTAIN["noise"]) | {"user": MUCH, "price": LITTLE}
    selection = decide(gate, alone.model_copy(update={"importance": worth}), budget, False, seed=0)
    assert {"price", "user"} <= set(selection.kept) and "item" not in selection.kept
    assert selection.fields["user"].score == 1.0 and selection.fields["noise"].score == 0.0
    own = decide(gate, alone, Budget(), False, seed=0)
    assert own.kept == tuple(sorted(worth)) and own.fields["noise"].score == gate.scores()["noise"]


def test_a_twin_gives_its_bytes_to_a_field_that_matters():
    pair = found(twins=(Twins(fields=("item", "user"), together=MUCH),))
    pair = pair.model_copy(update={"importance": pair.importance | {"noise": CERTAIN["noise"]}})
    gate = scored(item=1.0, user=0.95, genres=0.5, noise=0.4)
    budget = Budget(max_bytes=16 * (200 + 50))  # the tables of `item` and `user`; that of `genres` has 12 rows
    assert decide(gate, pair, budget, False, seed=0).kept == ("genres", "item", "price", "vector")
    assert decide(gate, pair, budget, False, seed=0, twins_once=False).kept == ("item", "price", "user", "vector")
    roomy = Budget(max_bytes=16 * (200 + 50 + 12))
    assert decide(gate, pair, roomy, False, seed=0).kept == ("genres", "item", "price", "user", "vector")


def test_a_twin_stays_where_no_field_that_matters_wants_its_place():
    pair = found(twins=(Twins(fields=("item", "vector"), together=MUCH),))
    idle = pair.model_copy(update={"importance": dict.fromkeys(pair.importance, CERTAIN["noise"])})
    gate = scored(item=1.0, vector=0.95)
    assert decide(gate, idle, Budget(fields=2), False, seed=0).kept == ("item", "vector")
    assert set(decide(gate, pair, Budget(), False, seed=0).kept) == set(gate.schema.names)


@pytest.mark.parametrize("method", ["leap", "shark", "irazor"])
def test_of_planted_twins_exactly_one_survives_a_tight_budget(planted_twins, method):
    paths = {name: planted_twins[method] / name for name in ("gated", "selection", "slim")}
    prune.run(PruneConfig(budget=Budget(fields=3)), Tracker(), **paths)
    decided = json.loads((paths["selection"] / "selection.json").read_text())["fields"]
    kept = {name for name, decision in decided.items() if decision["columns"]}
    assert len(kept) == 3 and len(kept & {"device", "device_again"}) == 1


@pytest.fixture(scope="module")
def planted_twins(tmp_path_factory):
    """Searches over a log in which `device` stands twice and is worth most."""
    folder = tmp_path_factory.mktemp("twins")
    ingest_rows(folder, rows=4000, gate=0.15)
    for method in ("leap", "shark", "irazor"):
        config = PretrainConfig(method=method, model=ModelConfig(embedding_dim=4), train=TRAIN)
        pretrain.run(config, Tracker(), dataset=folder / "dataset", gated=folder / method / "gated")
    return {method: folder / method for method in ("leap", "shark", "irazor")}


def test_what_most_repeats_keep_by_their_own_rule_is_no_noise_to_any_budget():
    gate = scored()
    gate.tells_noise = True
    scores = dict.fromkeys(gate.schema.names, 0.9)
    kept = (("item", "user"), ("item", "price"), ("item", "user", "noise"))
    several = found(repeats=(scores, scores, scores), kept=kept)
    assert decide(gate, several, Budget(fields=5), False, 0).kept == ("item", "user")


def test_what_is_vital_where_it_is_present_is_noted_and_kept_on_request():
    presence = {"noise": Presence(share=0.01, shuffled=MUCH, missed=LITTLE)}
    noted, kept = (decide(scored(noise=0.1), found(presence=presence), Budget(), guard, 0) for guard in (False, True))
    assert "noise" not in noted.kept and "1.00%" in noted.fields["noise"].note
    assert "noise" in kept.kept and noted.evidence["presence/noise"] == MUCH.mean
    dull = {"noise": Presence(share=0.01, shuffled=LITTLE, missed=LITTLE)}
    strong = found(presence=dull).model_copy(update={"importance": dict.fromkeys(found().importance, MUCH)})
    assert "noise" not in decide(scored(noise=0.1), strong, Budget(), True, 0).kept


def test_no_method_drops_what_too_few_rows_show_without_a_word():
    few = {"noise": Presence(share=0.0, shuffled=NOTHING, missed=NOTHING, information=0.5)}
    note = decide(scored(noise=0.1), found(presence=few), Budget(), False, 0).fields["noise"].note
    assert note == "present in only 0 of the held-out rows, too few to tell what it is worth"
    for told in (
        {"shuffled": NOTHING, "missed": NOTHING, "information": 16.0},  # rows enough, and they show nothing
        {"shuffled": MUCH, "missed": NOTHING, "information": 0.5},  # few, and they are sure
    ):
        presence = {"noise": Presence(share=0.01, **told)}
        kept = decide(scored(noise=0.1), found(presence=presence), Budget(), False, 0).fields["noise"].note
        assert "too few" not in (kept or "")


RARE = {  # what stands in no held-out row, and how it is declared
    "number": (0.0, 1.0, {"kind": "number"}),
    "vector": ([0.0, 2.0], [1.0, 2.0], {"kind": "vector", "width": 2}),
    "one value": (None, "on", {"kind": "category"}),
    "two values": ("off", "on", {"kind": "category"}),
    "hashed": (None, "on", {"kind": "category", "hash_rows": 50}),
    "bag": ([], ["on"], {"kind": "bag"}),
    "quantile": (0.0, 1.0, {"kind": "number", "discretise": "quantile"}),
}
CONSTANT = [  # what every row holds, where no count of values tells so
    ("hashed one", "x", {"kind": "category", "hash_rows": 50}),
    ("hashed bag", ["x"], {"kind": "bag", "hash_rows": 50}),
    ("two in a bag", ["x", "y"], {"kind": "bag"}),
    ("cut alike", ["x", "y"], {"kind": "bag", "max_length": 1}),
]


def test_a_field_that_no_held_out_row_shows_is_inconclusive_and_stays_and_constants_and_ids_go(tmp_path):
    rows, columns = 1200, {}
    table = small.raw_rows(rows)
    plain = IngestConfig(
        source="planted:", split={"by": "random", "train": 0.6, "gate": 0.2, "valid": 0.1, "test": 0.1}
    )
    split = Splitter("random", plain.split, plain.seed).assign(None, np.arange(rows))
    shown = (split == 0) & (np.arange(rows) % 50 == 0)  # in train alone
    for name, (off, on, kind) in RARE.items():
        columns[name] = kind
        table = table.append_column(name, pa.array([on if there else off for there in shown]))
    for name, values in {"one": ["x"] * rows, "nothing": [None] * rows, "id": map(str, range(rows))}.items():
        columns[name] = {"kind": "category"}
        table = table.append_column(name, pa.array(values, pa.string()))
    for name, value, kind in CONSTANT:
        columns[name] = kind
        table = table.append_column(name, pa.array([value] * rows))
    pq.write_table(table, tmp_path / "raw.parquet")
    fields = [{"name": "price", "kind": "number"}, *({"name": name, **kind} for name, kind in columns.items())]
    ingest.run(
        plain.model_copy(update={"source": str(tmp_path / "raw.parquet"), "fields": {"label": "click", "fields": fields}}),
        Tracker(), dataset=tmp_path / "dataset",
    )  # fmt: skip
    config = PretrainConfig(method="leap", model=ModelConfig(embedding_dim=4), train=TRAIN)
    pretrain.run(config, Tracker(), dataset=tmp_path / "dataset", gated=tmp_path / "gated")
    prune.run(
        PruneConfig(), Tracker(), gated=tmp_path / "gated", selection=tmp_path / "selection", slim=tmp_path / "slim"
    )
    decided = json.loads((tmp_path / "selection" / "selection.json").read_text())["fields"]
    assert {name for name in decided if "present in only 0 " in decided[name]["note"]} == set(RARE)
    assert {name for name in decided if decided[name]["columns"]} == {"price", *RARE}


def test_rows_that_the_search_predicts_wrong_are_told_from_rows_drawn_at_random(world):
    """What a shut gate loses on a few rows no shuffling can show."""
    model = load_model(world / "gated")
    split = Dataset.open(world / "dataset").split("gate")
    batch = next(split.batches(len(split), shuffle="none"))
    seen = _judge(model, batch, torch.device("cpu"))
    wrong = torch.zeros(len(batch.label), dtype=torch.bool)
    wrong[torch.nonzero(batch.label > 0)[:20, 0]] = True  # rows that all clicked
    missed, chance = _missed(seen, wrong, batch.weight), _missed(seen, torch.arange(len(wrong)) % 7 == 0, batch.weight)
    assert missed.certain and not chance.certain


def judged(world, unit: float):
    """The model on the gate slice with `unit` for the weight of every row."""
    model, split = load_model(world / "gated"), Dataset.open(world / "dataset").split("gate")
    batch = next(split.batches(len(split), shuffle="none"))
    return model, _judge(model, batch._replace(weight=torch.full_like(batch.weight, unit)), torch.device("cpu"))


@pytest.mark.parametrize("unit", [1.0, 3.0])
def test_what_a_constant_would_win_back_is_what_the_best_one_does(world, unit):
    model, seen = judged(world, unit)
    where = torch.arange(len(seen.loss)) % 3 == 0
    with torch.no_grad():
        logits = model(seen.rows.ids, seen.rows.dense).double()[where].numpy()
    label = seen.rows.label[where].numpy()

    def loss(shift):
        return np.mean(np.logaddexp(0, logits + shift) - label * (logits + shift))

    best = optimize.minimize_scalar(loss, bracket=(-1, 1)).fun
    found = _missed(seen, where, seen.rows.weight)
    assert found.mean == pytest.approx(loss(0) - best, rel=0.1) and found.error == pytest.approx(2 / len(label))
    twice = seen._replace(residual=torch.stack([seen.residual] * 2, 1), variance=torch.stack([seen.variance] * 2, 1))
    assert _missed(seen, where & ~where, seen.rows.weight) == NOTHING
    both = _missed(twice, where, torch.stack([seen.rows.weight] * 2, 1))
    assert both.mean == pytest.approx(found.mean) and both.error == pytest.approx(found.error / 2**0.5)
    asked = torch.tensor([1.0, 0.0])  # of the second task no row here knows the answer
    one = twice._replace(residual=twice.residual * asked, variance=twice.variance * asked)
    assert _missed(one, where, seen.rows.weight[:, None] * asked).model_dump() == pytest.approx(found.model_dump())
    none = twice._replace(residual=twice.residual * 0.0, variance=twice.variance * 0.0)
    assert _missed(none, where, seen.rows.weight[:, None] * torch.zeros(2)) == NOTHING
