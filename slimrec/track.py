"""Tracking: params, metrics and artifacts of a stage go to MLflow when MLFLOW_TRACKING_URI is set, else nowhere."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel

from slimrec import faults
from slimrec.errors import ConfigError, Preempted, SlimrecError
from slimrec.faults import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

Server: TypeAlias = "MlflowClient"  # what a registry is spoken to through
Version: TypeAlias = "ModelVersion"  # its record of one version

PARAMS_A_BATCH, METRICS_A_BATCH, LONGEST_VALUE = 100, 1000, 6000  # MLflow's limits
_QUIET_AND_SAFE = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",  # about half a minute
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


class Tracker:
    """Where a stage logs. This one, for runs without a tracking server, does nothing."""

    run_id = ""

    def params(self, values: Mapping[str, Any]) -> None:
        """Settings; nested mappings are flattened to dotted names."""

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """One figure, at a step if it has a course."""
        self.metrics({name: value}, step)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Figures of one moment, in one request."""

    def tag(self, name: str, value: str) -> None:
        """A searchable remark on the run."""

    def artifact(self, path: str | Path) -> None:
        """A file, or the files of a folder under the folder's name."""


class MlflowTracker(Tracker):
    """Logs to one MLflow run. What it refuses, and that it cannot be reached, is one of our errors."""

    def __init__(self, run_id: str):
        self.run_id = run_id
        self._client = client()

    def params(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        flat = [Param(name, redact(value)[:LONGEST_VALUE]) for name, value in _flatten(values)]
        for start in range(0, len(flat), PARAMS_A_BATCH):
            with reaching():
                self._client.log_batch(self.run_id, params=flat[start : start + PARAMS_A_BATCH])

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(_plain(name), float(value), now, step or 0) for name, value in values.items()]
        for start in range(0, len(rows), METRICS_A_BATCH):
            with reaching():
                self._client.log_batch(self.run_id, metrics=rows[start : start + METRICS_A_BATCH])

    def tag(self, name: str, value: str) -> None:
        with reaching():
            self._client.set_tag(self.run_id, name, redact(value)[:LONGEST_VALUE])

    def artifact(self, path: str | Path) -> None:
        path = Path(path)
        with reaching():
            if path.is_dir():
                self._client.log_artifacts(self.run_id, str(path), path.name)
            else:
                self._client.log_artifact(self.run_id, str(path))


def audit() -> str:
    """What all steps of one audit have in common: SLIMREC_AUDIT, on a cluster the id of the pipeline's run; "" for none."""
    key = os.environ.get("SLIMREC_AUDIT", "")
    if key and not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", key, re.ASCII):
        raise ConfigError(f"SLIMREC_AUDIT is '{key[:100]}'; give up to 100 letters, digits and _ . -")
    return key


@contextmanager
def run(stage: str, config: BaseModel) -> Iterator[Tracker]:
    """A stage's own run, nested in the run of the audit if there is one. A failure ends it with its reason as a tag."""
    if not enabled():
        yield Tracker()
        return
    parent = _audit_run()
    tracker = _create(stage, {"slimrec.stage": stage, **({"mlflow.parentRunId": parent} if parent else {})})
    try:
        tracker.params(config.model_dump())
        yield tracker
    except BaseException as error:
        with suppress(SlimrecError):  # what went wrong in the stage matters more than that nobody noted it
            tracker.tag("slimrec.reason", f"{type(error).__name__}: {error}")
            _end(tracker, "KILLED" if isinstance(error, Preempted | KeyboardInterrupt) else "FAILED")
        raise
    _end(tracker, "FINISHED")


def start_audit(settings: Mapping[str, Any]) -> str:
    """The id of the run that holds all stages of this audit, made if it is not there: a retry makes no second one.

    "" where there is no audit (SLIMREC_AUDIT) or no tracking.
    """
    if not audit() or not enabled():
        return ""
    tracker = MlflowTracker(_audit_run() or _create(audit(), {"slimrec.audit": audit()}).run_id)
    tracker.params(settings)
    return tracker.run_id


def asked(name: str) -> str:
    """A setting that `start_audit` was given, as text; "" where there is no audit, no tracking or no such setting."""
    if not audit() or not enabled() or not (run_id := _audit_run()):
        return ""
    server = client()
    with reaching():
        return str(server.get_run(run_id).data.params.get(name, ""))


def end_audit(failed: str = "") -> None:
    """Close the run of this audit, if there is one; `failed` is the reason if it did not go well."""
    if not audit() or not enabled():
        return
    run_id = _audit_run()
    if run_id and failed:
        MlflowTracker(run_id).tag("slimrec.reason", failed)
    if run_id:
        _end(MlflowTracker(run_id), "FAILED" if failed else "FINISHED")


def enabled() -> bool:
    """Whether MLFLOW_TRACKING_URI names a tracking server or store."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI"))


def client() -> Server:
    """An MLflow client that neither pickles nor waits for minutes on a server that is down."""
    for name, value in _QUIET_AND_SAFE.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    if _is_in_memory():
        raise ConfigError(
            "MLFLOW_TRACKING_URI names a database in memory, which ends with its process: give sqlite:///PATH"
        )
    address = os.environ["MLFLOW_TRACKING_URI"]
    with reaching(), _one_at_a_time():  # an address that cannot be opened shows here
        if (file := _database()) and file.is_dir():  # which MLflow would try for minutes
            raise ConfigError(f"{redact(address)} is a folder: give sqlite:///PATH of a file in it")
        return MlflowClient(address)


@contextmanager
def reaching() -> Iterator[None]:
    """Turns what MLflow, its database or the way to it raises into our errors, by whether trying again can help."""
    try:
        yield
    except Exception as error:
        failure = faults.sort(error, f"MLflow at {redact(os.environ.get('MLFLOW_TRACKING_URI', ''))}")
        if failure is None or failure is error:
            raise
        raise failure from error


def experiment_name() -> str:
    """Of the experiment that holds all runs."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "slimrec")


def experiment(server: Server, name: str = "") -> str:
    """The id of an experiment, by default of the one that holds all runs; made on first use."""
    from mlflow.exceptions import MlflowException

    name = name or experiment_name()
    found = server.get_experiment_by_name(name)
    if found is None:
        try:
            return server.create_experiment(name, artifact_location=_artifacts_beside_database())
        except MlflowException:  # another step made it between the two requests; if not, the next line raises again
            found = server.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id


def _audit_run() -> str:
    """The id of the run that was made for this audit, "" for none."""
    if not audit():
        return ""
    server = client()
    with reaching():
        found = server.search_runs([experiment(server)], f"tags.`slimrec.audit` = '{audit()}'", max_results=1)
    return found[0].info.run_id if found else ""


def _create(name: str, tags: dict[str, str]) -> MlflowTracker:
    server = client()
    with reaching():
        created = server.create_run(experiment(server), tags=tags, run_name=name)
    return MlflowTracker(created.info.run_id)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """An embedded store is made when it is first opened, and two processes that both make it break it (mlflow 3.17)."""
    file = _database()
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f"{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_in_memory() -> bool:
    """Whether what one step logs would be gone for the next."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    return re.fullmatch(r"sqlite(\+\w+)?:(//)?/?(:memory:.*|\?.*|)", uri) is not None


def _database() -> Path | None:
    """The file of an embedded SQLite store; None where the store is a server or of another kind."""
    scheme, _, path = os.environ["MLFLOW_TRACKING_URI"].partition(":///")
    return Path(path).resolve() if scheme == "sqlite" and path else None


def _artifacts_beside_database() -> str | None:
    """An embedded SQLite store keeps its artifacts in its own folder, not wherever a step happens to run."""
    file = _database()
    return (file.parent / "artifacts").as_uri() if file else None


def _end(tracker: MlflowTracker, status: str) -> None:
    with reaching():
        tracker._client.set_terminated(tracker.run_id, status)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield _plain(f"{prefix}{name}"), value


def _plain(name: str) -> str:
    """A name that MLflow accepts: letters, digits and _-./ , at most 250 characters."""
    return re.sub(r"[^\w./ -]", "_", str(name), flags=re.ASCII)[:250].strip("/ .") or "_"
