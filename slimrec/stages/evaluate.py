"""Evaluate: slim against full, and against the champion, on the certification slice; verdict, report and contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slimrec.artifacts import check_made_of, digest, publish, read_json, read_manifest, verify, write_json
from slimrec.backbones.hidden import widths
from slimrec.config import EvaluateConfig, check_limits
from slimrec.data import slicing
from slimrec.data.content import contents
from slimrec.data.dataset import Dataset, Split
from slimrec.errors import InputError
from slimrec.model import Model
from slimrec.model.files import load_model
from slimrec.model.scoring import score
from slimrec.registry import sightings
from slimrec.registry.champion import challenge
from slimrec.selection import Selection
from slimrec.track import Tracker
from slimrec.training import again
from slimrec.verdict import case, cost, fairness, leaks, reaudit, sequence
from slimrec.verdict.contract import contract
from slimrec.verdict.losses import Facts
from slimrec.verdict.report import write as write_report
from slimrec.verdict.scored import Scored, judge
from slimrec.written import parse

CONFIG = EvaluateConfig
# Of the recipe, what a second judgement goes by.
LIMITS = set("allowed_auc_loss allowed_task_loss slices allowed_slice_loss unproven_slices binding ndcg_at".split())
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
    check_made_of(slim, selection=digest(selection))
    tests = {name: part.split("test") for name, part in data.items()}
    test = tests["slim"]
    check_limits(config, test.schema)
    others = _retrained(config, test, data["slim"].fingerprint, selection, full_retrained, slim_retrained)
    scored = _scored(models, tests, chosen, slicing.slices(dataset, config.slices), others)
    look, paying = _look(config, tracker, dataset, test, f"{digest(slim)}-{digest(full)}")
    leaking = leaks.read(dataset)
    training = fairness.weigh(*(fairness.recorded(read_manifest(folder)) for folder in (full, slim)))
    cases, judged = judge(paying, scored, leaking, training)
    facts = {
        **judged,
        "training": training,
        "leaks": [leak.model_dump() for leak in leaking],
        **cost.measure(models, tests, config.latency_repeats),
        **_made(chosen, models, data["full"], digest(slim)),
        "look": {"number": look, "asked": config.confidence},
        "limits": config.model_dump(mode="json", include=LIMITS),
        **_since(chosen, *challenge(config, tracker, dataset, test, scored.logits["slim"], digest(slim))),
    }
    terms = contract(facts, chosen, Dataset.open(dataset).schema)
    idle = (
        terms["safe_to_stop_computing"] or terms["candidates"]
    )  # an entry a field, of which several may read a column
    facts["stoppable"] = list(dict.fromkeys(entry["column"] for entry in idle))
    _publish(report, facts, terms, cases, scored)
    tracker.artifact(report)
    return _summary(facts)


def _look(
    config: EvaluateConfig, tracker: Tracker, dataset: Path, test: Split, models: str
) -> tuple[int | None, EvaluateConfig]:
    """Which look at the certification slice this one with `models` is, and the recipe at the confidence that pays for it."""
    look = sightings.number(tracker, sightings.SLICE, sightings.slice_of(dataset, test), models)
    paying = {} if look is None else {"confidence": sequence.repeated(config.confidence, look)}
    return look, config.model_copy(update=paying)


def _retrained(
    config: EvaluateConfig, test: Split, dataset: str, selection: Path, full: Path | None, slim: Path | None
) -> np.ndarray | None:
    """Logits (n, 2, N), or (n, 2, N, T) of T tasks, by the N further trainings of full and slim; None where none are asked for."""
    if not config.retrains:
        return None
    one = again.read(full, config.retrains, test, {"dataset": dataset})
    other = again.read(slim, config.retrains, test, {"dataset": dataset, "selection": digest(selection)})
    return np.moveaxis(np.stack([one, other]), 2, 0)


def _scored(
    models: dict[str, Model],
    tests: dict[str, Split],
    chosen: Selection,
    slices: list[slicing.Slice],
    retrained: np.ndarray | None,
) -> Scored:
    """The certification slice as both models score it, the slim one on damaged rows too: the fields of highest score, one by one."""
    logits = {name: score(models[name], test) for name, test in tests.items()}
    best = sorted(chosen.kept, key=lambda name: (-chosen.fields[name].score, name))[:DAMAGED]
    damaged = {name: score(models["slim"], tests["slim"], shuffled=name) for name in best}
    return Scored(tests["slim"], logits, damaged, contents(tests["full"]), slices, retrained)


def _publish(report: Path, facts: Facts, terms: Facts, cases: dict[str, case.Case], scored: Scored) -> None:
    several = scored.test.schema.tasks
    with publish(report, "report", slim=facts["slim_digest"], dataset=facts["dataset"]) as folder:
        write_report(folder, facts)
        write_json(folder / "sketch.json", case.plain(cases))
        write_json(folder / "contract.json", terms)
        write_json(folder / "roc.json", (scored.of_task(facts["task"]) if several else scored).roc())
        if facts["diff"] is not None:
            write_json(folder / "diff.json", facts["diff"])


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
