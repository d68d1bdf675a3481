"""A training stage on several nodes: a Kubeflow TrainJob is created, followed to its end, and removed.

The runtime `slimrec-torch` of manifests/overlays/distributed says where a node runs and what it mounts; the job says
image, command, nodes and GPUs. Nodes see no artifact of the step's pod, only the workspace volume: what the stage reads
is copied there, into a folder of the job, and what it makes is copied back. The job's name follows from settings and
contents, so that a step whose own pod was lost finds its job again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from slimrec import track
from slimrec.artifacts import copy, digest
from slimrec.errors import PERMANENT, ConfigError, Preempted, SlimrecError, TransientError
from slimrec.preempt import StopRequest
from slimrec.training.process import read_failure, read_figures, write_call

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
RUNTIME = "slimrec-torch"
MADE = {"pretrain": "gated", "finetune": "tuned"}  # the artifact that a stage makes
AGAIN = "retrained"  # what it may make beside that; all others it reads
DEADLINE = 7 * 24 * 3600  # seconds, as long as all tries of a step may take: a forgotten job holds its GPUs no longer
PER_PROCESS = {"cpu": "6", "memory": "64Gi"}
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_LAG = 90  # seconds that a network file system may remember a file as missing
_FORGOTTEN = 2 * DEADLINE  # seconds without a change in a job's folder: neither the job nor a try of its step is left
_PATIENCE = 300  # seconds without an answer of the cluster's API


def train(
    stage: str, config: dict[str, Any], run_id: str, paths: dict[str, Path], interval: float = 10.0
) -> dict[str, Any]:
    """Run a training stage as a TrainJob; returns its figures, raises the error that its ranks met.

    `config` is the stage's section, `paths` its artifacts and `checkpoints` in the workspace. Seconds from one look at
    the job to the next: `interval`. A stop that is asked of the step removes the job, whose ranks leave a checkpoint.
    """
    if "checkpoints" not in paths:
        raise ConfigError("train.nodes: several nodes meet in a workspace, a volume that all of them see: give one")
    jobs, made = paths["checkpoints"].parent / "jobs", {MADE[stage], AGAIN} & paths.keys()
    read = {name: path for name, path in paths.items() if name not in (*made, "checkpoints")}
    name = _name(stage, config, {each: digest(path) for each, path in read.items()})
    folder = jobs / name

    def prepare() -> None:
        inside = {each: str(copy(path, folder / "inputs" / each)) for each, path in read.items()}
        inside |= {each: str(folder / each) for each in made} | {"checkpoints": str(paths["checkpoints"])}
        write_call(folder, stage, config, run_id, inside)

    _sweep(jobs)
    with StopRequest() as stop, _kept_for_a_next_try(folder):
        cluster = Cluster.join(stop, interval)
        job = build(name, cluster.namespace, folder, config["train"])
        if not (folder / "figures.json").is_file():
            cluster.start(job, prepare)
            cluster.follow(name, folder)
        try:
            figures = _figures(folder)
            for each in made:
                copy(folder / each, paths[each])
        finally:
            cluster.remove(name)
    return figures


@contextmanager
def _kept_for_a_next_try(folder: Path) -> Iterator[None]:
    """Removes a job's folder at its end, unless that is an error that trying again may mend."""
    try:
        yield
    except SlimrecError as error:
        if error.exit_code in PERMANENT:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)


def _sweep(jobs: Path) -> None:
    """Remove the folders of jobs that nobody came back to."""
    for folder in jobs.iterdir() if jobs.is_dir() else ():
        with suppress(OSError):  # another step may be sweeping, too
            if time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir())) > _FORGOTTEN:
                shutil.rmtree(folder)


def build(name: str, namespace: str, folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The TrainJob for a call in `folder`, checked against Kubeflow's model of it.

    Raises ConfigError where the image (SLIMREC_IMAGE) or the number of processes is not said.
    """
    image, processes = os.environ.get("SLIMREC_IMAGE", ""), config["processes"]
    if not image:
        raise ConfigError("train.nodes: SLIMREC_IMAGE does not say which image the nodes run; compile the audit anew")
    if not processes:
        raise ConfigError("train.nodes: say with train.processes how many processes, and so GPUs, each node has")
    asked = {"cpu": str(processes * int(PER_PROCESS["cpu"])), "memory": f"{processes * 64}Gi"}
    limits = {"memory": asked["memory"]}
    if config["device"] != "cpu":
        limits["nvidia.com/gpu"] = asked["nvidia.com/gpu"] = str(processes)
    command = [
        "python3",
        "-m",
        "torch.distributed.run",
        "--shutdown_timeout=240",
        "-m",
        "slimrec.training.process",
        str(folder),
    ]
    job = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": "slimrec"}},
        "spec": {
            "activeDeadlineSeconds": DEADLINE,
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": RUNTIME},
            "trainer": {
                "image": image,
                "command": command,
                "numNodes": config["nodes"],
                "numProcPerNode": processes,
                "resourcesPerNode": {"requests": asked, "limits": limits},
            },
        },
    }
    try:
        from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
    except ImportError:
        raise ConfigError("train.nodes needs Kubeflow's SDK: install slimrec with the extra `train`") from None
    return TrainerV1alpha1TrainJob.from_dict(job).to_dict()


class Cluster:
    """The TrainJobs of one namespace, through the Kubernetes API. What it refuses is a ConfigError."""

    def __init__(self, api, namespace: str, stop: StopRequest, interval: float):
        self.api, self.namespace, self.stop, self.interval = api, namespace, stop, interval

    @classmethod
    def join(cls, stop: StopRequest, interval: float) -> Cluster:
        """As the service account of this pod, else as KUBECONFIG says."""
        try:
            from kubernetes import client, config
        except ImportError:
            raise ConfigError("train.nodes needs Kubeflow's SDK: install slimrec with the extra `train`") from None
        inside = _NAMESPACE.is_file()
        try:
            config.load_incluster_config() if inside else config.load_kube_config(os.environ.get("KUBECONFIG"))
        except config.ConfigException as error:
            raise ConfigError(f"train.nodes: no cluster to run on: {error}") from None
        namespace = _NAMESPACE.read_text().strip() if inside else os.environ.get("SLIMREC_NAMESPACE", "slimrec")
        return cls(client.CustomObjectsApi(), namespace, stop, interval)

    def start(self, job: dict[str, Any], prepare: Callable[[], None]) -> None:
        """Create the job after `prepare`, unless it runs already; one of an earlier try that failed is removed first."""
        name = job["metadata"]["name"]
        while (found := self.look(name)) is not None:
            leaving = found["metadata"].get("deletionTimestamp")
            if not leaving and _end(found)[0] != "Failed":
                return
            if not leaving:
                self.remove(name)
            self._wait(self.interval)
        prepare()
        self._call("create_namespaced_custom_object", body=job)

    def follow(self, name: str, folder: Path) -> None:
        """Come back when the job is complete; raise what its ranks left where it failed."""
        while True:
            job = self.look(name)
            if job is None:
                raise TransientError(f"TrainJob {name} is gone, and not by this step: run it again to resume")
            kind, message = _end(job)
            if kind == "Complete":
                return
            if kind == "Failed":
                self.remove(name)
                raise read_failure(folder, f"TrainJob {name} failed: {message}; run the step again to resume")
            try:
                self._wait(self.interval)
            except Preempted:
                self.remove(name)
                raise

    def look(self, name: str) -> dict[str, Any] | None:
        """The job as the cluster has it; None where there is none."""
        return self._call("get_namespaced_custom_object", name=name)

    def remove(self, name: str) -> None:
        """Let the job go, after its pods: they have time for a checkpoint. It may be gone already."""
        self._call("delete_namespaced_custom_object", name=name, propagation_policy="Foreground")

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.stop.asked and time.monotonic() < until:
            time.sleep(min(0.2, seconds))
        if self.stop.asked:
            raise Preempted("stopped while its TrainJob ran: run the step again to resume from its checkpoint")

    def _call(self, method: str, **rest: Any) -> dict[str, Any] | None:
        """One request, again while the cluster does not answer; None for what is not there."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        until, said = time.monotonic() + _PATIENCE, ""
        while time.monotonic() < until:
            try:
                return getattr(self.api, method)(GROUP, VERSION, self.namespace, PLURAL, **rest)
            except ApiException as error:
                if error.status == 404 and "body" not in rest:
                    return None
                said = f"{error.status} {error.reason}: {_message(error.body)}"
                if 400 <= error.status < 500 and error.status != 429:
                    raise ConfigError(f"the cluster refused a TrainJob in namespace {self.namespace}: {said}") from None
            except HTTPError as error:
                said = str(error)
            if self.stop.asked:
                break
            time.sleep(1)
        raise TransientError(f"the cluster's API does not answer: {said}")


def _end(job: dict[str, Any]) -> tuple[str, str]:
    """Complete or Failed with the reason, ("", "") for a job under way."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return condition["type"], f"{condition.get('reason', '')}: {condition.get('message', '')}"
    return "", ""


def _message(body: str | None) -> str:
    """What Kubernetes says in the body of a refusal."""
    try:
        return str(json.loads(body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return (body or "")[:200]


def _figures(folder: Path) -> dict[str, Any]:
    """What the first rank left; a network file system may show it here some seconds after the job's end."""
    until = time.monotonic() + _LAG
    while not (folder / "figures.json").is_file():
        if time.monotonic() > until:
            raise TransientError(f"the TrainJob is complete, but {folder} holds no figures: is it on the same volume?")
        time.sleep(1)
    return read_figures(folder)


def _name(stage: str, config: dict[str, Any], contents: dict[str, str]) -> str:
    key = json.dumps([track.audit(), config, contents], sort_keys=True)
    return f"slimrec-{stage}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
