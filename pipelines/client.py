"""The audit on a cluster, through the Kubeflow Pipelines API: submit, upload, schedule, unschedule, list."""

import contextlib
import functools
import hashlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import kfp_server_api as api
from kfp import Client
from slimrec.pipelines.audit import arguments, audit
from slimrec.pipelines.cluster import SERVICE_ACCOUNT, WORKSPACE, write
from slimrec.pipelines.cron import check
from urllib3.exceptions import HTTPError

from slimrec.config import Recipe
from slimrec.errors import ConfigError, ConflictError, SlimrecError, TransientError
from slimrec.track import redact

EXPERIMENT = "slimrec"
SCHEDULED_DAY = "[[ScheduledTime.2006-01-02]]"  # Kubeflow Pipelines puts the day of a scheduled run in its place
_SECONDS = (5, 30)  # to connect, to answer


class Program(NamedTuple):
    """An audit ready to be sent: the compiled pipeline, a name that stands for its content, and its arguments."""

    name: str
    text: str
    arguments: dict[str, Any]


def program(name: str, recipe: Recipe, preset: str, allow_tag: bool) -> Program:
    """Compile a recipe; the same content always has the same name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "audit.yaml")
        write(path, recipe, preset, allow_tag)
        text = path.read_text(encoding="utf-8")
    content = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Program(f"{name}-{preset}-{content}", text, {**arguments(recipe), "workspace": WORKSPACE})


def token() -> str:
    """The token that KFP_TOKEN holds, or the file that KFP_TOKEN_FILE names; "" for none."""
    held, file = os.environ.get("KFP_TOKEN", ""), os.environ.get("KFP_TOKEN_FILE", "")
    if held and file:
        raise ConfigError("KFP_TOKEN and KFP_TOKEN_FILE are both set; set one")
    if file:
        try:
            held = Path(file).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"KFP_TOKEN_FILE names {file}, which cannot be read: {error.strerror}") from None
    return held.strip()


class Cluster:
    """One Kubeflow Pipelines server, as the owner of a token sees it."""

    def __init__(self, host: str, namespace: str = "", token: str = ""):
        """Raises ConfigError for a host that is no server of ours or refuses the token, TransientError for one that is down."""
        if not host.startswith(("http://", "https://")) or "@" in host:
            raise ConfigError(
                f"the host of Kubeflow Pipelines is '{redact(host)}'; give --host URL or set KFP_HOST, "
                "for example to https://kubeflow.example/pipeline, a token by KFP_TOKEN"
            )
        self.host, self.namespace = host.rstrip("/"), namespace or None
        trusted = os.environ.get("SSL_CERT_FILE") or None  # a cluster of one's own often has a certificate of its own
        settings = api.Configuration(host=self.host)
        settings.ssl_ca_cert = trusted
        if token:
            settings.api_key, settings.api_key_prefix = {"authorization": token}, {"authorization": "Bearer"}
        self._pipelines = api.PipelineServiceApi(api.ApiClient(settings))
        with self._reaching():
            self._check_health(api.HealthzServiceApi(api.ApiClient(settings)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it always says with which servers it works
                self._client = Client(
                    self.host,
                    namespace=namespace or "kubeflow",
                    existing_token=token or None,
                    ssl_ca_cert=trusted,
                )

    def upload(self, sent: Program) -> tuple[str, str]:
        """The ids of the pipeline and of the version that holds this program, uploaded only if it is not there."""
        with self._reaching():
            made = api.V2beta1Pipeline(name=audit.name, display_name=audit.name, namespace=self.namespace)
            pipeline = _once(
                lambda: _all(self._client.list_pipelines, "pipelines", audit.name, namespace=self.namespace),
                lambda: self._pipelines.pipeline_service_create_pipeline(made),
            ).pipeline_id
            version = _once(
                lambda: _all(self._client.list_pipeline_versions, "pipeline_versions", sent.name, pipeline_id=pipeline),
                lambda: self._send(sent, pipeline),
            )
        return pipeline, version.pipeline_version_id

    def submit(self, sent: Program, name: str, service_account: str = SERVICE_ACCOUNT) -> str:
        """Start the audit now; returns the run's id."""
        pipeline, version = self.upload(sent)
        with self._reaching():
            run = self._client.run_pipeline(
                self._experiment,
                job_name=name,
                params=sent.arguments,
                pipeline_id=pipeline,
                version_id=version,
                service_account=service_account,
            )
        return run.run_id

    def schedule(self, sent: Program, name: str, cron: str, service_account: str = SERVICE_ACCOUNT) -> str:
        """Start the audit whenever `cron` says so, missed times left out; returns the recurring run's id.

        What was scheduled under the name is replaced, since it cannot be changed (kubeflow pipelines 3789): the new one
        is there before the old one goes, so that a failure between leaves two and never none, and doing it again one.
        """
        pipeline, version = self.upload(sent)
        told = {
            "cron_expression": check(cron),
            "params": {**sent.arguments, "audit_date": SCHEDULED_DAY},
            "version_id": version,
            "service_account": service_account,
        }
        content = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        about = f"Audit of {redact(sent.arguments['source'])} (content {content[:16]})"
        before = self.schedules(name)
        with self._reaching():
            same = [one for one in before if one.description == about and one.mode == api.RecurringRunMode.ENABLE]
            kept = (
                same[0]
                if same
                else self._client.create_recurring_run(
                    self._experiment,
                    job_name=name,
                    description=about,
                    max_concurrency=1,
                    no_catchup=True,
                    pipeline_id=pipeline,
                    **told,
                )
            )
            for one in before:
                if one.recurring_run_id != kept.recurring_run_id:
                    self._client.delete_recurring_run(one.recurring_run_id)
        return kept.recurring_run_id

    def unschedule(self, name: str) -> None:
        """Delete what is scheduled under a name; raises ConfigError where there is nothing."""
        found = self.schedules(name)
        if not found:
            there = ", ".join(sorted({one.display_name for one in self.schedules()})) or "nothing"
            raise ConfigError(f"nothing is scheduled as '{name}' at {self.host}; scheduled: {there}")
        with self._reaching():
            for one in found:
                self._client.delete_recurring_run(one.recurring_run_id)

    def schedules(self, name: str = "") -> list[api.V2beta1RecurringRun]:
        """The recurring runs of our experiment, those of one name if it is given."""
        with self._reaching():
            return _all(self._client.list_recurring_runs, "recurring_runs", name, experiment_id=self._experiment)

    def runs(self, count: int) -> list[api.V2beta1Run]:
        """The newest runs of our experiment."""
        with self._reaching():
            found = self._client.list_runs(page_size=count, sort_by="created_at desc", experiment_id=self._experiment)
        return found.runs or []

    @functools.cached_property
    def _experiment(self) -> str:
        """The id of the experiment that all audits are in, made if it is not there."""
        return self._client.create_experiment(EXPERIMENT, namespace=self.namespace).experiment_id

    def _send(self, sent: Program, pipeline: str) -> api.V2beta1PipelineVersion:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "audit.yaml")
            path.write_text(sent.text, encoding="utf-8")
            return self._client.upload_pipeline_version(str(path), sent.name, pipeline_id=pipeline)

    def _check_health(self, health: api.HealthzServiceApi) -> None:
        """One request, before the client makes its own, which hides why it fails and tries for half a minute."""
        answer = health.healthz_service_get_healthz(_preload_content=False, _request_timeout=_SECONDS)
        try:
            told = json.loads(answer.data)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise ConfigError(
                f"{self.host} answers, but not as Kubeflow Pipelines does (a login page?); check the address, set KFP_TOKEN"
            )
        if told.get("multi_user") and not self.namespace:
            raise ConfigError(f"{self.host} serves many users: give --namespace or set KFP_NAMESPACE")

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turns whatever the client raises into one sentence and a class; keeps its links off the standard output."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except api.ApiException as error:
            raise _refused(self.host, error) from None
        except (HTTPError, OSError) as error:
            said = " ".join(str(error).split())[:300]
            raise TransientError(f"Kubeflow Pipelines at {self.host} cannot be reached: {said}; try again") from None


def _refused(host: str, error: api.ApiException) -> SlimrecError:
    """The sentence and class for an answer that is an error."""
    if error.status in (401, 403):
        return ConfigError(
            f"Kubeflow Pipelines at {host} refused us ({error.status}): set KFP_TOKEN or KFP_TOKEN_FILE to a token that may do this"
        )
    try:
        said = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        said = error.body or error.reason
    sentence = f"Kubeflow Pipelines at {host} answered {error.status}: {' '.join(str(said).split())[:300]}"
    if error.status == 409:
        return ConflictError(f"{sentence}; somebody else was at it, try again")
    if error.status and 400 <= error.status < 500 and error.status not in (408, 429):
        return ConfigError(sentence)
    return TransientError(f"{sentence}; try again")


def _once(find: Callable[[], list], make: Callable[[], Any]) -> Any:
    """What there is, else what is made; what somebody else makes in between counts as found."""
    if found := find():
        return found[0]
    try:
        return make()
    except api.ApiException as error:
        if error.status != 409 or not (found := find()):
            raise
        return found[0]


def _all(listing: Callable[..., Any], what: str, name: str = "", **where: Any) -> list:
    """Every page of a listing; with a name, those that are called just that."""
    told = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    only = {"filter": json.dumps({"predicates": [told]})} if name else {}
    found, page = [], ""
    while True:
        answer = listing(page_token=page, page_size=100, **only, **where)
        found += getattr(answer, what) or []
        page = answer.next_page_token
        if not page:
            return found
