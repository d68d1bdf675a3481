"""Re-audit: the newest window of a drifting log against the champion; what died and revived, told, promoted, rolled back."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import services
import torch
from mlflow import MlflowClient
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from slimrec import track
from slimrec.artifacts import publish, read_json, verify
from slimrec.cli import app
from slimrec.config import EvaluateConfig, RegisterConfig
from slimrec.data.dataset import Dataset
from slimrec.data.encode import Encoder
from slimrec.data.planted import generate
from slimrec.errors import InputError
from slimrec.model.files import load_model, save_model
from slimrec.registry import champion, promotion
from slimrec.registry import windows as audit_windows
from slimrec.selection import Budget, Decision, Selection
from slimrec.serving.predictor import Predictor
from slimrec.stages import execute
from slimrec.verdict import reaudit
from slimrec.verdict.reaudit import compare

TRAIN = {"epochs": 2, "patience": 0, "batch_size": 256, "embedding_learning_rate": 0.005, "threads": 1}
MODEL = {"backbone": "widedeep", "options": {"hidden": [16]}, "embedding_dim": 4, "embedding_std": 0.05}
ROWS, LATEST = 20_000, 60_000  # rows of a window, and where the second begins


def selection(method: str = "by hand", spread: float | None = None, **scores: float) -> Selection:
    """Fields with these scores, kept from 0.5 on."""
    fields = {
        name: Decision(columns=(0,) if score >= 0.5 else (), width=1, score=score, bytes=4, spread=spread)
        for name, score in scores.items()
    }
    return Selection(method=method, seed=0, budget=Budget(threshold=0.5), fields=fields)


def kinds(diff: reaudit.Diff) -> dict[str, str]:
    return {name: change.what for name, change in diff.changes.items()}


def test_a_field_that_was_kept_and_is_dropped_died_and_the_other_way_round_revived():
    before = selection(a=0.9, b=0.1, c=0.8, d=0.2, old=0.7)
    after = selection(a=0.1, b=0.9, c=0.81, d=0.21, new=0.3)
    diff = compare(before, after)
    assert kinds(diff) == {"a": "died", "b": "revived", "new": "born", "old": "gone"} and diff.unchanged == 2
    assert diff.changes["a"].score_before == 0.9 and diff.changes["a"].score_after == 0.1
    assert diff.changes["a"].noise == pytest.approx(0.01)  # what `c` and `d` moved


def test_a_field_that_turned_by_less_than_scores_usually_move_is_unstable():
    before = selection(a=0.52, b=0.95, c=0.80, d=0.20)
    after = selection(a=0.48, b=0.90, c=0.85, d=0.25)
    diff = compare(before, after)
    assert kinds(diff) == {"a": "unstable"}
    assert diff.changes["a"].margin == pytest.approx(0.48 - (0.85 + 0.48) / 2)


def test_names_are_those_of_one_kind_of_change():
    diff = compare(selection(a=0.9, b=0.1, c=0.8, e=0.9), selection(a=0.1, b=0.9, c=0.8, d=0.2, e=0.05))
    assert [diff.names(what) for what in ("died", "revived", "born", "gone")] == [["a", "e"], ["b"], ["d"], []]


@pytest.mark.parametrize(("moved", "what"), [(2.5, "unstable"), (3.5, "died")])
def test_a_turn_is_chance_below_three_times_the_noise(moved, what):
    after = selection(spread=0.1, a=0.6 - 0.1 * moved, b=0.95, c=0.1)
    assert kinds(compare(selection(spread=0.1, a=0.6, b=0.95, c=0.1), after)) == {"a": what}


def test_a_turn_by_exactly_three_times_the_noise_counts_and_the_larger_noise_of_both_audits_is_meant():
    before, after = selection(spread=0.0625, a=0.75, b=0.95), selection(spread=0.125, a=0.375, b=0.95)
    (change,) = compare(before, after).changes.values()
    assert (change.what, change.noise, change.before, change.after) == ("died", 0.125, "kept", "dropped")
    closer = selection(spread=0.125, a=0.376, b=0.95)
    assert kinds(compare(before, closer)) == {"a": "unstable"}
    assert kinds(compare(selection(spread=0.125, a=0.375, b=0.95), selection(spread=0.0, a=0.75, b=0.95))) == {
        "a": "revived"
    }


def test_a_field_within_one_deviation_of_the_cut_is_on_the_edge_and_one_at_it_is_not():
    def edge(spread):
        both = selection(spread=spread, a=0.75, b=0.25)  # the cut is 0.5
        return compare(both, both)

    assert edge(0.25).changes == {} and kinds(edge(0.26)) == {"a": "unstable", "b": "unstable"}
    assert [change.margin for change in edge(0.26).changes.values()] == [0.25, -0.25]
    untold = compare(selection(spread=9.0, a=0.75, b=0.25), selection(a=0.75, b=0.25))
    assert untold.changes == {} and untold.unchanged == 2  # the edge is the later audit's


def test_where_nothing_is_dropped_there_is_no_cut_to_be_near_to():
    both = selection(spread=0.5, a=0.75, b=0.5)
    assert compare(both, both).changes == {}
    born = compare(both, selection(spread=0.5, a=0.75, b=0.5, c=0.6)).changes["c"]
    assert (born.what, born.before, born.after, born.margin, born.noise) == ("born", "", "kept", None, 0.5)
    assert (born.score_before, born.score_after) == (None, 0.6)


def test_what_a_field_that_is_gone_was_is_told_and_two_audits_without_a_common_field_know_no_noise():
    diff = compare(selection("one", older=0.75, old=0.25), selection("one", new=0.75, other=0.25))
    gone = diff.changes["old"]
    assert (gone.what, gone.before, gone.after, gone.score_before, gone.score_after) == (
        "gone",
        "dropped",
        "",
        0.25,
        None,
    )
    assert gone.noise is None is gone.margin and diff.changes["new"].margin == 0.25 and diff.unchanged == 0
    assert list(diff.changes) == ["new", "old", "older", "other"] and (diff.method_before, diff.method_after) == (
        "one",
        "one",
    )


def test_a_field_that_turned_does_not_count_among_what_scores_usually_move():
    diff = compare(selection(a=0.9, b=0.3, c=0.8, d=0.1), selection(a=0.1, b=0.35, c=0.81, d=0.13))
    assert diff.changes["a"].noise == pytest.approx(0.03)  # the median of 0.05, 0.01 and 0.03


def test_a_diff_that_holds_more_than_it_should_or_what_is_no_number_is_refused_and_none_can_be_changed():
    told = compare(selection(a=0.9, b=0.9), selection(a=0.1, b=0.9)).model_dump()
    assert reaudit.Diff.model_validate(told).model_dump() == told
    change = told["changes"]["a"]
    for wrong in (
        {**told, "more": 1},
        {**told, "changes": {"a": {**change, "more": 1}}},
        {**told, "changes": {"a": {**change, "noise": float("nan")}}},
    ):
        with pytest.raises(ValidationError):
            reaudit.Diff.model_validate(wrong)
    diff = reaudit.Diff.model_validate(told)
    for frozen, name in ((diff, "unchanged"), (diff.changes["a"], "noise")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(frozen, name, 1)


def test_repeats_of_the_search_say_better_what_is_chance():
    before, after = selection(spread=0.01, a=0.60, b=0.95, c=0.1), selection(spread=0.1, a=0.40, b=0.95, c=0.1)
    assert kinds(compare(before, after)) == {"a": "unstable"}
    sure = compare(selection(spread=0.001, a=0.60, b=0.95, c=0.1), selection(spread=0.001, a=0.40, b=0.95, c=0.1))
    assert kinds(sure) == {"a": "died"}


def test_a_field_on_the_edge_is_unstable_though_it_did_not_turn():
    before, after = (selection(spread=0.1, a=a, b=0.95, c=0.40) for a in (0.62, 0.58))
    assert kinds(compare(before, after)) == {"a": "unstable", "c": "unstable"}


def test_the_same_audit_twice_changes_nothing():
    both = selection(a=0.9, b=0.1, c=0.5)
    assert compare(both, both).changes == {}


def test_scores_of_two_methods_are_not_compared_but_fates_are():
    diff = compare(selection("one", a=0.51, b=0.6, c=0.9), selection("other", a=0.49, b=0.9, c=0.6))
    assert kinds(diff) == {"a": "died"}
    assert diff.changes["a"].noise is None


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with services.mlflow_on_sqlite(tmp_path_factory.mktemp("mlflow")) as folder:
        yield folder


def audit(folder: Path, source: Path | str, fields: dict, model: str = "drifting", key: str = "") -> dict:
    """All stages on one window; returns what register said, with the folders."""
    names = ("dataset", "subset", "gated", "selection", "slim", "tuned", "full", "report")
    made = {name: str(folder / name) for name in names}

    def stage(name, config, *paths, **others):
        return execute(name, config, **{path: made[path] for path in paths}, **others)

    split = {"by": "random", "train": 0.6, "gate": 0.1, "valid": 0.1, "test": 0.2}
    search = {"method": "permutation", "model": MODEL, "train": TRAIN}
    stage("ingest", {"source": str(source), "fields": fields, "split": split}, "dataset")
    stage("sample", {}, "dataset", "subset")
    stage("pretrain", search, "dataset", "subset", "gated")
    stage("prune", {"budget": {"fields": 8}}, "gated", "selection", "slim")
    stage("finetune", {"train": TRAIN}, "dataset", "subset", "gated", "selection", "slim", "tuned")
    stage("pretrain", {**search, "method": "none"}, "dataset", gated=made["full"])
    config = {"allowed_auc_loss": 0.02, "latency_repeats": 1, "champion": model}
    stage("evaluate", config, "dataset", "full", "selection", "report", slim=made["tuned"])
    found = stage("register", {"name": model, "window": key}, "report", "selection", slim=made["tuned"])
    return {**found, **{name: folder / name for name in names}}


@pytest.fixture(scope="module")
def windows(store, tmp_path_factory):
    """The first and the last stretch of one log in which `fades` loses its effect and `rises` gains one."""
    folder = tmp_path_factory.mktemp("windows")
    table, schema = generate(LATEST + ROWS, seed=2, drift=1.0)
    fields = schema.model_dump(mode="json", exclude={"time"})
    found = []
    for i, start in enumerate((0, LATEST)):
        source = folder / f"window{i}.parquet"
        pq.write_table(table.slice(start, ROWS), source)
        found.append(audit(folder / f"audit{i}", source, fields, key=f"key{i}"))
    return found


def test_the_report_of_the_second_window_names_the_field_that_died_and_the_one_that_revived(windows):
    first, second = windows
    assert read_json(first["report"] / "report.json")["diff"] is None
    assert not (first["report"] / "diff.json").exists()
    verify(second["report"], "report")
    changes = read_json(second["report"] / "diff.json")["changes"]
    assert changes["fades"]["what"] == "died" and changes["rises"]["what"] == "revived"
    for name in ("report.md", "report.html"):
        text = (second["report"] / name).read_text()
        assert "died, kept to dropped" in text and "revived, dropped to kept" in text


def test_the_new_model_is_judged_against_the_champion_on_the_new_rows(windows):
    first, second = windows
    judged = read_json(second["report"] / "report.json")["champion"]
    rows = Dataset.open(second["dataset"]).split("test").row
    source = read_json(second["dataset"] / "manifest.json")["source"]["address"]
    raw = pq.read_table(source).take(pa.array(rows))
    expected = {name: Predictor.load(made["tuned"]).predict(raw) for name, made in zip(("champion", "slim"), windows)}
    for name, scores in expected.items():
        assert judged["auc"][name] == pytest.approx(roc_auc_score(raw["click"], scores), abs=1e-6)
    assert judged["version"] == "1" and judged["verdict"] == "certified" and judged["auc"]["difference"] > 0
    assert first["aliases"] == second["aliases"] == ["challenger", "champion"]


def test_one_command_rolls_back_and_history_tells_all(windows):
    said = CliRunner().invoke(app, ["rollback", "drifting", "--why", "clicks fell at night"])
    assert said.exit_code == 0 and "champion of drifting: version 1, before: version 2" in said.output
    told = CliRunner().invoke(app, ["history", "drifting"]).output
    assert "commit promote 1 -> 2" in told and "commit rollback 2 -> 1  clicks fell at night" in told
    assert promotion.promote("drifting", "2").moved  # still judged against version 1


def crippled(folder: Path, copy: Path) -> Path:
    """The model of a folder, deaf to all of its categories but one."""
    model, facts = load_model(folder), verify(folder)
    with torch.no_grad():
        for field in model.schema.fields:
            if field.embedded and field.name != "site":
                model.arena.rows_of(field.name).zero_()
    with publish(copy, facts["kind"], dataset=facts["dataset"]) as scratch:
        save_model(model, scratch, Encoder.load(folder))
    return copy


@pytest.mark.parametrize("seen", [True, False])
def test_a_model_that_is_worse_than_the_champion_waits_for_a_person(windows, store, tmp_path, seen):
    """It is as good as its own full model, which has learnt little. The champion was seen by evaluate, or came after."""
    _, second = windows
    reigned = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_model_version_by_alias("drifting", "champion").version
    slim, full = (str(crippled(second[name], tmp_path / name)) for name in ("tuned", "full"))
    report, selection = str(tmp_path / "report"), str(second["selection"])
    config = {"allowed_auc_loss": 0.02, "latency_repeats": 1, "champion": "drifting" if seen else ""}
    data = {"dataset": str(second["dataset"]), "selection": selection, "slim": slim, "report": report}
    execute("evaluate", config, full=full, **data)
    found = execute("register", {"name": "drifting"}, **data)
    assert ("judged again" in found["reason"]) != seen
    assert found["aliases"] == ["challenger"] and f"version {reigned} stays champion" in found["reason"]
    assert "AUC falls by more than is allowed" in found["reason"]
    assert (
        MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_model_version_by_alias("drifting", "champion").version
        == reigned
    )


def test_a_log_that_lacks_what_the_champion_reads_leaves_the_comparison_open(windows, tmp_path):
    first, second = windows
    source = read_json(second["dataset"] / "manifest.json")["source"]["address"]
    table = pq.read_table(source)
    assert "site" in Predictor.load(first["tuned"]).columns
    pq.write_table(table.drop_columns(["site"]), source)
    try:
        test = Dataset.open(second["dataset"]).split("test")
        with pytest.raises(InputError, match="no column 'site'"):
            champion.score(first["tuned"], second["dataset"], test)
        champion.write_scores(str(first["tuned"]), str(second["dataset"]), str(tmp_path))  # as a process apart does
        with pytest.raises(champion.CannotRead, match="no column 'site'"):
            champion.read_scores(tmp_path)
        pq.write_table(table.slice(1), source)
        with pytest.raises(InputError, match="no longer the log that was ingested"):
            champion.score(first["tuned"], second["dataset"], test)
    finally:
        pq.write_table(table, source)


def test_a_champion_that_knows_few_values_of_the_new_rows_is_judged_and_the_report_says_so(windows, tmp_path):
    first, second = windows
    source = read_json(second["dataset"] / "manifest.json")["source"]["address"]
    table, test = pq.read_table(source), Dataset.open(second["dataset"]).split("test")
    reigning = champion.Champion("drifting", "1", first["tuned"], first["tuned"], None, None)
    elsewhere = table.set_column(table.column_names.index("site"), "site", pa.array(["elsewhere"] * len(table)))
    pq.write_table(elsewhere, source)
    try:
        found = champion.judge(EvaluateConfig(), reigning, second["dataset"], test, test.label.astype(float))
    finally:
        pq.write_table(table, source)
    assert found["auc"]["champion"] > 0.5
    assert "; mind: 100.0% of the values of 'site' are new to the model" in found["reason"]


@pytest.fixture(scope="module")
def turned(windows, tmp_path_factory):
    """The second window's first rows, ingested with the label turned round; and the first window's model as champion."""
    first, second = windows
    source, schema = read_json(second["dataset"] / "manifest.json")["source"]["address"], generate(1)[1]
    fields = schema.model_dump(mode="json", exclude={"time", "label"}) | {"label": {"column": "click", "positive": 0}}
    folder = tmp_path_factory.mktemp("turned") / "dataset"
    execute("ingest", {"source": source, "fields": fields, "max_rows": 5_000}, dataset=folder)
    return champion.Champion("drifting", "1", first["tuned"], first["tuned"], None, None), folder


def test_a_champion_that_ranks_worse_than_chance_is_left_to_a_person(turned):
    """As it does where 0 and 1 changed places between two logs: any new model beats it, which says nothing."""
    reigning, folder = turned
    test = Dataset.open(folder).split("test")
    found = champion.judge(EvaluateConfig(allowed_auc_loss=0.3), reigning, folder, test, test.label.astype(float))
    assert found["auc"]["champion"] < 0.45 and found["auc"]["low"] > 0
    assert found["verdict"] == "inconclusive" and "worse than chance" in found["reason"]


def test_a_label_that_is_told_otherwise_than_the_champions_was_is_minded(turned):
    reigning, folder = turned
    test = Dataset.open(folder).split("test")
    reason = champion.judge(EvaluateConfig(), reigning, folder, test, test.label.astype(float))["reason"]
    assert "the champion learnt the label 'click', and this audit 'click' (positive: 0)" in reason


def test_each_look_at_a_champion_with_another_model_pays_for_those_before(windows):
    _, second = windows
    test = Dataset.open(second["dataset"]).split("test")
    slim = np.random.default_rng(0).normal(size=len(test))
    config, judged = EvaluateConfig(champion="drifting", confidence=0.9), []
    untracked = champion.challenge(config, track.Tracker(), second["dataset"], test, slim, "a")[0]["look"]
    assert untracked == {"number": None, "asked": 0.9, "confidence": pytest.approx(0.95)}
    for model in ("a", "b"):
        with track.run("evaluate", config) as tracker:
            judged.append(champion.challenge(config, tracker, second["dataset"], test, slim, model)[0])
    for found, before in zip(judged, (0, judged[0]["look"]["number"])):
        number = found["look"]["number"]
        assert number > before and found["look"]["asked"] == 0.9
        assert found["look"]["confidence"] == pytest.approx(1 - 0.1 / (number * (number + 1)))
    assert judged[1]["auc"]["low"] < judged[0]["auc"]["low"]


def test_the_same_window_again_points_to_the_first_audit_as_long_as_its_judgement_holds(windows):
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    assert "registered version 2 of 'drifting'" in audit_windows.audited("drifting", "key1")
    assert audit_windows.audited("drifting", "another") == "" == audit_windows.audited("drifting", "")
    assert audit_windows.audited("drifting", "key0") == ""  # judged against none, and its own version is not champion
    client.set_registered_model_alias("drifting", "champion", "1")
    assert "version 1" in audit_windows.audited("drifting", "key0")
    client.set_registered_model_alias("drifting", "champion", "2")


@pytest.fixture
def shop(store):
    """A registered model with two versions, the first of them champion."""
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    client.create_registered_model("shop")
    for i in (1, 2):
        client.create_model_version("shop", f"file:///nowhere/{i}")
    client.set_registered_model_alias("shop", "champion", "1")
    yield client
    client.delete_registered_model("shop")


def ended(window: str, version: str, champion: str) -> str:
    """The MLflow run of an audit of `shop` that ended."""
    with track.run("register", RegisterConfig(name="shop")) as tracker:
        audit_windows.record(tracker.run_id, "shop", window, version, champion)
    return tracker.run_id


def test_a_window_that_registered_nothing_is_audited_as_long_as_the_champion_stays(shop):
    run = ended("nothing", "", "1")
    said = audit_windows.audited("shop", "nothing")
    assert said == f"this window was audited already, by MLflow run {run}: it registered nothing"
    shop.set_registered_model_alias("shop", "champion", "2")
    assert audit_windows.audited("shop", "nothing") == ""


def test_a_window_whose_version_became_champion_or_that_was_audited_again_is_audited(shop):
    run = ended("won", "2", "1")
    shop.set_registered_model_alias("shop", "champion", "2")
    assert audit_windows.audited("shop", "won") == (
        f"this window was audited already, by MLflow run {run}: it registered version 2 of 'shop'"
    )
    ended("twice", "", "1")  # does not hold any more
    assert audit_windows.audited("shop", "twice") == ""
    again = ended("twice", "", "2")
    assert again in audit_windows.audited("shop", "twice")
    ended("twice", "", "2")
    assert again in audit_windows.audited("shop", "twice")  # the first that holds


def test_a_window_whose_version_was_deleted_is_audited_again(shop):
    ended("deleted", "2", "1")
    assert "version 2" in audit_windows.audited("shop", "deleted")
    shop.delete_model_version("shop", "2")
    assert audit_windows.audited("shop", "deleted") == ""


def test_a_window_of_a_dead_model_of_the_same_name_is_audited_again(shop):
    run = ended("dead", "", "1")
    shop.set_tag(run, audit_windows.MODEL, "1")  # made in 1970
    assert audit_windows.audited("shop", "dead") == ""
    shop.set_tag(run, audit_windows.MODEL, "")  # there was none yet when it was judged
    assert run in audit_windows.audited("shop", "dead")
    shop.set_tag(run, audit_windows.MODEL, "1")
    assert ended("dead", "", "1") in audit_windows.audited("shop", "dead")


def test_an_audit_is_named_by_the_run_that_holds_all_of_its_steps(shop):
    run = ended("whole", "", "1")
    shop.set_tag(run, "mlflow.parentRunId", "the-audit")
    assert "by MLflow run the-audit:" in audit_windows.audited("shop", "whole")


def test_an_audit_of_no_day_is_not_written_down(shop):
    assert audit_windows.KEY not in shop.get_run(ended("", "", "1")).data.tags
    assert (
        audit_windows.record("", "shop", "untracked", "1", "") is None
    )  # a step without tracking has no run to note it on


def test_without_a_registry_or_a_run_no_window_was_audited(shop, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of-tomorrow")
    assert audit_windows.audited("shop", "any") == ""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert audit_windows.audited("shop", "any") == ""


def test_a_window_is_data_day_and_recipe():
    same = audit_windows.key("f", "2026-01-01", {"a": 1, "b": 2})
    assert same == audit_windows.key("f", "2026-01-01", {"b": 2, "a": 1}) != ""
    others = [("g", "2026-01-01", {"a": 1, "b": 2}), ("f", "2026-01-02", {"a": 1, "b": 2}), ("f", "2026-01-01", {})]
    assert same not in {audit_windows.key(*other) for other in others}
    assert audit_windows.key("f", "", {}) == ""
    with pytest.raises(ValueError, match="not JSON compliant"):
        audit_windows.key("f", "2026-01-01", {"a": float("nan")})


def test_in_how_many_parts_a_log_is_read_is_no_part_of_its_window():
    def key(**ingest):
        about = {"fingerprint": "f", "audit_date": "2026-01-01"}
        recipe = {"ingest": ingest, "register": {"name": "never-audited"}}
        return execute("window", {**about, "recipe": recipe})["window"]

    assert key() == key(parts=1) == key(parts=16) != key(seed=1)
