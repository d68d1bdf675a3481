"""Retrains: a network trained again from other seeds, and how each scores the rows that the verdict is on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from slimrec.artifacts import publish, verify
from slimrec.config import TrainConfig
from slimrec.data.dataset import Dataset, Split
from slimrec.errors import InputError
from slimrec.model import Model
from slimrec.model.scoring import score
from slimrec.training.checkpoint import Checkpoint
from slimrec.training.loop import Log, Trainer

SCORES = "scores.npy"


class Pass(NamedTuple):
    """One uninterrupted training, from new weights or `warm`, from those that the one before left."""

    config: TrainConfig
    rows: Split
    warm: bool


def retrain(
    count: int,
    start: Callable[[int], Model],
    passes: Sequence[Pass],
    data: Dataset,
    checkpoint: Callable[[str], Path | None],
    log: Log,
) -> tuple[list[np.ndarray], list[Checkpoint]]:
    """Logits float32, (n,) or (n, T), of the split `test` by each of so many trainings; elsewhere than in the first rank none.

    `start` gives new weights by how far the seed is from that of the network at hand; seeds of the passes move as far.
    The checkpoints are to be removed by whoever keeps the logits.
    """
    scores, done = [], []
    for number in range(1, count + 1):
        model = None
        for place, (config, rows, warm) in enumerate(passes, 1):
            trainer = Trainer(
                model if warm and model is not None else start(number),
                config.model_copy(update={"seed": config.seed + number}),
                train=rows,
                valid=data.split("valid"),
                checkpoint=checkpoint(f"retrain{number}-{place}"),
                log=lambda values, step, number=number, place=place: log(
                    {f"retrain{number}-{place}/{name}": value for name, value in values.items()}, step
                ),
                warm=warm,
            )
            trainer.fit()
            model = trainer.model
            done.append(trainer.checkpoint)
        if trainer.ranks.rank == 0:
            scores.append(score(model, data.split("test"), device=trainer.device).astype(np.float32))
    return scores, done


def keep(folder: Path, scores: Sequence[np.ndarray], **facts: Any) -> None:
    """Publish the artifact `retrained`."""
    with publish(folder, "retrained", **facts, count=len(scores)) as scratch:
        np.save(scratch / SCORES, np.stack(scores) if scores else np.zeros((0, 0), np.float32), allow_pickle=False)


def read(folder: Path | None, count: int, split: Split, facts: dict[str, Any]) -> np.ndarray:
    """Logits, (count, n) or (count, n, T), of a split by as many trainings. Raises InputError for those of other ones than `facts` say."""
    found = {} if folder is None else verify(folder, "retrained")
    if folder is None or found["count"] != count or any(found[name] != value for name, value in facts.items()):
        raise InputError(
            f"evaluate.retrains is {count}, and {folder or 'no folder'} holds {found.get('count', 'no')} trainings of "
            "this network on this dataset: train again with the same recipe"
        )
    scores = np.load(folder / SCORES, allow_pickle=False)
    if scores.shape[:2] != (count, len(split)):
        raise InputError(f"{folder} holds scores of {scores.shape[1]:,} rows, not {len(split):,}: train again")
    return scores
