"""Reuse: a step is not done again for the same inputs, known by content; whatever else it hangs on makes it run again."""

import os
import shutil
import sys
import time

import pyarrow.parquet as pq
import pytest
import small

from slimrec.artifacts import digest, kept
from slimrec.config import IngestConfig
from slimrec.errors import InputError
from slimrec.stages import execute, ingest, reuse
from slimrec.track import Tracker

TRAIN = {"epochs": 1, "batch_size": 256, "threads": 1, "device": "cpu"}
STEPS = ("ingest", "sample", "pretrain", "prune", "finetune")


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "workspace" / kept.KEPT).mkdir(parents=True)
    return tmp_path / "workspace"


@pytest.fixture
def log(tmp_path):
    """A log of a few rows, with what a schema says of it."""
    pq.write_table(small.raw_rows(400), tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


@pytest.fixture
def step(tmp_path, workspace, capsys):
    """Runs a stage into a new folder; returns its artifacts' digests and whether they were made before."""

    def run(stage, config, folder, **reads):
        makes = {name: str(tmp_path / folder / name) for name in reuse.MAKES[stage]}
        figures = execute(stage, config, workspace=str(workspace), **reads, **makes)
        said = capsys.readouterr().out.splitlines()
        return {name: digest(path) for name, path in makes.items()}, "slimrec: reused" in said, figures

    return run


def about(log, **changed):
    return {"source": str(log), "fields": small.FIELDS, "split": {"by": "random"}, **changed}


def test_the_same_inputs_give_the_same_artifact_and_figures_without_work(step, log):
    made, reused, figures = step("ingest", about(log), "first")
    assert not reused
    assert step("ingest", about(log), "again") == (made, True, figures)


def test_a_changed_log_is_read_again_though_size_and_time_are_as_before(step, log):
    log = log.with_suffix(".csv")
    log.write_text("click,site\n" + "1,a\n0,b\n" * 200, encoding="utf-8")
    config = about(log, fields={"label": "click", "fields": [{"name": "site", "kind": "category"}]})
    first, before = step("ingest", config, "first")[0], log.stat()
    os.utime(log)  # touched, and nothing else
    assert step("ingest", config, "touched")[:2] == (first, True)
    log.write_text("click,site\n" + "1,a\n0,c\n" * 200, encoding="utf-8")
    os.utime(log, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert log.stat().st_size == before.st_size
    second, reused, _ = step("ingest", config, "second")
    assert not reused and second != first


def test_another_setting_or_another_file_of_the_log_makes_ingest_run_again(step, log):
    folder = log.parent / "logs"
    folder.mkdir()
    shutil.copy(log, folder / "a.parquet")
    assert not step("ingest", about(folder), "first")[1]
    assert not step("ingest", about(folder, batch_rows=128), "settings")[1]
    shutil.copy(log, folder / "b.parquet")
    assert not step("ingest", about(folder), "more")[1]


def test_a_schema_in_a_file_of_its_own_is_known_by_what_it_says(step, log):
    schema = log.with_suffix(".yaml")
    schema.write_text("label: click\nfields:\n- {name: device, kind: category}\n", encoding="utf-8")
    assert [step("ingest", about(log, fields=str(schema)), name)[1] for name in "ab"] == [False, True]
    schema.write_text("label: click\nfields:\n- {name: noise, kind: category}\n", encoding="utf-8")
    assert not step("ingest", about(log, fields=str(schema)), "c")[1]


def test_a_log_that_changes_while_it_is_read_is_kept_for_nobody(workspace, log):
    config, made = IngestConfig(**about(log)), {"dataset": log.parent / "dataset"}
    for changes in (True, False):
        told = reuse.Reuse("ingest", config, str(workspace), made)
        figures = ingest.run(config, Tracker(), **made)
        if changes:
            os.utime(log, (1, 1))
        told.put(figures, Tracker())
        assert len(list((workspace / kept.KEPT).iterdir())) == (0 if changes else 1)


def test_a_step_is_known_by_what_it_reads_and_not_by_where_that_lies(step, tmp_path, log):
    step("ingest", about(log), "here")
    step("ingest", about(log), "there")
    step("ingest", about(log, seed=1), "other")
    reused = [step("sample", {"fraction": 0.5}, f"{at}/sub", dataset=str(tmp_path / at / "dataset"))[1]
              for at in ("here", "there", "other")]  # fmt: skip
    assert reused == [False, True, False]


def audited(step, root, folder, log, keep, method="random"):
    """All steps that can be reused; which of them were, in one letter each."""
    at = root / folder
    model = {"embedding_dim": 2, "options": {"hidden": [4]}}
    data = {"dataset": str(at / "dataset")}
    subset, cut = {"subset": str(at / "subset")}, {"gated": str(at / "gated")}
    full = {"model": model, "train": TRAIN, "after": {"train": TRAIN}}
    done = [
        step("ingest", about(log), folder),
        step("sample", {"fraction": 0.5}, folder, **data),
        step("pretrain", {"method": method, "model": model, "train": TRAIN}, folder, **data, **subset),
        step("pretrain", full, f"{folder}/baseline", **data, **subset, search=cut["gated"]),
        step("prune", {"budget": {"keep": keep}}, folder, **cut),
    ]
    decided = {name: str(at / name) for name in ("selection", "slim")}
    done.append(step("finetune", {"train": TRAIN}, folder, **data, **subset, **cut, **decided))
    return "".join("r" if reused else "-" for _, reused, _ in done)


def test_another_budget_repeats_neither_ingest_nor_search_nor_the_full_model(step, tmp_path, log):
    assert audited(step, tmp_path, "first", log, 0.75) == "------"
    assert audited(step, tmp_path, "budget", log, 0.5) == "rrrr--"
    assert audited(step, tmp_path, "again", log, 0.75) == "rrrrrr"


def test_other_code_repeats_all(step, tmp_path, log, monkeypatch):
    audited(step, tmp_path, "first", log, 0.75)
    monkeypatch.setattr(reuse, "code", lambda: "another")
    assert audited(step, tmp_path, "second", log, 0.75) == "------"


def test_a_method_from_outside_is_known_by_its_source(step, tmp_path, log, monkeypatch):
    source = "from slimrec.gates.random import RandomGate\n\nclass Mine(RandomGate):\n    '''Mine.'''\n"
    (tmp_path / "brought_gate.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "brought_gate", raising=False)
    for folder, seen in (("first", "------"), ("again", "rrrrrr")):
        assert audited(step, tmp_path, folder, log, 0.75, "brought_gate:Mine") == seen
    (tmp_path / "brought_gate.py").write_text(source + "    other = 1\n", encoding="utf-8")
    assert audited(step, tmp_path, "changed", log, 0.75, "brought_gate:Mine").startswith("rr--")


def test_another_number_of_threads_trains_again(step, tmp_path, log, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    audited(step, tmp_path, "first", log, 0.75)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert audited(step, tmp_path, "second", log, 0.75).startswith("rr--")


@pytest.mark.parametrize("spoilt", ["changed", "a file gone", "an artifact gone", "the note gone", "all gone"])
def test_what_is_damaged_or_gone_is_made_again_and_kept_again(step, workspace, log, spoilt, tmp_path):
    made, _, figures = step("ingest", about(log), "first")
    [place] = (workspace / kept.KEPT).iterdir()
    if spoilt == "changed":
        (place / "dataset" / "schema.json").unlink()  # of which the run's own folder has the same file
        (place / "dataset" / "schema.json").write_text("{}", encoding="utf-8")
    if spoilt == "a file gone":
        (place / "dataset" / "schema.json").unlink()
    if spoilt == "an artifact gone":
        shutil.rmtree(place / "dataset")
    if spoilt == "the note gone":
        next(place.glob("*.json")).unlink()
    if spoilt == "all gone":
        shutil.rmtree(place)
    again, reused, told = step("ingest", about(log), "again")
    assert (again, reused, told) == (made, False, figures)
    assert step("ingest", about(log), "third") == (made, True, figures)


def test_where_the_workspace_keeps_nothing_every_step_runs(step, workspace, log):
    (workspace / kept.KEPT).rmdir()
    assert [step("ingest", about(log), name)[1] for name in "ab"] == [False, False]
    assert not (workspace / kept.KEPT).exists()


def test_a_source_that_is_not_there_is_told_by_the_stage_itself(step, log):
    with pytest.raises(InputError, match="no such path"):
        step("ingest", about(log.with_name("gone.parquet")), "first")


def test_what_no_disk_takes_is_not_kept_and_ends_nothing(step, log, workspace, capsys):
    step("ingest", about(log), "first")
    kept.put(workspace / "gone" / "key", {"dataset": log.parent / "first" / "dataset"}, {})
    assert "warning: dataset not kept for the next run" in capsys.readouterr().err
    assert [each.name for each in workspace.iterdir()] == [kept.KEPT]


def test_of_several_audits_what_the_last_one_made_or_reused_is_left(step, workspace, log):
    step("ingest", about(log), "first")
    step("ingest", about(log, batch_rows=128), "second")
    for each in (workspace / kept.KEPT).iterdir():
        os.utime(each, (1, 1))
    began = time.time() - 1
    step("ingest", about(log), "again")
    kept.sweep(workspace, before=began)
    assert len(list((workspace / kept.KEPT).iterdir())) == 1
    assert step("ingest", about(log), "third")[1]
