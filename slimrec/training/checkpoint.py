"""Training state in one safetensors file, replaced atomically: kill the process at any instant and run again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch as st
import torch
from pydantic import BaseModel
from torch import Tensor

from slimrec.artifacts import digest

_WHERE = {"device", "threads", "processes", "nodes", "tables", "checkpoint_seconds", "checkpoint_every"}
SHARE = 0.05  # of the time, at most, goes into checkpoints: where one takes long they become rarer


class Checkpoint:
    """Named modules, optimizers and plain values <-> one file. `path` None keeps nothing.

    One is due `seconds` after the last one ended (later where writing it took more than SHARE of that), and at the latest
    after `steps`, where those are given. Where it lies changes no bit of what is trained.
    """

    def __init__(self, path: Path | None, device: torch.device, seconds: float = 60.0, steps: int | None = None):
        self.path, self.device, self.seconds, self.steps = path, device, seconds, steps
        self._next = time.monotonic() + seconds

    def due(self, step: int) -> bool:
        """Whether the state after `step` steps is to be kept."""
        if self.path is None:
            return False
        return time.monotonic() >= self._next or (self.steps is not None and step % self.steps == 0)

    def rest(self, began: float) -> None:
        """Put the next one off; the last one was begun at this moment of the monotonic clock."""
        now = time.monotonic()
        self._next = now + max(self.seconds, (now - began) / SHARE)

    def save(
        self, states: dict[str, dict[str, Tensor]], optimizers: dict[str, torch.optim.Optimizer], values: dict
    ) -> None:
        """Write aside, flush, rename: a reader sees the old state or the new one."""
        if self.path is None:
            return
        tensors = {f"{part}/{name}": tensor for part, state in states.items() for name, tensor in state.items()}
        for part, optimizer in optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"{part}/{index}/{name}": tensor for name, tensor in state.items()}
        self._sweep()
        self._aside.mkdir(parents=True)
        scratch = self._aside / self.path.name
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        st.save_file(contiguous, scratch, metadata={"values": json.dumps(values)})
        with scratch.open("rb") as stream:
            os.fsync(stream.fileno())
        scratch.replace(self.path)
        self._sweep()

    def load(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """Tensors by part and the plain values; None where there is nothing, or nothing readable, to resume from."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            with safetensors.safe_open(self.path, "pt", device=str(self.device)) as stream:
                values = json.loads(stream.metadata()["values"])
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  no dict
        except (safetensors.SafetensorError, OSError):
            return None
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = tensor
        return parts, values

    def remove(self) -> None:
        """Leave nothing, what a killed process was writing included."""
        if self.path is not None:
            self._sweep()
            self.path.unlink(missing_ok=True)

    @property
    def _aside(self) -> Path:
        """A folder of its own for what is being written: the library, too, writes under another name first."""
        return self.path.with_suffix(".partial")

    def _sweep(self) -> None:
        shutil.rmtree(self._aside, ignore_errors=True)


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `save` took from an optimizer built the same way."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def checkpoint_path(
    checkpoints: Path | None, stage: str, config: BaseModel, fingerprint: str, *artifacts: Path | None
) -> Path | None:
    """`checkpoints`/stage-KEY.safetensors, KEY over the config, the dataset and the other artifacts read.

    Where the training runs, and how often it is kept, is no part of the KEY: what two processes began, one may end.
    """
    if checkpoints is None:
        return None
    parts = [
        stage,
        config.model_dump_json(exclude={"train": _WHERE}),
        fingerprint,
        *("" if a is None else digest(a) for a in artifacts),
    ]
    return checkpoints / f"{stage}-{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:16]}.safetensors"
