"""Finetune: continue training the slim model, or retrain it where the method's paper does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slimrec.artifacts import check_made_of, digest, publish, read_json, read_manifest, verify
from slimrec.config import FinetuneConfig, ModelConfig
from slimrec.data.dataset import Dataset, Split, read_subset
from slimrec.data.encode import Encoder
from slimrec.data.hashing import hash_numbers
from slimrec.data.order import rest_of
from slimrec.errors import ConfigError, InputError
from slimrec.model import Model, build
from slimrec.model.files import load_model, save_model
from slimrec.plugins import BACKBONES
from slimrec.selection import Selection
from slimrec.track import Tracker
from slimrec.training import again
from slimrec.training.again import Pass
from slimrec.training.checkpoint import checkpoint_path
from slimrec.training.loop import Trainer
from slimrec.verdict.fairness import Phase, recorded
from slimrec.written import parse

CONFIG = FinetuneConfig


def run(
    config: FinetuneConfig,
    tracker: Tracker,
    dataset: Path,
    gated: Path,
    selection: Path,
    slim: Path,
    tuned: Path,
    subset: Path | None = None,
    retrained: Path | None = None,
    checkpoints: Path | None = None,
) -> dict:
    """Train the cut model of `slim` on the kept fields; writes the artifact `tuned`, of the kind of `slim`.

    And `retrained`, where a folder is given for it: how the same cut scores the split `test`, trained from other seeds.
    """
    check_made_of(slim, selection=digest(selection), gated=digest(gated))
    model = _start(config, gated, selection, slim)
    data = Dataset.open(dataset, fields=model.schema.names)
    trainer = Trainer(
        model,
        config.train,
        train=rows_of(config, data, subset),
        valid=data.split("valid"),
        checkpoint=checkpoint_path(checkpoints, "finetune", config, data.fingerprint, slim, subset),
        log=tracker.metrics,
        warm=config.start == "warm",
    )
    figures = trainer.fit()
    scores, done = again.retrain(
        config.retrains,
        lambda number: _anew(config, gated, selection, slim, number),
        _passes(config, data, subset),
        data,
        lambda name: checkpoint_path(checkpoints, name, config, data.fingerprint, slim, subset),
        tracker.metrics,
    )
    if trainer.ranks.rank == 0:
        facts = {"start": config.start, "dataset": data.fingerprint, "selection": digest(selection)}
        before = recorded(read_manifest(gated)) if config.start == "warm" else []  # passes whose weights went on
        if before is not None:
            phases = [*before, Phase.of(config.train, figures, len(trainer.stream.split))]
            facts["training"] = [phase.model_dump() for phase in phases]
        with publish(tuned, "slim", **facts, figures=figures) as folder:
            save_model(model, folder, Encoder.load(slim))
        if retrained is not None:
            again.keep(retrained, scores, dataset=data.fingerprint, selection=digest(selection))
        for checkpoint in (trainer.checkpoint, *done):
            checkpoint.remove()
    return figures


def _start(config: FinetuneConfig, gated: Path, selection: Path, slim: Path) -> Model:
    """The weights to begin with: pruned ones, new ones, or those that the search itself began with."""
    return load_model(slim, "slim") if config.start == "warm" else _anew(config, gated, selection, slim)


def _anew(config: FinetuneConfig, gated: Path, selection: Path, slim: Path, further: int = 0) -> Model:
    """The cut model with new weights, or those that the search began with, of a seed that is `further` on.

    A gate that stays in the slim model is frozen and keeps what the search taught it, wherever the rest begins.
    """
    cut = load_model(slim, "slim")
    if config.start != "initial":
        model = build(cut.schema, _network(config, cut), config.train.seed + further, cut.blocks)
    else:
        verify(selection, "selection")
        decided = parse(Selection, read_json(selection / "selection.json"), InputError)
        searched = load_model(gated, "gated")
        first = build(searched.schema, searched.config, read_manifest(gated)["seed"] + further)
        model = first.narrow(decided.plain().over(first.blocks))
    model.gate = cut.gate
    return model


def _passes(config: FinetuneConfig, data: Dataset, subset: Path | None) -> list[Pass]:
    """What a training of the cut model from new weights goes through: a warm one has the search's passes behind it."""
    own = Pass(config.train, rows_of(config, data, subset), warm=config.start == "warm")
    if config.start != "warm" or config.before is None:
        return [own._replace(warm=False)]
    searched = data.split("train", None if subset is None else read_subset(subset))
    return [Pass(config.before, searched, warm=False), own]


def _network(config: FinetuneConfig, cut: Model) -> ModelConfig:
    """The network of new weights: that of the search without what it held of constants, or another one."""
    kept = {name: value for name, value in cut.backbone.options.items() if name not in cut.backbone.of_constants}
    if config.model is None:
        return cut.config.model_copy(update={"options": kept})
    if config.model.embedding_dim != cut.config.embedding_dim:
        raise ConfigError(
            f"the selection is of columns of embeddings of {cut.config.embedding_dim}, finetune.model has embedding_dim "
            f"{config.model.embedding_dim}: set it to {cut.config.embedding_dim}"
        )
    if kept.get("pairs") is None and cut.gate is None:
        return config.model
    if not BACKBONES.says(config.model.backbone, "meets_pairs"):
        raise ConfigError(
            f"the selection is of meetings of fields, and the backbone '{config.model.backbone}' of finetune.model has none"
        )
    return config.model.model_copy(update={"options": {**config.model.options, "pairs": kept.get("pairs")}})


def rows_of(config: FinetuneConfig, data: Dataset, subset: Path | None) -> Split:
    """Training rows, a `fraction` of them by their number and the seed; never those of the gate slice.

    A network that trains without a gate, before the cut or after it, sees the same rows as one that has one.
    """
    rows = None
    if config.rows != "all":
        if subset is None:
            raise ConfigError(f"finetune.rows is '{config.rows}', which needs the subset of the sample stage")
        rows, total = read_subset(subset), len(data.split("train"))
        if config.rows == "rest":
            rows = rest_of(rows, total)
        if not len(rows):
            raise ConfigError("finetune.rows is 'rest', but the subset took every training row: lower sample.fraction")
    chosen = data.split("train", rows)
    if config.fraction == 1:
        return chosen
    order = np.argsort(hash_numbers(chosen.row, config.train.seed, 0xF7), kind="stable")
    drawn = np.sort(order[: max(1, round(config.fraction * len(chosen)))])
    return data.split("train", drawn if rows is None else rows[drawn])
