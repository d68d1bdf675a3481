"""Dataset -> subset: the training rows that the search may see, as positions; the rest stays where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slimrec import artifacts
from slimrec.config import SampleConfig
from slimrec.data.dataset import Dataset, Split
from slimrec.data.hashing import hash_numbers
from slimrec.errors import ConfigError, InputError

CONFIG = SampleConfig


def run(config: SampleConfig, tracker, dataset: Path, subset: Path) -> dict:
    """Publish `rows.npy`, ascending positions (int64) in the train split; returns their number and positive rate."""
    opened = Dataset.open(dataset)
    train = opened.split("train")
    rows = choose(config, train)
    label = train.label[rows]
    for column in label.reshape(len(label), -1).T:
        held = column[~np.isnan(column)]
        if not len(held) or held.min() == held.max():
            raise InputError(
                f"all {len(held)} sampled labels are {int(held.any())}; take a larger `fraction`, or `how: stratified`"
            )
    facts = {"dataset": opened.fingerprint, "rows": len(rows), "of": len(train), "how": config.how, "seed": config.seed}
    with artifacts.publish(subset, "subset", **facts) as folder:
        np.save(folder / "rows.npy", rows, allow_pickle=False)
    return {"rows": len(rows), "share": len(rows) / len(train), "positive_rate": float(np.nanmean(label))}


def choose(config: SampleConfig, train: Split) -> np.ndarray:
    """Ascending positions (int64) of the sampled rows; the same for the same rows and seed."""
    total = len(train)
    wanted = config.rows if config.rows is not None else max(1, round((config.fraction or 1.0) * total))
    if wanted > total:
        raise ConfigError(f"SampleConfig.rows is {wanted}, the train split has {total}; ask for at most that")
    if config.how == "earliest":
        if train.time is None:
            raise ConfigError("`how: earliest` needs a time column in the schema; choose stratified or uniform")
        return np.sort(np.argsort(train.time, kind="stable")[:wanted])
    order = np.argsort(hash_numbers(train.row, config.seed, 0x5B), kind="stable")
    if config.how == "uniform":
        return np.sort(order[:wanted])
    if train.schema.tasks:
        return np.sort(order[_stratified(train.label[order], wanted)])
    positive = train.label[order] > 0
    positives = round(wanted * int(positive.sum()) / total)
    return np.sort(np.concatenate([order[positive][:positives], order[~positive][: wanted - positives]]))


def _stratified(labels: np.ndarray, wanted: int) -> np.ndarray:
    """Positions of so many rows, the first ones of each combination of the labels (n, T) by its share of all rows."""
    _, kinds = np.unique(np.nan_to_num(labels, nan=2), axis=0, return_inverse=True)
    kinds = kinds.reshape(-1)
    exact = wanted * np.bincount(kinds) / len(kinds)
    takes = exact.astype(int)
    takes[np.argsort(takes - exact, kind="stable")[: wanted - takes.sum()]] += 1  # the largest remainders
    return np.concatenate([np.flatnonzero(kinds == kind)[:take] for kind, take in enumerate(takes)])
