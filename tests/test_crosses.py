"""Cross fields: built alike in ingest and serving, both parents needed, in the schema as i-Razor's full grid or by hand."""

import itertools
import json
import math
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slimrec.artifacts import digest, publish, read_json, write_json
from slimrec.config import EvaluateConfig, IngestConfig, ModelConfig, PretrainConfig, TrainConfig, read_schema
from slimrec.data.dataset import Dataset
from slimrec.data.encode import Encoder, column_of
from slimrec.data.values import categories
from slimrec.errors import ConfigError, InputError
from slimrec.model.files import load_model, save_model
from slimrec.registry import registration
from slimrec.schema import MISSING, RESERVED_ROWS, UNSEEN, Schema
from slimrec.selection import Budget, Decision, Selection
from slimrec.serving.predictor import Predictor, example_rows
from slimrec.stages import evaluate, ingest, pretrain
from slimrec.track import Tracker

FIELDS = {
    "label": "click",
    "fields": [
        {"name": "query", "kind": "category"},
        {"name": "layout", "kind": "category"},
        {"name": "hour", "kind": "category", "column": "raw_hour"},
        {"name": "price", "kind": "number"},
    ],
    "crosses": [["query", "layout"], ["hour", "query"]],
}


def rows(count=4000):
    """Only the meeting of query and layout moves the click."""
    random = np.random.default_rng(0)
    query, layout = random.integers(0, 3, (2, count))
    click = (random.random(count) < np.where((query + layout) % 2, 0.8, 0.2)).astype(int)
    columns = {"click": click, "query": [f"q{q}" for q in query], "raw_hour": random.integers(0, 24, count)}
    layouts = [None if i % 50 == 0 else f"l{value}" for i, value in enumerate(layout)]
    return pa.table(columns | {"layout": layouts, "price": random.normal(size=count)})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crosses")
    pq.write_table(rows(), folder / "raw.parquet")
    split = {"by": "random", "train": 0.6, "gate": 0.1, "valid": 0.1, "test": 0.2}
    ingest.run(
        IngestConfig(source=str(folder / "raw.parquet"), fields=FIELDS, split=split),
        Tracker(),
        dataset=folder / "dataset",
    )
    train = TrainConfig(epochs=3, batch_size=128, embedding_learning_rate=0.02, device="cpu", threads=1)
    model = ModelConfig(embedding_dim=4, options={"hidden": [8]})
    pretrain.run(PretrainConfig(model=model, train=train), Tracker(), dataset=folder / "dataset", gated=folder / "full")
    return folder


def test_all_pairs_of_a_group_of_chosen_fields_or_of_all_categories_are_crossed():
    named = [{"name": name, "kind": "category"} for name in "dbca"] + [{"name": "n", "kind": "number"}]
    pairs = [f"{a}*{b}" for a, b in itertools.combinations("abcd", 2)]
    full = read_schema({"label": "y", "fields": named, "crosses": "all"})
    assert [name for name in full.names if "*" in name] == pairs
    some = read_schema(
        {"label": "y", "fields": named, "crosses": {"of": [["c", "a", "d"], ["a", "c"]], "min_count": 5}}
    )
    assert [name for name in some.names if "*" in name] == ["a*c", "a*d", "c*d"]
    assert some["a*c"].min_count == 5
    assert Schema.model_validate_json(some.model_dump_json()) == some


@pytest.mark.parametrize(("numbers", "categories", "fields"), [(0, 24, 300), (13, 26, 780)], ids=["avazu", "criteo"])
def test_the_full_grid_has_as_many_fields_as_the_published_one(numbers, categories, fields):
    """Section 4.1 of arXiv 2204.00281: 24 + 276 fields of Avazu-FG, 39 + 741 of Criteo-FG."""
    named = [{"name": f"C{i}", "kind": "category"} for i in range(categories)]
    named += [{"name": f"I{i}", "kind": "number", "discretise": "log_square"} for i in range(numbers)]
    assert len(read_schema({"label": "y", "fields": named, "crosses": "all"}).fields) == fields


@pytest.mark.parametrize(
    "wrong", [[["query", "price"]], [["query", "nothing"]], [["query"]], [["query", "query"]], [], {"of": []}]
)
def test_what_cannot_be_crossed_is_refused(wrong):
    with pytest.raises(ConfigError, match="price|nothing|at least 2"):
        read_schema({**FIELDS, "crosses": wrong})


def test_a_cross_has_one_id_for_each_pair_of_values_and_missing_only_where_both_are(world):
    encoder = Encoder.load(world / "dataset")
    table = rows(500)
    ids = encoder.encode(table)[0]
    column = ids[:, [f.name for f in encoder.schema.embedded].index("layout*query")]
    pairs = list(zip(table["layout"].to_pylist(), table["query"].to_pylist()))
    seen = {}
    for pair, value in zip(pairs, column.tolist()):
        assert seen.setdefault(pair, value) == value
    assert len(set(seen.values())) == len(seen) == 12  # three layouts and none, three queries
    odd = pa.table({"layout": [None, "l1"], "query": [None, "new"], "raw_hour": [1, 2], "price": [0.0, 0.0]})
    assert encoder.encode(odd)[0][:, [f.name for f in encoder.schema.embedded].index("layout*query")].tolist() == [
        MISSING,
        UNSEEN,
    ]


def test_pairs_are_counted_on_training_rows_alone_and_rare_ones_are_unseen(tmp_path):
    random = np.random.default_rng(3)
    a, b = (random.zipf(1.6, 3000) % 40 for _ in range(2))
    pq.write_table(pa.table({"click": random.integers(0, 2, 3000), "a": a, "b": b}), tmp_path / "raw.parquet")
    named = [{"name": name, "kind": "category"} for name in "ab"]
    fields = {"label": "click", "fields": named, "crosses": {"of": "all", "min_count": 4}}
    split = {"by": "random", "train": 0.6, "gate": 0.1, "valid": 0.1, "test": 0.2}
    ingest.run(
        IngestConfig(source=str(tmp_path / "raw.parquet"), fields=fields, split=split),
        Tracker(),
        dataset=tmp_path / "data",
    )
    data, encoder = Dataset.open(tmp_path / "data"), Encoder.load(tmp_path / "data")
    counts = Counter((str(a[row]), str(b[row])) for row in data.split("train").row)
    known = {tuple(json.loads(pair)) for pair in encoder.vocabularies["a*b"]}
    assert known == {pair for pair, count in counts.items() if count >= 4} and len(known) < len(counts)
    test = data.split("test")
    (batch,) = test.batches(len(test), shuffle="none")
    ids = batch.ids[:, data.schema.names.index("a*b")].tolist()
    assert [i == UNSEEN for i in ids] == [(str(a[row]), str(b[row])) not in known for row in test.row]


COUNTS = {
    "label": "click",
    "fields": [{"name": "clicks", "kind": "number", "discretise": "log_square"}, {"name": "item", "kind": "category"}],
    "crosses": "all",
}


def test_numbers_are_crossed_as_the_categories_that_they_are_made(tmp_path):
    random = np.random.default_rng(4)
    clicks = [None if i % 40 == 0 else float(x) for i, x in enumerate(random.integers(-2, 500, 800) / 2)]
    item = [f"i{i}" for i in random.integers(0, 3, 800)]
    table = pa.table({"click": random.integers(0, 2, 800), "clicks": clicks, "item": item})
    pq.write_table(table, tmp_path / "raw.parquet")
    ingest.run(IngestConfig(source=str(tmp_path / "raw.parquet"), fields=COUNTS), Tracker(), dataset=tmp_path / "data")
    encoder = Encoder.load(tmp_path / "data")
    assert encoder.schema["clicks*item"].discretised == ("clicks",)

    def by_hand(x):
        return None if x is None else str(math.floor(math.log(x) ** 2 if x > 2 else x))

    words = dict(enumerate(encoder.vocabularies["clicks*item"], start=RESERVED_ROWS))
    for x, name, i in zip(clicks, item, encoder.narrow(["clicks*item"]).encode(table)[0][:, 0].tolist()):
        assert i == UNSEEN or json.loads(words[i]) == [by_hand(x), name]
    assert len(words) > 50
    with pytest.raises(InputError, match="number"):
        encoder.narrow(["clicks*item"]).encode(pa.table({"clicks": ["many"], "item": ["i0"]}))
    rows = example_rows(encoder.narrow(["clicks*item"]))
    assert rows["clicks"].dtype == float and len(encoder.narrow(["clicks*item"]).encode(pa.table(rows))[0]) == 3
    signature = registration._signature(encoder.narrow(["clicks*item"]).schema, list(rows.columns))
    assert {column.name: column.type.name for column in signature.inputs} == {"clicks": "double", "item": "string"}


def test_a_number_in_quantiles_cannot_be_crossed():
    quantiles = [{**COUNTS["fields"][0], "discretise": "quantile"}, COUNTS["fields"][1]]
    with pytest.raises(ConfigError, match="log_square"):
        read_schema({**COUNTS, "fields": quantiles, "crosses": [["clicks", "item"]]})


def test_values_that_join_to_the_same_text_stay_apart():
    table = pa.table({"y": [0, 1], "a": ['x", "y', "x"], "b": ["z", 'y", "z']})
    schema = read_schema({"label": "y", "fields": [{"name": n, "kind": "category"} for n in "ab"], "crosses": "all"})
    found = categories(column_of(table, schema["a*b"]))
    assert len(set(found.values)) == 2


def test_the_slim_model_of_a_cross_alone_needs_both_parents_and_nothing_else(world, tmp_path):
    model, data = load_model(world / "full"), Dataset.open(world / "dataset")
    decisions = {
        f.name: Decision(
            columns=tuple(range(f.block_width(4))) if f.name == "layout*query" else (),
            width=f.block_width(4), score=0.5, bytes=16,
        )
        for f in data.schema.fields
    }  # fmt: skip
    chosen = Selection(method="by hand", seed=0, budget=Budget(fields=1), fields=decisions)
    with publish(tmp_path / "selection", "selection") as folder:
        write_json(folder / "selection.json", chosen.model_dump(mode="json"))
    facts = {"dataset": data.fingerprint, "selection": digest(tmp_path / "selection")}
    with publish(tmp_path / "slim", "slim", **facts) as folder:
        save_model(model.narrow(chosen), folder, Encoder.load(world / "dataset"))
    predictor = Predictor.load(tmp_path / "slim")
    assert sorted(predictor.columns) == ["layout", "query"]
    clear = pd.DataFrame({"query": ["q0", "q1"], "layout": ["l0", "l0"], "unread": [1, 2]})
    low, high = predictor.predict(clear)
    assert low < 0.5 < high
    assert len(predictor.predict(example_rows(predictor.encoder))) == 3
    with pytest.raises(InputError, match="layout"):
        predictor.predict(clear.drop(columns="layout"))
    places = {"dataset": world / "dataset", "slim": tmp_path / "slim", "full": world / "full"}
    evaluate.run(
        EvaluateConfig(allowed_auc_loss=0.4, latency_repeats=1), Tracker(),
        **places, selection=tmp_path / "selection", report=tmp_path / "report",
    )  # fmt: skip
    contract = read_json(tmp_path / "report" / "contract.json")
    assert contract["needed_columns"] == ["layout", "query"]
    assert [entry["column"] for entry in contract["safe_to_stop_computing"]] == ["raw_hour", "price"]


def test_csv_and_parquet_make_the_same_crosses(world, tmp_path):
    rows().to_pandas().to_csv(tmp_path / "raw.csv", index=False)
    split = {"by": "random", "train": 0.6, "gate": 0.1, "valid": 0.1, "test": 0.2}
    config = IngestConfig(source=str(tmp_path / "raw.csv"), fields=FIELDS, split=split)
    ingest.run(config, Tracker(), dataset=tmp_path / "dataset")
    one, other = (Encoder.load(folder / "dataset").vocabularies for folder in (world, tmp_path))
    assert one == other
