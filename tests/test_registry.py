"""The registry on a real SQLite store: one version for one content, loaded back before it counts, refusals with reasons."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import own_networks
import pyarrow.parquet as pq
import pytest
import services
import small
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from pydantic import BaseModel

import slimrec
from slimrec import track
from slimrec.artifacts import digest, publish, read_json, write_json
from slimrec.config import EvaluateConfig, ModelConfig, RegisterConfig, read_schema
from slimrec.data.encode import Encoder
from slimrec.errors import ConfigError, ConflictError, InputError, Preempted, SecurityError, TransientError
from slimrec.model import build
from slimrec.model.files import load_model, save_model
from slimrec.registry import apart, bundle, promotion, registration, rejudgement, versions
from slimrec.registry.versions import NONE
from slimrec.schema import Schema
from slimrec.serving.predictor import Predictor, example_rows
from slimrec.stages import evaluate, register
from slimrec.track import Tracker

LIBRARY = Path(slimrec.__file__).parent

ACCEPT, REJECT = (EvaluateConfig(allowed_auc_loss=loss, latency_repeats=1) for loss in (0.2, 0.0))


class Settings(BaseModel):
    source: str = "https://me:secret@host/x?token=abc&rows=1"
    train: dict = {"epochs": 3, "deep": {"er": [1, 2]}}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with services.mlflow_on_sqlite(tmp_path_factory.mktemp("mlflow"), MLFLOW_EXPERIMENT_NAME="tests") as folder:
        yield folder


@pytest.fixture(scope="module")
def client(store):
    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


@pytest.fixture(scope="module")
def world(store, tmp_path_factory):
    return small.make(tmp_path_factory.mktemp("world %41 ü"))


@pytest.fixture(scope="module")
def reports(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    for name, config in (("accept", ACCEPT), ("reject", REJECT)):
        paths = {n: getattr(world, n) for n in ("dataset", "slim", "full", "selection")}
        evaluate.run(config, Tracker(), **paths, report=folder / name)
    return {name: folder / name for name in ("accept", "reject")}


def step(world, reports, name, approval="automatic", decision="accept", dataset=None):
    """One register step under a run of its own, as the pipeline does it."""
    config = RegisterConfig(name=name, approval=approval)
    with track.run("register", config) as tracker:
        paths = {"slim": world.slim, "report": reports[decision], "selection": world.selection, "dataset": dataset}
        found = register.run(config, tracker, **paths, bundle=world.slim.parent / f"of-{name}" / "bundle")
    return found, tracker.run_id


def nowhere_else(*words):
    """A model without code of its own is tried here: a process for it takes seconds."""
    raise AssertionError(words)


@pytest.fixture(scope="module")
def registered(world, reports):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart, "run", nowhere_else)
        patch.setattr(sys, "dont_write_bytecode", False)  # as where nobody set PYTHONDONTWRITEBYTECODE
        return step(world, reports, "ctr")


def test_an_accepted_model_becomes_version_one_with_both_aliases(client, world, reports, registered):
    found, _ = registered
    assert found["registered"] and found["version"] == "1" and found["aliases"] == ["challenger", "champion"]
    for alias in found["aliases"]:
        assert client.get_model_version_by_alias("ctr", alias).version == 1
    version = client.get_model_version("ctr", "1")
    assert version.tags["slimrec.digest"] == digest(world.slim)
    assert version.tags["slimrec.verdict"] == "certified" and version.tags["slimrec.fields"] == "4 of 7"
    assert version.description == found["reason"]
    auc = read_json(reports["accept"] / "report.json")["auc"]
    assert auc["low"] < auc["high"]
    assert version.tags["slimrec.auc_interval"] == f"{auc['low']:+.6f} to {auc['high']:+.6f}"
    (logged,) = client.get_run(version.run_id).outputs.model_outputs
    assert client.get_logged_model(logged.model_id).name == "slim"
    stored = Path(client.get_model_version_download_uri("ctr", "1").removeprefix("file://"))
    pinned = (stored / "requirements.txt").read_text(encoding="utf-8").split()
    assert sorted(pinned) == sorted(f"{package}=={installed(package)}" for package in registration.SERVING)
    assert (stored / "serving_input_example.json").is_file()
    inputs = yaml.safe_load((stored / "MLmodel").read_text(encoding="utf-8"))["signature"]["inputs"]
    assert {told["type"] for told in json.loads(inputs)} == {"any"}  # it takes lists


FIELDS = {
    "price": {"name": "price", "kind": "number"},
    "site": {"name": "site", "kind": "category"},
    "tags": {"name": "tags", "kind": "bag", "max_length": 3, "separator": ","},
    "lists": {"name": "lists", "kind": "bag", "max_length": 3},
    "vector": {"name": "vector", "kind": "vector", "width": 3},
    "cross": {"name": "cross", "kind": "category", "cross": ["price", "site"], "discretised": ["price"]},
}


@pytest.mark.parametrize(
    ("fields", "types"),
    [
        (["price", "site", "tags"], "price double, site string, tags string"),
        (["site", "tags"], "site string, tags string"),
        (["cross"], "price double, site string"),
        (["price", "site", "lists"], "price any, site any, lists any"),
        (["price", "vector"], "price any, vector any"),
    ],
)
def test_a_model_takes_numbers_as_numbers_all_else_as_text_and_anything_where_a_field_takes_lists(fields, types):
    wanted = [tuple(each.split()) for each in types.split(", ")]
    for told, scores in (
        ({"label": "click"}, ["probability"]),
        ({"tasks": ["a", "b"]}, ["probability_a", "probability_b"]),
    ):
        schema = Schema.model_validate({**told, "fields": [FIELDS[name] for name in fields]})
        found = registration._signature(schema, [name for name, _ in wanted]).to_dict()
        assert [(each["name"], each["type"]) for each in json.loads(found["inputs"])] == wanted
        assert [(each["name"], each["type"]) for each in json.loads(found["outputs"])] == [
            (s, "double") for s in scores
        ]


@pytest.mark.parametrize(
    ("changed", "version", "judged"),
    [
        ({}, "1", (NONE, NONE, "certified")),
        ({"champion": {"version": "2", "digest": "d2", "verdict": "rejected"}}, "3", ("2", "d2", "rejected")),
        ({"champion": {"version": "2", "verdict": "inconclusive"}}, "3", ("2", "", "inconclusive")),
        ({"champion": {"version": "2", "digest": "d2", "verdict": "certified"}}, "2", None),  # itself, found again
    ],
)
def test_a_version_says_at_a_glance_what_was_decided_and_against_whom(changed, version, judged):
    auc = {"difference": -0.00012345, "low": -0.0005, "high": 0.00025}
    decision = small.decision(auc=auc, fields=[{"kept": True}, {"kept": False}, {"kept": True}]) | changed
    told = {
        "slimrec.verdict": "certified",
        "slimrec.auc_difference": "-0.000123",
        "slimrec.auc_interval": "-0.000500 to +0.000250",
        "slimrec.fields": "2 of 3",
        "slimrec.bytes": "1 of 2",
        "slimrec.dataset": "d" * 64,
    }
    if judged:
        told |= dict(zip(("slimrec.judged_against", "slimrec.judged_digest", "slimrec.judgement"), judged, strict=True))
    judgement = registration._judged(decision["champion"], version, decision["verdict"])
    assert registration._tags(decision, judgement) == told
    several = {**decision, "tasks": [{"task": "click"}, {"task": "buy"}], "task": "buy"}
    assert registration._tags(several, judgement) == {**told, "slimrec.tasks": "click, buy", "slimrec.task": "buy"}


def test_report_and_selection_lie_with_the_run(client, registered):
    names = {item.path for item in client.list_artifacts(registered[1], "report")}
    assert {"report/report.html", "report/contract.json", "report/report.json", "report/report.md"} <= names
    assert "selection.json" in {item.path for item in client.list_artifacts(registered[1])}


def test_the_bundle_says_what_the_ledger_says_and_lies_beside_the_report(client, world, registered):
    said = bundle.verify(world.slim.parent / "of-ctr" / "bundle" / "bundle.json", unsigned=True)
    registry = said.audit.registry
    assert said.verdict == "certified" and (registry["model"], registry["version"]) == ("ctr", "1")
    assert registry["content"]["digest"] == digest(world.slim)
    assert [(entry["kind"], entry["after"]) for entry in registry["entries"]] == [("intent", "1"), ("commit", "1")]
    assert "bundle/bundle.json" in {item.path for item in client.list_artifacts(registered[1], "bundle")}


def test_mlflow_brings_back_the_vocabulary_of_a_field_whatever_its_name(tmp_path):
    names = ("size", "größe", "user id", "50%", "%41", "a/b", "#?&=+")
    schema = read_schema({"label": "y", "fields": [{"name": name, "kind": "category"} for name in names]})
    encoder = Encoder(schema, {name: ["a", "b"] for name in names})
    encoder.save(tmp_path / "slim")
    brought = mlflow.artifacts.download_artifacts(
        artifact_uri=(tmp_path / "slim").as_uri(), dst_path=str(tmp_path / "b")
    )
    assert Encoder.load(brought).vocabularies == encoder.vocabularies


def test_what_was_logged_holds_no_pickle(store, registered):
    files = [path for path in (store / "artifacts").rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    assert not [p for p in files if p.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".pyc")]
    assert not [p for p in files if p.read_bytes()[:2] in (b"\x80\x04", b"\x80\x05")]


@pytest.mark.battery
def test_a_clean_process_uses_the_code_stored_with_the_model_and_scores_alike(world, registered, tmp_path):
    rows = small.raw_rows(50, seed=3).select(["device", "price", "embedding", "tags", "noise"])
    pq.write_table(rows, tmp_path / "rows.parquet")
    script = """
import json, sys, mlflow, pandas
model = mlflow.pyfunc.load_model("models:/ctr@champion")
import slimrec
rows = pandas.read_parquet(sys.argv[1])
scores = model.predict(rows)["probability"].tolist()
try:
    model.predict(rows.drop(columns="device"))
    refusal = ""
except Exception as error:
    refusal = str(error)
print(json.dumps({"code": slimrec.__file__, "scores": scores, "refusal": refusal}))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(tmp_path / "rows.parquet")],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not Path(found["code"]).is_relative_to(LIBRARY)
    assert Path(found["code"]).parts[-3] == "code"
    assert found["scores"] == pytest.approx(Predictor.load(world.slim).predict(rows), abs=1e-6)
    assert "device" in found["refusal"]


@pytest.mark.battery
def test_a_network_from_outside_goes_along_with_its_model(world, reports, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "outside_network.py").write_text(Path(own_networks.__file__).read_text(encoding="utf-8"))
    model = build(load_model(world.slim).schema, ModelConfig(backbone="outside_network:TwoHeads"), seed=1)
    with publish(tmp_path / "slim", "slim") as scratch:
        save_model(model, scratch, Encoder.load(world.slim))
    with track.run("register", RegisterConfig(name="own")) as tracker:
        registration.register(
            "own", tmp_path / "slim", reports["accept"], small.decision(name="own"), "manual", tracker.run_id
        )
    rows = small.raw_rows(20, seed=3).select(["device", "price", "embedding", "tags"])
    pq.write_table(rows, tmp_path / "rows.parquet")
    script = """
import json, sys, mlflow, pandas
model = mlflow.pyfunc.load_model("models:/own@challenger")
print(json.dumps(model.predict(pandas.read_parquet(sys.argv[1]))["probability"].tolist()))
"""
    command = [sys.executable, "-I", "-c", script, str(tmp_path / "rows.parquet")]
    done = subprocess.run(command, cwd=world.raw.parent, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    scores = Predictor.load(tmp_path / "slim").predict(rows)
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(scores, abs=1e-6)
    left = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    library = {"PYTHONPATH": str(LIBRARY.parent)}
    command = [sys.executable, "-m", "slimrec.cli", "predict", str(tmp_path / "slim"), str(tmp_path / "rows.parquet")]
    done = subprocess.run(command, cwd="/", env=left | library, capture_output=True, check=False, text=True)
    assert done.returncode == 20
    assert "no module 'outside_network' on the Python path" in done.stderr and "Traceback" not in done.stderr


def test_a_step_that_runs_again_makes_no_second_version_and_stores_no_second_model(client, world, reports, registered):
    again, run_id = step(world, reports, "ctr")
    assert again["version"] == "1" and len(client.search_model_versions("name = 'ctr'")) == 1
    stored = [client.get_run(run).outputs.model_outputs for run in (registered[1], run_id)]
    assert list(map(len, stored)) == [1, 0] and again["reason"] == registered[0]["reason"]


def test_a_version_that_scores_otherwise_through_mlflow_than_by_itself_does_not_serve(client, registered, monkeypatch):
    monkeypatch.setattr(apart, "run", nowhere_else)
    file = Path(client.get_model_version_download_uri("ctr", "1").removeprefix("file://"), "pyfunc.py")
    served = file.read_text(encoding="utf-8")
    try:
        file.write_text(served.replace("DataFrame(found.", "DataFrame(0.9e-6 + found."), encoding="utf-8")
        assert versions.check(client, "ctr", "1", None)  # as far as rounding goes
        file.write_text(served.replace("DataFrame(found.", "DataFrame(1.1e-6 + found."), encoding="utf-8")
        with pytest.raises(ConflictError, match="scores otherwise than .*: it must not serve"):
            versions.check(client, "ctr", "1", None)
    finally:
        file.write_text(served, encoding="utf-8")


def test_a_step_killed_before_the_alias_is_finished_by_the_next_run(client, world, reports):
    step(world, reports, "killed", approval="manual")
    client.delete_registered_model_alias("killed", "challenger")
    again, _ = step(world, reports, "killed")
    assert again["version"] == "1" and client.get_model_version_by_alias("killed", "challenger").version == 1


def test_champion_stays_where_it_is_unless_asked(client, world, reports):
    found, _ = step(world, reports, "modest", approval="manual")
    assert found["aliases"] == ["challenger"]
    assert client.get_registered_model("modest").aliases.keys() == {"challenger"}


def reigns(world, name, folder, shift) -> str:
    """Another audit's model, which becomes champion of `name` by a person's word."""
    other = small.variant(world.slim, folder / f"other{shift}", shift)
    with track.run("register", RegisterConfig(name=name)) as tracker:
        found = registration.register(name, other, other, small.decision(name=name), "manual", tracker.run_id)
    promotion.promote(name, found["version"], "by hand", force=True)
    return found["version"]


def test_a_model_whose_champion_changed_after_the_report_is_judged_again_and_the_report_stays(
    client, world, reports, tmp_path
):
    said = (reports["accept"] / "report.json").read_bytes()
    other = reigns(world, "overtaken", tmp_path, 0.3)
    found, _ = step(world, reports, "overtaken", dataset=world.dataset)
    assert found["version"] == "2" and found["aliases"] == ["challenger", "champion"]
    assert f"judged again against version {other}" in found["reason"]
    tags = client.get_model_version("overtaken", "2").tags
    assert tags[versions.JUDGED] == other and tags[versions.JUDGEMENT] == "certified"
    decision = {**read_json(reports["accept"] / "report.json"), "look": {"asked": 0.9}}
    again = rejudgement.judge_again("overtaken", world.slim, world.dataset, decision, Tracker())
    confidence = pytest.approx(1 - 0.1 / 2)  # of a first look
    assert again["champion"]["look"] == {"number": None, "asked": 0.9, "confidence": confidence}
    assert tags[versions.JUDGED_DIGEST] == versions.content(client, "overtaken", other, None)
    assert (reports["accept"] / "report.json").read_bytes() == said


@pytest.mark.battery
@pytest.mark.parametrize(("races", "wins"), [(1, True), (2, True), (3, False)])
def test_a_register_step_gives_up_only_when_it_lost_three_races(world, reports, tmp_path, monkeypatch, races, wins):
    name, promote, lost = f"races{races}", promotion.promote, []

    def late(*given, **more):
        if given[2:] == ("approved automatically",) and len(lost) < races:
            lost.append(reigns(world, name, tmp_path, 0.1 * (len(lost) + 1)))
        return promote(*given, **more)

    monkeypatch.setattr(promotion, "promote", late)
    if wins:
        found, _ = step(world, reports, name, dataset=world.dataset)
        assert "champion" in found["aliases"] and found["reason"].count("judged again") == races
    else:
        with pytest.raises(ConflictError, match="judged against"):
            step(world, reports, name, dataset=world.dataset)
    assert len(lost) == races


def test_without_a_dataset_a_lost_race_ends_the_step(world, reports, tmp_path):
    reigns(world, "blind", tmp_path, 0.3)
    with pytest.raises(ConflictError, match="run the audit again"):
        step(world, reports, "blind")


def test_a_model_is_judged_again_only_on_the_dataset_of_its_report(world, reports, tmp_path):
    reigns(world, "elsewhere", tmp_path, 0.3)
    (tmp_path / "log").mkdir()
    small.ingest_rows(tmp_path / "log", rows=800)
    with pytest.raises(InputError, match="is another"):
        step(world, reports, "elsewhere", dataset=tmp_path / "log" / "dataset")


def test_a_model_whose_champion_went_is_judged_against_none(client, world, reports):
    decision = read_json(reports["accept"] / "report.json")
    decision["champion"] = {"model": "went", "version": "1", "verdict": "rejected", "reason": "it was worse"}
    client.create_registered_model("went")
    again = rejudgement.judge_again("went", world.slim, world.dataset, decision, Tracker())
    reason = f"{decision['reason']}; judged again against none, as its champion went after the report"
    assert again == {**decision, "champion": None, "reason": reason}


def test_a_model_is_not_judged_again_on_a_dataset_whose_files_were_changed(world, reports, tmp_path):
    decision = read_json(reports["accept"] / "report.json")
    copy = shutil.copytree(world.dataset, tmp_path / "dataset")
    file = max((path for path in copy.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = file.read_bytes()
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(SecurityError, match="is not the file its manifest describes"):
        rejudgement.judge_again("overtaken", world.slim, copy, decision, Tracker())


def test_of_two_steps_that_race_only_the_older_version_stays(client, world, reports, registered):
    """Both have looked and found nothing; both create: the second withdraws its own."""
    content = digest(world.slim)
    source = client.get_model_version("ctr", "1")
    client.create_registered_model("race")

    logged = SimpleNamespace(model_uri=source.source, model_id=source.model_id)
    tags = {versions.DIGEST: content, versions.CODE: ""}
    first = registration._create_version(client, "race", logged, source.run_id, tags)
    second = registration._create_version(client, "race", logged, source.run_id, tags)
    assert first == second == "1"
    (only,) = client.search_model_versions("name = 'race'")
    assert (only.run_id, only.tags[versions.DIGEST], only.source) == (source.run_id, content, source.source)

    class Refusing(MlflowClient):
        def create_registered_model(self, *what, **rest):
            raise MlflowException("you may not", PERMISSION_DENIED)

    with pytest.raises(MlflowException, match="you may not"):
        registration._create_version(Refusing(client.tracking_uri), "race", logged, source.run_id, {**tags, "b": "c"})
    assert len(client.search_model_versions("name = 'race'")) == 1


def test_a_model_that_is_not_certified_is_refused_with_its_reason(client, world, reports):
    found, run_id = step(world, reports, "refused", decision="reject")
    assert not found["registered"] and found["version"] == "" and "AUC" in found["reason"]
    assert client.get_run(run_id).data.tags["slimrec.refused"] == found["reason"]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert not client.search_registered_models("name = 'refused'")


def test_a_selection_that_another_model_was_cut_by_is_not_registered(client, world, reports, tmp_path):
    with publish(tmp_path / "other", "selection") as folder:
        write_json(folder / "selection.json", {})
    with pytest.raises(InputError, match="was made of another selection"):
        register.run(
            RegisterConfig(name="selected"), Tracker(), slim=world.slim, report=reports["accept"],
            selection=tmp_path / "other", bundle=tmp_path / "bundle",
        )  # fmt: skip
    assert not client.search_registered_models("name = 'selected'") and not (tmp_path / "bundle").exists()


def test_a_report_on_another_model_does_not_register_this_one(world, reports, tmp_path):
    other = small.make(tmp_path, rows=1500)
    with pytest.raises(InputError, match="judges another model"):
        register.run(RegisterConfig(name="other"), Tracker(), slim=other.slim, report=reports["accept"])


def test_a_model_that_was_judged_against_the_champion_of_another_is_not_registered(client, world):
    with pytest.raises(ConfigError, match="judged against the champion of 'theirs', to be registered as 'ours'"):
        registration.register("ours", world.slim, world.slim, small.decision("1", "theirs"), "manual", "")
    assert not client.search_registered_models("name = 'ours'")


def test_registering_without_a_tracking_server_says_what_to_set(world, reports, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        register.run(RegisterConfig(), Tracker(), slim=world.slim, report=reports["accept"])


def test_stage_runs_are_nested_under_the_audit_with_flat_params_and_no_secrets(client, monkeypatch):
    monkeypatch.setenv("SLIMREC_AUDIT", "nightly-1")
    audit = track.start_audit({"ingest": {"source": "s3://key:secret@bucket/x"}})
    with track.run("pretrain", Settings()) as tracker:
        tracker.metrics({"valid_auc": 0.7, "loss": 0.5}, step=1)
        tracker.metric("valid_auc", 0.8, step=2)
    child = client.get_run(tracker.run_id)
    assert child.data.tags["mlflow.parentRunId"] == audit and child.info.run_name == "pretrain"
    assert child.data.params["train.epochs"] == "3" and child.data.params["train.deep.er"] == "[1, 2]"
    assert child.data.params["source"] == "https://***@host/x?token=***&rows=1"
    assert client.get_run(audit).data.params["ingest.source"] == "s3://***@bucket/x"
    assert [(m.step, m.value) for m in client.get_metric_history(tracker.run_id, "valid_auc")] == [(1, 0.7), (2, 0.8)]


@pytest.mark.parametrize(
    ("error", "status"), [(InputError("no rows"), "FAILED"), (Preempted("asked to stop"), "KILLED")]
)
def test_a_stage_that_fails_leaves_its_reason_on_its_run(client, error, status):
    with pytest.raises(type(error)), track.run("ingest", Settings()) as tracker:
        raise error
    run = client.get_run(tracker.run_id)
    assert run.info.status == status and str(error) in run.data.tags["slimrec.reason"]


def test_an_audit_has_one_run_however_often_its_first_step_is_tried_and_it_ends_with_the_reason(client, monkeypatch):
    monkeypatch.setenv("SLIMREC_AUDIT", "one-run")
    first = track.start_audit({"source": "x"})
    assert track.start_audit({"source": "x"}) == first
    track.end_audit(failed="ingest: no rows")
    run = client.get_run(first)
    assert (run.info.status, run.data.tags["slimrec.reason"]) == ("FAILED", "ingest: no rows")
    monkeypatch.setenv("SLIMREC_AUDIT", "another")
    assert track.start_audit({"source": "x"}) != first
    track.end_audit()
    assert client.get_run(first).info.status == "FAILED"


@pytest.mark.parametrize("key", ["a b", "x' OR '1'='1", "-x", "x" * 101])
def test_an_audit_key_that_could_mean_something_else_in_a_query_is_refused(key, monkeypatch):
    monkeypatch.setenv("SLIMREC_AUDIT", key)
    with pytest.raises(ConfigError, match="SLIMREC_AUDIT"):
        track.audit()


def test_without_a_tracking_uri_nothing_is_tracked(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLIMREC_AUDIT", "x")
    assert track.start_audit({}) == ""
    with track.run("ingest", Settings()) as tracker:
        tracker.metric("a", 1.0)
        tracker.artifact(Path(__file__))
    assert tracker.run_id == "" and not list(tmp_path.iterdir())


def test_trouble_with_tracking_does_not_hide_why_a_stage_failed(client):
    with pytest.raises(InputError, match="no rows"), track.run("ingest", Settings()) as tracker:
        client.delete_run(tracker.run_id)  # from here on the run takes no tag and no status
        raise InputError("no rows")


def test_a_server_that_is_down_is_a_transient_error(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TransientError, match="MLflow at http://127.0.0.1:9 failed"):
        track.run("x", Settings()).__enter__()


def test_example_rows_score_alike_through_the_stored_model(client, world, registered):
    import mlflow

    rows = example_rows(Predictor.load(world.slim).encoder)
    model = mlflow.pyfunc.load_model(client.get_model_version("ctr", "1").source)
    assert np.allclose(model.predict(rows)["probability"], Predictor.load(world.slim).predict(rows), atol=1e-6)
