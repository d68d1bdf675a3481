"""Group lasso: its norms by hand, its minimum by SciPy's bounded optimiser, noise that the network has memorised."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize

from slimrec.backbones.base import Backbone
from slimrec.config import ModelConfig
from slimrec.errors import ConfigError
from slimrec.gates.grouplasso import GroupLassoGate
from slimrec.model import build, with_gate
from slimrec.selection import Budget
from tests import recovery
from tests.test_contract import inputs, mixed_schema


def gated(backbone="mlp", **options):
    config = ModelConfig(backbone=backbone, embedding_dim=4, embedding_std=0.5, options={"hidden": [8]})
    return with_gate(build(mixed_schema(), config, seed=1), "group_lasso", options, seed=1).train()


@pytest.mark.parametrize(("backbone", "layers"), [("mlp", 1), ("widedeep", 2), ("deepfm", 2), ("pnn", 1), ("dcn", 4)])
def test_the_norms_are_those_of_the_first_layer_on_columns_of_deviation_one(backbone, layers):
    model = gated(backbone)
    ids, dense = inputs(model.schema)
    dense = 5 * dense + 3
    for _ in range(3):
        model(ids, dense)
    x = model.arena(ids, dense).detach().numpy()
    read = [p for name, p in model.backbone.named_parameters() if p.dim() == 2 and p.shape[1] >= x.shape[1]]
    assert len(read) == layers
    first = np.concatenate([p.detach().numpy()[:, : x.shape[1]] for p in read])
    by_hand = np.split((first**2 * x.var(0)).sum(0), np.cumsum([b.width for b in model.blocks])[:-1])
    assert model.gate.norms().numpy() == pytest.approx(np.sqrt([part.sum() for part in by_hand]), rel=1e-3)


def test_gate_steps_on_a_still_network_find_the_minimum_that_a_bounded_optimiser_finds():
    model = gated(strength=0.005)
    model.arena.requires_grad_(False)
    model.backbone.requires_grad_(False)
    ids, dense = inputs(model.schema, rows=400)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        label = (torch.rand(400, generator=generator) < torch.sigmoid(3 * model(ids, dense) + dense[:, 0])).float()
    optimizer = torch.optim.Adam(model.gate.parameters(), 0.02)
    for i in range(1500):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - i / 1500)
        optimizer.zero_grad()
        (F.binary_cross_entropy_with_logits(model(ids, dense), label) + model.gate.penalty()).backward()
        optimizer.step()
        model.gate.step(i / 1500)
    norms, x = model.gate.norms(), model.arena(ids, dense)

    def objective(length):
        length = torch.tensor(length, dtype=torch.float32, requires_grad=True)
        logits = model.backbone(x * length[model.gate.owner])
        loss = F.binary_cross_entropy_with_logits(logits, label) + 0.005 * (length * norms).sum()
        loss.backward()
        return loss.item(), length.grad.numpy().astype(np.float64)

    oracle = minimize(objective, model.gate.length.detach().numpy() + 0.1, jac=True, bounds=[(0, None)] * 6)
    found = model.gate.length.detach().numpy()
    assert objective(found)[0] == pytest.approx(oracle.fun, abs=1e-4)  # the minimum is flat: places differ more
    assert found == pytest.approx(oracle.x, abs=0.15)
    assert ((found < 1e-5) == (oracle.x == 0)).all() and 0 < (oracle.x == 0).sum() < 5


def test_a_length_at_zero_stays_there_until_the_loss_pulls_harder_than_the_penalty_pushes():
    model = gated(strength=0.1)
    model(*inputs(model.schema))
    pushes = 0.1 * model.gate.norms()
    for share, stays in ((0.9, True), (1.1, False)):
        with torch.no_grad():
            model.gate.length.zero_()
        optimizer = torch.optim.SGD(model.gate.parameters(), 0.1)
        optimizer.zero_grad()
        (model.gate.penalty() - share * (pushes * model.gate.length).sum()).backward()
        optimizer.step()
        model.gate.step(1.0)
        assert ((model.gate.length == 0) == stays).all()


def test_growing_a_block_gains_nothing_as_the_penalty_counts_the_product():
    model = gated()
    model(*inputs(model.schema))
    before = model.gate.penalty().item()
    with torch.no_grad():
        model.gate.length *= 0.5
        model.backbone.tower.first.weight *= 2
    assert model.gate.penalty().item() == pytest.approx(before)


class Nameless(Backbone):
    """A network that does not say which layers read its input."""

    def forward(self, x, pairs=None):
        return x.sum(1)

    def narrow(self, selection, fill):
        return self


def test_a_network_that_does_not_name_its_first_layers_is_refused():
    model = gated()
    with pytest.raises(ConfigError, match="first layers"):
        GroupLassoGate(mixed_schema(), 4).attach(Nameless(model.blocks))


@pytest.mark.parametrize("options", [{"strength": -1.0}, {"decay": 1.0}, {"warmup": -0.1}, {"every": 0}])
def test_senseless_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        gated(**options)


def test_noise_that_the_network_memorises_goes_over_many_epochs_and_use_stays(tmp_path):
    gate = recovery.search(tmp_path, recovery.make_dataset(tmp_path), "group_lasso")
    assert gate.select(Budget(), seed=0).kept == recovery.STRONG
    norms = dict(zip(gate.schema.names, gate.norms().tolist()))
    loud = [name for name in recovery.NOISE if norms[name] > 0.3 * min(norms[strong] for strong in recovery.STRONG)]
    assert loud, "the network itself holds on to some noise, so that its weights alone would not tell"
    assert max(gate.scores()[name] for name in loud) < 0.1
