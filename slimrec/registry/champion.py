"""The champion in a new audit: what it was decided on, and how it scores this audit's test rows through its own encoder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from slimrec.artifacts import digest, read_json, write_json
from slimrec.config import EvaluateConfig, IngestConfig
from slimrec.data.dataset import Dataset, Split
from slimrec.data.keys import read_keys
from slimrec.data.slicing import Slice, slices
from slimrec.data.source import Chunk, open_source
from slimrec.errors import ConfigError, InputError, SecurityError
from slimrec.model.scoring import shape
from slimrec.registry import apart, brought, sightings, versions
from slimrec.registry.ledger import Ledger, Registered
from slimrec.schema import Schema
from slimrec.selection import Selection
from slimrec.serving.predictor import Predictor
from slimrec.track import Tracker, enabled
from slimrec.verdict import case, certify, sequence, tasks
from slimrec.verdict.losses import Rows
from slimrec.written import parse


@dataclass(frozen=True)
class Champion:
    """A registered model's champion, fetched and verified."""

    model: str
    version: str
    slim: Path
    files: Path  # the whole MLflow model, which may bring code
    registered: Registered | None  # as the ledger says
    selection: Selection | None  # of the audit that it came from; None where that was not kept


def reigning(name: str, folder: Path) -> Champion | None:
    """The champion of `name` with its files in `folder`; None without a registry, a model of that name or a champion."""
    if not name or not enabled():
        return None
    server = versions.connect()
    version = versions.version_at(server, name, versions.CHAMPION)
    if not version:
        return None
    registered = Ledger(server, name).registered(version)
    slim = versions.fetch(server, name, version, folder / "model", registered)
    selection = versions.audit_file(server, name, version, "selection.json", folder)
    chosen = None if selection is None else parse(Selection, read_json(selection), SecurityError)
    return Champion(name, version, slim, folder / "model", registered, chosen)


def challenge(
    config: EvaluateConfig, tracker: Tracker, dataset: Path, test: Split, slim: np.ndarray, challenger: str
) -> tuple[dict[str, Any] | None, Selection | None]:
    """The new model, `challenger` by digest, against whoever reigns: what `judge` finds, and on what that one was decided.

    The look counts, and its bounds hold with the confidence that is left for it. Nothing twice where nobody reigns.
    """
    with tempfile.TemporaryDirectory() as scratch:
        champion = reigning(config.champion, Path(scratch))
        if champion is None:
            return None, None
        number = sightings.number(tracker, sightings.CHAMPION, digest(champion.slim), challenger)
        confidence = sequence.challenge(config.confidence, number or 1)
        paying = config.model_copy(update={"confidence": confidence})
        judged = judge(paying, champion, dataset, test, slim)
        judged["look"] = {"number": number, "asked": config.confidence, "confidence": confidence}
        return judged, champion.selection


def judge(config: EvaluateConfig, champion: Champion, dataset: Path, test: Split, slim: np.ndarray) -> dict[str, Any]:
    """The new model, by its logits on the rows of `test`, against the champion: verdict, reason, figures.

    Protected slices and binding losses veto as they do against the full model. Of several tasks each is compared, as in
    `slimrec.verdict.tasks`. Inconclusive where the log lacks a column that the champion needs, or where that learnt
    other tasks. Raises InputError where the source no longer is what was ingested.
    """
    facts = {"model": champion.model, "version": champion.version, "digest": digest(champion.slim), "auc": None}
    try:
        logits, strange = _logits(champion, dataset, test)
    except CannotRead as error:
        return {**facts, "verdict": "inconclusive", "reason": f"the champion cannot read this log: {error}"}
    names, parts = [task.name for task in test.schema.tasks], slices(dataset, config.slices)
    judged = []
    for name, of_task in zip(names, _by_task(test, parts, logits, slim)):
        own = tasks.limits(config, name, len(names))
        judged.append({"task": name, "allowed_auc_loss": own.allowed_auc_loss, **_compared(own, *of_task)})
    whole = tasks.joined(judged) if names else _compared(config, test, parts, logits, slim)
    if strange:
        whole["reason"] = f"{whole['reason']}; mind: {' '.join(strange)}"
    return {**facts, **whole}


def _compared(
    config: EvaluateConfig, test: Split, parts: list[Slice], champion: np.ndarray, slim: np.ndarray
) -> dict[str, Any]:
    """Verdict, reason and figures for one label."""
    rows = Rows(test.label, champion, slim, test.weight, test.group, None)
    judgement = case.gather(rows, config, parts).judge(config.confidence)
    found, (outcome, reason) = judgement.comparison, judgement.outcome(config.allowed_auc_loss)
    if outcome == "certified" and _worse_than_chance(test, champion, config.confidence):
        outcome, reason = (
            "inconclusive",
            (
                f"the champion ranks these rows worse than chance, with an AUC of {found.full_auc:.4f}, as where 0 and 1 of the "
                "label changed places: any model beats it; check the label against the champion's audit, then a person decides"
            ),
        )
    auc = {"champion": found.full_auc, "slim": found.slim_auc}
    auc |= {name: getattr(found, name) for name in ("difference", "error", "low", "high")}
    told = {"slices": judgement.slices, "losses": judgement.losses}
    return {"verdict": outcome, "reason": reason, "auc": auc, **told}


def _worse_than_chance(test: Split, champion: np.ndarray, confidence: float) -> bool:
    """Whether the AUC of the champion's logits (n,) is below one half, with that confidence."""
    alike, rows = np.zeros_like(champion), np.arange(len(champion)).astype(np.uint64)
    high = certify.compare(test.label, alike, champion, test.weight, test.group, confidence, rows).high
    return high is not None and high < 0


def _by_task(test: Split, parts: list[Slice], *logits: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """For each task the rows that are observed for it, what slices have of them, and of each logits (n, T) its own."""
    for number, part in enumerate(test.by_task().values()):
        there = ~np.isnan(test.label[:, number])
        own = [each._replace(rows=each.rows[there]) for each in parts]
        yield part, own, *(each[there, number] for each in logits)


Scores = tuple[np.ndarray, list[str]]
_LOGITS, _STRANGE, _CANNOT = "logits.npy", "strange.json", "cannot.json"


class CannotRead(InputError):
    """The log lacks what the champion needs, or has it with another type; or the champion's own code cannot be used."""


def _logits(champion: Champion, dataset: Path, test: Split) -> Scores:
    """`score` by the network that the champion was registered with, whatever the Python path holds today."""
    try:
        tops = brought.from_outside(champion.slim)
    except ConfigError as error:
        raise CannotRead(f"{error}; install the package that its network comes from") from None
    code = brought.stored(champion.files)
    if not tops or (code and brought.digest(code) == brought.digest(brought.on_the_path(tops))):
        return score(champion.slim, dataset, test)
    if not code:
        if trouble := brought.other_release(champion.files, tops):
            raise CannotRead(f"{trouble}: audit where that is installed")
        return score(champion.slim, dataset, test)
    try:
        versions.require_code(champion.model, champion.version, champion.files, champion.registered)
    except SecurityError as error:
        raise CannotRead(str(error)) from None
    with tempfile.TemporaryDirectory() as scratch:
        apart.run(code, write_scores, champion.slim, dataset, scratch)
        return read_scores(Path(scratch))


def write_scores(slim: str, dataset: str, folder: str) -> None:
    """What `score` finds, or why the model cannot read the log, as files in `folder`: for a process apart."""
    try:
        logits, strange = score(Path(slim), Path(dataset))
    except CannotRead as error:
        write_json(Path(folder, _CANNOT), str(error))
    else:
        np.save(Path(folder, _LOGITS), logits)
        write_json(Path(folder, _STRANGE), strange)


def read_scores(folder: Path) -> Scores:
    """What `write_scores` left there; CannotRead where that is why there are no scores, SecurityError for other than numbers."""
    if (folder / _CANNOT).is_file():
        raise CannotRead(read_json(folder / _CANNOT))
    try:
        logits = np.load(folder / _LOGITS)  # which takes no pickle unless told to
    except ValueError as error:
        raise SecurityError(f"the process that scored with the champion's own code left no numbers: {error}") from None
    return logits, read_json(folder / _STRANGE)


def score(slim: Path, dataset: Path, test: Split | None = None) -> Scores:
    """Logits float64, (n,) or (n, T), that a slim model gives the raw rows of a test split, read once more from the source.

    And a sentence for each label that its audit told otherwise, and for each field whose values are new to that model far
    more often than in its own training.

    The dataset holds ids of its own vocabularies, which mean nothing to a model of another audit. `test`: the split of
    that name of `dataset`, where it is open already.
    """
    test = Dataset.open(dataset).split("test") if test is None else test
    predictor = Predictor.load(slim)
    if _learnt(predictor.model.schema) != _learnt(test.schema):
        known = ", ".join(_learnt(predictor.model.schema)) or "one label"
        raise CannotRead(f"it learnt {known}, and this audit {', '.join(_learnt(test.schema)) or 'one label'}")
    roles = {"label": test.schema.label, "tasks": test.schema.tasks, "weight": None, "time": None, "group": None}
    schema = predictor.model.schema.model_copy(update=roles)
    address = read_json(dataset / "manifest.json")["source"]["address"]
    try:
        source = open_source(IngestConfig(source=address, fields=schema.model_dump()))
    except (InputError, ConfigError) as error:
        raise CannotRead(str(error)) from None
    changed = InputError(f"{address} is no longer the log that was ingested: run the audit again")
    order = np.argsort(test.row)
    wanted, logits, done = test.row[order], np.full(shape(predictor.model, test), np.nan), 0
    for chunk in source.chunks():
        end = int(np.searchsorted(wanted, chunk.start + chunk.data.num_rows))
        if end > done:
            local = wanted[done:end] - chunk.start
            rows = chunk.data.take(pa.array(local))
            keys = read_keys(schema, rows, wanted[done:end], partial(_where, chunk, local))
            if not np.array_equal(keys.label, test.label[order[done:end]], equal_nan=True):
                raise changed
            try:
                logits[order[done:end]] = predictor.logits(pa.Table.from_batches([rows]))
            except InputError as error:
                raise CannotRead(str(error)) from None
            done = end
        if done == len(wanted):
            far = predictor.novelty.far(predictor.encoder.schema).values()
            return logits, [*_other_labels(predictor.model.schema, test.schema), *far]
    raise changed


def _learnt(schema: Schema) -> list[str]:
    """The names of several tasks."""
    return [task.name for task in schema.tasks]


def _other_labels(learnt: Schema, asked: Schema) -> Iterator[str]:
    """A sentence for each label whose column or rule is another now; a renamed column may well hold the same."""
    for before, now in zip(learnt.labels, asked.labels):
        if before.told != now.told:
            yield f"the champion learnt the label {before.told}, and this audit {now.told}; do they mean the same?"


def _where(chunk: Chunk, taken: np.ndarray, position: int) -> str:
    """What an error calls a row of those that were taken from a chunk."""
    return chunk.where(int(taken[position]))
