"""The stages, and `execute`: the one way in from a component or the command line."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slimrec import track
from slimrec.artifacts.codebase import require_same
from slimrec.artifacts.failures import Attempt
from slimrec.config import parse
from slimrec.errors import ConfigError, SlimrecError, TransientError, did_you_mean
from slimrec.training import launch

STAGES = ("fingerprint", "window", "ingest", "sample", "pretrain", "prune", "finetune", "evaluate", "register")
INGEST_IN_PARTS = ("plan", "count", "merge", "encode", "gather")  # together the same as `ingest`, for many machines


def execute(
    stage: str, config: dict[str, Any], *, workspace: str = "", **paths: str | os.PathLike | Sequence[str] | None
) -> dict:
    """Run one stage: parse its section, open its MLflow run, call it, log what it returns.

    `paths` are the artifact folders the stage reads and writes, by name; a list where it reads one of each part.
    `workspace` is a folder that outlives the step: checkpoints lie there, and the reason of a failure. A step that
    failed for good in this audit (exit 10, 20 or 60) is not tried again: it ends with the same error at once. Returns
    the stage's metrics.
    """
    if stage not in STAGES + INGEST_IN_PARTS:
        raise ConfigError(f"there is no stage '{stage}'; {did_you_mean(stage, STAGES + INGEST_IN_PARTS)}")
    given = {name: _folders(path) for name, path in paths.items() if path}
    attempt = Attempt(workspace, stage, config, given)
    attempt.begin()
    try:
        require_same()
        return _run(stage, config, workspace, given)
    except (SlimrecError, OSError) as error:
        failure = error if isinstance(error, SlimrecError) else TransientError(str(error))
        attempt.fail(failure)
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


def _folders(path: str | os.PathLike | Sequence[str]) -> Path | list[Path]:
    return Path(path) if isinstance(path, str | os.PathLike) else [Path(each) for each in path]


def _check_folders(stage: str, run: Callable, paths: dict) -> None:
    """Whether these are the folders that the stage reads and writes."""
    takes = [each for each in inspect.signature(run).parameters.values() if each.name not in ("config", "tracker")]
    names = [each.name for each in takes]
    for name in paths:
        if name not in names:
            raise ConfigError(f"stage '{stage}' has no folder '{name}'; {did_you_mean(name, names)}")
    missing = [each.name for each in takes if each.default is each.empty and each.name not in paths]
    if missing:
        raise ConfigError(f"stage '{stage}' needs the folders {', '.join(names)}: {', '.join(missing)} not given")


def _run(stage: str, config: dict, workspace: str, paths: dict[str, Path | list[Path]]) -> dict:
    module = importlib.import_module(f"slimrec.stages.{stage}")
    parsed = parse(module.CONFIG, config)
    trains = stage in ("pretrain", "finetune")
    if trains and workspace:
        paths = {**paths, "checkpoints": Path(workspace) / "checkpoints"}
    _check_folders(stage, module.run, paths)
    if stage == STAGES[0]:
        track.start_audit(parsed.model_dump())  # the run that holds those of all stages
    if stage in INGEST_IN_PARTS[:-1] or os.environ.get("RANK", "0") != "0":  # of many alike one is worth a run
        return module.run(parsed, track.Tracker(), **paths)
    with track.run("ingest" if stage in INGEST_IN_PARTS else stage, parsed) as tracker:
        metrics = launch.train(module, parsed, tracker, **paths) if trains else module.run(parsed, tracker, **paths)
        tracker.metrics({name: value for name, value in metrics.items() if isinstance(value, (int, float))})
    return metrics
