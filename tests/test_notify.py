"""How an audit ended, told right for every word that a backend has for an end, and as the real driver tells it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from services import empty_store
from slimrec.components.notify import notify as component

from slimrec import track
from slimrec.artifacts.failures import Attempt
from slimrec.errors import ConfigError
from slimrec.stages.notify import notify

ROOT = Path(__file__).parents[1]
GOOD = ("SUCCEEDED", "COMPLETE", "COMPLETED", "RUNNING", "SKIPPED", "CACHED", "Succeeded", "")
BAD = ("FAILED", "ERROR", "CANCELED", "CANCELLED", "CANCELING", "CANCELLING", "SYSTEM_ERROR", "Failed")


@pytest.fixture
def audit(tmp_path, monkeypatch):
    """An audit with a run in MLflow, and what that run says after its end."""
    store = empty_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("SLIMREC_AUDIT", "run-1")
    monkeypatch.delenv("SLIMREC_WEBHOOK", raising=False)
    run = track.start_audit({})

    def ended():
        found = MlflowClient(store).get_run(run)
        return found.info.status, found.data.tags.get("slimrec.reason")

    return ended


@pytest.mark.parametrize("state", GOOD)
def test_an_end_that_is_not_known_to_be_a_failure_is_a_good_one(audit, tmp_path, state):
    Attempt(tmp_path, "register", {}, {}).fail(ConfigError("of an earlier try"))
    assert notify(state, "run-1", "", str(tmp_path)) == "audit succeeded"
    assert audit() == ("FINISHED", None)


@pytest.mark.parametrize("state", BAD)
def test_a_failure_tells_the_reason_that_its_step_left(audit, tmp_path, state):
    Attempt(tmp_path, "ingest", {}, {}).fail(ConfigError("no such knob"))
    said = notify(state, "run-1", "exit code 1", str(tmp_path))
    assert said == f"audit {state.lower()}: ingest: no such knob"
    assert audit() == ("FAILED", said)


def test_a_failure_before_any_code_of_ours_tells_what_the_platform_says(audit, tmp_path):
    error = "Back-off pulling image\n  registry.example/slimrec: not found"
    assert notify("FAILED", "run-1", error, str(tmp_path)) == f"audit failed: {' '.join(error.split())}"
    assert notify("RUNNING", "run-1", error, str(tmp_path)).startswith("audit failed: Back-off"), (
        "an error is a failure"
    )
    assert "kubectl get events" in notify("FAILED", "run-1", "", str(tmp_path))
    assert audit()[0] == "FAILED"


def test_a_registry_that_refuses_turns_no_good_end_into_a_bad_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    monkeypatch.setenv("SLIMREC_AUDIT", "run-1")
    assert notify("COMPLETE", "run-1") == "audit succeeded"
    assert "slimrec: warning: MLflow at" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        ("COMPLETE", {}, "audit succeeded"),
        ("FAILED", {"code": 9, "message": "exceeded quota"}, "audit failed: exceeded quota"),
    ],
)
def test_the_step_says_it_as_an_output_where_the_driver_asks_as_it_does_on_a_cluster(tmp_path, state, error, said):
    """The executor input that Kubeflow Pipelines 2.17 gave the step, shortened."""
    status = {"error": error, "pipelineJobResourceName": "slimrec-audit-clhzm", "pipelineTaskName": "exit-handler-1"}
    logs = {
        "name": "executor-logs",
        "type": {"schemaTitle": "system.Artifact"},
        "uri": "minio://mlpipeline/executor-logs",
    }
    output = tmp_path / "output_metadata.json"
    told = {
        "inputs": {"parameterValues": {"status": {**status, "state": state}, "workspace": str(tmp_path)}},
        "outputs": {"artifacts": {"executor-logs": {"artifacts": [logs]}}, "outputFile": str(output)},
    }
    program = (
        "from slimrec.components.notify import notify\n"
        "from kfp.dsl import executor\n"
        f"import json; executor.Executor(json.loads({json.dumps(told)!r}), notify.python_func).execute()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(output.read_text(encoding="utf-8"))["parameterValues"] == {"Output": said}
    assert component.component_spec.outputs["Output"].type == "String"
