"""The lasso on one-hot values, and the gain of LightGBM's trees: what they rank, what they read, what they ask for."""

import sys

import numpy as np
import pytest
import torch
from recovery import NOISE, STRONG, make_dataset, search
from test_contract import mixed_schema

from slimrec.batch import Batch
from slimrec.data.dataset import Dataset
from slimrec.errors import ConfigError
from slimrec.gates.lasso import LassoGate
from slimrec.gates.trees import columns, grow
from slimrec.plugins import GATES
from slimrec.schema import Field, Schema, Statistics
from slimrec.selection import Budget


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("log"))


def test_the_lasso_keeps_every_planted_field_and_no_noise(dataset, tmp_path):
    gate = search(tmp_path, dataset, "lasso", epochs=1, rows=7900)
    assert gate.select(Budget(), seed=0).kept == STRONG
    assert not any(gate.evidence()[f"importance/{name}"] for name in NOISE)


def test_what_means_nothing_comes_in_as_seldom_as_the_universal_threshold_says(dataset):
    """Labels shuffled: of 20 fits, hardly any keeps a value."""
    data = Dataset.open(dataset)
    batch = next(data.split("train").batches(4000, shuffle="none"))
    gate, found = LassoGate(data.schema, 4), []
    for seed in range(20):
        label = batch.label[torch.randperm(len(batch.label), generator=torch.Generator().manual_seed(seed))]
        gate.rows.fill_(len(label))
        shuffled = batch._replace(label=label)
        found.append(float(gate.measure(None, lambda shuffled=shuffled: [shuffled]).max()))
    assert sum(value > 0 for value in found) <= 6


def test_a_dense_column_ranks_by_what_it_moves_not_by_its_unit():
    schema, random, importance = mixed_schema(), np.random.default_rng(0), []
    ids = torch.from_numpy(random.integers(3, 12, (4000, sum(f.slots for f in schema.embedded)))).int()
    dense = torch.from_numpy(random.standard_normal((4000, 7))).float()
    logit = 1.5 * dense[:, 0] + 0.8 * dense[:, 3]
    label = (torch.rand(4000, generator=torch.Generator().manual_seed(1)) < torch.sigmoid(logit)).float()
    for scale in (1.0, 1000.0):
        torch.manual_seed(0)
        gate, scaled = LassoGate(schema, 4, strength=0.1), dense.clone()
        scaled[:, 0] *= scale
        gate.rows.fill_(4000)
        batch = Batch(ids, scaled, label, torch.ones(4000))
        importance.append(dict(zip(schema.names, gate.measure(None, lambda batch=batch: [batch]).tolist())))
    assert importance[0] == pytest.approx(importance[1], rel=1e-2)
    price, vector, *others = sorted(importance[0].values(), reverse=True)
    assert (importance[0]["price"], importance[0]["vector"]) == (price, vector) and max(others) < 0.3 * vector
    assert price / vector == pytest.approx(1.5 / 0.8, rel=0.2)


def test_what_the_fit_remembers_of_single_rows_counts_for_nothing_on_others():
    """Ids that are new on every row: coefficients of their own on the rows fitted, nothing to say of the others."""
    schema = Schema(label="y", fields=[Field(name="id", kind="category", statistics=Statistics(rows=2003))])
    torch.manual_seed(0)
    gate = LassoGate(schema, 4, strength=0.001)
    gate.rows.fill_(2000)
    ids, label = torch.arange(3, 2003, dtype=torch.int32)[:, None], (torch.rand(2000) < 0.5).float()
    batch = Batch(ids, torch.zeros(2000, 0), label, torch.ones(2000))
    assert np.count_nonzero(
        gate._fit(gate._tables(ids.numpy(), batch.dense.numpy())["id"], *map(np.asarray, batch[2:]))
    )
    assert gate.measure(None, lambda: [batch]).tolist() == [0.0]


def test_the_gain_of_trees_ranks_planted_fields_above_noise_and_comes_again(dataset, tmp_path):
    gate = search(tmp_path, dataset, "lightgbm", epochs=1, rows=7900)
    assert gate.select(Budget(fields=3), seed=0).kept == STRONG
    assert gate.evidence()["rows"] == 7900  # of training, not those of the gate slice
    (tmp_path / "again").mkdir()
    assert search(tmp_path / "again", dataset, "lightgbm", epochs=1, rows=7900).scores() == gate.scores()


def test_trees_give_all_the_gain_there_is_to_the_column_that_decides():
    random = np.random.default_rng(0)
    table = np.column_stack([random.integers(0, 5, 3000), random.standard_normal(3000)]).astype(float)
    label, weight = (table[:, 0] >= 3).astype(float), np.ones(3000)
    gain = grow((table[:2000], label[:2000], weight[:2000]), (table[2000:], label[2000:], weight[2000:]), 1, 0)
    first, second = gain.feature_importance("gain")
    assert first > 1000 * second


def test_a_bag_is_a_column_for_each_slot():
    assert columns(mixed_schema()) == [
        ("genres", 3),
        ("item", 1),
        ("noise", 1),
        ("user", 1),
        ("price", 1),
        ("vector", 6),
    ]


def test_without_the_library_it_says_how_to_get_it_before_anything_trains(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ConfigError, match=r'pip install "slimrec\[trees\]"'):
        GATES.create("lightgbm", mixed_schema(), 4)
