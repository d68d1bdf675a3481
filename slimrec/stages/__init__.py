"""The stages, and `execute`: the one way in from a component or the command line."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from slimrec import faults, track
from slimrec.artifacts import busy, kept
from slimrec.artifacts.codebase import require_same
from slimrec.artifacts.failures import Attempt
from slimrec.errors import ConfigError, SlimrecError, TransientError, did_you_mean
from slimrec.stages.reuse import Reuse
from slimrec.stages.settle import whole
from slimrec.training import launch
from slimrec.written import parse

STAGES = ("fingerprint", "window", "ingest", "sample", "pretrain", "prune", "finetune", "evaluate", "register")
INGEST_IN_PARTS = ("plan", "count", "merge", "encode", "gather")  # together the same as `ingest`, for many machines
TRIES = 8  # of a step whose surroundings fail: 3 to 5 minutes in all
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds between two
_jitter = random.Random()  # of its own: steps that lost one server must not all come back at once


def execute(
    stage: str, config: dict[str, Any], *, workspace: str = "", **paths: str | os.PathLike | Sequence[str] | None
) -> dict:
    """Run one stage: parse its section, open its MLflow run, call it, log what it returns.

    `paths` are the artifact folders the stage reads and writes, by name; a list where it reads one of each part.
    `workspace` is a folder that outlives the step: checkpoints lie there, the reason of a failure, and in a folder
    `kept`, if it has one, what stages made, for others that are given the same. A step that
    failed for good in this audit (exit 10, 20 or 60) is not tried again: it ends with the same error at once. Returns
    the stage's metrics.
    """
    if stage not in STAGES + INGEST_IN_PARTS:
        raise ConfigError(f"there is no stage '{stage}'; {did_you_mean(stage, STAGES + INGEST_IN_PARTS)}")
    given = {name: _folders(path) for name, path in paths.items() if path}
    attempt = Attempt(workspace, stage, config, given)
    attempt.begin()
    here = bool(workspace) and Path(workspace, kept.KEPT).is_dir()  # of an audit on this machine, which clears it anew
    try:
        require_same()
        with busy.at_work(Path(workspace)) if here else contextlib.nullcontext():
            return _run(stage, config, workspace, given)
    except Exception as error:
        failure = faults.sort(error, places=_places(workspace, given))
        attempt.fail(failure or SlimrecError(f"a fault of slimrec, report it with the log: {_named(error)}"))
        if failure is None or failure is error:
            raise
        raise failure from error


def execute_or_exit(stage: str, config: dict[str, Any], **rest) -> dict:
    """`execute` for a process of its own, which a failure ends: the reason last, in a box, and its exit class.

    What heals by itself is tried again here, SLIMREC_TRIES times in all (8 without it): no platform tells an exit code
    from another. What a platform tries again is a pod that is lost.
    """
    tries = _tries()
    for number in itertools.count(1):
        try:
            return execute(stage, whole(config), **rest)
        except TransientError as error:
            if number >= tries or faults.is_full(error):  # hours until it is full again are not worth a second try
                _exit(error)
            pause = _jitter.uniform(0.5, 1) * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (number - 1))
            print(f"slimrec: try {number} of {tries} failed, the next in {pause:.0f} s: {error}", file=sys.stderr)
            sys.stderr.flush()
            time.sleep(pause)
        except SlimrecError as error:
            _exit(error)


def _exit(error: SlimrecError) -> NoReturn:
    """End this process with the reason as the last thing in its log, where people look first."""
    sys.stdout.flush()
    rule = "-" * 100
    print(f"{rule}\nslimrec: {track.redact(error)} (exit {error.exit_code})\n{rule}", file=sys.stderr, flush=True)
    sys.exit(error.exit_code)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _tries() -> int:
    told = os.environ.get("SLIMREC_TRIES", str(TRIES))
    if not told.isdecimal() or int(told) < 1:
        _exit(ConfigError(f"SLIMREC_TRIES is '{told}'; give how often a step may be tried, 1 or more"))
    return 1 if "RANK" in os.environ else int(told)  # of ranks none can begin again alone


def _places(workspace: str, paths: dict[str, Path | list[Path]]) -> list[str | Path]:
    """Where a stage may write."""
    return [*filter(None, [workspace]), *(path for path in paths.values() if isinstance(path, Path))]


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


def _run(stage: str, config: dict, workspace: str, given: dict[str, Path | list[Path]]) -> dict:
    module = importlib.import_module(f"slimrec.stages.{stage}")
    parsed, paths = parse(module.CONFIG, config), given
    trains = stage in ("pretrain", "finetune")
    if trains and workspace:
        paths = {**given, "checkpoints": Path(workspace) / "checkpoints"}
    _check_folders(stage, module.run, paths)
    if stage == STAGES[0]:
        parsed = module.settled(parsed, workspace)
        limits = parsed.evaluate.model_dump(include={"allowed_auc_loss", "confidence"})
        sliced = parsed.evaluate.model_dump_json(include={"slices", "allowed_slice_loss", "allowed_task_loss"})
        limits["slices"] = sliced if len(sliced) <= track.LONGEST_VALUE else ""  # half a text tells nothing
        track.start_audit({**parsed.ingest.model_dump(), "evaluate": limits})  # the run that holds those of all stages
    if stage in INGEST_IN_PARTS[:-1] or os.environ.get("RANK", "0") != "0":  # of many alike one is worth a run
        return module.run(parsed, track.Tracker(), **paths)
    with track.run("ingest" if stage in INGEST_IN_PARTS else stage, parsed) as tracker:
        reuse = Reuse(stage, parsed, workspace, given)
        metrics = reuse.take(tracker)
        if metrics is None:
            metrics = launch.train(module, parsed, tracker, **paths) if trains else module.run(parsed, tracker, **paths)
            reuse.put(metrics, tracker)
        tracker.metrics({name: value for name, value in metrics.items() if isinstance(value, (int, float))})
    return metrics
