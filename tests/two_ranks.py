"""One rank of a two-process training, run by torchrun from a test: DATASET OUTPUT."""

import sys
from pathlib import Path

import safetensors.torch
import torch.distributed

from slimrec.config import ModelConfig, TrainConfig
from slimrec.data.dataset import Dataset
from slimrec.model import build
from slimrec.train import Trainer


def trainer(dataset: Path) -> Trainer:
    """Nothing random in the forward pass, so that the sum over ranks can be compared with one process."""
    data = Dataset.open(dataset)
    model = build(data.schema, ModelConfig(embedding_dim=4, options={"hidden": [8]}), seed=3)
    config = TrainConfig(epochs=2, batch_size=128, seed=3, patience=0, device="cpu")
    return Trainer(model, config, data.split("train"), data.split("valid"))


if __name__ == "__main__":
    one = trainer(Path(sys.argv[1]))
    one.fit()
    safetensors.torch.save_file(one.model.state_dict(), Path(sys.argv[2]) / f"{one.ranks.rank}.safetensors")
    torch.distributed.destroy_process_group()
