"""The served model answers CSV, JSON and Parquet alike, and tells what is wrong in the message of its refusal."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import services
import small
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import load_model as load_served
from mlflow.pyfunc.scoring_server import invocations

from slimrec import track
from slimrec.artifacts import publish, read_json
from slimrec.config import IngestConfig, ModelConfig, PretrainConfig, RegisterConfig, TrainConfig
from slimrec.data.encode import Encoder
from slimrec.model.files import load_model, save_model
from slimrec.registry import registration
from slimrec.serving.predictor import Predictor
from slimrec.stages import ingest, pretrain
from slimrec.track import Tracker

FIELDS = [
    {"name": "zip", "kind": "category"},
    {"name": "member", "kind": "category"},
    {"name": "account", "kind": "category"},
    {"name": "day", "kind": "category"},
    {"name": "price", "kind": "number"},
    {"name": "tags", "kind": "bag", "separator": "|"},
]


def log(rows: int = 900) -> pa.Table:
    random = np.random.default_rng(0)
    account = [None if i % 17 == 0 else 2**53 + 1 + 2 * int(i) for i in random.integers(0, 20, rows)]
    return pa.table(
        {
            "click": random.integers(0, 2, rows),
            "zip": [f"{z:05}" for z in random.integers(500, 520, rows)],
            "member": random.random(rows) < 0.5,
            "account": pa.array(account, pa.int64()),
            "day": pa.array(random.integers(0, 5, rows) * 86_400, pa.timestamp("s")).cast(pa.timestamp("ns")),
            "price": random.lognormal(size=rows).round(3),
            "tags": ["|".join(random.choice(["a", "b", "c"], i % 3).tolist()) for i in range(rows)],
        }
    )


def registered(folder, rows: pa.Table, fields: list[dict], name: str):
    """A model of all fields, as MLflow loads it from the registry, and the predictor of its folder."""
    pq.write_table(rows, folder / "log.parquet")
    schema = {"label": "click", "fields": fields}
    config = IngestConfig(source=str(folder / "log.parquet"), fields=schema, split={"by": "random"})
    ingest.run(config, Tracker(), dataset=folder / "dataset")
    train = TrainConfig(epochs=2, batch_size=64, embedding_learning_rate=0.1, threads=1, device="cpu")
    config = PretrainConfig(model=ModelConfig(embedding_dim=2, options={"hidden": [8]}), train=train)
    pretrain.run(config, Tracker(), dataset=folder / "dataset", gated=folder / "full")
    with publish(folder / "slim", "slim", dataset=read_json(folder / "full" / "manifest.json")["dataset"]) as scratch:
        save_model(load_model(folder / "full"), scratch, Encoder.load(folder / "dataset"))
    (folder / "report").mkdir()
    with track.run("register", RegisterConfig(name=name)) as tracker:
        decision = small.decision(name=name)
        registration.register(name, folder / "slim", folder / "report", decision, "manual", tracker.run_id)
    return load_served(f"models:/{name}@challenger"), Predictor.load(folder / "slim")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with services.mlflow_on_sqlite(tmp_path_factory.mktemp("mlflow"), MLFLOW_EXPERIMENT_NAME="served") as folder:
        yield folder


@pytest.fixture(scope="module")
def served(store, tmp_path_factory):
    return registered(tmp_path_factory.mktemp("flat"), log(), FIELDS, "flat")


def ask(model, body: str, kind: str = "application/json") -> list[float]:
    """What MLflow's scoring server answers."""
    answer = invocations(body, kind, model, model.metadata.get_input_schema())
    assert answer.status == 200, answer.response
    return [row["probability"] for row in json.loads(answer.response)["predictions"]]


def refused(model, body: dict) -> str:
    with pytest.raises(MlflowException) as caught:
        invocations(json.dumps(body), "application/json", model, model.metadata.get_input_schema())
    assert caught.value.get_http_status_code() == 400
    return json.loads(caught.value.serialize_as_json())["message"]


def records(rows: pa.Table) -> list[dict]:
    return json.loads(json.dumps(rows.to_pylist(), default=str))


def test_csv_and_json_get_the_scores_of_the_typed_rows(served):
    model, predictor = served
    rows = log().slice(0, 40)
    expected = predictor.predict(rows)
    assert len(set(expected.tolist())) > 20
    text = pa.Table.from_pylist(records(rows)).to_pandas()  # pandas alone would write 64-bit ids as floats
    text["account"] = [None if value is None else str(value) for value in rows["account"].to_pylist()]
    assert ask(model, text.to_csv(index=False), "text/csv") == pytest.approx(expected, abs=1e-6)
    strings = [{**row, "account": row["account"] and str(row["account"])} for row in records(rows)]
    assert ask(model, json.dumps({"dataframe_records": strings})) == pytest.approx(expected, abs=1e-6)
    whole = [row for row in records(rows) if row["account"] is not None]
    numbers = [value for value, row in zip(expected, records(rows)) if row["account"] is not None]
    assert ask(model, json.dumps({"dataframe_records": whole})) == pytest.approx(numbers, abs=1e-6)


def test_ids_that_json_and_pandas_turn_into_floats_are_refused_in_the_message(served):
    model, _ = served
    rows = records(log().slice(0, 40))
    assert any(row["account"] is None for row in rows)
    message = refused(model, {"dataframe_records": rows})
    assert "column 'account' holds the float 9007" in message and "Int64" in message and "strings" in message


def test_small_ids_with_nulls_are_right_and_numbers_without_their_zeros_refused(served):
    model, predictor = served
    rows = log().slice(0, 30)
    frame = [{**row, "member": None if i % 3 else int(row["member"])} for i, row in enumerate(records(rows))]
    frame = [{**row, "account": None} for row in frame]
    typed = [
        {**row, "member": None if i % 3 else row["member"], "account": None} for i, row in enumerate(rows.to_pylist())
    ]
    expected = predictor.predict(pa.Table.from_pylist(typed, rows.schema))
    assert ask(model, json.dumps({"dataframe_records": frame})) == pytest.approx(expected, abs=1e-6)
    message = refused(model, {"dataframe_records": [{**row, "zip": int(row["zip"])} for row in frame]})
    assert "column 'zip' holds the number" in message and "send the column as strings" in message


def test_a_frame_of_strings_scores_alike_through_mlflow(served):
    model, predictor = served
    frame = log().slice(0, 40).to_pandas(integer_object_nulls=True).astype(object).astype({"price": float})
    assert model.predict(frame)["probability"].to_numpy() == pytest.approx(
        predictor.predict(log().slice(0, 40)), abs=1e-6
    )


def test_what_is_wrong_stands_in_the_message(store, tmp_path):
    rows = small.raw_rows(600).drop_columns(["unread", "worth", "user"])
    fields = [field for field in small.FIELDS["fields"] if field["name"] != "user_id"]
    model, predictor = registered(tmp_path, rows, fields, "lists")
    good = records(small.raw_rows(2, seed=1).select(list(predictor.columns)))
    assert len(ask(model, json.dumps({"dataframe_records": good}))) == 2
    for wrong, sentence in {
        '{"price": "1.5"}': "field 'price' is a number, but its column 'price' is",
        '{"embedding": [1.0]}': "row 1: field 'embedding' has 1 numbers in column 'embedding'; the schema says width 3",
        '{"price": 1e300}': "row 1: field 'price' is too large for float32",
    }.items():
        assert sentence in refused(model, {"dataframe_records": [{**good[0], **json.loads(wrong)}]})
    assert "mixes types" in refused(model, {"dataframe_records": [{**good[0], "device": 7}, good[1]]})


def test_a_field_that_is_new_throughout_is_told_once_in_the_log(served, caplog):
    model, _ = served
    frame = pd.DataFrame(records(log().slice(0, 60))).assign(account=None, zip="nowhere").astype(object)
    with caplog.at_level("WARNING", logger="slimrec"):
        for _ in range(30):
            model.predict(frame)
    told = [record.message for record in caplog.records if record.name == "slimrec"]
    assert len(told) == 1 and "of the values of 'zip' are new to the model" in told[0]
