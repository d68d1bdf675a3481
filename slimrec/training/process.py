"""One rank of a training stage, started by torchrun: `python -m slimrec.training.process CALL` reads the call and runs the stage.

A call is a folder. `call.json` says what to run; the first rank leaves `figures.json`, a rank that fails
`end-RANK.json` with its exit class and reason.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from slimrec import faults
from slimrec.artifacts import read_json, write_json
from slimrec.artifacts.codebase import compiled, require_same
from slimrec.errors import BY_EXIT_CODE, SlimrecError, TransientError
from slimrec.track import MlflowTracker, Tracker, enabled
from slimrec.written import parse

# Of several ranks' ends, the first of these is the cause: whoever loses a fellow fails too, but as one to try again.
_CAUSES = (60, 20, 10, 50, 1, 40, 30)


def write_call(
    folder: Path, stage: str, config: dict[str, Any], run_id: str, paths: dict[str, str], starter: int = 0
) -> None:
    """What the ranks are to run. `run_id`: MLflow run to log to, "" for none; `starter`: process they die with."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in [*folder.glob("end-*.json"), folder / "figures.json"]:
        stale.unlink(missing_ok=True)
    call = {"stage": stage, "config": config, "run_id": run_id, "paths": paths, "starter": starter}
    call["compiled"] = compiled(os.environ.get("SLIMREC_IMAGE", "of the step"))
    write_json(folder / "call.json", call)


def read_figures(folder: Path) -> dict[str, Any]:
    """What the first rank returned."""
    return read_json(folder / "figures.json")


def read_failure(folder: Path, otherwise: str) -> SlimrecError:
    """Why the ranks failed, from what they left; where none could say, a TransientError that says `otherwise`."""
    ends = [read_json(path) for path in sorted(folder.glob("end-*.json"))]
    if not ends:
        return TransientError(otherwise)
    cause = min(ends, key=lambda end: _CAUSES.index(end["exit_code"]))
    return BY_EXIT_CODE[cause["exit_code"]](cause["reason"])


def main(folder: Path) -> None:
    """Run the stage of the call as this rank; a failure ends the process with its exit class."""
    import torch.distributed as dist

    call, rank = read_json(folder / "call.json"), int(os.environ.get("RANK", "0"))
    if call["starter"]:
        threading.Thread(target=_leave_with, args=[call["starter"]], daemon=True).start()
    try:
        require_same(call.get("compiled", ""))
        figures = _run(call, rank)
    except SlimrecError as error:
        failure = error
    except dist.DistError as error:
        failure = TransientError(f"rank {rank}: {error}")
    except OSError as error:
        failure = faults.of_system(error, places=[folder])
    except RuntimeError as error:
        if "Connection closed by peer" not in str(error):  # what gloo says when a fellow is gone
            raise
        failure = TransientError(f"rank {rank} lost another one: {error}")
    else:
        if rank == 0:
            write_json(folder / "figures.json", figures)
        if dist.is_initialized():
            dist.destroy_process_group()
        return
    write_json(folder / f"end-{rank}.json", {"exit_code": failure.exit_code, "reason": str(failure)})
    sys.stdout.flush()
    sys.exit(failure.exit_code)


def _run(call: dict[str, Any], rank: int) -> dict[str, Any]:
    module = importlib.import_module(f"slimrec.stages.{call['stage']}")
    tracker = MlflowTracker(call["run_id"]) if rank == 0 and call["run_id"] and enabled() else Tracker()
    paths = {name: Path(path) for name, path in call["paths"].items()}
    return module.run(parse(module.CONFIG, call["config"]), tracker, **paths)


def _leave_with(starter: int) -> None:
    """Ask for a stop, checkpoint included, when the process that started the ranks is gone without a word."""
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(starter, 0)
            time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
