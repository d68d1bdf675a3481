"""The stages in a row, as a recipe runs them: same inputs same selection, and the planted truth comes out."""

import pyarrow.parquet as pq
import pytest

from slimrec.artifacts import digest, read_json
from slimrec.data.planted import generate
from slimrec.stages import execute

pytestmark = pytest.mark.battery
TRAIN = {"epochs": 3, "patience": 0, "batch_size": 256, "embedding_learning_rate": 0.003, "threads": 1}
SEARCH = {"method": "leap", "train": TRAIN}
SEARCH["model"] = {"backbone": "widedeep", "options": {"hidden": [32]}, "embedding_std": 0.05}


def audit(folder, source, fields, upto="prune"):
    """Run the stages on a log; returns the folder of each artifact."""
    made = {n: str(folder / n) for n in ("dataset", "subset", "gated", "selection", "slim", "tuned", "full", "report")}
    split = {"by": "random", "train": 0.6, "gate": 0.1, "valid": 0.1, "test": 0.2}

    def stage(name, config, *paths, **others):
        execute(name, config, **{path: made[path] for path in paths}, **others)

    stage("ingest", {"source": str(source), "fields": fields, "split": split}, "dataset")
    stage("sample", {"fraction": 0.9}, "dataset", "subset")
    stage("pretrain", SEARCH, "dataset", "subset", "gated")
    stage("prune", {}, "gated", "selection", "slim")
    if upto == "evaluate":
        stage("finetune", {"train": TRAIN}, "dataset", "subset", "gated", "selection", "slim", "tuned")
        stage("pretrain", {**SEARCH, "method": "none", "options": {}}, "dataset", gated=made["full"])
        stage("evaluate", {"allowed_auc_loss": 0.01}, "dataset", "full", "selection", "report", slim=made["tuned"])
    return {name: folder / name for name in made}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    table, schema = generate(40_000, seed=3)
    pq.write_table(table, folder / "log.parquet")
    fields = schema.model_dump(exclude={"time"})
    return folder, table, fields


@pytest.fixture(scope="module")
def finished(log):
    folder, _, fields = log
    return audit(folder / "first", folder / "log.parquet", fields, upto="evaluate")


def test_running_again_gives_the_same_selection_to_the_byte(log, finished):
    folder, _, fields = log
    again = audit(folder / "again", folder / "log.parquet", fields)
    for name in ("dataset", "gated", "selection", "slim"):
        assert digest(again[name]) == digest(finished[name])


def test_the_order_of_columns_in_the_log_and_of_fields_in_the_schema_changes_no_byte_of_the_selection(log, finished):
    folder, table, fields = log
    pq.write_table(table.select(table.column_names[::-1]), folder / "reversed.parquet")
    turned = {**fields, "fields": fields["fields"][::-1]}
    other = audit(folder / "reversed", folder / "reversed.parquet", turned)
    first, second = (made["selection"] / "selection.json" for made in (finished, other))
    assert first.read_bytes() == second.read_bytes()


def test_the_strongest_planted_fields_stay_and_the_constant_and_the_unique_noise_go(finished):
    decided = read_json(finished["selection"] / "selection.json")["fields"]
    kept = {name for name, decision in decided.items() if decision["columns"]}
    assert {"site", "rare", "fades"} <= kept
    assert not {"constant", "noise_id", "noise_number"} & kept


def test_the_slim_model_is_smaller_reads_fewer_fields_and_loses_no_more_than_allowed(finished):
    report = read_json(finished["report"] / "report.json")
    assert report["size"]["slim"]["embedding_bytes"] < 0.5 * report["size"]["full"]["embedding_bytes"]
    assert report["auc"]["slim"] > report["auc"]["full"] - 0.01
    contract = read_json(finished["report"] / "contract.json")
    slim = {field["column"] for field in read_json(finished["slim"] / "schema.json")["fields"]}
    assert slim <= set(contract["needed_columns"])
    candidates = {entry["column"] for entry in contract["safe_to_stop_computing"] or contract["candidates"]}
    assert "noise_id" in candidates and not candidates & slim
