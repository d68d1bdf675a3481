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
    seed = config.train.seed
    model = with_gate(build(data.schema, config.model, seed), config.method, config.options, seed)
    rows = None if subset is None else read_subset(subset)
    gate = data.split("gate")
    trainer = Trainer(
        model,
        config.train,
        train=data.split("train", rows) if config.searches or subset else data.split("train+gate"),
        valid=data.split("valid"),
        gate=gate,
        checkpoint=checkpoint_path(checkpoints, "pretrain", config, data.fingerprint, subset),
        log=tracker.metrics,
    )
    figures = trainer.fit()
    model.eval().gate.survey(model, lambda: gate.batches(config.train.batch_size, shuffle="none"))
    if trainer.ranks.rank == 0:
        facts = {"seed": seed, "method": config.method, "dataset": data.fingerprint}
        with publish(gated, "gated", **facts, figures=figures) as folder:
            save_model(model, folder, Encoder.load(dataset))
        trainer.checkpoint.remove()
    return figures
