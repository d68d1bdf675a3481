"""Tracking: an embedded store that several audits of one machine open for the first time, at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from services import HANG

ROOT = Path(__file__).parents[1]
FIRST = """
import sys
import mlflow.store.tracking.sqlalchemy_store
from slimrec import track
print("ready", flush=True)
sys.stdin.readline()
track.start_audit({"rows": 1})
"""


@pytest.mark.battery
def test_two_first_audits_at_once_make_one_store(tmp_path):
    store = f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    begun = []
    for name in ("one", "two"):
        settings = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": store, "SLIMREC_AUDIT": name}
        words = [sys.executable, "-c", FIRST]
        begun.append(
            subprocess.Popen(words, env={**os.environ, **settings}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
    for process in begun:
        assert process.stdout.readline() == b"ready\n"
    for process in begun:
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert [process.wait(timeout=HANG) for process in begun] == [0, 0]
    server = MlflowClient(store)
    found = server.search_runs([server.get_experiment_by_name("slimrec").experiment_id])
    assert sorted(run.info.run_name for run in found) == ["one", "two"]
