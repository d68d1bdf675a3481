"""Pretrain: gated training on the subset (or on all rows); with the gate `none`, the full model to compare with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slimrec.artifacts import publish, read_json, read_manifest, write_json
from slimrec.config import PretrainConfig
from slimrec.data.dataset import Dataset, Split, read_subset
from slimrec.data.encode import Encoder
from slimrec.model import Model, build, with_gate
from slimrec.model.files import load_model, save_model
from slimrec.plugins import GATES
from slimrec.pruning.findings import FINDINGS, Findings, find, twins_of
from slimrec.selection import Budget
from slimrec.stages.finetune import rows_of
from slimrec.track import Tracker
from slimrec.training import again
from slimrec.training.again import Pass
from slimrec.training.checkpoint import Checkpoint, checkpoint_path
from slimrec.training.loop import Trainer
from slimrec.verdict.fairness import Phase, recorded

CONFIG = PretrainConfig


def run(
    config: PretrainConfig,
    tracker: Tracker,
    dataset: Path,
    gated: Path,
    subset: Path | None = None,
    search: Path | None = None,
    retrained: Path | None = None,
    checkpoints: Path | None = None,
) -> dict:
    """Train the model with the method's gate in it; writes the artifact `gated`.

    A search may hold probes, and may be repeated: the first repeat's weights go on, the others give scores only.
    Probes are the same rows in every repeat, as noise fields are. Without a method, `config.after` lets the full model
    have the passes of a slim one: those of a search, then those after the cut, or the latter alone from new weights.
    A training of those that the artifact `search` has been through, to the bit, is taken from there. Where a folder is
    given for `retrained`, it gets how a full model scores the split `test` when it is trained from other seeds.
    """
    for remark in GATES.idle(config.method, config.options):
        print(f"slimrec: warning: {remark}")
    data = Dataset.open(dataset)
    data = data.probed(config.probes, config.train.seed) if config.searches else data
    work = _Work(
        config, tracker, data, data.split("train", None if subset is None else read_subset(subset)), checkpoints
    )
    phases, model, figures = _taken(work, search, subset)
    slice_, scores, kept, done, mixed, gate_passes = data.split("gate"), [], [], [], False, 0
    first = os.environ.get("RANK", "0") == "0"
    groups = twins_of(slice_, config.train.seed) if config.searches else []
    for trainer in _trainers(work, subset, model, phases, groups):
        figures, model = trainer.fit(), trainer.model
        done.append(trainer.checkpoint)
        mixed, gate_passes = trainer.gate_learns, max(gate_passes, trainer.gate_passes)
        phases.append(Phase.of(trainer.config, figures, len(trainer.stream.split)))
        if first:  # the first rank alone is sure to have the whole model
            rows = work.train if model.gate.surveyed == "train" else slice_
            model.eval().gate.survey(model, lambda rows=rows: rows.batches(config.train.batch_size, shuffle="none"))
            scores.insert(0, model.gate.scores())
            kept.insert(0, model.gate.select(Budget(), config.train.seed).kept)
    scored, more = _again(work, subset)
    done += more
    if first:
        found = find(model, slice_, config.train.seed, trainer.device, groups) if config.searches else Findings()
        found = found.model_copy(update={"repeats": tuple(scores), "kept": tuple(kept)})
        facts = {"seed": config.train.seed, "method": config.method, "dataset": data.fingerprint}
        facts["plain"] = not (mixed or config.probes)  # the network of a training without a gate
        facts["gate_passes"] = gate_passes
        facts["training"] = [phase.model_dump() for phase in (phases[-1:] if config.searches else phases)]
        with publish(gated, "gated", **facts, figures=figures) as folder:
            save_model(model, folder, Encoder.load(dataset).over(data.schema))
            write_json(folder / FINDINGS, found.model_dump(mode="json"))
        if retrained is not None:
            again.keep(retrained, scored, dataset=data.fingerprint)
        for checkpoint in done:
            checkpoint.remove()
    return figures


class _Work(NamedTuple):
    """What all trainings of a step share."""

    config: PretrainConfig
    tracker: Tracker
    data: Dataset
    train: Split
    checkpoints: Path | None

    def phases(self, subset: Path | None) -> list[Pass]:
        """The trainings of a full model one after the other."""
        after, before = self.config.after, Pass(self.config.train, self.train, warm=False)
        if after is None:
            return [before]
        own = Pass(after.train, rows_of(after, self.data, subset), warm=after.start == "warm")
        return [before, own] if after.start == "warm" else [own]


def _taken(work: _Work, search: Path | None, subset: Path | None) -> tuple[list[Phase], Model | None, dict]:
    """The first training of a full model, its model and figures, where a search has been through it already."""
    if search is None or work.config.searches or not (facts := read_manifest(search)).get("plain"):
        return [], None, {}
    config, (train, rows, _) = work.config, work.phases(subset)[0]
    past, weights = recorded(facts), read_json(search / "model.json")["config"]
    first = config.train.seed if config.after is None or config.after.start != "fresh" else train.seed
    told = Phase.of(train, facts["figures"], len(rows)).offered
    same = past is not None and [each.offered for each in past] == [told] and facts["seed"] == first == train.seed
    if not (same and facts["dataset"] == work.data.fingerprint and weights == config.model.model_dump(mode="json")):
        return [], None, {}
    return past, with_gate(load_model(search, "gated"), config.method, config.options, first), facts["figures"]


def _trainers(
    work: _Work, subset: Path | None, model: Model | None, phases: list[Phase], groups: list[tuple[str, ...]]
) -> Iterator[Trainer]:
    """One after the other, the one whose model stays last: the repeats of a search, or the phases of a full model.

    `phases` and `model` are what the full model has been through already, `groups` the twins that a search knows.
    """
    config, data = work.config, work.data
    if config.searches:
        for repeat in reversed(range(config.repeats)):  # the first last
            yield _search(work, repeat, groups, subset)
        return
    done = sum(phase.steps for phase in phases)
    for number, (train, rows, warm) in enumerate(work.phases(subset)):
        if number < len(phases):
            continue
        if not warm:
            model = _anew(config, data, train.seed)
        trainer = Trainer(
            model,
            train,
            train=rows,
            valid=data.split("valid"),
            checkpoint=checkpoint_path(work.checkpoints, f"full{number + 1}", config, data.fingerprint, subset),
            log=lambda values, step, done=done: work.tracker.metrics(values, done + step),
            warm=warm,
        )
        yield trainer
        model, done = trainer.model, done + trainer.step


def _anew(config: PretrainConfig, data: Dataset, own: int, further: int = 0) -> Model:
    """A full model with new weights, of its `own` training's seed or of the search's, and so much further on."""
    seed = config.train.seed if config.after is not None and config.after.start == "initial" else own
    model = build(data.schema, config.model, seed + further)
    return with_gate(model, config.method, config.options, seed + further)


def _again(work: _Work, subset: Path | None) -> tuple[list[np.ndarray], list[Checkpoint]]:
    """Logits of full models of other seeds, and what is to be removed when they are kept."""
    config, data, phases = work.config, work.data, work.phases(subset)
    return again.retrain(
        config.retrains,
        lambda number: _anew(config, data, phases[0].config.seed, number),
        phases,
        data,
        lambda name: checkpoint_path(work.checkpoints, name, config, data.fingerprint, subset),
        work.tracker.metrics,
    )


def _search(work: _Work, repeat: int, twins: list[tuple[str, ...]], subset: Path | None) -> Trainer:
    """The training of one repeat: initial weights, order of rows and noise of its own."""
    config, data, seed = work.config, work.data, work.config.train.seed + repeat
    model = with_gate(build(data.schema, config.model, seed), config.method, config.options, seed)
    model.gate.alike(twins)
    stage = "pretrain" if not repeat else f"pretrain{repeat + 1}"
    prefix = "" if not repeat else f"repeat{repeat + 1}/"
    return Trainer(
        model,
        config.train.model_copy(update={"seed": seed}),
        train=work.train,
        valid=data.split("valid"),
        gate=data.split("gate"),
        checkpoint=checkpoint_path(work.checkpoints, stage, config, data.fingerprint, subset),
        log=lambda values, step: work.tracker.metrics({prefix + name: v for name, v in values.items()}, step),
    )
