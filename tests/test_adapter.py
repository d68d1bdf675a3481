"""A user's own network behind every gate: the contract battery of the built-in ones, and a whole audit with it."""

import pytest
import test_contract as contract
import torch

from slimrec.config import FinetuneConfig, ModelConfig, PretrainConfig, PruneConfig, TrainConfig, parse
from slimrec.errors import ConfigError
from slimrec.model import build, with_gate
from slimrec.model.files import load_model
from slimrec.plugins import BACKBONES, GATES
from slimrec.selection import Budget
from slimrec.stages import finetune, pretrain, prune
from slimrec.track import Tracker
from tests.small import ingest_rows

OWN = [f"tests.own_networks:{name}" for name in ("TwoHeads", "Attentive", "WithoutBias")]


def fits(method, backbone):
    """Whether the gate takes the network: some need meetings of fields, or to know the layers that read x."""
    try:
        with_gate(build(contract.mixed_schema(), ModelConfig(backbone=backbone), 0), method, {}, 0)
    except ConfigError as error:
        assert "meetings of fields" in str(error) or "first layers" in str(error)
        return False
    return True


ALL = [(method, backbone) for method in sorted(GATES.table) for backbone in OWN]
EVERY_PAIRING = pytest.mark.parametrize(("method", "backbone"), [pairing for pairing in ALL if fits(*pairing)])


@EVERY_PAIRING
def test_the_slim_network_gives_the_logits_of_the_masked_one(method, backbone):
    contract.test_the_slim_model_gives_the_logits_of_the_masked_one(method, backbone, ("genres", "item", "price"))


@pytest.mark.parametrize("backbone", OWN)
def test_a_search_and_its_cut_survive_being_written_and_read(backbone, tmp_path):
    contract.test_a_search_and_its_cut_survive_being_written_and_read("leap", backbone, tmp_path)


@EVERY_PAIRING
def test_the_frozen_gate_is_the_affine_map_of_the_selection(method, backbone):
    contract.test_in_eval_mode_the_gate_is_the_affine_map_that_it_writes_into_the_selection(method, backbone)


@EVERY_PAIRING
def test_every_gate_parameter_gets_a_gradient(method, backbone):
    contract.test_every_gate_parameter_gets_a_gradient(method, backbone)


@pytest.mark.parametrize("backbone", OWN)
def test_a_network_can_be_cut_twice(backbone):
    model = contract.gated("leap", backbone).eval()
    first = model.gate.select(Budget(fields=4), seed=0)
    half = model.narrow(first)
    both = first.model_copy(update={"fields": {n: first.fields[n] for n in first.kept}})
    constant = {"scale": (0.0,), "shift": (0.7,)}
    gone = first.kept[1]
    fields = {
        n: d.model_copy(update={"columns": (), **{k: v * d.width for k, v in constant.items()}}) if n == gone
        else d.model_copy(update={"scale": (), "shift": ()})
        for n, d in both.fields.items()
    }  # fmt: skip
    second = both.model_copy(update={"fields": fields})
    quarter = half.narrow(second)
    batch = contract.inputs(half.schema)
    kept = [f.name != gone for f in half.schema.embedded for _ in range(f.slots)]
    dense = [f.name != gone for f in half.schema.dense for _ in range(f.dense_width)]
    assert torch.allclose(half.masked_logits(*batch, second), quarter(batch[0][:, kept], batch[1][:, dense]), atol=1e-5)


@pytest.mark.parametrize("backbone", OWN)
def test_an_own_network_goes_through_search_cut_and_training_and_loads_again(backbone, tmp_path):
    ingest_rows(tmp_path, rows=2000, gate=0.1)
    train = TrainConfig(epochs=1, batch_size=256, device="cpu", threads=1)
    config = PretrainConfig(method="leap", model=ModelConfig(backbone=backbone, embedding_dim=4), train=train)
    pretrain.run(config, Tracker(), dataset=tmp_path / "dataset", gated=tmp_path / "gated")
    places = {"gated": tmp_path / "gated", "selection": tmp_path / "selection", "slim": tmp_path / "slim"}
    figures = prune.run(PruneConfig(budget=Budget(keep=0.5)), Tracker(), **places)
    assert figures["max_logit_difference"] < 1e-5
    for start in ("warm", "fresh", "initial"):
        tuned = tmp_path / start
        finetune.run(
            FinetuneConfig(start=start, train=train), Tracker(), dataset=tmp_path / "dataset", **places, tuned=tuned
        )
        assert 0 < len(load_model(tuned).schema.names) <= 3  # noise fills no place
    full, slim = (sum(p.numel() for p in load_model(places[n]).backbone.parameters()) for n in ("gated", "slim"))
    assert slim < full if backbone.endswith("TwoHeads") else slim == full
    with pytest.raises(ConfigError, match="no hidden"):
        prune.run(PruneConfig(hidden_keep=0.5), Tracker(), **places)


def test_the_options_of_an_own_network_are_its_keyword_arguments():
    ModelConfig(backbone=OWN[0], options={"size": 4})
    with pytest.raises(ConfigError, match="did you mean 'size'"):
        parse(ModelConfig, {"backbone": OWN[0], "options": {"sizes": 4}})
    with pytest.raises(ConfigError, match="set by a cut only"):
        BACKBONES.create(OWN[0], build(contract.mixed_schema(), ModelConfig(), 0).blocks,
                         whole={"width": 3, "places": [5]})  # fmt: skip


def test_an_own_method_is_written_and_read_under_the_name_that_the_recipe_gives_it(tmp_path):
    method = "tests.own_networks:ByName"
    contract.test_a_search_and_its_cut_survive_being_written_and_read(method, "pnn", tmp_path)
    selection = load_model(tmp_path / "gated").gate.select(Budget(fields=2), seed=0)
    assert selection.method == method and selection.kept == ("genres", "item")
