"""Pretrain: gated training on the subset (or on all rows); with the gate `none`, the full model to compare with."""

from __future__ import annotations

from pathlib import Path

from slimrec.artifacts import publish
from slimrec.checkpoint import checkpoint_path
from slimrec.config import PretrainConfig
from slimrec.data.dataset import Dataset, read_subset
from slimrec.data.encode import Encoder
from slimrec.model import build, with_gate
from slimrec.track import Tracker
from slimrec.train import Trainer
from slimrec.weights import save_model

CONFIG = PretrainConfig


def run(
    config: PretrainConfig,
    tracker: Tracker,
    dataset: Path,
    gated: Path,
    subset: Path | None = None,
    checkpoints: Path | None = None,
) -> dict:
    """Train the model with the method's gate in it; writes the artifact `gated`."""
    data = Dataset.open(dataset)
    model = with_gate(
        build(data.schema, config.model, config.train.seed), config.method, config.options, config.train.seed
    )
    checkpoint = checkpoint_path(checkpoints, "pretrain", config, data.fingerprint, subset)
    trainer = Trainer(
        model,
        config.train,
        train=data.split("train", None if subset is None else read_subset(subset)),
        valid=data.split("valid"),
        gate=data.split("gate"),
        checkpoint=checkpoint,
        log=tracker.metrics,
    )
    figures = trainer.fit()
    if trainer.ranks.rank == 0:
        facts = {"seed": config.train.seed, "method": config.method, "dataset": data.fingerprint}
        with publish(gated, "gated", **facts, figures=figures) as folder:
            save_model(model, folder, Encoder.load(dataset))
        trainer.checkpoint.remove()
    return figures
