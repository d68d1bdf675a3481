"""The seven stages, and `execute`: the one way in from a component or the command line."""

from __future__ import annotations

import copy
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from slimrec import track
from slimrec.config import parse
from slimrec.errors import ConfigError, SlimrecError, TransientError, did_you_mean

STAGES = ("ingest", "sample", "pretrain", "prune", "finetune", "evaluate", "register")


def execute(stage: str, config: dict[str, Any], *, audit: str = "", workspace: str = "", **paths: str | None) -> dict:
    """Run one stage: parse its section, open its MLflow run under `audit`, call it, log what it returns.

    `paths` are the artifact folders the stage reads and writes, by name. `workspace` is a folder that outlives the
    step: checkpoints lie there, and the reason of a failure (`failure.json`). Returns the stage's metrics.
    """
    if stage not in STAGES:
        raise ConfigError(f"there is no stage '{stage}'; {did_you_mean(stage, STAGES)}")
    try:
        return _run(stage, config, audit, workspace, paths)
    except (SlimrecError, OSError) as error:
        failure = error if isinstance(error, SlimrecError) else TransientError(str(error))
        if workspace:
            _leave_reason(Path(workspace), stage, failure)
        raise failure from error


def execute_or_exit(stage: str, config: dict[str, Any], *, choices: dict[str, Any] | None = None, **rest) -> dict:
    """`execute` for a process of its own: what is meant for a person ends it with one sentence and its exit class."""
    try:
        return execute(stage, choose(config, choices or {}), **rest)
    except SlimrecError as error:
        print(f"slimrec: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def choose(config: dict[str, Any], choices: dict[str, Any]) -> dict[str, Any]:
    """The section with the choices a person made beside it (dotted key -> value, None for no choice) put in.

    Another method or backbone than the section's starts without the options that were meant for that one. Numbers
    in JSON parameters of a pipeline come as floats: whole ones become integers again.
    """
    chosen = _whole(copy.deepcopy(config))
    for key, value in choices.items():
        if value is None:
            continue
        *parents, last = key.split(".")
        owner = chosen
        for parent in parents:
            owner = owner.setdefault(parent, {})
        if last in ("method", "backbone") and owner.get(last) != value:
            owner.pop("options", None)
        owner[last] = value
    return chosen


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _run(stage: str, config: dict, audit: str, workspace: str, paths: dict) -> dict:
    module = importlib.import_module(f"slimrec.stages.{stage}")
    parsed = parse(module.CONFIG, config)
    given = {name: Path(path) for name, path in paths.items() if path}
    if stage in ("pretrain", "finetune") and workspace:
        given["checkpoints"] = Path(workspace) / "checkpoints"
    with track.run(stage, audit, parsed) as tracker:
        metrics = module.run(parsed, tracker, **given)
        tracker.metrics({name: value for name, value in metrics.items() if isinstance(value, (int, float))})
    return metrics


def _leave_reason(workspace: Path, stage: str, failure: SlimrecError) -> None:
    workspace.mkdir(parents=True, exist_ok=True)
    scratch = workspace / f".failure.{os.getpid()}"
    scratch.write_text(json.dumps({"stage": stage, "exit_code": failure.exit_code, "reason": str(failure)}))
    scratch.replace(workspace / "failure.json")
