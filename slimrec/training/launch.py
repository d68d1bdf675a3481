"""How a training stage runs: in this process, in several of this machine (torchrun), or on several nodes (a TrainJob)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from slimrec.config import FinetuneConfig, PretrainConfig, TrainConfig
from slimrec.preempt import on_sigterm
from slimrec.track import Tracker
from slimrec.training import trainjob
from slimrec.training.process import read_failure, read_figures, write_call


def train(
    module: ModuleType, config: PretrainConfig | FinetuneConfig, tracker: Tracker, **paths: Path
) -> dict[str, Any]:
    """Run a training stage the way its config asks for; returns its figures, raises its error whoever met it."""
    stage, count = module.__name__.rpartition(".")[2], processes(config.train)
    if config.train.nodes > 1 and "RANK" not in os.environ:
        return trainjob.train(stage, config.model_dump(mode="json"), tracker.run_id, paths)
    if count == 1:
        return module.run(config, tracker, **paths)
    with tempfile.TemporaryDirectory(prefix="slimrec-") as scratch:
        folder = Path(scratch)
        absolute = {name: str(path.absolute()) for name, path in paths.items()}
        write_call(folder, stage, config.model_dump(mode="json"), tracker.run_id, absolute, starter=os.getpid())
        code = _follow(torchrun(count, folder), threads(count))
        if code:
            raise read_failure(
                folder, f"torchrun ended with {code} and no rank said why (out of memory?): run it again"
            )
        return read_figures(folder)


def processes(config: TrainConfig) -> int:
    """How many processes of this machine train: as asked for, else one a visible GPU, else one.

    In a process that torchrun started it is one: this one.
    """
    if "RANK" in os.environ:
        return 1
    if config.processes or config.device == "cpu":
        return config.processes or 1
    import torch

    return max(1, torch.cuda.device_count())


def threads(count: int) -> int:
    """Of each of so many processes: its part of the step's, OMP_NUM_THREADS or one a processor."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # the rest is for threads within threads
    return max(1, (int(given) if given.isdecimal() else os.cpu_count() or 1) // count)


def torchrun(count: int, folder: Path) -> list[str]:
    """The command that starts `count` ranks of a call on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    logs = f"--log-dir={folder / 'log'}"  # else it leaves a folder of its own among the temporary ones
    return [*launcher, logs, "-m", "slimrec.training.process", str(folder)]


def _follow(command: list[str], threads: int) -> int:
    """The exit code of a command, to which SIGTERM is passed on."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, env=environment) as process, on_sigterm(lambda: process.terminate()):
        return process.wait()
