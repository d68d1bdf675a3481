"""The pipeline: what it compiles to, and that a whole audit runs on this machine, ends well, or fails as it should."""

import json
import os
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import small
import yaml
from here import audited
from kfp import dsl
from kfp.compiler import Compiler
from mlflow import MlflowClient
from services import HANG, answering
from slimrec.components.notify import notify
from slimrec.pipelines.audit import arguments, audit, describe

import components
from slimrec.artifacts import digest, read_json, verify
from slimrec.artifacts.failures import Attempt
from slimrec.config import read_recipe
from slimrec.errors import InputError
from slimrec.stages.settle import CHOICES, settle

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "pipelines" / "recipes").glob("[!.]*.yaml"))
SMALL = small.RECIPE
STEPS = (
    "fingerprint",
    "window",
    "ingest",
    "sample",
    "pretrain",
    "prune",
    "finetune",
    "baseline",
    "evaluate",
    "register",
    "notify",
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("compiled") / "audit.yaml"
    Compiler().compile(audit, str(path))
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def tasks_of(spec: dict) -> dict[str, dict]:
    """Every task that is a step, by its name."""
    graphs = [spec["root"], *spec["components"].values()]
    tasks = [task for graph in graphs for task in graph.get("dag", {}).get("tasks", {}).values()]
    steps = {name for name, component in spec["components"].items() if "executorLabel" in component}
    return {task["taskInfo"]["name"]: task for task in tasks if task["componentRef"]["name"] in steps}


def changed(**sections) -> dict:
    return {**SMALL, **{name: {**SMALL[name], **values} for name, values in sections.items()}}


def pipelines(*words, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """`python -m pipelines ...` from a folder that is not the project's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *map(str, words)],
        cwd=cwd, env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
        capture_output=True, text=True, timeout=HANG, check=False,
    )  # fmt: skip


def written(folder: Path, recipe: dict) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """One whole audit, its steps in this process; its folder has the name that kfp.local would mangle in paths."""
    folder = tmp_path_factory.mktemp("python3 runs")
    (folder / "temporary").mkdir()
    words = ["run", written(folder, SMALL), "--output", "small"]
    return folder / "small", audited(*words, cwd=folder, temporary=folder / "temporary")


def test_every_step_runs_in_the_image_that_the_environment_names(compiled):
    images = {
        name: executor["container"]["image"] for name, executor in compiled["deploymentSpec"]["executors"].items()
    }
    assert len(images) == 12
    assert set(images.values()) == {components.IMAGE}


def test_no_step_installs_packages_when_it_starts(compiled):
    for executor in compiled["deploymentSpec"]["executors"].values():
        assert "pip install" not in " ".join(executor["container"]["command"])


def test_another_image_needs_no_change_of_code(tmp_path):
    image = f"registry.example/slimrec@sha256:{'1' * 64}"
    done = pipelines("compile", "--output", "a.yaml", cwd=tmp_path, SLIMREC_IMAGE=image)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.yaml").read_text(encoding="utf-8").count(f"image: {image}") == 12


def test_notify_runs_however_the_audit_ends(compiled):
    notify = compiled["root"]["dag"]["tasks"]["notify"]
    assert notify["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert "taskFinalStatus" in notify["inputs"]["parameters"]["status"]


def graph_of(spec: dict, dag: dict) -> dict:
    """Names as a screen shows them: of each group what it holds, of each step nothing."""
    found = {}
    for task in dag["tasks"].values():
        component = spec["components"][task["componentRef"]["name"]]
        found[task["taskInfo"]["name"]] = graph_of(spec, component["dag"]) if "dag" in component else {}
    return found


def test_all_stages_lie_on_one_screen_and_every_group_and_step_has_a_name_of_its_own(compiled):
    stages = ("ingest", "sample", "pretrain", "prune", "finetune", "baseline", "evaluate")
    decided = {"accepted": {"register": {}}, "refused": {"refuse": {}}}
    new = {"new-window": {**{stage: {} for stage in stages}, **decided}}
    assert graph_of(compiled, compiled["root"]["dag"]) == {
        "audit": {"fingerprint": {}, "window": {}, **new},
        "notify": {},
    }


def test_a_step_is_called_the_same_in_addresses_as_on_the_screen(compiled):
    for name, task in tasks_of(compiled).items():
        assert task["componentRef"]["name"] == f"comp-{name}"


def test_every_artifact_and_every_parameter_says_what_it_is(compiled):
    for name, component in compiled["components"].items():
        if "executorLabel" in component:
            told = [
                component.get(kind, {}).get(of, {})
                for kind in ("inputDefinitions", "outputDefinitions")
                for of in ("artifacts", "parameters")
            ]
            assert not [key for part in told for key, one in part.items() if not one.get("description")], name


def test_the_decision_opens_exactly_one_of_two_branches(compiled):
    tasks = [task for part in compiled["components"].values() for task in part.get("dag", {}).get("tasks", {}).values()]
    asked = {task["taskInfo"]["name"]: task.get("triggerPolicy", {}).get("condition") for task in tasks}
    decision = "inputs.parameter_values['pipelinechannel--evaluate-Output']"
    assert asked["accepted"] == f"{decision} == 'accept'" and asked["refused"] == f"{decision} != 'accept'"


def test_only_what_looks_at_the_world_outside_runs_every_time(compiled):
    always = {name for name, task in tasks_of(compiled).items() if not task["cachingOptions"].get("enableCache")}
    assert always == {"fingerprint", "window", "evaluate", "register", "refuse", "notify"}


def test_the_cache_knows_ingest_by_the_fingerprint_and_no_step_by_the_run_it_is_in(compiled):
    tasks = tasks_of(compiled)
    given = tasks["ingest"]["inputs"]["parameters"]["fingerprint"]
    assert given == {"componentInputParameter": "pipelinechannel--fingerprint-fingerprint"}
    for name in ("ingest", "sample", "pretrain", "baseline", "prune", "finetune"):
        told = set(tasks[name]["inputs"]["parameters"])
        assert not {word for word in told if "run" in word or "date" in word}, name


def test_each_step_is_told_its_own_section_and_of_no_other(compiled):
    for name, task in tasks_of(compiled).items():
        given = dict(task["inputs"]["parameters"])
        if name not in ("fingerprint", "window", "notify"):
            section = "register" if name == "refuse" else name
            assert given.pop("config") == {"componentInputParameter": f"pipelinechannel--fingerprint-{section}"}
            assert set(given) <= {"fingerprint", "window", "workspace"}, name


def test_a_form_shows_a_few_choices_that_nobody_has_to_make_and_after_them_the_recipe(compiled):
    parameters = compiled["root"]["inputDefinitions"]["parameters"]
    *choices, last = sorted(parameters)
    assert last == "recipe" and parameters[last]["parameterType"] == "STRUCT"
    assert len(choices) <= 10
    assert {parameters[name]["defaultValue"] for name in choices} == {""}
    assert all(name == "audit_date" or name.startswith("override_") for name in choices)


def test_the_first_step_is_told_every_choice_and_every_choice_overrides_something(compiled):
    parameters = set(compiled["root"]["inputDefinitions"]["parameters"])
    assert set(tasks_of(compiled)["fingerprint"]["inputs"]["parameters"]) == parameters | {"workspace"}
    assert {name.removeprefix("override_") for name in parameters - {"recipe"}} == set(CHOICES)


def test_whoever_starts_an_audit_from_a_form_reads_what_each_choice_means_and_what_to_enter_beside(compiled):
    text = describe("slimrec", "slimrec-pipeline")
    for name, parameter in compiled["root"]["inputDefinitions"]["parameters"].items():
        assert f"- `{name}`: {parameter['description']}" in text
    assert "experiment `slimrec`" in text and "service account `slimrec-pipeline`" in text


@pytest.mark.parametrize("path", [path for path in RECIPES if "schema" not in path.name], ids=lambda path: path.stem)
def test_every_recipe_of_ours_is_valid_and_comes_out_of_the_form_as_it_went_in(path):
    recipe = read_recipe(path)
    as_sent = json.loads(json.dumps(arguments(recipe)["recipe"]), parse_int=float)  # as a server hands numbers on
    assert settle(as_sent, {}) == recipe


def test_a_whole_audit_ends_with_a_registered_slim_model_and_a_report(finished):
    output, done = finished
    assert done.returncode == 0, done.stdout + done.stderr
    assert (output / "evaluate" / "report" / "report.html").stat().st_size > 1000
    before, after = (verify_fields(output / step) for step in ("baseline/gated", "finetune/tuned"))
    assert len(after) == int(0.75 * len(before))
    registered = read_json(output / "register" / "executor_output.json")["parameterValues"]["Output"]
    assert registered["registered"]
    assert (output.parent / "mlflow" / "mlflow.db").is_file()


def verify_fields(folder: Path) -> set[str]:
    verify(folder)
    return {field["name"] for field in read_json(folder / "schema.json")["fields"]}


def test_one_run_in_mlflow_holds_those_of_all_stages_and_is_closed(finished):
    store = MlflowClient(f"sqlite:///{finished[0].parent / 'mlflow' / 'mlflow.db'}")
    runs = store.search_runs([store.get_experiment_by_name("slimrec").experiment_id])
    (audit_run,) = [run for run in runs if "slimrec.audit" in run.data.tags]
    assert audit_run.data.params["audit_date"] == "2026-11-20"
    assert audit_run.info.status == "FINISHED" and audit_run.data.params["source"] == SMALL["ingest"]["source"]
    held = [run.info.run_name for run in runs if run.data.tags.get("mlflow.parentRunId") == audit_run.info.run_id]
    assert set(STEPS) - {"baseline", "notify"} <= set(held) and held.count("pretrain") == 2


def test_what_people_look_at_in_the_browser_is_there(finished):
    output, _ = finished
    assert (output / "evaluate" / "page").read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")
    assert (output / "evaluate" / "summary").read_text(encoding="utf-8").startswith("# ")
    assert " fields stay" in (output / "prune" / "summary").read_text(encoding="utf-8")
    told = read_json(output / "evaluate" / "executor_output.json")["artifacts"]
    assert len(told["curve"]["artifacts"][0]["metadata"]["confidenceMetrics"]) == 101
    assert told["metrics"]["artifacts"][0]["metadata"]["slim_auc"] > 0.5


def test_a_run_leaves_a_folder_for_every_step(finished):
    output, _ = finished
    assert {path.name for path in output.iterdir() if path.is_symlink()} == set(STEPS)


def test_a_run_leaves_nothing_in_the_folder_for_temporary_files(finished):
    assert finished[1].returncode == 0, finished[1].stderr
    assert not list((finished[0].parent / "temporary").iterdir())


def test_the_screen_shows_steps_and_summary_and_the_log_the_rest(finished):
    output, done = finished
    shown = [line.split()[1] for line in done.stdout.splitlines() if "✓" in line]
    assert (shown[0], shown[-1], sorted(shown)) == ("fingerprint", "notify", sorted(STEPS))
    assert "certified" in done.stdout
    assert "mlflow ui --backend-store-uri sqlite:" in done.stdout
    assert "Executing task" not in done.stdout
    assert "Executing task" in (output / "log.txt").read_text(encoding="utf-8")


def test_the_same_window_again_is_not_audited_and_points_to_the_first_audit(finished):
    output, _ = finished
    words = ["run", output.parent / "small.yaml", "--output", "again"]
    done = audited(*words, cwd=output.parent, temporary=output.parent / "temporary")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "this window was audited already" in done.stdout and "registered version 1 of 'small'" in done.stdout
    left = {path.name for path in (output.parent / "again").iterdir() if path.is_symlink()}
    assert left == {"fingerprint", "window", "notify"}


@pytest.mark.battery
def test_an_audit_whose_steps_are_processes_makes_the_same_and_shows_the_same(finished, tmp_path):
    output, here = finished
    done = pipelines("run", written(tmp_path, SMALL), "--output", "small", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for artifact in ("ingest/dataset", "sample/subset", "pretrain/gated", "prune/selection", "finetune/tuned"):
        assert digest(tmp_path / "small" / artifact) == digest(output / artifact)
    # the search's cut and the full model wait for the same step, so either may come first
    shown = [sorted(line.split()[1] for line in each.stdout.splitlines() if "✓" in line) for each in (done, here)]
    assert shown[0] == shown[1]


def test_a_step_that_fails_in_its_process_ends_the_audit_with_its_exit_class_and_one_sentence(tmp_path):
    recipe = changed(ingest={"source": "planted:row=5"})
    done = pipelines("run", written(tmp_path, recipe), "--output", "small", cwd=tmp_path)
    assert done.returncode == 20, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("slimrec: fingerprint: ") and "did you mean 'rows'" in done.stderr
    assert "✗ fingerprint" in done.stdout and "✓ notify" in done.stdout and "Traceback" not in done.stdout
    log = (tmp_path / "small" / "log.txt").read_text(encoding="utf-8")
    assert "KFP Executor" in log and "KFP Executor" not in done.stdout


@pytest.mark.battery
def test_another_budget_reuses_all_before_the_cut_and_the_full_model(finished, tmp_path):
    output, _ = finished
    (tmp_path / "small" / "steps").mkdir(parents=True)
    shutil.copytree(output / "workspace", tmp_path / "small" / "workspace")
    recipe = changed(prune={"budget": {"keep": 0.5}})
    done = pipelines("run", written(tmp_path, recipe), "--output", "small", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = {line.split()[1]: line.endswith("reused") for line in done.stdout.splitlines() if "✓" in line}
    assert {name for name, reused in shown.items() if reused} == {"ingest", "sample", "pretrain", "baseline"}
    for artifact in ("ingest/dataset", "sample/subset", "pretrain/gated", "baseline/gated"):
        assert digest(tmp_path / "small" / artifact) == digest(output / artifact)
    store = MlflowClient(f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    runs = store.search_runs([store.get_experiment_by_name("slimrec").experiment_id], "tags.`slimrec.reused` != ''")
    assert sorted(run.info.run_name for run in runs) == ["ingest", "pretrain", "pretrain", "sample"]


def test_everything_that_decides_an_audit_belongs_to_its_window(compiled):
    given = tasks_of(compiled)["window"]["inputs"]["parameters"]
    told = {
        name: one["taskOutputParameter"]["outputParameterKey"] for name, one in given.items() if name != "workspace"
    }
    assert told == {"fingerprint": "fingerprint", "day": "day", "recipe": "settled"}


@pytest.mark.battery
def test_a_rejected_candidate_is_an_outcome(tmp_path):
    recipe = changed(evaluate={"allowed_auc_loss": 0.0}, prune={"budget": {"fields": 1}})
    done = pipelines("run", written(tmp_path, recipe), "--output", "small", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "small" / "refuse").is_symlink()
    assert not (tmp_path / "small" / "register").exists()


@pytest.mark.battery
def test_a_failing_step_fails_the_run_with_its_exit_class_and_one_sentence(tmp_path):
    (tmp_path / "log.csv").write_text("clicked,site\n" + "1,a\n" * 100, encoding="utf-8")
    schema = {"label": "clicked", "fields": [{"name": "site", "kind": "category"}]}
    recipe = changed(ingest={"source": "log.csv", "fields": schema})
    done = pipelines("run", written(tmp_path, recipe), "--output", "small", cwd=tmp_path)
    assert done.returncode == 10, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("slimrec: ingest: all 64 labels of the split 'train' are 1")
    assert "Traceback" not in done.stdout + done.stderr + (tmp_path / "small" / "log.txt").read_text(encoding="utf-8")
    assert "audit failed: ingest: all 64 labels" in done.stdout
    assert not (tmp_path / "small" / "ingest" / "dataset").exists()


@pytest.mark.parametrize(
    ("recipe", "code", "words"),
    [
        (changed(pretrain={"lamda": 1}), 20, "has no 'pretrain.lamda'"),
        (changed(pretrain={"method": "laep"}), 20, "no method 'laep'"),
        (changed(ingest={"source": "nowhere.parquet", "fields": {"label": "y", "fields": [{"name": "a", "kind": "category"}]}}), 10,
         "no such file or folder: nowhere.parquet"),
    ],
)  # fmt: skip
def test_a_bad_recipe_is_refused_before_anything_is_written(tmp_path, recipe, code, words):
    done = audited("run", written(tmp_path, recipe), "--output", "small", cwd=tmp_path, temporary=tmp_path)
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "small").exists()
    assert not list(tmp_path.glob("*.db"))


def test_an_audit_into_the_folder_that_holds_its_log_is_refused_and_leaves_it_as_it_was(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "day.csv").write_text("clicked,site\n1,a\n0,b\n", encoding="utf-8")
    fields = {"label": "clicked", "fields": [{"name": "site", "kind": "category"}]}
    recipe = written(tmp_path, changed(ingest={"source": "log", "fields": fields}))
    done = audited("run", recipe, "--output", "log", cwd=tmp_path, temporary=tmp_path)
    assert done.returncode == 20 and "'log' is what is read: it would be lost" in done.stderr
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["day.csv"]


def ended(state: str) -> dsl.PipelineTaskFinalStatus:
    return dsl.PipelineTaskFinalStatus(
        state=state, pipeline_job_resource_name="run-1", pipeline_task_name="audit", error_code=None, error_message=None
    )


def test_a_webhook_gets_the_reason_of_a_failure_first(tmp_path, monkeypatch):
    got = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words):
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Hook)
    monkeypatch.setenv("SLIMREC_WEBHOOK", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("SLIMREC_AUDIT", "run-1")
    Attempt(tmp_path, "ingest", {}, {}).fail(InputError("no rows"))
    with answering(server):
        notify.python_func(ended("FAILED"), workspace=str(tmp_path))
    reason = "ingest: no rows"
    assert got == [
        {"text": f"audit failed: {reason}", "state": "FAILED", "reason": reason, "exit_code": 10, "run": "run-1"}
    ]
    assert next(iter(got[0])) == "text"


def test_a_webhook_that_is_down_only_warns(monkeypatch, capsys):
    monkeypatch.setenv("SLIMREC_WEBHOOK", "http://127.0.0.1:9/")
    notify.python_func(ended("SUCCEEDED"))
    said = capsys.readouterr().out
    assert "audit succeeded" in said
    assert "warning" in said
