"""AutoFIS: GRDA against its closed form, weights in the unit of a product, exact zeros, and the planted meeting."""

from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from recovery import search
from test_contract import fed, gated, inputs

from slimrec.config import IngestConfig
from slimrec.gates.autofis import Grda
from slimrec.selection import Budget
from slimrec.stages import ingest
from slimrec.track import Tracker


def test_grda_is_a_soft_threshold_of_the_sum_of_all_gradients():
    weight = torch.nn.Parameter(torch.tensor([0.6, 0.6, -0.2]))
    gradients = torch.tensor([[0.0, 1.0, 0.1], [0.0, -3.0, 0.2], [0.0, -2.0, 0.0]])
    optimizer = Grda([weight], learning_rate=0.1, c=0.5, mu=0.8)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    dual = np.array([0.6, 0.6, -0.2]) - 0.1 * gradients.sum(0).numpy()
    threshold = 0.5 * 0.1**1.3 * 3**0.8
    assert weight.tolist() == pytest.approx(
        (np.sign(dual) * np.maximum(np.abs(dual) - threshold, 0)).tolist(), abs=1e-6
    )


def test_a_weight_that_nothing_holds_is_exactly_zero_after_the_steps_that_the_docstring_gives():
    weight = torch.nn.Parameter(torch.tensor([0.6]))
    optimizer = Grda([weight], learning_rate=0.1, c=0.12, mu=0.8)
    for step in range(1, 400):
        weight.grad = torch.zeros(1)
        optimizer.step()
        if abs(weight.item()) == 0:
            break
    assert step == 316  # the first whole one past (0.6 / 0.12 / 0.1^1.3)^(1 / 0.8) = 315.3


def test_a_pair_counts_by_alpha_over_the_deviation_of_its_product():
    model = gated("autofis", "pnn")
    gate, batch = model.gate, inputs(model.schema)
    products = model.backbone.meetings(model.backbone.projection(model.arena(*batch))).detach()
    expected = gate.alpha / products.std(0, correction=0)
    assert torch.allclose(gate.pairs(batch[0]), expected, rtol=1e-3)


@pytest.mark.parametrize("backbone", ["pnn", "deepfm"])
def test_pairs_at_zero_are_cut_and_the_others_go_on_counting_by_their_alphas(backbone):
    model = gated("autofis", backbone).eval()
    with torch.no_grad():
        model.gate.alpha[::2] = 0.0
    selection = model.gate.select(Budget(fields=4), seed=0)
    among = [i for i, pair in enumerate(model.gate.names) if set(pair) <= set(selection.kept)]
    assert selection.pairs == tuple(model.gate.names[i] for i in among if i % 2)
    slim, batch = model.narrow(selection), inputs(model.schema)
    assert slim.gate.names == list(combinations(selection.kept, 2)) and not slim.gate.learns
    cut = slim(*fed(model.schema, *batch, selection.kept))
    assert torch.allclose(cut, model.masked_logits(*batch, selection), atol=1e-5)


@pytest.fixture(scope="module")
def meeting(tmp_path_factory):
    """A log in which only the meeting of `left` and `right` moves the click."""
    folder, random, rows = tmp_path_factory.mktemp("meeting"), np.random.default_rng(0), 20_000
    columns = {name: random.integers(0, 3, rows) for name in ("left", "right", "other", "fourth", "fifth")}
    chance = np.where(columns["left"] == columns["right"], 0.8, 0.2)
    table = {name: pa.array(values.astype(str)) for name, values in columns.items()}
    pq.write_table(pa.table({**table, "click": (random.random(rows) < chance) * 1}), folder / "log.parquet")
    fields = {"label": "click", "fields": [{"name": name, "kind": "category"} for name in columns]}
    split = {"by": "random", "train": 0.5, "gate": 0.3, "valid": 0.1, "test": 0.1}
    config = IngestConfig(source=str(folder / "log.parquet"), fields=fields, split=split)
    ingest.run(config, Tracker(), dataset=folder / "dataset")
    return folder / "dataset"


def test_of_ten_meetings_the_planted_one_stays(meeting, tmp_path):
    gate = search(tmp_path, meeting, "autofis", rows=8000, epochs=15, backbone="deepfm")
    pairs = gate.select(Budget(), seed=0).pairs
    assert ("left", "right") in pairs and len(pairs) <= 3
