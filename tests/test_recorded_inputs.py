"""Every step's compiled container runs on inputs as a real Kubeflow sends them, and makes what the next one reads."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import small
from driver import Driver
from slimrec.pipelines import cluster

from slimrec.artifacts import digest, read_json, verify
from slimrec.config import Recipe, parse
from slimrec.data import planted

RECORDED = Path(__file__).parents[2] / "shared" / "kubeflow" / "recorded"
FILES = (
    *("fingerprint", "window", "ingest", "ingest-s3", "parts-plan", "parts-count", "parts-merge", "parts-encode"),
    *("parts-gather", "sample", "pretrain", "pretrain-2", "prune", "finetune", "evaluate", "register", "refuse"),
    "notify",
)
KINDS = {"dataset": "dataset", "subset": "subset", "gated": "gated", "selection": "selection", "slim": "slim"}
KINDS |= {"tuned": "slim", "report": "report"}


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    """A small audit of two files, each step run by the executor; the log is ingested in one and in two parts."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "log").mkdir()
    for part in range(2):
        pq.write_table(small.raw_rows(1500, seed=part), folder / "log" / f"{part}.parquet")
    log = {"source": "s3://logs/day", "fields": small.FIELDS, "parts": 2}
    recipe = {**small.RECIPE, "ingest": {**small.RECIPE["ingest"], **log}}
    written = [folder / "whole.yaml", folder / "parts.yaml"]
    cluster.write(written[0], None, allow_tag=True)
    cluster.write(written[1], parse(Recipe, recipe), allow_tag=True)
    (folder / "driver").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("SLIMREC_AUDIT", "recorded")
        audit = Audit(Driver(folder / "driver", *written), str(folder / "workspace"))
        audit.run(recipe, str(folder / "log"))
        yield audit


class Audit:
    """The steps of one audit in their order, and what each of them made, by name."""

    def __init__(self, driver: Driver, workspace: str):
        self.driver, self.workspace, self.made = driver, workspace, {}

    def step(self, name: str, component: str = "", sent: dict | None = None, **parameters) -> None:
        """Run a component; `sent` names its artifacts by STEP.ARTIFACT."""
        artifacts = {key: self.sent(source) for key, source in (sent or {}).items()}
        parameters = {**parameters, "workspace": self.workspace}
        self.made[name] = self.driver.run(component or name, parameters, **artifacts)

    def sent(self, source: str | list[str]) -> dict | list[dict]:
        if isinstance(source, list):
            return [self.sent(one) for one in source]
        step, _, name = source.partition(".")
        return self.made[step].sent(name)

    def path(self, source: str) -> Path:
        step, _, name = source.partition(".")
        return self.made[step].path(name)

    def returned(self, step: str, name: str = "Output"):
        return self.made[step].parameters[name]

    def run(self, recipe: dict, log: str) -> None:
        """All steps, on another log than the recipe's."""
        self.step("fingerprint", recipe=recipe, override_source=log, audit_date="auto")
        told = {name: self.returned("fingerprint", name) for name in ("settled", "day", "fingerprint")}
        self.step("window", fingerprint=told["fingerprint"], day=told["day"], recipe=told["settled"])
        log = {"config": self.section("ingest"), "fingerprint": told["fingerprint"]}
        self.step("ingest", **log)
        self.in_parts(log)
        self.step("sample", sent={"dataset": "ingest.dataset"}, config=self.section("sample"))
        data = {"dataset": "ingest.dataset", "subset": "sample.subset"}
        self.step("pretrain", sent=data, config=self.section("pretrain"))
        self.step("baseline", sent={**data, "search": "pretrain.gated"}, config=self.section("baseline"))
        self.step("prune", sent={"gated": "pretrain.gated"}, config=self.section("prune"))
        cut = {"gated": "pretrain.gated", "selection": "prune.selection", "slim": "prune.slim"}
        self.step("finetune", sent={**data, **cut}, config=self.section("finetune"))
        judged = {"dataset": "ingest.dataset", "slim": "finetune.tuned", "full": "baseline.gated"}
        judged["selection"] = "prune.selection"
        judged |= {"slim_retrained": "finetune.retrained", "full_retrained": "baseline.retrained"}
        self.step("evaluate", sent=judged, config=self.section("evaluate"))
        strictly = {**self.section("evaluate"), "allowed_auc_loss": 0.0}
        self.step("evaluate-strictly", "evaluate", judged, config=strictly)
        ended = {"slim": "finetune.tuned", "selection": "prune.selection"}
        config = {"config": self.section("register"), "window": self.returned("window")}
        self.step("refuse", sent={**ended, "report": "evaluate-strictly.report"}, **config)
        ended["dataset"] = "ingest.dataset"
        self.step("register", sent={**ended, "report": "evaluate.report"}, **config)

    def section(self, name: str) -> dict:
        """What the first step gave out for a step, numbers as a server hands them on."""
        return json.loads(json.dumps(self.returned("fingerprint", name)), parse_int=float)

    def in_parts(self, log: dict) -> None:
        self.step("plan", **log)
        plan, both = {"plan": "plan.plan"}, self.returned("plan")
        for part in both:
            self.step(f"count-{part}", "count", plan, part=part)
        self.step("merge", sent={**plan, "counts": [f"count-{part}.counts" for part in both]})
        plan["encoding"] = "merge.encoding"
        for part in both:
            self.step(f"encode-{part}", "encode", plan, part=part)
        encoded = [f"encode-{part}.encoded" for part in both]
        self.step("gather", sent={**plan, "encoded": encoded}, fingerprint=log["fingerprint"])


@pytest.mark.parametrize(
    ("artifact", "kind"),
    [
        ("ingest.dataset", "dataset"), ("gather.dataset", "dataset"), ("sample.subset", "subset"),
        ("pretrain.gated", "gated"), ("baseline.gated", "gated"), ("prune.selection", "selection"),
        ("prune.slim", "slim"), ("finetune.tuned", "slim"), ("evaluate.report", "report"),
    ],
)  # fmt: skip
def test_what_a_step_makes_of_inputs_as_the_driver_sends_them_is_whole(audit, artifact, kind):
    assert verify(audit.path(artifact))["kind"] == kind


def test_ingest_in_parts_makes_the_same_dataset_there(audit):
    assert digest(audit.path("gather.dataset")) == digest(audit.path("ingest.dataset"))


def test_the_cut_model_has_the_fields_that_the_selection_kept(audit):
    kept = {
        name
        for name, one in read_json(audit.path("prune.selection") / "selection.json")["fields"].items()
        if one["columns"]
    }
    assert {field["name"] for field in read_json(audit.path("finetune.tuned") / "schema.json")["fields"]} == kept
    assert len(kept) == int(0.75 * len(small.FIELDS["fields"]))


def test_the_browser_gets_report_and_curve(audit):
    assert audit.path("evaluate.page").read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")
    assert len(audit.made["evaluate"].artifacts["curve"]["metadata"]["confidenceMetrics"]) == 101


def test_the_decision_reaches_the_registry_or_its_reason_the_reader(audit):
    assert audit.returned("evaluate") == "accept" and audit.returned("register")["version"] == "1"
    assert audit.returned("evaluate-strictly") != "accept" and "AUC" in audit.returned("refuse")


class Recorded:
    """One file of an earlier day's audits on a real cluster, with the parameters that our components have now."""

    def __init__(self, name: str, folder: Path):
        if not RECORDED.is_dir():
            pytest.skip("no ../shared/kubeflow/recorded: what a real cluster sent is not part of the repository")
        self.name, self.folder, told = name, folder, read_json(RECORDED / f"{name}.json")
        # what was a second `pretrain` is a component of its own now
        self.step = "baseline" if name == "pretrain-2" else told["function"]
        self.input = told["executor_input"]
        self.parameters = self.input["inputs"]["parameterValues"]

    def sent(self, audit: Audit) -> dict:
        """The recorded input; artifacts and folders are those of `audit`, the rest is as it was."""
        artifacts = self.input["inputs"].get("artifacts", {})
        for given in artifacts.values():
            for number, one in enumerate(given["artifacts"]):
                one["uri"] = audit.sent(self._made(one["uri"], number))["uri"]
        if self.step == "baseline":
            artifacts["subset"] = {"artifacts": [audit.sent("sample.subset")]}
            artifacts["search"] = {"artifacts": [audit.sent("pretrain.gated")]}
        if self.step == "register":
            artifacts["dataset"] = {"artifacts": [audit.sent("ingest.dataset")]}
        self.input["inputs"]["parameterValues"] = {**self._now(), "workspace": audit.workspace}
        return self.input

    def _made(self, uri: str, number: int) -> str:
        """STEP.ARTIFACT of our audit for what a recorded address names."""
        producer, _, artifact = uri.split("/")[-3:]
        if producer in ("count", "encode"):
            producer = f"{producer}-{number}"
        if self.name == "refuse" and artifact == "report":
            producer = "evaluate-strictly"
        return f"{producer.replace('pretrain-2', 'baseline')}.{artifact}"

    def _now(self) -> dict:
        """The parameters that are still there; what stood beside a section stands in it, or in the recipe."""
        known = {"fingerprint", "window", "part", "config", "status"}
        kept = {name: value for name, value in self.parameters.items() if name in known}
        if self.step in ("fingerprint", "window"):
            given = read_json(RECORDED / "window.json")["executor_input"]["inputs"]["parameterValues"]
            recipe = {name.removesuffix("_config"): one for name, one in given.items() if name.endswith("_config")}
            del recipe["baseline"]  # it was made of the others
            return {"recipe": recipe} | ({"fingerprint": "f", "day": ""} if self.step == "window" else {})
        if "source" in self.parameters:
            kept["config"] |= {"source": self._log(), "fields": self.parameters["fields"] or None}
        return kept

    def _log(self) -> str:
        """A log with the recorded one's columns, but fewer rows."""
        if self.parameters["source"].startswith("planted:"):
            return "planted:rows=6000,seed=0"
        self.folder.mkdir()
        for part in range(2):
            planted.write(self.folder / f"{part}.parquet", rows=1500, seed=part)
        return str(self.folder)


@pytest.mark.parametrize("name", FILES)
def test_what_a_real_cluster_sent_runs_and_makes_whole_artifacts(audit, name, tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMREC_AUDIT", f"replay-{name}")
    recorded = Recorded(name, tmp_path / "log")
    made = audit.driver.replay(recorded.step, recorded.sent(audit))
    promised = audit.driver.components[f"comp-{recorded.step}"].get("outputDefinitions", {})
    for artifact in set(promised.get("artifacts", {})) & set(recorded.input["outputs"]["artifacts"]):  # not later ones
        if artifact in KINDS:
            assert verify(made.path(artifact))["kind"] == KINDS[artifact]
        elif artifact not in ("metrics", "curve"):  # those are all metadata
            assert made.path(artifact).exists(), artifact
    assert set(made.parameters) == set(promised.get("parameters", {}))
