"""Quality and cost figures against scikit-learn, hand computation and counting."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss as sk_log_loss
from sklearn.metrics import roc_auc_score

from slimrec import metrics
from slimrec.config import ModelConfig
from slimrec.model import build
from slimrec.model.scoring import score
from slimrec.schema import Field, Schema, Statistics
from slimrec.verdict import cost

SCHEMA = Schema(
    label="y",
    fields=(
        Field(name="a", kind="category", statistics=Statistics(rows=10)),
        Field(name="b", kind="bag", max_length=2, statistics=Statistics(rows=20)),
        Field(name="c", kind="number", statistics=Statistics(mean=(0.0,), deviation=(1.0,))),
    ),
)


def rows(count, seed=0):
    random = np.random.default_rng(seed)
    logits = random.normal(size=count)
    label = (random.random(count) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    return label, logits, random.uniform(0.1, 3, count)


def batch(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 10, (count, 3), generator=generator, dtype=torch.int32), torch.randn(count, 1)


def model(hidden=(8, 4)):
    return build(SCHEMA, ModelConfig(embedding_dim=4, options={"hidden": list(hidden)}), seed=0)


def test_auc_and_log_loss_agree_with_scikit_learn():
    label, logits, weight = rows(500)
    probability = 1 / (1 + np.exp(-logits))
    assert metrics.auc(label, logits, weight) == pytest.approx(roc_auc_score(label, logits, sample_weight=weight))
    expected = sk_log_loss(label, probability, sample_weight=weight)
    assert metrics.log_loss(label, logits, weight) == pytest.approx(expected, abs=1e-12)


def test_auc_of_one_class_is_undefined_and_not_a_number():
    label, logits, weight = rows(50)
    assert metrics.auc(np.ones(50), logits) is None
    assert metrics.auc(label, logits, np.where(label == 1, 0, weight)) is None


def test_the_curve_to_look_at_has_the_area_that_the_auc_says():
    label, logits, weight = rows(5000)
    curve = metrics.roc(label, logits, weight)
    assert len(curve["fpr"]) == len(curve["tpr"]) == len(curve["threshold"]) == 101
    assert abs(np.trapezoid(curve["tpr"], curve["fpr"]) - metrics.auc(label, logits, weight)) < 0.005
    assert curve["threshold"] == sorted(curve["threshold"], reverse=True) and 0 <= min(curve["threshold"])
    assert metrics.roc(np.ones(9), np.arange(9.0), np.ones(9)) == {"fpr": [], "tpr": [], "threshold": []}


def test_probability_survives_extreme_logits():
    found = metrics.probability(np.array([-1000.0, 0.0, 1000.0, -3.0]))
    assert found == pytest.approx([0, 0.5, 1, 1 / (1 + np.exp(3))], abs=1e-15)


def test_calibration_of_true_probabilities_is_good_and_of_doubled_odds_bad():
    label, logits, weight = rows(40_000)
    good, bad = metrics.calibration(label, logits, weight), metrics.calibration(label, logits + np.log(2), weight)
    assert good["ratio"] == pytest.approx(1, abs=0.02) and good["error"] < 0.015
    assert bad["ratio"] > 1.2 and bad["error"] > 0.1
    assert metrics.calibration(np.zeros(10), np.zeros(10))["ratio"] is None


def test_calibration_error_of_two_bins_by_hand():
    label, logits = np.array([0, 1, 1, 1]), np.log(np.array([0.2, 0.2, 0.6, 0.6]) / np.array([0.8, 0.8, 0.4, 0.4]))
    # halves: |0.2 - 0.5| and |0.6 - 1|, each with half of the rows
    assert metrics.calibration(label, logits, bins=2)["error"] == pytest.approx(0.5 * 0.3 + 0.5 * 0.4)
    assert metrics.calibration(label, logits, np.array([2, 2, 0, 2]), bins=2)["error"] == pytest.approx(
        (4 * 0.3 + 2 * 0.4) / 6
    )


def test_size_counts_every_weight_once():
    found = cost.size(model())
    dense = 8 * 9 + 8 + 4 * 8 + 4 + 4 + 1  # hidden layers 9 -> 8 -> 4 -> 1
    assert found["embedding_rows"] == 30 and found["embedding_bytes"] == 30 * 4 * 4
    assert found["parameters"] == 30 * 4 + dense
    assert found["dense_bytes"] == 4 * (dense + 2)  # scale and shift of the number
    assert found["bytes"] == found["embedding_bytes"] + found["dense_bytes"]


def test_multiply_adds_are_those_of_the_matrix_products_and_the_screen_stays_empty(capsys):
    tower = 9 * 8 + 8 * 4 + 4 * 1
    bag = 2 * 4  # the average over two slots
    assert [cost.multiply_adds(model(), batch(count)) for count in (1, 64)] == [tower + bag] * 2
    assert capsys.readouterr().out == ""


def test_a_larger_model_takes_longer_in_a_paired_timing():
    large, small = cost.compare_latency(model((1024, 1024)), batch(256), model((8,)), batch(256), repeats=9)
    assert large > 2 * small > 0


def test_scores_come_in_stored_order_whatever_the_batch_size(tmp_path):
    import small

    from slimrec.data.dataset import Dataset
    from slimrec.model.files import load_model

    world = small.make(tmp_path, rows=1500)
    test = Dataset.open(world.dataset).split("test")
    trained = load_model(world.full).train()
    whole = next(iter(test.batches(len(test), shuffle="none")))
    with torch.no_grad():
        expected = trained.eval()(whole.ids, whole.dense).numpy()
    for size in (7, 100_000):
        assert score(trained, test, size) == pytest.approx(expected, abs=1e-6)


class Clock:
    """A clock that only work moves: as many seconds a turn as it takes, the first turns longer."""

    def __init__(self):
        self.now, self.turns = 0.0, {}

    def work(self, name, *seconds):
        """Work that takes these seconds a turn, one after another, the last one ever after."""

        def done(*_):
            turn = self.turns[name] = self.turns.get(name, -1) + 1
            self.now += seconds[min(turn, len(seconds) - 1)]

        return done


def test_works_are_timed_in_turns_by_their_medians_after_three_turns_that_warm_up(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    one, other = clock.work("one", 50, 50, 50, 3, 1, 8), clock.work("other", 50, 50, 50, 0.25)
    assert cost.timed(one, other, repeats=3) == [3, 0.25]
    assert clock.turns == {"one": 5, "other": 5}


@pytest.mark.parametrize(("seconds", "turns"), [(0.5, 11), (1.375, 11), (1.376, 12), (2.75, 22), (60.0, 50)])
def test_works_that_take_long_are_timed_in_eleven_turns_or_for_so_many_seconds(seconds, turns, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    one, other = clock.work("one", 9, 9, 9, 0.0625), clock.work("other", 9, 9, 9, 0.0625)
    assert cost.timed(one, other, repeats=50, seconds=seconds) == [0.0625, 0.0625]
    assert clock.turns == {"one": turns + 2, "other": turns + 2}  # counted from 0, and three warm up
    assert cost.timed(one, other, repeats=7, seconds=seconds) == [0.0625, 0.0625]
    assert clock.turns["one"] == turns + 12
