"""The evaluate stage on a small trained world: figures, report, contract, and what it refuses."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import small
from sklearn.metrics import roc_auc_score
from test_metrics import Clock

from slimrec import artifacts
from slimrec.artifacts import verify
from slimrec.config import EvaluateConfig, FinetuneConfig, PruneConfig, TrainConfig
from slimrec.data.dataset import Dataset
from slimrec.errors import InputError
from slimrec.model.files import load_model
from slimrec.schema import Field, Schema
from slimrec.selection import Budget, Decision, Selection
from slimrec.serving.predictor import Predictor
from slimrec.stages import evaluate, finetune, prune
from slimrec.track import Tracker
from slimrec.verdict import cost
from slimrec.verdict.certify import compare
from slimrec.verdict.contract import contract
from slimrec.verdict.scored import _judged

GENEROUS = EvaluateConfig(allowed_auc_loss=0.2, latency_repeats=3)


def judge(world, report, config=GENEROUS, **changed):
    paths = {**world._asdict(), **changed}
    return evaluate.run(
        config, Tracker(), **{n: paths[n] for n in ("dataset", "slim", "full", "selection")}, report=report
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return small.make(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="module")
def judged(world, tmp_path_factory):
    report = tmp_path_factory.mktemp("report") / "report"
    return judge(world, report), report


def test_weighted_aucs_of_the_unseen_slice_agree_with_raw_rows_and_scikit_learn(world, judged):
    rows = Dataset.open(world.dataset).split("test").row
    raw = pq.read_table(world.raw).take(rows)
    for name in ("full", "slim"):
        scores = Predictor.load(getattr(world, name)).predict(raw)
        expected = roc_auc_score(raw["click"], scores, sample_weight=raw["worth"])
        assert judged[0][f"{name}_auc"] == pytest.approx(expected, abs=1e-6)
    assert judged[0]["auc_low"] < judged[0]["auc_difference"] < judged[0]["auc_high"]


def test_sizes_are_those_of_the_files(world, judged):
    for name in ("full", "slim"):
        payload = (getattr(world, name) / "model.safetensors").stat().st_size
        header = int.from_bytes((getattr(world, name) / "model.safetensors").read_bytes()[:8], "little") + 8
        assert judged[0][f"{name}_bytes"] == payload - header
    assert judged[0]["fields_before"] == 7 and judged[0]["fields_after"] == 4
    assert judged[0]["slim_embedding_bytes"] < judged[0]["full_embedding_bytes"]


def test_a_generous_limit_is_certified_and_the_report_says_the_same_everywhere(judged):
    metrics, report = judged
    assert verify(report, "report") and metrics["verdict"] == "certified" and metrics["decision"] == "accept"
    assert sorted(p.name for p in report.glob("report.*")) == ["report.html", "report.json", "report.md"]
    facts = json.loads((report / "report.json").read_text())
    assert facts["auc"]["slim"] == metrics["slim_auc"] and facts["decision"] == "accept" and facts["weighted"]
    assert "3 of 7 fields can go" in (report / "report.md").read_text()


def test_contract_frees_only_columns_that_nothing_else_reads(world, judged):
    contract = json.loads((judged[1] / "contract.json").read_text())
    assert contract["needed_columns"] == ["device", "embedding", "price", "tags"]
    assert contract["training_columns"] == ["click", "user", "worth"]
    # `device` is still read by another field, `user` is the group of the rows
    assert [entry["column"] for entry in contract["safe_to_stop_computing"]] == ["noise"]
    assert contract["candidates"] == []
    (noise,) = contract["safe_to_stop_computing"]
    decision = json.loads((world.selection / "selection.json").read_text())["fields"]["noise"]
    assert noise == {"column": "noise", "field": "noise", "bytes": decision["bytes"], "score": decision["score"]}
    facts = json.loads((judged[1] / "report.json").read_text())
    assert contract["digests"] == {"dataset": facts["dataset"], "slim": artifacts.digest(world.slim)}
    assert contract["format"] == 1 and contract["verdict"] == facts["verdict"] == "certified"


def test_a_model_that_lost_a_needed_field_is_rejected(tmp_path):
    world = small.make(tmp_path, dropped=("device", "device_again", "price", "embedding"))
    metrics = judge(world, tmp_path / "report", EvaluateConfig(latency_repeats=1))
    assert metrics["verdict"] == "rejected" and metrics["auc_high"] < -0.001


def test_the_models_read_only_their_own_fields(world):
    model = load_model(world.slim)
    batch = next(Dataset.open(world.dataset, fields=model.schema.names).split("test").batches(10, shuffle="none"))
    assert batch.ids.shape == (10, 1 + 3) and batch.dense.shape == (10, 3 + 1)


def test_models_of_another_dataset_are_refused(world, tmp_path):
    other = small.make(tmp_path, rows=1500)
    with pytest.raises(InputError, match="the slim model was trained on dataset"):
        judge(world, tmp_path / "report", slim=other.slim)
    with pytest.raises(InputError, match="the full model was trained on dataset"):
        judge(world, tmp_path / "report", full=other.full)
    assert not (tmp_path / "report").exists()


def test_a_selection_that_the_slim_model_was_not_cut_by_is_refused(world, tmp_path):
    with artifacts.publish(tmp_path / "other", "selection") as folder:
        chosen = small.choose(Dataset.open(world.dataset).schema, ("noise",))
        artifacts.write_json(folder / "selection.json", chosen.model_dump(mode="json"))
    with pytest.raises(InputError, match="slim was made of another selection"):
        judge(world, tmp_path / "report", selection=tmp_path / "other")
    paths = {"dataset": world.dataset, "gated": world.full, "slim": world.slim, "selection": tmp_path / "other"}
    with pytest.raises(InputError, match="slim was made of another selection"):
        finetune.run(FinetuneConfig(), Tracker(), **paths, tuned=tmp_path / "tuned")
    assert {path.name for path in tmp_path.iterdir()} == {"other"}


def test_same_models_same_verdict_to_the_bit(world, judged, tmp_path):
    again = judge(world, tmp_path / "report")
    same = [name for name in again if "_ms_" not in name]
    assert {n: again[n] for n in same} == {n: judged[0][n] for n in same}
    assert np.isfinite([v for v in again.values() if isinstance(v, float)]).all()


def test_prune_finetune_and_evaluate_hash_the_weights_that_they_read_once(world, tmp_path, monkeypatch):
    hashed, sha256 = [], artifacts.sha256
    monkeypatch.setattr(artifacts, "sha256", lambda path: hashed.append(path) or sha256(path))
    cut = {"selection": tmp_path / "selection", "slim": tmp_path / "slim"}
    prune.run(PruneConfig(), Tracker(), gated=world.full, **cut)
    assert hashed.count(world.full / "model.safetensors") == 1
    config = FinetuneConfig(start="initial", train=TrainConfig(epochs=1, batch_size=512, device="cpu"))
    finetune.run(config, Tracker(), dataset=world.dataset, gated=world.full, **cut, tuned=tmp_path / "tuned")
    assert hashed.count(world.full / "model.safetensors") == 2
    judge(world, tmp_path / "report", slim=tmp_path / "tuned", selection=cut["selection"])
    assert hashed.count(world.full / "model.safetensors") == 3
    assert hashed.count(tmp_path / "tuned" / "model.safetensors") == 1


def test_latency_is_told_in_milliseconds_of_a_row_and_of_4096_however_few_there_are(world, monkeypatch):
    clock, models, tests = Clock(), {}, {}
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    for name, kind, seconds in (("full", "gated", 0.002), ("slim", "slim", 0.0005)):
        models[name] = load_model(getattr(world, name), kind)
        models[name].register_forward_hook(clock.work(name, 9, seconds))
        tests[name] = Dataset.open(world.dataset, models[name].schema.names).split("test")
    assert len(tests["full"]) < 4096
    found = cost.measure(models, tests, 1)
    assert [entry["batch"] for entry in found["latency"]] == [1, 4096]
    for entry in found["latency"]:
        assert (entry["full_ms"], entry["slim_ms"]) == pytest.approx((2, 0.5))
    assert all(found["size"][name].items() > cost.size(each).items() for name, each in models.items())
    whole = next(tests["full"].batches(len(tests["full"]), shuffle="none"))
    for rows in (10, 2 * len(tests["full"]) + 3):  # the first, and again from the first on
        place = np.arange(rows) % len(tests["full"])
        ids, dense = cost._one_batch(tests["full"], rows)
        assert ids.equal(whole.ids[place]) and dense.equal(whole.dense[place])


@pytest.mark.parametrize("verdict", ["certified", "rejected"])
def test_a_column_that_a_dropped_field_reads_alone_may_go_and_none_that_training_or_another_field_needs(verdict):
    fields = [Field(name="a", kind="category", column="x"), Field(name="again", kind="category", column="x")]
    fields += [Field(name="b", kind="number", column="y"), Field(name="who", kind="category", column="user")]
    fields += [Field(name="pair", kind="category", cross=("y", "z")), Field(name="c", kind="number")]
    schema = Schema(label="click", weight="worth", time="at", group="user", fields=fields)
    kept = {"a": 0.9, "c": 0.8}
    decided = {
        field.name: Decision(
            columns=(0,) * (field.name in kept), width=1, score=kept.get(field.name, 0.1), bytes=10 * number
        )
        for number, field in enumerate(fields)
    }
    chosen = Selection(method="by hand", seed=0, budget=Budget(threshold=0.5), fields=decided)
    idle = [
        {"column": "y", "field": "b", "bytes": 20, "score": 0.1},
        {"column": "z", "field": "pair", "bytes": 40, "score": 0.1},
    ]
    assert contract({"verdict": verdict, "dataset": "d", "slim_digest": "s"}, chosen, schema) == {
        "format": 1,
        "needed_columns": ["c", "x"],
        "training_columns": ["at", "click", "user", "worth"],
        "safe_to_stop_computing": idle if verdict == "certified" else [],
        "candidates": [] if verdict == "certified" else idle,
        "digests": {"dataset": "d", "slim": "s"},
        "verdict": verdict,
    }


def test_what_is_judged_is_said_of_the_rows_whether_they_stand_in_groups_and_weigh_alike():
    label, score = np.arange(60) % 2, np.arange(60.0)
    found = compare(label, score, score)
    for weight, group, told in ((np.ones(60), None, (False, False)), (np.arange(60) + 1, label, (True, True))):
        facts = _judged(EvaluateConfig(), found, "rejected", "r", SimpleNamespace(weight=weight, group=group))
        assert (facts["weighted"], facts["grouped"]) == told and facts["decision"] == "reject" and facts["format"] == 1
    assert facts["auc"]["full"] == found.full_auc and facts["auc"]["low"] == found.low and facts["rows"] == 60
    assert (
        _judged(EvaluateConfig(), found, "certified", "r", SimpleNamespace(weight=label, group=None))["decision"]
        == "accept"
    )
