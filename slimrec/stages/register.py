"""Register: the slim model becomes a version in the registry, or is refused with the reason; both are good ends."""

from __future__ import annotations

from pathlib import Path

from slimrec.artifacts import digest, read_json, verify
from slimrec.config import RegisterConfig
from slimrec.errors import InputError
from slimrec.registry import registration, windows
from slimrec.track import Tracker

CONFIG = RegisterConfig


def run(config: RegisterConfig, tracker: Tracker, slim: Path, report: Path, selection: Path | None = None) -> dict:
    """Act on the decision in report.json; returns registered, version, aliases and reason."""
    judged = verify(report, "report")["slim"]
    verify(slim, "slim")
    if judged != digest(slim):
        raise InputError(f"{report} judges another model than {slim}: evaluate this one first")
    decision = read_json(report / "report.json")
    if selection is not None:
        verify(selection, "selection")
        tracker.artifact(selection / "selection.json")
    if decision["decision"] != "accept":
        outcome = registration.refuse(decision["reason"], tracker.run_id)
    else:
        outcome = registration.register(config.name, slim, report, decision, config.approval, tracker.run_id)
    champion = decision["champion"]["version"] if decision["champion"] else ""
    windows.record(tracker.run_id, config.name, config.window, outcome["version"], champion)
    return outcome
