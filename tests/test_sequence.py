"""Looks that follow one another: how they are counted, what the bound pays for them, and where the report says so."""

from functools import partialmethod

import numpy as np
import pytest
import small
from mlflow import MlflowClient
from scipy import stats
from services import empty_store

from benchmarks.verdict import ever_wrong, one_slice
from slimrec import track
from slimrec.artifacts import read_json
from slimrec.config import EvaluateConfig
from slimrec.registry import sightings
from slimrec.stages import execute
from slimrec.verdict.sequence import challenge, challenged, repeated, told


def test_all_looks_together_are_wrong_no_more_often_than_was_asked_for():
    looks = np.arange(1, 100_000)
    assert (1 - challenge(0.95, looks)).sum() == pytest.approx(0.05, rel=1e-4)
    assert sum(1 - repeated(0.95, look) for look in range(1, 100_000)) == pytest.approx(0.05, rel=1e-4)
    assert [repeated(0.95, look) for look in (1, 2, 3)] == pytest.approx([0.96, 0.995, 1 - 0.01 / 6])
    assert [challenge(0.95, look) for look in (1, 2, 3)] == pytest.approx([0.975, 1 - 0.05 / 6, 1 - 0.05 / 12])


@pytest.mark.parametrize("grows", [True, False])
def test_a_gain_is_found_where_there_is_none_by_naive_looks_and_not_by_those_that_pay(grows):
    found = ever_wrong(30, grows, weeks=12, count=300)
    assert found["naive"] > 0.05 >= found["paid"]


@pytest.mark.battery
def test_looks_at_one_slice_with_another_model_each_are_ever_wrong_as_seldom_as_was_asked_for():
    found = one_slice(300, looks=8)
    assert found["naive"] > 0.2 and found["paid"] <= stats.binom.ppf(0.999, 300, 0.05) / 300


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_store(tmp_path))


def look(at, models):
    with track.run("evaluate", EvaluateConfig()) as tracker:
        return sightings.number(tracker, sightings.SLICE, at, models)


def test_the_same_models_again_are_the_same_look_and_a_deleted_run_was_one_all_the_same(store):
    assert [look("a", "m"), look("a", "n"), look("b", "n"), look("a", "m")] == [1, 2, 1, 1]
    server = track.client()
    for run in server.search_runs([track.experiment(server)], "tags.`slimrec.slice.models` = 'n'"):
        server.delete_run(run.info.run_id)
    assert [look("a", "o"), look("a", "n"), look("b", "o")] == [3, 2, 2]


def test_looks_beyond_the_first_page_that_mlflow_answers_with_count_as_well(store, monkeypatch):
    monkeypatch.setattr(MlflowClient, "search_runs", partialmethod(MlflowClient.search_runs, max_results=1))
    assert [look("a", models) for models in "mno"] == [1, 2, 3]


def test_without_a_tracking_store_no_look_is_counted_and_the_report_says_so():
    assert sightings.number(track.Tracker(), sightings.SLICE, "a", "m") is None
    said = told({"look": {"number": None, "asked": 0.95}, "confidence": 0.95})
    assert said == "for one look, at 95 %; looks at this slice are not counted without a tracking store"
    assert challenged({"look": {"number": None}}) == "Looks against it are not counted without a tracking store."


def test_a_verdict_says_which_look_it_is_and_how_often_all_of_them_and_all_tasks_are_wrong():
    said = told({"look": {"number": 3, "asked": 0.9}, "confidence": 0.995})
    assert said.startswith("for look 3 at this slice, at 99.5 %: ") and said.endswith("a chance of at most 10 %")
    both = told({"look": {"number": 3, "asked": 0.9}, "confidence": 0.995, "tasks": [{}, {}]})
    assert both.startswith(f"{said}; the bounds of 2 tasks pay for each other")


def test_a_challenge_says_which_look_it_is_and_how_often_all_of_them_are_wrong():
    said = challenged({"look": {"number": 2, "asked": 0.95, "confidence": 0.9917}})
    assert "look 2 against this champion, at 99.17 %" in said and "a chance of at most 5 %" in said


def test_a_second_slim_model_on_the_same_rows_pays_for_the_first_one(store, tmp_path):
    world = small.make(tmp_path)
    other = small.variant(world.slim, tmp_path / "other", 0.01)
    reports = []
    for number, slim in enumerate((world.slim, other, world.slim)):
        report = tmp_path / f"report-{number}"
        paths = {"dataset": world.dataset, "slim": slim, "full": world.full, "selection": world.selection}
        execute("evaluate", {"latency_repeats": 1}, **paths, report=report)
        reports.append(read_json(report / "report.json"))
    assert [facts["look"]["number"] for facts in reports] == [1, 2, 1]
    assert [facts["confidence"] for facts in reports] == pytest.approx([0.96, 0.995, 0.96])
    assert "look 2 at this slice" in (tmp_path / "report-1" / "report.md").read_text()
    assert "look 2 at this slice" in (tmp_path / "report-1" / "report.html").read_text()
