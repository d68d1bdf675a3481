"""Register: the slim model becomes a version in the registry, or is refused with the reason; both are good ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slimrec.artifacts import check_made_of, digest, read_json, verify
from slimrec.config import RegisterConfig
from slimrec.errors import ConflictError, InputError
from slimrec.registry import bundle as bundles
from slimrec.registry import registration, rejudgement, windows
from slimrec.track import Tracker

CONFIG = RegisterConfig
AGAIN = 2  # times that a model is judged again because the champion changed; who loses more races gives up


def run(
    config: RegisterConfig,
    tracker: Tracker,
    slim: Path,
    report: Path,
    selection: Path | None = None,
    dataset: Path | None = None,
    bundle: Path | None = None,
) -> dict:
    """Act on the decision in report.json; returns registered, version, aliases and reason.

    Where another model became champion since, this one is judged against that one, on the same rows of `dataset`.
    Without a dataset, or when it happens a third time, that ends as ConflictError. With a selection, write the artifact
    `bundle` where a folder is given for it: all that was decided on, in one file.
    """
    judged = verify(report, "report")["slim"]
    verify(slim, "slim")
    if judged != digest(slim):
        raise InputError(f"{report} judges another model than {slim}: evaluate this one first")
    decision = read_json(report / "report.json")
    if selection is not None:
        verify(selection, "selection")
        check_made_of(slim, selection=digest(selection))
        tracker.artifact(selection / "selection.json")
    if decision["decision"] != "accept":
        outcome = registration.refuse(decision["reason"], tracker.run_id)
    else:
        outcome, decision = _register(config, tracker, slim, report, dataset, decision)
    champion = decision["champion"]["version"] if decision["champion"] else ""
    windows.record(tracker.run_id, config.name, config.window, outcome["version"], champion)
    if selection is not None and bundle is not None:
        told = registration.told(config.name, outcome["version"]) if outcome["registered"] else {}
        bundles.write(bundle, slim, report, selection, {"model": config.name, **outcome, **told})
        tracker.artifact(bundle)
    return outcome


def _register(
    config: RegisterConfig, tracker: Tracker, slim: Path, report: Path, dataset: Path | None, decision: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What became of the model, and the decision that it became that by: the last one that was made."""
    left = AGAIN if dataset is not None else 0
    while True:
        if left and rejudgement.overtaken(config.name, slim, decision):
            left -= 1
            decision = rejudgement.judge_again(config.name, slim, dataset, decision, tracker)
            print(f"slimrec: {decision['reason']}")
        try:
            return registration.register(config.name, slim, report, decision, config.approval, tracker.run_id), decision
        except ConflictError:
            if not left or not rejudgement.overtaken(config.name, slim, decision):
                raise
