"""Evaluate: slim against full, and against the champion, on the certification slice; verdict, report and contract."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from slimrec import metrics
from slimrec.artifacts import digest, publish, read_json, read_manifest, verify, write_json
from slimrec.backbones.hidden import widths
from slimrec.config import EvaluateConfig, check_tasks, parse
from slimrec.data import slicing
from slimrec.data.content import contents
from slimrec.data.dataset import Dataset, Split
from slimrec.errors import InputError
from slimrec.model import Model
from slimrec.model.files import load_model
from slimrec.model.scoring import score
from slimrec.registry import sightings
from slimrec.registry.champion import challenge
from slimrec.schema import Schema
from slimrec.selection import Selection
from slimrec.track import Tracker
from slimrec.training import again
from slimrec.verdict import (
    case,
    certify,
    cost,
    fairness,
    leaks,
    losses,
    pilot,
    reaudit,
    seeds,
    selftest,
    sequence,
    tasks,
)
from slimrec.verdict.decision import decide
from slimrec.verdict.report import Facts
from slimrec.verdict.report import write as write_report
from slimrec.verdict.signs import Leak

CONFIG = EvaluateConfig
LATENCY_BATCHES = (1, 4096)
LIMITS = set(
    "allowed_auc_loss allowed_task_loss slices allowed_slice_loss unproven_slices binding ndcg_at".split()
)  # of the recipe, which a second judgement goes by
DAMAGED = 3  # fields that are shuffled, one after the other, to see whether that is noticed


def run(
    config: EvaluateConfig,
    tracker: Tracker,
    dataset: Path,
    slim: Path,
    full: Path,
    selection: Path,
    report: Path,
    slim_retrained: Path | None = None,
    full_retrained: Path | None = None,
) -> dict:
    """Write the artifact `report`: report in .html, .md and .json, contract.json, roc.json, sketch.json, maybe diff.json.

    The sketch is what the verdict can be replayed from; the diff is there if there is a champion.
    Each model reads only its own fields of the split `test`, which no search and no early stop has seen. With
    `config.retrains` so many further trainings of either side are judged with them, from the artifacts of those names.
    """
    verify(selection, "selection")
    chosen = parse(Selection, read_json(selection / "selection.json"), InputError)
    models = {"full": load_model(full), "slim": load_model(slim, "slim")}
    data = {name: Dataset.open(dataset, fields=model.schema.names) for name, model in models.items()}
    for name, folder in (("full", full), ("slim", slim)):
        _same_data(name, folder, data[name].fingerprint)
    tests = {name: part.split("test") for name, part in data.items()}
    logits = {name: score(models[name], test) for name, test in tests.items()}
    test = tests["slim"]
    check_tasks(config, test.schema)
    content = contents(tests["full"])
    models_seen = f"{digest(slim)}-{digest(full)}"
    look = sightings.number(tracker, sightings.SLICE, sightings.slice_of(dataset, test), models_seen)
    paying = {} if look is None else {"confidence": sequence.repeated(config.confidence, look)}
    asked, config = config, config.model_copy(update=paying)
    others = None
    if config.retrains:
        of = {"dataset": data["slim"].fingerprint}
        full_scores = again.read(full_retrained, config.retrains, test, of)
        slim_scores = again.read(slim_retrained, config.retrains, test, {**of, "selection": digest(selection)})
        others = np.moveaxis(np.stack([full_scores, slim_scores]), 2, 0)
    leaking = leaks.read(dataset)
    training = fairness.weigh(*(fairness.recorded(read_manifest(folder)) for folder in (full, slim)))
    damaged, parts = _damaged(models["slim"], chosen, test), slicing.slices(dataset, config.slices)
    scored = _Scored(test, logits, damaged, content, parts, others)
    cases, judged = _judge(config, scored, leaking, training)
    facts = {
        **judged,
        "training": training,
        "leaks": [leak.model_dump() for leak in leaking],
        **_measured(config, models, tests),
        **_made(chosen, models, data["full"], digest(slim)),
        "look": {"number": look, "asked": asked.confidence},
        "limits": asked.model_dump(mode="json", include=LIMITS),
        **_since(chosen, *challenge(asked, tracker, dataset, test, logits["slim"], digest(slim))),
    }
    contract = _contract(facts, chosen, Dataset.open(dataset).schema)
    facts["stoppable"] = [entry["column"] for entry in contract["safe_to_stop_computing"] or contract["candidates"]]
    with publish(report, "report", slim=digest(slim), dataset=data["slim"].fingerprint) as folder:
        write_report(folder, facts)
        write_json(folder / "sketch.json", case.plain(cases))
        write_json(folder / "contract.json", contract)
        write_json(folder / "roc.json", scored.of_task(facts["task"]).roc() if test.schema.tasks else scored.roc())
        if facts["diff"] is not None:
            write_json(folder / "diff.json", facts["diff"])
    tracker.artifact(report)
    return _summary(facts)


class _Scored(NamedTuple):
    """The certification slice with the logits of both models, and all that is asked of them: of one label, or of several."""

    test: Split
    logits: dict[str, np.ndarray]  # full and slim, (n,), or (n, T) of T tasks
    damaged: dict[str, np.ndarray]  # of the slim model with a field in the wrong rows
    content: np.ndarray
    slices: list[slicing.Slice]
    retrained: np.ndarray | None  # (n, 2, N), or (n, 2, N, T): by further trainings of full and slim

    def of_task(self, name: str) -> _Scored:
        """The rows that are observed for one of several tasks, with its label and logits alone."""
        number = [task.name for task in self.test.schema.tasks].index(name)
        rows = np.flatnonzero(~np.isnan(self.test.label[:, number]))
        logits, damaged = (
            {name: values[rows, number] for name, values in each.items()} for each in (self.logits, self.damaged)
        )
        parts = [part._replace(rows=part.rows[rows]) for part in self.slices]
        retrained = None if self.retrained is None else self.retrained[rows][..., number]
        return _Scored(self.test.by_task()[name], logits, damaged, self.content[rows], parts, retrained)

    def rows(self) -> losses.Rows:
        """For the verdict."""
        test, both = self.test, (self.logits["full"], self.logits["slim"])
        return losses.Rows(test.label, *both, test.weight, test.group, self.content, self.retrained)

    def compare(self, one: np.ndarray, other: np.ndarray, confidence: float) -> certify.Comparison:
        """Two scores (n,) of these rows."""
        test = self.test
        return certify.compare(test.label, one, other, test.weight, test.group, confidence, self.content)

    def roc(self) -> dict[str, list[float]]:
        """The curve of the slim model."""
        return metrics.roc(self.test.label, self.logits["slim"], self.test.weight)

    def quality(self) -> Facts:
        """Log-loss and calibration of both models."""
        label, weight = self.test.label, self.test.weight
        return {
            name: {"logloss": metrics.log_loss(label, each, weight), **metrics.calibration(label, each, weight)}
            for name, each in self.logits.items()
        }


def _judge(
    config: EvaluateConfig, scored: _Scored, leaking: list[Leak], training: Facts
) -> tuple[dict[str, case.Case], Facts]:
    """The case of each task ("" of one label), and what report.json holds of the verdict."""
    names = [task.name for task in scored.test.schema.tasks]
    if not names:
        found, facts = _judge_label(config, scored, leaking, training)
        return {"": found}, facts
    cases, judged = {}, []
    for name in names:
        limits = tasks.limits(config, name, len(names))
        own = [leak for leak in leaking if leak.task in ("", name)]
        cases[name], facts = _judge_label(limits, scored.of_task(name), own, training)
        judged.append({"task": name, **facts})
    return cases, tasks.joined(judged)


def _judge_label(
    config: EvaluateConfig, scored: _Scored, leaking: list[Leak], training: Facts
) -> tuple[case.Case, Facts]:
    """The case of one label, and what report.json holds of its verdict."""
    gathered, test = case.gather(scored.rows(), config, scored.slices), scored.test
    judgement = gathered.judge(config.confidence)
    comparison = judgement.comparison
    tested = selftest.check(
        partial(scored.compare, confidence=config.confidence), scored.logits["slim"], scored.damaged
    )
    outcome, reason = decide(comparison, config.allowed_auc_loss, leaking, tested, training, judgement.vetoes)
    return gathered, {
        **_judged(config, comparison, outcome, reason, test),
        "slices": judgement.slices,
        "losses": judgement.losses,
        "retrains": seeds.facts(gathered.whole.differences, gathered.whole.mixed, config.allowed_auc_loss),
        "self_test": tested,
        "pilot": {
            **pilot.against(pilot.of(test, config.confidence), comparison, config.allowed_auc_loss),
            "slices": pilot.sliced(test.label, test.weight, test.group, config, scored.slices),
        },
        "quality": scored.quality(),
    }


def _damaged(slim: Model, chosen: Selection, test: Split) -> dict[str, np.ndarray]:
    """Logits of the slim model on rows where one field stands in the wrong row, for the fields of highest score."""
    best = sorted(chosen.kept, key=lambda name: (-chosen.fields[name].score, name))[:DAMAGED]
    return {name: score(slim, test, shuffled=name) for name in best}


def _since(chosen: Selection, judged: Facts | None, champion: Selection | None) -> Facts:
    """Against the champion: how the new model compares, and what changed since the audit that made that one."""
    diff = None if champion is None else reaudit.compare(champion, chosen).model_dump(mode="json")
    return {"champion": judged, "diff": diff}


def _same_data(name: str, folder: Path, fingerprint: str) -> None:
    """A dataset's ids mean something only to models trained on it, and its test rows are unseen only by those."""
    trained_on = read_manifest(folder).get("dataset")
    if trained_on != fingerprint:
        raise InputError(
            f"the {name} model was trained on dataset {str(trained_on)[:16]}, not on {fingerprint[:16]}: "
            "evaluate it on its own dataset, or train it again"
        )


def _judged(config: EvaluateConfig, comparison: certify.Comparison, outcome: str, reason: str, test: Split) -> Facts:
    auc = {"full": comparison.full_auc, "slim": comparison.slim_auc}
    return {
        "format": 1,
        "decision": "accept" if outcome == "certified" else "reject",
        "verdict": outcome,
        "reason": reason,
        "allowed_auc_loss": config.allowed_auc_loss,
        "confidence": config.confidence,
        "auc": {**auc, **{name: getattr(comparison, name) for name in ("difference", "error", "low", "high")}},
        "rows": comparison.rows,
        "clusters": comparison.clusters,
        "grouped": test.group is not None,
        "evidence": {
            name: getattr(comparison, name)
            for name in ("positive_effective", "negative_effective", "largest_share", "copies", "unseen")
        },
        "weighted": bool(np.ptp(test.weight) > 0),
    }


def _measured(config: EvaluateConfig, models: dict[str, Model], tests: dict[str, Split]) -> Facts:
    batches = {name: _one_batch(test, max(LATENCY_BATCHES)) for name, test in tests.items()}
    sizes = {
        name: {**cost.size(model), "multiply_adds": cost.multiply_adds(model, batches[name])}
        for name, model in models.items()
    }
    latency = []
    for rows in LATENCY_BATCHES:
        full, slim = ([part[:rows] for part in batches[name]] for name in ("full", "slim"))
        full_ms, slim_ms = cost.compare_latency(models["full"], full, models["slim"], slim, config.latency_repeats)
        latency.append({"batch": len(full[0]), "full_ms": full_ms, "slim_ms": slim_ms})
    return {"size": sizes, "latency": latency}


def _one_batch(split: Split, rows: int) -> tuple[Tensor, Tensor]:
    """The first rows of a split, repeated up to `rows` where there are fewer."""
    batch = next(iter(split.batches(rows, shuffle="none")))
    times = -(-rows // len(batch.label))
    return batch.ids.repeat(times, 1)[:rows], batch.dense.repeat(times, 1)[:rows]


def _made(chosen: Selection, models: dict[str, Model], data: Dataset, slim_digest: str) -> Facts:
    full = models["full"]
    fields = [
        {
            "name": name,
            "column": " * ".join(data.schema[name].columns),
            "kind": data.schema[name].kind,
            "score": decision.score,
            "kept": decision.kept,
            "columns": len(decision.columns),
            "width": decision.width,
            "rows": data.schema[name].rows,
            **decision.model_dump(include={"bytes", "spread", "q_value", "note"}),
        }
        for name, decision in chosen.fields.items()
    ]
    budget = chosen.budget.model_dump(exclude_none=True)
    return {
        "fields": fields,
        "pairs": None if chosen.pairs is None else [list(pair) for pair in chosen.pairs],
        "hidden": {name: widths(model.backbone) for name, model in models.items()},
        "threshold": budget.get("threshold"),
        "dataset": data.fingerprint,
        "slim_digest": slim_digest,
        "made": {
            "method": chosen.method,
            "note": chosen.note,
            "seed": chosen.seed,
            "budget": ", ".join(f"{name} = {value:g}" for name, value in budget.items()) or "the method's own rule",
            "evidence": chosen.evidence,
            "backbone": full.config.backbone,
            "embedding_dim": full.config.embedding_dim,
            "rows": {name: len(data.split(name)) for name in ("train", "gate", "valid", "test")},
        },
    }


def _contract(facts: Facts, chosen: Selection, schema: Schema) -> dict:
    """Which raw columns the slim model needs, and which it would let go; the latter only with a certificate."""
    needed = {column for name in chosen.kept for column in schema[name].columns}
    roles = (schema.weight, schema.time, schema.group)
    training = {column for column in (*(label.column for label in schema.labels), *roles) if column}
    single = {schema[name].column for name in chosen.fields if not schema[name].cross}
    idle = [
        {"column": column, "field": name, "bytes": decision.bytes, "score": decision.score}
        for name, decision in chosen.fields.items()
        for column in schema[name].columns
        if not decision.kept and column not in needed | training and not (schema[name].cross and column in single)
    ]
    certified = facts["verdict"] == "certified"
    return {
        "format": 1,
        "needed_columns": sorted(needed),
        "training_columns": sorted(training),
        "safe_to_stop_computing": idle if certified else [],
        "candidates": [] if certified else idle,
        "digests": {"dataset": facts["dataset"], "slim": facts["slim_digest"]},
        "verdict": facts["verdict"],
    }


def _summary(facts: Facts) -> dict:
    """The stage's metrics; an undefined one is left out."""
    auc, sizes, quality = facts["auc"], facts["size"], facts["quality"]
    kept = sum(field["kept"] for field in facts["fields"])
    metrics = {
        "full_auc": auc["full"],
        "slim_auc": auc["slim"],
        **{f"auc_{name}": auc[name] for name in ("difference", "low", "high")},
        "fields_before": len(facts["fields"]),
        "fields_after": kept,
    }
    for name in ("full", "slim"):
        metrics[f"{name}_logloss"] = quality[name]["logloss"]
        metrics[f"{name}_calibration_error"] = quality[name]["error"]
        metrics |= {f"{name}_{what}": sizes[name][what] for what in ("bytes", "embedding_bytes", "multiply_adds")}
        metrics |= {f"{name}_ms_{entry['batch']}": entry[f"{name}_ms"] for entry in facts["latency"]}
    if facts["champion"] and facts["champion"]["auc"]:
        metrics |= {f"champion_auc_{name}": facts["champion"]["auc"][name] for name in ("difference", "low", "high")}
    for each in facts.get("tasks", ()):
        named = {"full_auc": each["auc"]["full"], "slim_auc": each["auc"]["slim"]}
        named |= {f"auc_{name}": each["auc"][name] for name in ("difference", "low", "high")}
        metrics |= {f"{name}/{each['task']}": value for name, value in named.items()}
    outcome = {name: facts[name] for name in ("decision", "verdict", "reason")}
    return {**{name: value for name, value in metrics.items() if value is not None}, **outcome}
