"""Trainings of two processes, run by torchrun from a test: DATASET OUTPUT, all of them one after the other."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import torch.distributed
from services import HANG

from slimrec.config import ModelConfig, TrainConfig
from slimrec.data.dataset import Dataset
from slimrec.errors import Preempted
from slimrec.model import build, with_gate
from slimrec.training.loop import Trainer


def trainer(dataset: Path, checkpoint: Path | None = None, **settings) -> Trainer:
    """Nothing random in the forward pass, so that the sum over ranks can be compared with one process."""
    data = Dataset.open(dataset)
    model = build(data.schema, ModelConfig(embedding_dim=4, options={"hidden": [8]}), seed=3)
    config = TrainConfig(**{"epochs": 2, "batch_size": 128, "seed": 3, "patience": 0, "device": "cpu", **settings})
    return Trainer(model, config, data.split("train"), data.split("valid"), checkpoint=checkpoint)


def noisy(dataset: Path) -> Trainer:
    """Dropout, batch norm and a gate with running averages, on 514 rows: the last batch of 128 has two."""
    data = Dataset.open(dataset)
    options = {"hidden": [8], "dropout": 0.2, "batch_norm": True}
    model = build(data.schema, ModelConfig(embedding_dim=4, options=options), seed=3)
    config = TrainConfig(epochs=2, batch_size=128, seed=3, patience=0, device="cpu")
    rows = data.split("train", np.arange(514))
    return Trainer(
        with_gate(model, "leap", {"alpha": 0.001}, seed=3), config, rows, data.split("valid"), data.split("gate")
    )


def stop_after(one: Trainer, steps: int) -> None:
    """Ask for a stop as SIGTERM does, once so many steps are done."""
    step = one._train_step

    def counted(batch):
        step(batch)
        one.stop.asked = one.step + 1 >= steps

    one._train_step = counted


def begin(one: Trainer, steps: int = 21) -> None:
    """Train so many steps, and leave a checkpoint."""
    stop_after(one, steps)
    try:
        one.fit()
    except Preempted:
        return
    raise AssertionError(f"it was not stopped after {steps} steps")


def run_by_two(script: str, dataset: Path, output: Path) -> None:
    """Start one of these scripts by torchrun, in two processes, to its end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(script).parents[1])}
    done = subprocess.run(
        [*command, str(dataset), str(output)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def main(dataset: Path, output: Path) -> None:
    """Every training leaves its weights as NAME-RANK.safetensors."""

    def leave(name: str, one: Trainer) -> None:
        safetensors.torch.save_file(one.model.state_dict(), output / f"{name}-{one.ranks.rank}.safetensors")

    one = trainer(dataset)
    one.fit()
    leave("plain", one)
    one = noisy(dataset)
    one.fit()
    leave("noisy", one)
    one = trainer(dataset, output / "two.safetensors")
    if one.ranks.rank == 1:  # the platform's signal may reach one rank steps before the other
        stop_after(one, 21)
    try:
        one.fit()
    except Preempted:
        leave("stopped", one)
    one = trainer(dataset, output / "one.safetensors")
    one.fit()
    leave("resumed", one)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
