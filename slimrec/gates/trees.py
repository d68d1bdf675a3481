"""The gain of gradient-boosted trees (LightGBM, Ke et al. 2017): by how much the splits on a field lower the loss."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from slimrec.errors import ConfigError
from slimrec.gates.survey import Batches, Survey
from slimrec.schema import Schema

_ROUNDS, _PATIENCE = 300, 20


class LightGBMGate(Survey):
    """importance_i = the gain of all splits on the columns of field i; LightGBM's own measure, on rows it is fitted to.

    Ids are categories, a bag one for each of its slots, dense columns count as they are. At most `rows` training rows are
    read, drawn at random; each fifth says when to stop. Fields of many values gain on rows that the trees remember.
    Without a budget, fields of at least `least` times the mean gain stay: a convention. The library comes with
    `pip install "slimrec[trees]"`.
    """

    method = "lightgbm"
    surveyed = "train"
    of_one_label = True

    def __init__(self, schema: Schema, embedding_dim: int, *, least: float = 0.1, rows: int = 200_000):
        super().__init__(schema, embedding_dim)
        if least < 0 or rows < 10:
            raise ValueError(f"needs least >= 0 and rows >= 10, got {least=}, {rows=}")
        self.least, self.most = least, int(rows)
        if find_spec("lightgbm") is None:  # said before the network trains, not after
            raise ConfigError("method 'lightgbm' needs LightGBM: pip install \"slimrec[trees]\"")

    def measure(self, model, batches: Batches) -> Tensor:
        ids, dense, label, weight = (part.numpy() for part in self.draw(batches, self.most))
        self.rows.fill_(len(label))
        table, stops = np.hstack([ids, dense]).astype(np.float64), np.arange(len(label)) % 5 == 4
        fitted, other = ((table[part], label[part], weight[part]) for part in (~stops, stops))
        gain = grow(fitted, other, ids.shape[1], int(self.seed)).feature_importance("gain")
        owners = [name for name, count in columns(self.schema) for _ in range(count)]
        place = {name: i for i, name in enumerate(self.schema.names)}
        found = np.bincount([place[name] for name in owners], weights=gain, minlength=len(place))
        return torch.from_numpy(found)

    def needed(self) -> Tensor:
        return self.above_mean(self.least)


def columns(schema: Schema) -> list[tuple[str, int]]:
    """Fields in the order of a table [ids, dense], each with its number of columns."""
    return [(f.name, f.slots) for f in schema.embedded] + [(f.name, f.dense_width) for f in schema.dense]


def grow(fitted: tuple[np.ndarray, ...], stops: tuple[np.ndarray, ...], categories: int, seed: int):
    """LightGBM's Booster over table (n, columns), label (n,), weight (n,), the first `categories` columns being ids.

    Its defaults, on one thread; it stops where `stops`, rows of the same kind, gains nothing in 20 rounds.
    """
    import lightgbm

    sets = [
        lightgbm.Dataset(table, label, weight=weight, categorical_feature=list(range(categories)))
        for table, label, weight in (fitted, stops)
    ]
    options = {"objective": "binary", "seed": seed, "deterministic": True, "force_row_wise": True, "num_threads": 1}
    stop = lightgbm.early_stopping(_PATIENCE, verbose=False)
    return lightgbm.train({**options, "verbosity": -1}, sets[0], _ROUNDS, valid_sets=[sets[1]], callbacks=[stop])
