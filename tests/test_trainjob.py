"""A stage on several nodes, against a server that speaks the Kubernetes API: spec, success, every kind of end, signals."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import small
import yaml
from kubeflow import serving
from pydantic import ValidationError
from services import HANG

from slimrec.artifacts import publish, verify
from slimrec.config import PretrainConfig, TrainConfig
from slimrec.errors import ConfigError, InputError, Preempted, TransientError
from slimrec.stages import execute
from slimrec.training import again, trainjob

ROOT = Path(__file__).parents[1]
JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/slimrec/trainjobs"
IMAGE = "registry.example/slimrec-gpu@sha256:" + "0" * 64
CONFIG = PretrainConfig(train=TrainConfig(nodes=2, processes=4)).model_dump(mode="json")


class Kubernetes:
    """Holds TrainJobs and records every request; `ends` are the conditions that a job shows, look by look."""

    def __init__(self, *ends: dict | None):
        self.requests, self.jobs, self.ends, self.token, self.url = [], {}, list(ends), "", ""
        self.refusal, self.on_look = None, lambda job: None
        self.headers = []  # of each request

    def answer(self, method, path, query, body):
        """Status and JSON for a request."""
        name = path.removeprefix(JOBS).strip("/")
        if self.refusal:
            return self.refusal.pop(0) if len(self.refusal) > 1 else self.refusal[0]
        if method == "POST":
            self.jobs[body["metadata"]["name"]] = body
            return 201, body
        if name not in self.jobs:
            return 404, {"message": "not found"}
        if method == "DELETE":
            return 200, self.jobs.pop(name)
        self.on_look(self.jobs[name])
        end = self.ends.pop(0) if self.ends else None
        return 200, {**self.jobs[name], "status": {"conditions": [end] if end else []}}

    def verbs(self):
        return [method for method, path, *_ in self.requests if path.startswith(JOBS) and method != "GET"]


def condition(kind, reason="", message=""):
    return {"type": kind, "status": "True", "reason": reason, "message": message}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Makes a server known to clients by KUBECONFIG."""
    started = []

    def start(*ends):
        context = serving(Kubernetes(*ends))
        server = context.__enter__()
        started.append(context)
        entries = {
            "clusters": [{"name": "c", "cluster": {"server": server.url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump({"apiVersion": "v1", "current-context": "x", **entries}))
        return server

    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("SLIMREC_IMAGE", IMAGE)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(trainjob, "_LAG", 1)
    yield start
    for context in started:
        context.__exit__(None, None, None)


@pytest.fixture
def paths(tmp_path):
    with publish(tmp_path / "dataset", "dataset") as folder:
        (folder / "rows").write_text("rows")
    return {
        "dataset": tmp_path / "dataset",
        "gated": tmp_path / "step" / "gated",
        "checkpoints": tmp_path / "workspace" / "checkpoints",
    }


def run(paths, config=CONFIG):
    return trainjob.train("pretrain", config, "", paths, interval=0.05)


def ranks_leave(server, paths, figures=None, **ends):
    """What the ranks of the job have left in the workspace by the time that somebody looks at it."""

    def leave(job):
        call = Path(job["spec"]["trainer"]["command"][-1])
        if not call.is_dir():  # a job of an earlier try
            return
        told = json.loads((call / "call.json").read_text())
        assert told["paths"]["dataset"].startswith(str(paths["checkpoints"].parent))
        assert verify(told["paths"]["dataset"], "dataset")
        if figures:
            with publish(told["paths"]["gated"], "gated") as folder:
                (folder / "model").write_text("weights")
            if "retrained" in told["paths"]:
                again.keep(Path(told["paths"]["retrained"]), [])
            (call / "figures.json").write_text(json.dumps(figures))
        for rank, (code, reason) in ends.items():
            (call / f"end-{rank[-1]}.json").write_text(json.dumps({"exit_code": code, "reason": reason}))

    server.on_look = leave


def test_the_job_says_image_command_nodes_and_gpus_and_kubeflows_model_accepts_it(monkeypatch):
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    monkeypatch.setenv("SLIMREC_IMAGE", IMAGE)
    job = trainjob.build("slimrec-pretrain-1", "slimrec", Path("/workspace/jobs/1"), CONFIG["train"])
    assert TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job  # which keeps nothing that it does not know
    with pytest.raises(ValidationError):
        trainjob.build("slimrec-pretrain-1", "slimrec", Path("/workspace/jobs/1"), {**CONFIG["train"], "nodes": "two"})
    trainer = job["spec"]["trainer"]
    assert trainer["image"] == IMAGE and trainer["numNodes"] == 2 and trainer["numProcPerNode"] == 4
    assert trainer["command"][-3:] == ["-m", "slimrec.training.process", "/workspace/jobs/1"]
    assert trainer["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": "4", "memory": "256Gi"}
    assert trainer["resourcesPerNode"]["requests"] == {"nvidia.com/gpu": "4", "cpu": "24", "memory": "256Gi"}
    assert job["spec"]["activeDeadlineSeconds"] == 7 * 24 * 3600
    runtime = yaml.safe_load((ROOT / "manifests/overlays/distributed/runtime.yaml").read_text())
    assert {k: job["spec"]["runtimeRef"][k] for k in ("kind", "name")} == {
        "kind": runtime["kind"],
        "name": runtime["metadata"]["name"],
    }
    assert job["apiVersion"] == runtime["apiVersion"]


def test_the_options_of_the_command_are_those_that_torchrun_knows():
    from torch.distributed.run import get_args_parser

    job_command = trainjob.build.__code__.co_consts
    options = [word for word in job_command if isinstance(word, str) and word.startswith("--")]
    assert get_args_parser().parse_args([*options, "-m", "slimrec.training.process", "call"]).shutdown_timeout == 240


def test_a_job_brings_the_scores_of_retrains_too_where_the_step_asks_for_them(cluster, paths):
    server = cluster(None, condition("Complete"))
    paths["retrained"] = paths["gated"].with_name("retrained")
    ranks_leave(server, paths, {"valid_auc": 0.7})
    assert run(paths) == {"valid_auc": 0.7}
    assert verify(paths["retrained"], "retrained")["count"] == 0 and verify(paths["gated"], "gated")


def test_a_job_that_completes_gives_its_figures_and_artifact_and_is_removed(cluster, paths):
    server = cluster(None, condition("Suspended"), condition("Complete"))
    ranks_leave(server, paths, {"valid_auc": 0.7})
    assert run(paths) == {"valid_auc": 0.7}
    assert verify(paths["gated"], "gated") and (paths["gated"] / "model").read_text() == "weights"
    assert server.verbs() == ["POST", "DELETE"] and not server.jobs
    assert not list((paths["checkpoints"].parent / "jobs").iterdir())


@pytest.mark.parametrize(
    ("ends", "reason", "error", "said"),
    [
        ({"rank0": (30, "lost rank 1"), "rank1": (10, "training diverged")}, "JobsFailed", InputError, "diverged"),
        ({"rank0": (40, "stopped at step 7")}, "JobsFailed", Preempted, "step 7"),
        ({}, "DeadlineExceeded", TransientError, "DeadlineExceeded: too long"),
    ],
)
def test_a_job_that_fails_raises_what_its_ranks_said_and_is_removed(cluster, paths, ends, reason, error, said):
    server = cluster(None, condition("Failed", reason, "too long"))
    ranks_leave(server, paths, **ends)
    with pytest.raises(error, match=said):
        run(paths)
    assert server.verbs() == ["POST", "DELETE"] and not paths["gated"].exists()
    left = [path.name for path in (paths["checkpoints"].parent / "jobs").glob("*/inputs/*")]
    assert left == ([] if error is InputError else ["dataset"])  # which the next try takes, if one can help


def test_the_next_try_finds_the_job_that_still_runs_and_makes_no_second(cluster, paths):
    server = cluster(condition("Failed", "JobsFailed"))
    ranks_leave(server, paths)
    with pytest.raises(TransientError):
        run(paths)
    name = server.requests[-1][1].rpartition("/")[2]
    server.jobs[name] = server.requests[1][3]
    server.requests.clear()
    server.ends = [None, None, condition("Complete")]
    ranks_leave(server, paths, {"valid_auc": 0.8})
    assert run(paths) == {"valid_auc": 0.8}
    assert server.verbs() == ["DELETE"]


def test_what_is_left_of_a_failed_try_is_removed_before_the_next(cluster, paths):
    server = cluster(condition("Complete"))
    ranks_leave(server, paths, {"valid_auc": 0.8})
    run(paths)
    job = next(body for method, _, _, body in server.requests if method == "POST")
    server.jobs[job["metadata"]["name"]] = job
    server.requests.clear()
    server.ends = [condition("Failed"), condition("Complete")]
    assert run(paths) == {"valid_auc": 0.8}
    assert server.verbs() == ["DELETE", "POST", "DELETE"]


def test_what_nobody_came_back_to_is_swept_by_the_next_job_and_what_is_younger_stays(cluster, paths):
    jobs, now = paths["checkpoints"].parent / "jobs", time.time()
    for name, weeks in (("slimrec-pretrain-old", 3), ("slimrec-pretrain-new", 1)):
        (jobs / name / "inputs").mkdir(parents=True)
        (jobs / name / "call.json").write_text("{}")
        for path in (jobs / name / "call.json", jobs / name / "inputs", jobs / name):
            os.utime(path, (now - weeks * 7 * 24 * 3600,) * 2)
    ranks_leave(cluster(condition("Complete")), paths, {"valid_auc": 0.7})
    run(paths)
    assert [path.name for path in jobs.iterdir()] == ["slimrec-pretrain-new"]


def test_a_job_that_somebody_deletes_is_an_error_to_try_again(cluster, paths):
    server = cluster(None, None)
    server.on_look = lambda job: server.jobs.clear()
    with pytest.raises(TransientError, match="gone"):
        run(paths)


def test_what_the_cluster_refuses_is_said_and_not_tried_again(cluster, paths):
    server = cluster()
    server.refusal = [(403, {"message": "trainjobs is forbidden: exceeded quota"})]
    with pytest.raises(ConfigError, match="exceeded quota"):
        run(paths)
    assert len(server.requests) == 1


@pytest.mark.battery
def test_an_api_that_fails_for_a_moment_is_asked_again(cluster, paths, monkeypatch):
    server = cluster()
    server.refusal = [(503, {"message": "starting"})]
    monkeypatch.setattr(trainjob, "_PATIENCE", 1.5)
    with pytest.raises(TransientError, match="503"):
        run(paths)
    assert len(server.requests) == 2


def test_several_nodes_need_a_workspace_an_image_and_a_number_of_processes(cluster, paths, monkeypatch):
    with pytest.raises(ConfigError, match="workspace"):
        execute("pretrain", CONFIG, dataset=str(paths["dataset"]), gated=str(paths["gated"]))
    cluster()
    with pytest.raises(ConfigError, match="train.processes"):
        run(paths, PretrainConfig(train=TrainConfig(nodes=2)).model_dump(mode="json"))
    monkeypatch.delenv("SLIMREC_IMAGE")
    with pytest.raises(ConfigError, match="SLIMREC_IMAGE"):
        run(paths)


def test_a_step_that_is_asked_to_stop_removes_its_job_and_ends_as_preempted(cluster, paths):
    server, looks = cluster(), threading.Event()
    server.on_look = lambda job: looks.set()
    program = "import json, sys; from slimrec.stages import execute_or_exit; execute_or_exit(**json.loads(sys.argv[1]))"
    call = {"stage": "pretrain", "config": CONFIG, "workspace": str(paths["checkpoints"].parent)}
    call |= {name: str(paths[name]) for name in ("dataset", "gated")}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    step = subprocess.Popen([sys.executable, "-c", program, json.dumps(call)], env=environment)
    assert looks.wait(HANG)
    step.send_signal(signal.SIGTERM)
    assert step.wait(HANG) == Preempted.exit_code
    assert server.verbs() == ["POST", "DELETE"]


@pytest.mark.battery
def test_the_command_of_the_job_trains_on_the_nodes_of_one_machine(cluster, tmp_path):
    """Both nodes are processes of this machine, told by the variables that Kubeflow's torch policy sets."""
    small.ingest_rows(tmp_path, rows=600)
    train = {"nodes": 2, "processes": 1, "device": "cpu", "epochs": 1, "batch_size": 64}
    config = PretrainConfig(model={"options": {"hidden": [8]}}, train=train).model_dump(mode="json")
    places = {"dataset": tmp_path / "dataset", "gated": tmp_path / "gated", "checkpoints": tmp_path / "w" / "c"}
    server, nodes = cluster(), []

    def look(job):
        trainer = job["spec"]["trainer"]
        if not nodes:
            for rank in range(trainer["numNodes"]):
                told = {"NNODES": 2, "NPROC_PER_NODE": 1, "NODE_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
                told |= {"MASTER_PORT": 29_400 + os.getpid() % 500}
                variables = {f"PET_{name}": str(value) for name, value in told.items()}
                environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
                nodes.append(subprocess.Popen([sys.executable, *trainer["command"][1:]], env=environment))
        codes = [node.poll() for node in nodes]
        if None not in codes:
            server.ends = [condition("Failed" if any(codes) else "Complete")]

    server.on_look = look
    began = time.monotonic()
    assert run(places, config)["epochs"] == 1
    assert verify(places["gated"], "gated")["figures"]["epochs"] == 1
    assert time.monotonic() - began < 120
