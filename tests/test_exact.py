"""What a cut may change: on random rows of every kind the logits stay what they were, or prune refuses."""

import pytest
import test_contract as contract
import torch

from slimrec.artifacts import publish, write_json
from slimrec.config import FinetuneConfig, PruneConfig, TrainConfig, parse
from slimrec.data.encode import Encoder
from slimrec.errors import ConfigError
from slimrec.model.files import load_model, save_model
from slimrec.plugins import BACKBONES
from slimrec.pruning.findings import FINDINGS, Findings
from slimrec.selection import Budget
from slimrec.stages import finetune, prune
from slimrec.stages.prune import cut_error
from slimrec.track import Tracker

CUT = PruneConfig(budget=Budget(keep=0.5))


def searched(backbone, folder):
    """A gated artifact of a method whose dropped fields leave constants."""
    model = contract.gated("permutation", backbone)
    with publish(folder / "gated", "gated", seed=0, dataset="d" * 64) as scratch:
        save_model(model, scratch, Encoder(model.schema, {field.name: [] for field in model.schema.embedded}))
        write_json(scratch / FINDINGS, Findings().model_dump(mode="json"))
    return {"gated": folder / "gated", "selection": folder / "selection", "slim": folder / "slim"}


def test_a_cut_that_is_not_exact_is_refused_and_leaves_nothing(tmp_path):
    places = searched("tests.own_networks:Forgetful", tmp_path)
    with pytest.raises(ConfigError, match="the cut of Forgetful is not exact: .* prune.tolerance"):
        prune.run(CUT, Tracker(), **places)
    assert not places["selection"].exists() and not places["slim"].exists()
    told = prune.run(CUT.model_copy(update={"tolerance": None}), Tracker(), **places)
    assert told["max_logit_difference"] > 1e-3


@pytest.mark.parametrize("backbone", ["dcn", "xdeepfm"])
def test_networks_that_multiply_columns_are_cut_beside_constants(backbone, tmp_path):
    places = searched(backbone, tmp_path)
    assert prune.run(CUT, Tracker(), **places)["max_logit_difference"] < 1e-4
    slim = load_model(places["slim"]).backbone
    assert {name: slim.options[name] for name in slim.of_constants} != {
        name: load_model(places["gated"]).backbone.options[name] for name in slim.of_constants
    }


@pytest.mark.parametrize("backbone", BACKBONES.table)
def test_a_gate_that_shifts_what_stays_and_leaves_constants_is_cut_exactly(backbone):
    model = contract.gated("leap", backbone, options={"alpha": 0.001}).eval()
    selection = model.gate.select(Budget(keep=0.5), seed=0)
    assert any(any(decision.shift) for decision in selection.fields.values() if decision.kept)
    assert cut_error(model, model.narrow(selection), selection)[0] < 1e-4


@pytest.mark.parametrize("backbone", ["dcn", "xdeepfm"])
def test_new_weights_hold_on_to_no_constants(backbone, tmp_path):
    places = searched(backbone, tmp_path)
    prune.run(CUT, Tracker(), **places)
    config = FinetuneConfig(start="fresh", train=TrainConfig(device="cpu"))
    fresh = finetune._start(config, places["gated"], places["selection"], places["slim"]).backbone
    full = load_model(places["gated"]).backbone.options
    assert {name: fresh.options[name] for name in fresh.of_constants} == {n: full[n] for n in fresh.of_constants}


def test_a_cut_is_tried_on_empty_bags_too():
    model = contract.gated("permutation", "widedeep").eval()
    selection = model.gate.revise(model.gate.select(Budget(keep=1.0), seed=0), drop=["noise"])
    slim = model.narrow(selection)
    assert cut_error(model, slim, selection)[0] < 1e-4
    with torch.no_grad():
        slim.arena.rows_of("genres")[0] += 1  # what an empty bag holds
    assert cut_error(model, slim, selection)[0] > 1e-2


def test_a_tolerance_has_to_be_positive():
    with pytest.raises(ConfigError, match="tolerance"):
        parse(PruneConfig, {"tolerance": 0})
