"""Hidden units: scores against derivatives by hand, silenced equals cut on every network, and a whole search with it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_contract import fed, gated, inputs, mixed_schema

from slimrec.artifacts import read_json
from slimrec.backbones.hidden import best_units, narrow_hidden, score_hidden, silence
from slimrec.config import FinetuneConfig, ModelConfig, PretrainConfig, PruneConfig, TrainConfig
from slimrec.errors import ConfigError
from slimrec.model import build
from slimrec.model.files import load_model
from slimrec.plugins import BACKBONES
from slimrec.selection import Budget, Selection
from slimrec.stages import finetune, pretrain, prune
from slimrec.track import Tracker
from tests.small import ingest_rows

UNITS = {0: (0, 3, 5, 7), 1: (1, 2)}
TRAIN = TrainConfig(epochs=1, batch_size=256, device="cpu", threads=1)


def network(backbone, **options):
    """A model over the small schema whose batch normalisation, if any, has seen a few batches."""
    config = ModelConfig(backbone=backbone, options={"hidden": [8, 6], **options}, embedding_dim=4, embedding_std=0.5)
    model = build(mixed_schema(), config, seed=1).train()
    for _ in range(5):
        model(*inputs(model.schema))
    return model.eval()


@pytest.mark.parametrize("backbone", sorted(BACKBONES.table))
@pytest.mark.parametrize("options", [{}, {"batch_norm": True, "dropout": 0.3}], ids=["plain", "normalised"])
def test_a_network_with_silenced_units_gives_the_logits_of_the_one_without_them(backbone, options):
    model = network(backbone, **options)
    x = model.arena(*inputs(model.schema))
    silent, slim = silence(model.backbone, UNITS), narrow_hidden(model.backbone, UNITS)
    assert torch.allclose(silent(x), slim(x), atol=1e-5)
    assert not torch.allclose(silent(x), model.backbone(x), atol=1e-3)
    assert slim.options["hidden"] == [4, 2]
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.backbone.parameters())


@pytest.mark.parametrize("backbone", sorted(BACKBONES.table))
def test_fields_and_units_are_cut_together_exactly(backbone):
    model = gated("random", backbone).eval()
    keep = best_units([[0.1] * 64, [0.2] * 32], 0.4)
    selection = model.gate.select(Budget(keep=0.5), seed=0).model_copy(update={"hidden": keep})
    slim, batch = model.narrow(selection), inputs(model.schema)
    part = fed(model.schema, *batch, selection.kept)
    assert len(slim.schema.names) == 3 and slim.backbone.options["hidden"] == [len(keep[0]), len(keep[1])]
    assert torch.allclose(model.masked_logits(*batch, selection), slim(*part), atol=1e-5)


def test_scores_are_activation_times_slope_of_each_row():
    model = network("mlp")
    ids, dense = inputs(model.schema, rows=32)
    label = (torch.arange(32) % 3 == 0).float()
    losses = [lambda: F.binary_cross_entropy_with_logits(model(ids, dense), label, reduction="none")]
    scores = score_hidden(model.backbone, losses)
    first, last = model.backbone.tower.layers[:2], model.backbone.tower.layers[2:]
    with torch.no_grad():
        activation = first(model.arena(ids, dense)).double()
        rest = last.double()
        for unit in range(8):
            loss = []
            for step in (-1e-6, 1e-6):
                moved = activation.clone()
                moved[:, unit] *= 1 + step
                loss.append(F.binary_cross_entropy_with_logits(rest(moved)[:, 0], label.double(), reduction="none"))
            by_hand = ((loss[1] - loss[0]) / 2e-6).abs().mean()
            assert scores[0][unit] == pytest.approx(float(by_hand), rel=1e-3, abs=1e-7)


def test_the_best_units_of_all_layers_stay_and_one_of_each_at_least():
    scores = [[0.1, 0.9, 0.8, 0.7], [0.01, 0.02], [0.5, 0.5]]
    assert best_units(scores, 0.625) == {0: (1, 2, 3), 1: (1,), 2: (0,)}
    assert best_units(scores, 0.01) == {0: (1,), 1: (1,), 2: (0,)}
    assert best_units(scores, 1.0) == {0: (0, 1, 2, 3), 1: (0, 1), 2: (0, 1)}


def test_units_that_a_tower_does_not_have_are_refused():
    for units in ({2: (0,)}, {0: (8,)}, {1: ()}):
        with pytest.raises(ValueError, match="does not have"):
            narrow_hidden(network("mlp").backbone, units)


def test_a_search_cuts_units_with_fields_and_trains_on(tmp_path):
    ingest_rows(tmp_path, rows=3000, gate=0.1)
    plan = ModelConfig(backbone="widedeep", options={"hidden": [16, 8], "batch_norm": True}, embedding_dim=4)
    config = PretrainConfig(method="random", model=plan, train=TRAIN)
    pretrain.run(config, Tracker(), dataset=tmp_path / "dataset", gated=tmp_path / "gated")
    places = {"gated": tmp_path / "gated", "selection": tmp_path / "selection", "slim": tmp_path / "slim"}
    figures = prune.run(PruneConfig(budget=Budget(keep=0.6), hidden_keep=0.5), Tracker(), **places)
    assert (figures["hidden_before"], figures["hidden_after"]) == (24, 12)
    assert figures["max_logit_difference"] < 1e-5
    kept = Selection.model_validate(read_json(tmp_path / "selection" / "selection.json")).hidden
    slim = load_model(tmp_path / "slim", "slim")
    assert slim.backbone.options["hidden"] == [len(kept[0]), len(kept[1])] == [len(kept[0]), 12 - len(kept[0])]
    for start in ("warm", "fresh", "initial"):
        config = FinetuneConfig(start=start, train=TRAIN)
        tuned = tmp_path / start
        finetune.run(config, Tracker(), dataset=tmp_path / "dataset", **places, tuned=tuned)
        assert load_model(tuned).backbone.options["hidden"] == slim.backbone.options["hidden"]


def test_units_that_nobody_scored_cannot_be_cut(tmp_path):
    ingest_rows(tmp_path, rows=2000)
    config = PretrainConfig(model=ModelConfig(embedding_dim=4), train=TRAIN)
    pretrain.run(config, Tracker(), dataset=tmp_path / "dataset", gated=tmp_path / "gated")
    places = {"gated": tmp_path / "gated", "selection": tmp_path / "selection", "slim": tmp_path / "slim"}
    with pytest.raises(ConfigError, match="no hidden units"):
        prune.run(PruneConfig(hidden_keep=0.5), Tracker(), **places)
    assert not places["slim"].exists() or not np.any(list(places["slim"].iterdir()))
