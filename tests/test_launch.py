"""A training stage in several processes of one machine: same selection, errors by class, signals, a dead rank."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import recovery
import small
from services import HANG

from slimrec.artifacts.failures import newest
from slimrec.config import TrainConfig
from slimrec.errors import InputError
from slimrec.model.files import load_model
from slimrec.selection import Budget
from slimrec.stages import execute, execute_or_exit
from slimrec.training import launch
from slimrec.training.process import read_failure

TRAIN = {"batch_size": 256, "learning_rate": 0.01, "embedding_learning_rate": 0.01, "device": "cpu", "patience": 0}
MODEL = {"embedding_dim": 4, "options": {"hidden": [8]}}


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.battery
def test_two_processes_select_the_fields_that_one_selects(tmp_path, monkeypatch):
    """The three planted ones of ten: noise is drawn by rank, so that scores agree only nearly."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))  # of the processes that are started
    (tmp_path / "temporary").mkdir()
    dataset, chosen = recovery.make_dataset(tmp_path, rows=8000), []
    for count in (1, 2):
        config = {"method": "leap", "model": MODEL, "train": {**TRAIN, "epochs": 10, "processes": count}}
        figures = execute("pretrain", config, dataset=str(dataset), gated=str(tmp_path / f"gated{count}"))
        assert figures["epochs"] == 10 and figures["valid_auc"] > 0.7
        chosen.append(load_model(tmp_path / f"gated{count}", "gated").gate.select(Budget(fields=3), seed=0))
    assert set(chosen[0].kept) == set(recovery.STRONG) == set(chosen[1].kept)
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.battery
def test_the_reason_and_the_class_of_a_failing_rank_come_back(tmp_path, capfd):
    small.ingest_rows(tmp_path, rows=600)
    config = {"model": MODEL, "train": {**TRAIN, "learning_rate": 1e30, "processes": 2}}
    with pytest.raises(SystemExit) as ended:
        execute_or_exit(
            "pretrain",
            config,
            dataset=str(tmp_path / "dataset"),
            gated=str(tmp_path / "gated"),
            workspace=str(tmp_path / "workspace"),
        )
    assert ended.value.code == InputError.exit_code
    assert "slimrec: training diverged" in capfd.readouterr().err
    assert newest(tmp_path / "workspace")["exit_code"] == InputError.exit_code
    assert not (tmp_path / "gated").exists()


def start(folder: Path, count: int) -> subprocess.Popen:
    """`pretrain` on `folder`/dataset by so many processes, as a step starts it."""
    train = {**TRAIN, "epochs": 30, "batch_size": 16, "checkpoint_every": 10, "threads": 1, "processes": count}
    paths = {name: str(folder / name) for name in ("dataset", "gated", "workspace")}
    program = "import json, sys; from slimrec.stages import execute_or_exit; execute_or_exit(**json.loads(sys.argv[1]))"
    call = {"stage": "pretrain", "config": {"model": MODEL, "train": train}, **paths}
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "SLIMREC_TRIES": "1",
    }  # as a lost pod has
    return subprocess.Popen([sys.executable, "-c", program, json.dumps(call)], env=environment)


def ranks_of(process: subprocess.Popen) -> list[int]:
    """Process ids of the ranks: the grandchildren of the step."""

    def children(pid):
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    return [rank for launcher in children(process.pid) for rank in children(launcher)]


def wait_until(condition, seconds=HANG):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def fresh_checkpoint(folder: Path, since: float):
    return lambda: any(p.stat().st_mtime > since for p in folder.glob("workspace/checkpoints/*.safetensors"))


@pytest.mark.battery
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the ranks")
def test_a_dead_rank_a_dead_step_and_a_preemption_leave_a_checkpoint_from_which_one_process_ends_the_training(tmp_path):
    small.ingest_rows(tmp_path, rows=3000)
    for number, whom, code in (
        (signal.SIGKILL, "rank", 30),
        (signal.SIGTERM, "step", 40),
        (signal.SIGKILL, "step", -9),
    ):
        since, step = time.time(), start(tmp_path, 2)
        wait_until(fresh_checkpoint(tmp_path, since))
        ranks = ranks_of(step)
        assert len(ranks) == 2
        os.kill(ranks[1] if whom == "rank" else step.pid, number)
        assert step.wait(HANG) == code
        wait_until(lambda pids=ranks: gone(pids))
        assert not (tmp_path / "gated").exists()
    assert start(tmp_path, 1).wait(HANG) == 0
    assert load_model(tmp_path / "gated", "gated").gate.method == "none"
    assert not list((tmp_path / "workspace" / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("ends", "code"), [([30, 10], 10), ([40, 40], 40), ([30, 1], 1), ([40, 30], 40), ([60, 20], 60), ([], 30)]
)
def test_the_cause_counts_and_not_what_followed_from_it(tmp_path, ends, code):
    for rank, end in enumerate(ends):
        (tmp_path / f"end-{rank}.json").write_text(json.dumps({"exit_code": end, "reason": f"because of {end}"}))
    failure = read_failure(tmp_path, "nobody said")
    assert failure.exit_code == code
    assert str(failure) == (f"because of {code}" if ends else "nobody said")


def test_a_process_that_torchrun_started_starts_no_others(monkeypatch):
    assert launch.processes(TrainConfig(processes=4)) == 4
    assert launch.processes(TrainConfig(device="cpu")) == 1
    monkeypatch.setenv("RANK", "1")
    assert launch.processes(TrainConfig(processes=4)) == 1


@pytest.mark.parametrize(
    ("given", "count", "each"), [("12", 4, 3), ("2", 8, 1), ("4,2", 2, 2), (None, 1, os.cpu_count())]
)
def test_the_processes_of_a_step_share_its_threads(monkeypatch, given, count, each):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert launch.threads(count) == each
