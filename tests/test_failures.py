"""What a failed step leaves behind: a reason for people, and a word to its own retry whether trying again can help."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from services import HANG

from slimrec.artifacts import failures
from slimrec.artifacts.failures import Attempt
from slimrec.errors import ConfigError, InputError, Preempted, SecurityError, TransientError
from slimrec.stages import execute

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def audit(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SLIMREC_AUDIT", "run-1")


def attempt(workspace, config=None, **paths):
    return Attempt(workspace, "ingest", config or {}, paths)


@pytest.mark.parametrize(
    "error", [InputError("no rows"), ConfigError("no such knob"), SecurityError("not its manifest")]
)
def test_a_permanent_error_stops_the_retry_with_the_same_reason_and_class(tmp_path, error):
    attempt(tmp_path).fail(error)
    with pytest.raises(type(error), match=str(error)):
        attempt(tmp_path).begin()


@pytest.mark.parametrize("error", [TransientError("no network"), Preempted("asked to stop")])
def test_what_trying_again_can_mend_is_tried_again_and_forgotten(tmp_path, error):
    attempt(tmp_path).fail(error)
    assert failures.newest(tmp_path)["reason"] == str(error)
    attempt(tmp_path).begin()
    assert failures.newest(tmp_path) is None


def test_another_audit_other_settings_or_other_content_are_tried(tmp_path, monkeypatch):
    artifact = tmp_path / "dataset"
    artifact.mkdir()
    (artifact / "manifest.json").write_text("one", encoding="utf-8")
    attempt(tmp_path, {"a": 1}, dataset=artifact).fail(InputError("no rows"))
    attempt(tmp_path, {"a": 2}, dataset=artifact).begin()
    (artifact / "manifest.json").write_text("two", encoding="utf-8")
    attempt(tmp_path, {"a": 1}, dataset=artifact).begin()
    (artifact / "manifest.json").write_text("one", encoding="utf-8")
    with pytest.raises(InputError):
        attempt(tmp_path, {"a": 1}, dataset=artifact).begin()
    monkeypatch.setenv("SLIMREC_AUDIT", "run-2")
    attempt(tmp_path, {"a": 1}, dataset=artifact).begin()


def test_a_stage_run_by_hand_may_always_be_tried_again(tmp_path, monkeypatch):
    monkeypatch.delenv("SLIMREC_AUDIT")
    attempt(tmp_path).fail(InputError("no rows"))
    attempt(tmp_path).begin()


def test_the_newest_reason_is_told(tmp_path):
    for number, words in enumerate(("first", "second")):
        attempt(tmp_path, {"number": number}).fail(TransientError(words))
    times = {
        path: 1 if "first" in path.read_text(encoding="utf-8") else 2 for path in failures.folder(tmp_path).iterdir()
    }
    for path, seconds in times.items():
        os.utime(path, (seconds, seconds))
    assert failures.newest(tmp_path)["reason"] == "second"


def test_a_reason_holds_no_credentials(tmp_path):
    attempt(tmp_path).fail(TransientError("reading s3://key:secret@bucket/x?token=secret failed"))
    assert failures.newest(tmp_path)["reason"] == "reading s3://***@bucket/x?token=*** failed"


def test_a_workspace_that_takes_nothing_does_not_hide_why_a_stage_failed(tmp_path):
    (tmp_path / "workspace").touch()
    with pytest.raises(ConfigError, match="needs 'source'"):
        execute("ingest", {}, workspace=str(tmp_path / "workspace"))


def test_a_retried_stage_ends_before_it_loads_anything(tmp_path):
    """As a platform does it: the second try is a new process, which is given the torch that it must not want."""
    config = {"source": str(tmp_path / "nowhere.parquet"), "fields": {}}
    with pytest.raises(InputError, match="no such path"):
        execute("ingest", {**config, "fields": SCHEMA}, workspace=str(tmp_path), dataset=str(tmp_path / "dataset"))
    program = (
        "import sys\n"
        "from slimrec.stages import execute_or_exit\n"
        "try:\n"
        f"    execute_or_exit('ingest', {config | {'fields': SCHEMA}!r}, workspace={str(tmp_path)!r},"
        f" dataset={str(tmp_path / 'dataset')!r})\n"
        "finally:\n"
        "    print(sorted({'torch', 'numpy', 'pyarrow', 'mlflow'} & set(sys.modules)))\n"
    )
    again = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=HANG, check=False
    )
    assert (again.returncode, again.stdout.strip()) == (10, "[]")
    assert "no such path" in again.stderr


SCHEMA = {"label": "y", "fields": [{"name": "a", "kind": "category"}]}
