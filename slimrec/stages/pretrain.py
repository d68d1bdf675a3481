"""Pretrain: gated training on the subset (or on all rows); with the gate `none`, the full model to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slimrec.artifacts import publish, write_json
from slimrec.config import PretrainConfig
from slimrec.data.dataset import Dataset, read_subset
from slimrec.data.encode import Encoder
from slimrec.model import build, with_gate
from slimrec.model.files import save_model
from slimrec.pruning.findings import FINDINGS, Findings, find
from slimrec.selection import Budget
from slimrec.stages.finetune import rows_of
from slimrec.track import Tracker
from slimrec.training.checkpoint import checkpoint_path
from slimrec.training.loop import Trainer
from slimrec.verdict.fairness import Phase

CONFIG = PretrainConfig


def run(
    config: PretrainConfig,
    tracker: Tracker,
    dataset: Path,
    gated: Path,
    subset: Path | None = None,
    checkpoints: Path | None = None,
) -> dict:
    """Train the model with the method's gate in it; writes the artifact `gated`.

    A search may hold probes, and may be repeated: the first repeat's weights go on, the others give scores only.
    Probes are the same rows in every repeat, as noise fields are. Without a method, `config.after` lets the full model
    have the passes of a slim one: those of a search, then those after the cut, or the latter alone from new weights.
    """
    data = Dataset.open(dataset)
    data = data.probed(config.probes, config.train.seed) if config.searches else data
    rows = None if subset is None else read_subset(subset)
    scores, kept, done, phases = [], [], [], []
    for trainer in _trainers(config, tracker, data, rows, subset, checkpoints):
        figures = trainer.fit()
        done.append(trainer.checkpoint)
        phases.append(Phase.of(trainer.config, figures, len(trainer.stream.split)))
        if trainer.ranks.rank:  # the first rank alone is sure to have the whole model
            continue
        gate, slice_ = trainer.model.eval().gate, data.split("gate")
        gate.survey(trainer.model, lambda s=slice_: s.batches(config.train.batch_size, shuffle="none"))
        scores.insert(0, gate.scores())
        kept.insert(0, gate.select(Budget(), config.train.seed).kept)
    if trainer.ranks.rank == 0:
        found = find(trainer.model, slice_, config.train.seed, trainer.device) if config.searches else Findings()
        found = found.model_copy(update={"repeats": tuple(scores), "kept": tuple(kept)})
        facts = {"seed": config.train.seed, "method": config.method, "dataset": data.fingerprint}
        facts["training"] = [phase.model_dump() for phase in (phases[-1:] if config.searches else phases)]
        with publish(gated, "gated", **facts, figures=figures) as folder:
            save_model(trainer.model, folder, Encoder.load(dataset).over(data.schema))
            write_json(folder / FINDINGS, found.model_dump(mode="json"))
        for checkpoint in done:
            checkpoint.remove()
    return figures


def _trainers(
    config: PretrainConfig,
    tracker: Tracker,
    data: Dataset,
    rows: np.ndarray | None,
    subset: Path | None,
    checkpoints: Path | None,
) -> Iterator[Trainer]:
    """One after the other, the one whose model stays last: the repeats of a search, or the phases of a full model."""
    if config.after is None:
        for repeat in reversed(range(config.repeats if config.searches else 1)):  # the first last
            yield _trainer(config, repeat, tracker, data, rows, subset, checkpoints)
        return
    after, first = config.after, None
    if after.start == "warm":
        yield (first := _trainer(config, 0, tracker, data, rows, subset, checkpoints))
        model = first.model
    else:
        seed = after.train.seed if after.start == "fresh" else config.train.seed
        model = with_gate(build(data.schema, config.model, seed), config.method, config.options, seed)
    done = first.step if first else 0
    yield Trainer(
        model,
        after.train,
        train=rows_of(after, data, subset),
        valid=data.split("valid"),
        checkpoint=checkpoint_path(checkpoints, "after", config, data.fingerprint, subset),
        log=lambda values, step: tracker.metrics(values, done + step),
        warm=after.start == "warm",
    )


def _trainer(
    config: PretrainConfig,
    repeat: int,
    tracker: Tracker,
    data: Dataset,
    rows: np.ndarray | None,
    subset: Path | None,
    checkpoints: Path | None,
) -> Trainer:
    """The training of one repeat: initial weights, order of rows and noise of its own."""
    seed = config.train.seed + repeat
    model = with_gate(build(data.schema, config.model, seed), config.method, config.options, seed)
    stage = "pretrain" if not repeat else f"pretrain{repeat + 1}"
    prefix = "" if not repeat else f"repeat{repeat + 1}/"
    return Trainer(
        model,
        config.train.model_copy(update={"seed": seed}),
        train=data.split("train", rows) if config.searches or subset else data.split("train+gate"),
        valid=data.split("valid"),
        gate=data.split("gate"),
        checkpoint=checkpoint_path(checkpoints, stage, config, data.fingerprint, subset),
        log=lambda values, step: tracker.metrics({prefix + name: v for name, v in values.items()}, step),
    )
