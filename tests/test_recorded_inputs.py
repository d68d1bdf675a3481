"""Every step's compiled container runs on inputs as a real Kubeflow sends them, and makes what the next one reads."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import small
from driver import Driver
from slimrec.pipelines import cluster

from slimrec.artifacts import digest, read_json, verify
from slimrec.config import Recipe, parse


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    """A small audit of two files, each step run by the executor; the log is ingested in one and in two parts."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "log").mkdir()
    for part in range(2):
        pq.write_table(small.raw_rows(1500, seed=part), folder / "log" / f"{part}.parquet")
    recipe = {**small.RECIPE, "ingest": {**small.RECIPE["ingest"], "source": str(folder / "log")}}
    recipe["ingest"] |= {"fields": small.FIELDS, "parts": 2}
    written = [folder / "whole.yaml", folder / "parts.yaml"]
    cluster.write(written[0], None, allow_tag=True)
    cluster.write(written[1], parse(Recipe, recipe), allow_tag=True)
    (folder / "driver").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("SLIMREC_AUDIT", "recorded")
        audit = Audit(Driver(folder / "driver", *written), recipe, str(folder / "workspace"))
        audit.run()
        yield audit


class Audit:
    """The steps of one audit in their order, and what each of them made, by name."""

    def __init__(self, driver: Driver, recipe: dict, workspace: str):
        self.driver, self.recipe, self.workspace, self.made = driver, recipe, workspace, {}

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

    def run(self) -> None:
        """All steps on one log."""
        config = self.recipe
        log = {"config": config["ingest"], "source": config["ingest"]["source"]}
        self.step("fingerprint", **log)
        log |= {"fields": small.FIELDS, "fingerprint": self.returned("fingerprint")}
        self.step("ingest", **log)
        self.in_parts(log)
        self.step("sample", sent={"dataset": "ingest.dataset"}, config=config["sample"])
        data = {"dataset": "ingest.dataset", "subset": "sample.subset"}
        self.step("pretrain", sent=data, config=config["pretrain"])
        full = {"model": config["pretrain"]["model"], "train": config["finetune"]["train"]}
        self.step("baseline", "pretrain", {"dataset": "ingest.dataset"}, config=full)
        self.step("prune", sent={"gated": "pretrain.gated"}, config=config["prune"])
        cut = {"gated": "pretrain.gated", "selection": "prune.selection", "slim": "prune.slim"}
        self.step("finetune", sent={**data, **cut}, config=config["finetune"])
        judged = {"dataset": "ingest.dataset", "slim": "finetune.tuned", "full": "baseline.gated"}
        judged["selection"] = "prune.selection"
        self.step("evaluate", sent=judged, config=config["evaluate"], allowed_auc_loss=0.4, champion="small")
        self.step("evaluate-strictly", "evaluate", judged, config=config["evaluate"], allowed_auc_loss=0.0)
        ended = {"slim": "finetune.tuned", "selection": "prune.selection"}
        self.step("refuse", sent={**ended, "report": "evaluate-strictly.report"}, config=config["register"])
        self.step("register", sent={**ended, "report": "evaluate.report"}, config=config["register"])

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


def test_a_training_without_a_subset_takes_more_steps_than_one_with_it(audit):
    steps = {
        name: read_json(audit.path(f"{name}.gated") / "manifest.json")["figures"]["steps"]
        for name in ("pretrain", "baseline")
    }
    assert steps["pretrain"] < steps["baseline"]


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
