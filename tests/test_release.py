"""An image of other code than the pipeline's: each step and each rank says so in one sentence, before it does anything."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slimrec.artifacts import codebase
from slimrec.artifacts.failures import newest
from slimrec.errors import ConfigError
from slimrec.stages import execute, execute_or_exit
from slimrec.training.process import main, read_failure, write_call

ROOT = Path(__file__).parents[1]
OLDER = "0.0.9+0123456789ab registry.example/slimrec@sha256:1"


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def code_of(folder: Path) -> str:
    words = [sys.executable, "-c", "from slimrec.artifacts.codebase import code; print(code())"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_a_copy_of_the_library_is_the_same_code_until_one_of_its_files_changes(tmp_path):
    shutil.copytree(ROOT / "slimrec", tmp_path / "slimrec", ignore=shutil.ignore_patterns("__pycache__"))
    assert code_of(tmp_path) == codebase.code()
    with (tmp_path / "slimrec" / "verdict" / "report.html.jinja").open("a") as page:
        page.write("\n")
    assert code_of(tmp_path) != codebase.code()


def test_a_step_in_an_image_of_other_code_ends_with_one_sentence(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv(codebase.COMPILED, OLDER)
    with pytest.raises(SystemExit) as ended:
        execute_or_exit("sample", {"unknown": 1}, workspace=str(tmp_path), elsewhere="an artifact of another release")
    assert ended.value.code == ConfigError.exit_code
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert (
        f"the image registry.example/slimrec@sha256:1 holds slimrec {codebase.code()}, the pipeline was compiled "
        "with slimrec 0.0.9+0123456789ab: build an image"
    ) in said
    assert "was compiled with" in newest(tmp_path)["reason"]


def test_a_step_in_an_image_of_the_same_code_runs(monkeypatch):
    monkeypatch.setenv(codebase.COMPILED, codebase.compiled("registry.example/slimrec@sha256:1"))
    assert execute("fingerprint", {"recipe": {"ingest": {"source": "planted:rows=100,seed=0"}}})["files"] == 0


def test_a_rank_on_a_node_whose_image_holds_other_code_leaves_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(codebase, "code", lambda: "0.0.9+0123456789ab")  # of the step that writes the call
    monkeypatch.setenv("SLIMREC_IMAGE", "registry.example/slimrec-gpu@sha256:2")
    write_call(tmp_path / "call", "pretrain", {}, "", {})
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="20"):
        main(tmp_path / "call")
    failure = read_failure(tmp_path / "call", "")
    assert isinstance(failure, ConfigError) and "slimrec-gpu@sha256:2 holds slimrec" in str(failure)
