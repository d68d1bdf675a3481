"""Trainings of two processes with the tables shared out between them, run by torchrun from a test: DATASET OUTPUT."""

import dataclasses
import sys
from pathlib import Path

import safetensors.torch
import torch.distributed
from two_ranks import begin

from slimrec.config import ModelConfig, TrainConfig
from slimrec.data.dataset import Dataset
from slimrec.model import build, with_gate
from slimrec.training.loop import Trainer


def trainer(dataset: Path, checkpoint: Path | None = None, method: str = "none", **settings) -> Trainer:
    """Rows that decay, in tables of two widths; with a method a gate of which nothing is random, and one width."""
    data = Dataset.open(dataset)
    model = build(data.schema, ModelConfig(embedding_dim=4, options={"hidden": [8]}), seed=3)
    if method == "none":
        columns = tuple(range(8))
        blocks = [dataclasses.replace(b, columns=columns) if b.name == "noise" else b for b in model.blocks]
        model = build(data.schema, model.config, seed=3, blocks=blocks)
    else:
        model = with_gate(model, method, {}, seed=3)
    config = TrainConfig(
        **{
            "epochs": 2,
            "batch_size": 128,
            "seed": 3,
            "patience": 0,
            "device": "cpu",
            "embedding_optimizer": "rowwise_adagrad",
            "embedding_learning_rate": 0.02,
            "embedding_l2": 0.01,
            **settings,
        }
    )
    splits = (data.split(name) for name in ("train", "valid", "gate"))
    return Trainer(model, config, *splits, checkpoint)


def main(dataset: Path, output: Path) -> None:
    """The first rank leaves the weights of every training as NAME.safetensors."""

    def leave(name: str, one: Trainer) -> None:
        one.fit()
        if one.ranks.rank == 0:
            safetensors.torch.save_file(one.model.state_dict(), output / f"{name}.safetensors")

    leave("sharded", trainer(dataset, tables="sharded"))
    leave("gated", trainer(dataset, method="lpfs", tables="sharded"))
    leave("resumed", trainer(dataset, output / "one.checkpoint", tables="sharded"))
    begin(trainer(dataset, output / "two.checkpoint", tables="sharded"))
    torch.distributed.barrier()
    leave("again", trainer(dataset, output / "two.checkpoint", tables="sharded"))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
