"""The planted log holds what it promises: what each field is worth, how it drifts, and that it never changes."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.datasets import pool_size
from slimrec.data import planted
from slimrec.errors import ConfigError

ROWS = 200_000


@pytest.fixture(scope="module")
def world():
    log = planted.Log(ROWS, 0)
    return planted.generate(ROWS)[0], planted.contributions(log)


def without(logit: np.ndarray, part: np.ndarray, label: np.ndarray) -> float:
    """What the best model loses when it no longer knows one part of the logit."""
    return roc_auc_score(label, logit) - roc_auc_score(label, logit - part)


def test_the_log_has_the_promised_rate_and_ceiling(world):
    table, parts = world
    label, logit = table["click"].to_numpy(), table[planted.LOGIT].to_numpy()
    assert 0.25 <= label.mean() <= 0.30
    assert 0.78 <= roc_auc_score(label, logit) <= 0.825
    assert np.ptp(logit - sum(parts.values())) < 1e-9
    ranks = np.argsort(logit)
    for tenth in np.array_split(ranks, 10):  # the logit is calibrated: labels were drawn from it
        assert label[tenth].mean() == pytest.approx((1 / (1 + np.exp(-logit[tenth]))).mean(), abs=0.015)


def test_every_useful_field_is_worth_three_thousandths_of_auc_and_noise_nothing(world):
    table, parts = world
    label, logit = table["click"].to_numpy(), table[planted.LOGIT].to_numpy()
    useful = {name for name, role in planted.TRUTH.items() if role in ("useful", "rare", "interaction")}
    assert useful - set(parts) == {"layout"}  # the meeting stands under `query`
    for name in useful - {"layout"}:
        assert without(logit, parts[name], label) >= 0.003, name
    assert 0 < without(logit, parts["weak"], label) < 0.003
    assert set(parts) - useful == {"weak", "rises"} and not parts["rises"].any()


def test_the_interaction_moves_the_click_only_when_both_fields_meet(world):
    table, _ = world
    frame = table.select(["click", "query", "layout"]).to_pandas()
    rate = frame["click"].mean()
    assert abs(frame.groupby("query")["click"].mean() - rate).max() < 0.02
    assert abs(frame.groupby("layout")["click"].mean() - rate).max() < 0.02
    assert frame.groupby(["query", "layout"])["click"].mean().std() > 0.15


def test_rare_constant_twin_leak_and_unique_are_what_they_are_called(world):
    frame = world[0].select(["click", "rare", "constant", "device", "device_twin", "leak", "noise_id"]).to_pandas()
    active = frame["rare"] == "active"
    assert 0.008 < active.mean() < 0.012 and frame["click"][active].mean() > 0.7
    assert frame["constant"].nunique() == 1
    assert frame.groupby("device")["device_twin"].nunique().max() == 1
    assert frame["device"].nunique() == frame["device_twin"].nunique() > 40
    assert (frame["leak"].astype(int) == frame["click"]).mean() == pytest.approx(0.95, abs=0.005)
    assert frame["noise_id"].nunique() > 0.9 * ROWS


def test_noise_does_not_know_the_label(world):
    frame = world[0].to_pandas()
    for name in ("noise_small", "rises"):
        assert abs(frame.groupby(name)["click"].mean() - frame["click"].mean()).max() < 0.02, name
    assert abs(roc_auc_score(frame["click"], frame["noise_number"]) - 0.5) < 0.01
    vectors = np.stack(frame["noise_vector"].to_numpy())
    assert abs(np.corrcoef(vectors.T, frame["click"])[-1, :-1]).max() < 0.015


def test_users_are_unequal_values_go_missing_and_time_goes_on(world):
    table, _ = world
    counts = table["user"].to_pandas().value_counts()
    assert counts.max() > 20 * counts.median()
    assert 0.03 < table["price"].null_count / ROWS < 0.07 and 0.08 < table["noise_small"].null_count / ROWS < 0.12
    assert (np.diff(table["time"].to_numpy()) >= 0).all()
    frame = table.select(["user", "device"]).to_pandas()
    assert frame.groupby("user")["device"].nunique().max() == 1


def test_drift_takes_the_worth_of_one_field_and_gives_it_to_another():
    log = planted.Log(ROWS, 0, drift=1.0)
    table, parts = planted.generate(ROWS, 0, 1.0)[0], planted.contributions(log)
    label, logit = table["click"].to_numpy(), table[planted.LOGIT].to_numpy()
    early, late = slice(0, ROWS // 5), slice(-ROWS // 5, None)
    for name, first, last in (("fades", early, late), ("rises", late, early)):
        assert without(logit[first], parts[name][first], label[first]) > 0.005
        assert without(logit[last], parts[name][last], label[last]) < 0.001


def test_the_same_seed_gives_the_same_log_another_seed_another_and_pieces_join(tmp_path):
    table, schema = planted.generate(70_000, 4)
    assert table.equals(planted.generate(70_000, 4)[0]) and not table.equals(planted.generate(70_000, 5)[0])
    assert planted.write(tmp_path / "log.parquet", 70_000, 4) == schema
    assert pq.read_table(tmp_path / "log.parquet").equals(pa.Table.from_batches(table.to_batches()))
    assert sum(batch.num_rows for batch in planted.batches(planted.Log(70_000, 4))) == 70_000
    assert set(schema.names) == set(planted.TRUTH) - {"leak"}
    assert (schema.label.column, schema.time, schema.group) == ("click", "time", "user")


def test_a_source_text_says_which_log():
    assert planted.parse_source("planted:") == planted.Log()
    log = planted.parse_source("planted:rows=500,seed=3,drift=0.5,leak=1")
    assert log == planted.Log(500, 3, 0.5, 1) and "leak" in planted.schema(log).names
    for wrong, sentence in {
        "planted:row=5": "did you mean 'rows'",
        "planted:rows=many": "rows must be a number, got 'many'",
        "planted:drift=2": "drift in 0..1",
        "planted:rows=0": "rows >= 1",
    }.items():
        with pytest.raises(ConfigError, match=sentence):
            planted.parse_source(wrong)


def test_the_benchmark_noise_has_as_many_values_as_the_column_it_stands_for():
    pool = pool_size(4584, 10_002)
    drawn = [len(np.unique(np.random.default_rng(seed).integers(0, pool, 10_002))) for seed in range(50)]
    assert np.mean(drawn) == pytest.approx(4584, abs=4 * np.std(drawn) / np.sqrt(50))
