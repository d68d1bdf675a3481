"""The audit on a cluster, through the Kubeflow Pipelines API: submit, upload, schedule, unschedule, list."""

import functools
import hashlib
import json
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import kfp_server_api as api
from slimrec.pipelines.connection import address, connect
from slimrec.pipelines.cron import check
from urllib3.exceptions import HTTPError

from slimrec import faults
from slimrec.config import AUTO, Recipe
from slimrec.errors import ConfigError, ConflictError, SlimrecError, TransientError
from slimrec.track import redact

EXPERIMENT = "slimrec"
SERVICE_ACCOUNT = "slimrec-pipeline"  # of the steps' pods, as manifests/ calls it
LONGEST_NAME = 63  # of a version, where the server keeps pipelines as Kubernetes objects
_SECONDS = (5, 60)  # to connect, to answer
_SPELT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "ø": "oe", "å": "aa"})


class Program(NamedTuple):
    """An audit ready to be sent: the compiled pipeline, a name that stands for its content, and its arguments."""

    name: str
    text: str
    arguments: dict[str, Any]
    pipeline: str  # name of the pipeline that this is a version of
    description: str  # of the pipeline, in Markdown
    source: str


def program(name: str, recipe: Recipe, preset: str, allow_tag: bool, by_hand: Sequence[str] = ()) -> Program:
    """Compile a recipe; the same content always has the same name, one that is legal wherever versions are kept."""
    from slimrec.pipelines.audit import arguments, audit, describe
    from slimrec.pipelines.cluster import text

    compiled = text(recipe, preset, allow_tag, by_hand)
    end = f"-{preset.lower()}-{hashlib.sha256(compiled.encode()).hexdigest()[:12]}"
    named = f"{_plain(name)[: LONGEST_NAME - len(end)].rstrip('-')}{end}"
    about = {"description": describe(EXPERIMENT, SERVICE_ACCOUNT), "source": recipe.ingest.source}
    return Program(named, compiled, arguments(recipe), pipeline=audit.name, **about)


def _plain(name: str) -> str:
    """Lower case letters of the English alphabet, digits and hyphens, whatever a recipe is called."""
    spelt = unicodedata.normalize("NFKC", name).lower().translate(_SPELT)
    letters = unicodedata.normalize("NFKD", spelt).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", letters).strip("-") or "audit"


class Cluster:
    """One Kubeflow Pipelines server, as the owner of a token sees it."""

    def __init__(self, host: str, namespace: str = "", token: str = ""):
        """Raises ConfigError for a host that is no server of ours or refuses the token, TransientError for one that is down."""
        self.host, self.namespace = address(host), namespace or None
        connection = connect(self.host, token)
        self._pipelines, self._uploads = api.PipelineServiceApi(connection), api.PipelineUploadServiceApi(connection)
        self._experiments, self._runs = api.ExperimentServiceApi(connection), api.RunServiceApi(connection)
        self._recurring = api.RecurringRunServiceApi(connection)
        self._check_health(api.HealthzServiceApi(connection))

    def upload(self, sent: Program) -> tuple[str, str]:
        """The ids of the pipeline and of the version that holds this program, uploaded only if it is not there."""
        made = api.V2beta1Pipeline(
            name=sent.pipeline, display_name=sent.pipeline, namespace=self.namespace, description=sent.description
        )
        pipeline = self._once(
            lambda: self._all(
                self._pipelines.pipeline_service_list_pipelines, "pipelines", sent.pipeline, namespace=self.namespace
            ),
            lambda: self._ask(self._pipelines.pipeline_service_create_pipeline, made),
        ).pipeline_id
        version = self._once(
            lambda: self._all(
                functools.partial(self._pipelines.pipeline_service_list_pipeline_versions, pipeline),
                "pipeline_versions",
                sent.name,
            ),
            lambda: self._send(sent, pipeline),
        )
        return pipeline, version.pipeline_version_id

    def submit(self, sent: Program, name: str, service_account: str = SERVICE_ACCOUNT) -> str:
        """Start the audit now; returns the run's id."""
        pipeline, version = self.upload(sent)
        run = api.V2beta1Run(
            display_name=name,
            experiment_id=self._experiment,
            pipeline_version_reference=_reference(pipeline, version),
            runtime_config=api.V2beta1RuntimeConfig(parameters=sent.arguments),
            service_account=service_account,
        )
        return self._ask(self._runs.run_service_create_run, run).run_id

    def schedule(self, sent: Program, name: str, cron: str, service_account: str = SERVICE_ACCOUNT) -> str:
        """Start the audit whenever `cron` says so, missed times left out; returns the recurring run's id.

        What was scheduled under the name is replaced, since it cannot be changed (kubeflow pipelines 3789): the new one
        is there before the old one goes, so that a failure between leaves two and never none, and doing it again one.
        The same schedule of the same content is left as it is.
        """
        cron = check(cron)
        pipeline, version = self.upload(sent)
        parameters = {**sent.arguments, "audit_date": AUTO}
        told = [cron, parameters, version, service_account]
        content = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        about = f"Audit of {redact(sent.source)} (content {content[:16]})"
        before = self.schedules(name)
        same = [one for one in before if one.description == about and one.mode == api.RecurringRunMode.ENABLE]
        wanted = api.V2beta1RecurringRun(
            display_name=name,
            description=about,
            experiment_id=self._experiment,
            pipeline_version_reference=_reference(pipeline, version),
            runtime_config=api.V2beta1RuntimeConfig(parameters=parameters),
            service_account=service_account,
            trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=cron)),
            mode=api.RecurringRunMode.ENABLE,
            max_concurrency=1,
            no_catchup=True,
        )
        kept = same[0] if same else self._ask(self._recurring.recurring_run_service_create_recurring_run, wanted)
        self._delete(one for one in before if one.recurring_run_id != kept.recurring_run_id)
        return kept.recurring_run_id

    def unschedule(self, name: str) -> None:
        """Delete what is scheduled under a name; raises ConfigError where there is nothing."""
        found = self.schedules(name)
        if not found:
            there = ", ".join(sorted({one.display_name for one in self.schedules()})) or "nothing"
            raise ConfigError(f"nothing is scheduled as '{name}' at {self.host}; scheduled: {there}")
        self._delete(found)

    def schedules(self, name: str = "") -> list[api.V2beta1RecurringRun]:
        """The recurring runs of our experiment, those of one name if it is given."""
        listing = self._recurring.recurring_run_service_list_recurring_runs
        return self._all(listing, "recurring_runs", name, experiment_id=self._experiment)

    def runs(self, count: int) -> list[api.V2beta1Run]:
        """The newest runs of our experiment."""
        where = {"page_size": count, "sort_by": "created_at desc", "experiment_id": self._experiment}
        return self._ask(self._runs.run_service_list_runs, **where).runs or []

    @functools.cached_property
    def _experiment(self) -> str:
        """The id of the experiment that all audits are in, made if it is not there.

        Raises ConfigError where the server made it in another namespace than ours: runs would have no rights there.
        """
        made = api.V2beta1Experiment(display_name=EXPERIMENT, namespace=self.namespace)
        listing = self._experiments.experiment_service_list_experiments
        found = self._once(
            lambda: self._all(listing, "experiments", EXPERIMENT, namespace=self.namespace),
            lambda: self._ask(self._experiments.experiment_service_create_experiment, made),
        )
        if self.namespace and found.namespace and found.namespace != self.namespace:
            raise ConfigError(f"{self.host} puts audits into '{found.namespace}', asked for was '{self.namespace}'")
        return found.experiment_id

    def _send(self, sent: Program, pipeline: str) -> api.V2beta1PipelineVersion:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "audit.yaml")
            path.write_text(sent.text, encoding="utf-8")
            about = {"name": sent.name, "pipelineid": pipeline, "description": sent.description}
            return self._ask(self._uploads.upload_pipeline_version, str(path), **about)

    def _delete(self, schedules: Iterable[api.V2beta1RecurringRun]) -> None:
        for one in schedules:
            self._ask(self._recurring.recurring_run_service_delete_recurring_run, one.recurring_run_id)

    def _check_health(self, health: api.HealthzServiceApi) -> None:
        """Whether this is a server of ours, and one that knows the namespace."""
        answer = self._ask(health.healthz_service_get_healthz, _preload_content=False)
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
        if self.namespace and not told.get("multi_user"):
            raise ConfigError(
                f"{self.host} serves a single user and starts every run in its own namespace, never in "
                f"'{self.namespace}', where the service account and the secrets are: install Kubeflow Pipelines for many "
                "users, or, where slimrec's manifests lie in the server's namespace, give none (unset KFP_NAMESPACE)"
            )

    def _ask(self, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """One request, within the time we wait; whatever the client raises becomes one sentence and a class."""
        try:
            return call(*given, **named, _request_timeout=_SECONDS)
        except api.ApiException as error:
            raise _refused(self.host, error) from None
        except (HTTPError, OSError, ValueError) as error:
            failure = faults.sort(error, f"Kubeflow Pipelines at {self.host}", setting="KFP_HOST")
            if failure is None:
                raise
            if isinstance(failure, TransientError):
                said = " ".join(redact(error).split())[:300]
                failure = TransientError(f"Kubeflow Pipelines at {self.host} cannot be reached: {said}; try again")
            raise failure from None

    def _once(self, find: Callable[[], list], make: Callable[[], Any]) -> Any:
        """What there is, else what is made; what somebody else makes in between counts as found."""
        if found := find():
            return found[0]
        try:
            return make()
        except ConflictError:
            if not (found := find()):
                raise
            return found[0]

    def _all(self, listing: Callable[..., Any], what: str, name: str = "", **where: Any) -> list:
        """Every page of a listing; with a name, those that are called just that."""
        told = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        only = {"filter": json.dumps({"predicates": [told]})} if name else {}
        found, page = [], ""
        while True:
            answer = self._ask(listing, page_token=page, page_size=100, **only, **where)
            found += getattr(answer, what) or []
            page = answer.next_page_token
            if not page:
                return found


def _reference(pipeline: str, version: str) -> api.V2beta1PipelineVersionReference:
    return api.V2beta1PipelineVersionReference(pipeline_id=pipeline, pipeline_version_id=version)


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
    if error.status and 300 <= error.status < 400:
        return ConfigError(f"{sentence}; it leads elsewhere (a login page?): check the address, set KFP_TOKEN")
    if error.status == 407:
        return ConfigError(f"{sentence}; give the proxy's user and password in HTTP_PROXY or HTTPS_PROXY")
    if error.status and 400 <= error.status < 500 and error.status not in (408, 425, 429):
        return ConfigError(sentence)
    return TransientError(f"{sentence}; try again")
