"""The path of LeAP: a plain network comes out, and one search at default options ranks the fields of a planted log."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small
import torch

from slimrec.artifacts import read_json, read_manifest
from slimrec.config import FinetuneConfig, IngestConfig, ModelConfig, PretrainConfig, PruneConfig, TrainConfig
from slimrec.data import planted
from slimrec.gates.path import relative_distance, walk
from slimrec.gates.shuffle import permutations, runs_of, taken
from slimrec.model.files import load_model
from slimrec.plugins import GATES
from slimrec.selection import Budget
from slimrec.stages import ingest, pretrain, prune
from slimrec.track import Tracker

METHODS = Path(__file__).parents[1] / "docs" / "methods.md"
TRAIN = {"epochs": 2, "batch_size": 256, "device": "cpu", "threads": 1, "patience": 0}


def search(dataset, gated, method="leap", **config):
    config = {"model": ModelConfig(embedding_dim=4), "train": TrainConfig(**TRAIN), **config}
    pretrain.run(PretrainConfig(method=method, **config), Tracker(), dataset=dataset, gated=gated)
    return gated


def decided(gated, budget, **config):
    paths = {name: gated.parent / f"{gated.name}-{name}-{budget}" for name in ("selection", "slim")}
    if not paths["slim"].exists():
        prune.run(PruneConfig(budget=budget, **config), Tracker(), gated=gated, **paths)
    fields = read_json(paths["selection"] / "selection.json")["fields"]
    return fields, {name for name, decision in fields.items() if decision["columns"]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("path")
    small.ingest_rows(folder, rows=3000, gate=0.15)
    return folder


@pytest.mark.parametrize("backbone", ["mlp", "deepfm", "dcn"])
def test_the_network_beside_the_gates_is_that_of_a_training_without_gates_to_the_bit(rows, backbone):
    model = ModelConfig(backbone=backbone, embedding_dim=4, options={"hidden": [8], "batch_norm": True, "dropout": 0.3})
    plain, beside = (search(rows / "dataset", rows / f"{m}-{backbone}", m, model=model) for m in ("none", "leap"))
    assert (plain / "model.safetensors").read_bytes() == (beside / "model.safetensors").read_bytes()
    assert read_manifest(beside)["training"] == read_manifest(plain)["training"]


PLAIN = {"chi2", "lasso", "leap", "lightgbm", "mutual_information", "permutation", "random", "sfs", "shark"}


@pytest.mark.parametrize("method", sorted(GATES.table))
def test_a_search_tells_whether_its_network_is_that_of_a_plain_training(rows, method):
    model = ModelConfig(backbone="pnn", embedding_dim=4, options={"dropout": 0.3, "batch_norm": True})
    train = TrainConfig(**{**TRAIN, "epochs": 1})
    plain, gated = rows / "none-pnn", rows / f"{method}-pnn"
    for folder in {plain, gated}:
        if not folder.exists():
            search(rows / "dataset", folder, folder.name.removesuffix("-pnn"), model=model, train=train)
    assert read_manifest(gated)["plain"] == (method in PLAIN | {"none"})
    if method in PLAIN:
        assert (plain / "model.safetensors").read_bytes() == (gated / "model.safetensors").read_bytes()


def test_the_documentation_says_whose_network_is_plain():
    lines = [line.split("|") for line in METHODS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    told = {name.strip(" `"): cells[4].strip() for cells in lines if len(cells) == 7 for name in cells[1].split(",")}
    assert told == {name: "plain" if name in PLAIN else "mixed" for name in GATES.table if name != "none"}


def test_a_search_with_probes_has_no_plain_network(rows):
    assert not read_manifest(search(rows / "dataset", rows / "probed", probes=1.0))["plain"]


def test_the_full_model_takes_its_first_passes_from_a_plain_search_and_comes_to_the_same_bits(rows):
    after = FinetuneConfig(train=TrainConfig(**TRAIN, seed=4))
    config = PretrainConfig(model=ModelConfig(embedding_dim=4), train=TrainConfig(**TRAIN), after=after)
    found = search(rows / "dataset", rows / "searched")
    other = search(rows / "dataset", rows / "other", train=TrainConfig(**TRAIN, learning_rate=0.02))
    made = {}
    for name, past in (("alone", None), ("taken", found), ("unlike", other)):
        figures = pretrain.run(config, Tracker(), dataset=rows / "dataset", gated=rows / name, search=past)
        made[name] = (rows / name / "model.safetensors").read_bytes(), read_manifest(rows / name)["training"], figures
    assert made["alone"][:2] == made["taken"][:2] == made["unlike"][:2]
    assert len(made["taken"][1]) == 2


def test_a_full_model_that_a_search_has_trained_already_is_not_trained_again(rows, monkeypatch):
    again = FinetuneConfig(start="fresh", train=TrainConfig(**TRAIN))
    config = PretrainConfig(model=ModelConfig(embedding_dim=4), train=TrainConfig(**TRAIN), after=again)
    found = search(rows / "dataset", rows / "once")
    monkeypatch.setattr(pretrain, "Trainer", None)
    pretrain.run(config, Tracker(), dataset=rows / "dataset", gated=rows / "full", search=found)
    assert (rows / "full" / "model.safetensors").read_bytes() == (found / "model.safetensors").read_bytes()
    assert load_model(rows / "full").gate.method == "none"


SPARSE = {"there_1": (0.001, 3.0), "there_2": (0.001, 2.0), "there_3": (0.003, 3.0), "there_4": (0.003, 1.0)}


def planted_log(folder, seed=0, rows=60_000, wide=0):
    """The planted log with four more useful fields that are seldom present, and a useful vector `wide` columns wide."""
    log, random = planted.Log(rows, seed), np.random.default_rng([seed, 9])
    table = pa.Table.from_batches(planted.batches(log))
    logit = table[planted.LOGIT].to_numpy().copy()
    for name, (share, effect) in SPARSE.items():
        there = random.random(rows) < share
        logit += effect * there
        table = table.append_column(name, pa.array(np.where(there, "on", "off")))
    if wide:
        vector = random.standard_normal((rows, wide), dtype=np.float32)
        logit += 0.4 * vector @ (np.ones(wide) / wide**0.5)
        table = table.append_column("wide", pa.FixedSizeListArray.from_arrays(vector.reshape(-1), wide))
    click = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    table = table.set_column(table.column_names.index("click"), "click", pa.array(click))
    pq.write_table(table, folder / "log.parquet")
    schema = planted.schema(log).model_dump(mode="json", exclude_unset=True)
    more = [{"name": name, "kind": "category"} for name in SPARSE]
    more += [{"name": "wide", "kind": "vector", "width": wide}] if wide else []
    fields = {**schema, "fields": [*schema["fields"], *more]}
    split = {"by": "random", "train": 0.7, "gate": 0.1, "valid": 0.1, "test": 0.1}
    ingest.run(IngestConfig(source=str(folder / "log.parquet"), fields=fields, split=split), Tracker(),
               dataset=folder / "dataset")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = planted_log(tmp_path_factory.mktemp("planted"))
    model = ModelConfig(backbone="widedeep", embedding_std=0.05, options={"hidden": [32, 16]})
    train = TrainConfig(epochs=3, batch_size=128, learning_rate=0.003, embedding_learning_rate=0.003, device="cpu")
    return search(folder / "dataset", folder / "gated", model=model, train=train)


USELESS = {name for name, role in planted.TRUTH.items() if role in ("noise", "unique", "constant")}
USEFUL = {name for name, role in planted.TRUTH.items() if role in ("useful", "interaction", "rare")}


def test_by_its_own_rule_every_useful_field_stays_sparse_ones_too_and_no_useless_one(log):
    fields, kept = decided(log, {})
    assert kept >= (USEFUL - {"device"}) | set(SPARSE) and kept & {"device", "device_twin"}
    assert not kept & USELESS
    few = {name for name in SPARSE if "inconclusive" in fields[name]["note"]}
    assert few >= {"there_1", "there_2"}


def test_one_search_serves_every_budget_in_one_order(log):
    fields, _ = decided(log, {})
    ranks = sorted(fields, key=lambda name: -fields[name]["score"])
    useful = [name for name in ranks if name in USEFUL | {"weak", "device_twin", "there_3"}]
    assert set(ranks[:2]) == {"query", "layout"} and ranks[: len(useful)] == useful
    for count in (3, 9, 13):
        _, kept = decided(log, {"fields": count}, twins_once=False)
        assert kept == set(ranks[:count])
    level, few = fields[ranks[10]]["score"], {name for name in fields if "inconclusive" in fields[name]["note"]}
    assert decided(log, {"threshold": level}, twins_once=False)[1] == set(ranks[:11]) | few


def test_no_two_fields_tie_but_twins_by_a_millionth_and_every_gate_has_fallen(log):
    gate = load_model(log).gate
    scores = gate.scores()
    assert len(set(scores.values())) == len(scores) and gate.fallen.all()
    assert scores["device_twin"] == pytest.approx(scores["device"], rel=1e-5)
    assert (gate.first <= gate.last).all()


def copies(folder, count):
    """The small log with `count` copies of `device` in all, which is worth much, and four places in the budget."""
    folder.mkdir()
    table = small.raw_rows(4000)
    pq.write_table(table, folder / "raw.parquet")
    more = [{"name": f"again_{i}", "kind": "category", "column": "device"} for i in range(count - 1)]
    single = [field for field in small.FIELDS["fields"] if field["name"] != "device_again"]
    config = IngestConfig(source=str(folder / "raw.parquet"), fields={**small.FIELDS, "fields": [*single, *more]},
                          split={"by": "random", "train": 0.5, "gate": 0.2, "valid": 0.1, "test": 0.2})  # fmt: skip
    ingest.run(config, Tracker(), dataset=folder / "dataset")
    train = TrainConfig(epochs=6, batch_size=256, learning_rate=0.01, embedding_learning_rate=0.02, device="cpu")
    return search(folder / "dataset", folder / "gated", train=train)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_of_copies_exactly_one_stays_under_a_tight_budget_and_the_others_take_no_place(tmp_path, count):
    fields, kept = decided(copies(tmp_path / "log", count), {"fields": 4})
    same = {name for name in fields if name == "device" or name.startswith("again")}
    assert len(same) == count and len(kept & same) == 1 and len(kept) == 4
    assert kept - same == {"embedding", "price", "tags"}


def rows_of(generator, strengths, wide=None):
    """Endless batches of independent columns (deviation 3) and labels of a logistic model over them."""
    while True:
        x = 3 * torch.randn(512, len(strengths), generator=generator)
        chance = torch.sigmoid(x @ torch.tensor(strengths))
        yield x, (torch.rand(512, generator=generator) < chance).float(), torch.ones(512)


def test_gates_fall_in_the_order_of_what_their_fields_are_worth_and_the_price_tells_it_in_nats():
    """A logistic model that knows the truth: worth is what replacing one column by a shuffled copy costs, worked out."""
    strengths, generator = [0.0, 0.05, 0.15, 0.4], torch.Generator().manual_seed(0)
    truth = lambda x: x @ torch.tensor(strengths)
    owner, apart = torch.arange(4), torch.full((4,), 0.8)
    path = walk(truth, rows_of(generator, strengths), owner, apart, 1e-5, generator)
    nats = path.worth.tolist()
    assert nats == sorted(nats) and path.fallen.all() and (path.last * apart).argsort().tolist() == [0, 1, 2, 3]
    x, label, _ = next(rows_of(torch.Generator().manual_seed(3), strengths))
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    for i in (2, 3):
        big = [next(rows_of(generator, strengths)) for _ in range(100)]
        x, label = torch.cat([b[0] for b in big]), torch.cat([b[1] for b in big])
        gone = x.clone()
        gone[:, i] = x[torch.randperm(len(x), generator=generator), i]
        worth = float(loss(truth(gone), label) - loss(truth(x), label))
        assert nats[i] == pytest.approx(worth, abs=3 * float(path.error[i])) and path.error[i] < 0.1 * worth


def test_the_relative_distance_knows_neither_width_nor_scale_and_is_nought_for_a_constant():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, 20, generator=generator)
    x[:, 1:17] *= 1000
    x[:, 17] = (torch.rand(4096, generator=generator) < 0.01).float()
    x[:, 18] = 5.0
    owner = torch.tensor([0] + [1] * 16 + [2, 3, 4])
    found = relative_distance(iter([(x, None, torch.ones(4096))]), owner, 5, generator)
    # E|d| / sqrt(E d^2): of a normal sqrt(2 / pi), of 16 normals 5.569 / sqrt(32), of an indicator sqrt(2 p (1 - p))
    assert found.tolist() == pytest.approx([0.798, 0.984, (0.0198) ** 0.5, 0.0, 0.798], rel=0.12, abs=1e-9)


def test_rows_of_no_weight_count_for_nothing_in_the_distance():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 1, generator=generator)
    x[1000:] = 0
    weight = torch.cat([torch.ones(1000), torch.zeros(1000)])
    alone, weighted = (
        float(relative_distance(iter([(x, None, w)]), torch.zeros(1, dtype=torch.long), 1, generator))
        for w in (torch.ones(2000), weight)
    )
    assert weighted != pytest.approx(alone, rel=0.05)


@pytest.mark.parametrize(("rows", "fields"), [(4, 3), (4, 11), (64, 64), (5, 200)])
def test_every_field_has_a_permutation_and_no_two_share_one_as_long_as_there_are_enough(rows, fields):
    found = permutations(rows, rows, fields, torch.Generator().manual_seed(1))
    assert (found.sort(0).values == torch.arange(rows)[:, None]).all()
    distinct = len({tuple(column) for column in found.T.tolist()})
    assert distinct == fields or (rows == 4 and distinct > 4) or (rows == 5 and distinct > 60)


def test_blocks_are_taken_whole_from_the_rows_named_whatever_their_widths_and_whoever_moves_them():
    generator = torch.Generator().manual_seed(2)
    owner = torch.tensor([3, 3, 0, 0, 1, 2, 4, 4, 4, 0, 0])  # two blocks of the gate 0, as of twins
    pool, sources = torch.randn(9, 11, generator=generator), torch.randint(0, 9, (6, 5), generator=generator)
    assert torch.equal(taken(pool, sources, runs_of(owner)), pool.gather(0, sources[:, owner]))


def test_the_path_draws_nothing_from_the_stream_of_the_process(rows):
    model = load_model(search(rows / "dataset", rows / "stream"))
    from slimrec.data.dataset import Dataset

    split = Dataset.open(rows / "dataset").split("gate")
    before = torch.random.get_rng_state()
    model.gate.survey(model, lambda: split.batches(256, shuffle="none"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_budget_may_be_asked_again_of_the_same_search(rows):
    gate = load_model(search(rows / "dataset", rows / "budgets")).gate
    order = sorted(gate.scores(), key=gate.scores().get)
    for count in range(1, len(order)):
        assert set(gate.select(Budget(fields=count), 0).kept) == set(order[-count:])
