"""The contract battery: what every gate promises in front of every backbone; nothing to write when one is added."""

import copy
from functools import cache

import pytest
import torch

from slimrec.artifacts import publish
from slimrec.batch import Batch
from slimrec.config import ModelConfig, PretrainConfig, parse
from slimrec.data.encode import Encoder
from slimrec.errors import ConfigError
from slimrec.model import build, with_gate
from slimrec.model.files import load_model, save_model
from slimrec.plugins import BACKBONES, GATES
from slimrec.probes import is_probe, q_values, with_probes
from slimrec.schema import PAD, Field, Schema, Statistics
from slimrec.selection import Budget, Selection

EVERY_GATE = pytest.mark.parametrize("method", sorted(GATES.table))


def fits(method, backbone):
    """Whether the network has what the gate works on."""
    return BACKBONES.load(backbone).meets_pairs or not GATES.load(method).weighs_pairs


ALL = [(m, b) for m in sorted(GATES.table) for b in sorted(BACKBONES.table)]
FITTING = [pairing for pairing in ALL if fits(*pairing)]


def at_once(method, backbone):
    """Every method on its first network, every network behind the default method; the other pairings are a battery."""
    first = next(pairing for pairing in FITTING if pairing[0] == method)
    return method == "leap" or (method, backbone) == first


EVERY_PAIRING = pytest.mark.parametrize(
    ("method", "backbone"),
    [pytest.param(*each, marks=() if at_once(*each) else pytest.mark.battery) for each in FITTING],
)


def mixed_schema(order=1):
    fields = [
        Field(name="user", kind="category", statistics=Statistics(rows=50)),
        Field(name="genres", kind="bag", max_length=3, statistics=Statistics(rows=12)),
        Field(name="price", kind="number", statistics=Statistics(mean=(0.0,), deviation=(1.0,))),
        Field(name="vector", kind="vector", width=6, statistics=Statistics()),
        Field(name="item", kind="category", statistics=Statistics(rows=200)),
        Field(name="noise", kind="category", statistics=Statistics(rows=30)),
    ]
    return Schema(label="click", fields=fields[::order])


def inputs(schema, rows=64):
    torch.manual_seed(5)
    ids = [torch.randint(1, f.rows, (rows, f.slots), dtype=torch.int32) for f in schema.embedded]
    dense = [torch.randn(rows, f.dense_width) for f in schema.dense]
    return torch.cat(ids, 1), torch.cat(dense, 1)


def gated(method, backbone="pnn", schema=None, options=None):
    """A copy of `searched`, which each model needs once."""
    return copy.deepcopy(once(method, backbone, schema or mixed_schema(), tuple((options or {}).items())))


def placed(method, backbone="pnn", schema=None, options=(), generator=None):
    """A model whose gate has seen a few batches and sits at random positions."""
    model = build(schema or mixed_schema(), ModelConfig(backbone=backbone, embedding_dim=4, embedding_std=0.5), seed=1)
    with_gate(model, method, dict(options), seed=1).train()
    batch = inputs(model.schema)
    for _ in range(5):
        torch.manual_seed(7)
        model(*batch)
    generator = generator or torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.gate.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def searched(method, backbone="pnn", schema=None, options=()):
    """The same, and it has surveyed the gate slice."""
    generator = torch.Generator().manual_seed(11)
    model = placed(method, backbone, schema, options, generator)
    batch = inputs(model.schema)
    label = torch.randint(0, 2, (len(batch[0]),), generator=generator).float()
    model.eval().gate.survey(model, lambda: [Batch(*batch, label, torch.ones_like(label))])
    return model.train()


once = cache(searched)


@pytest.mark.parametrize(("method", "backbone"), [pairing for pairing in ALL if not fits(*pairing)])
def test_a_gate_without_its_meetings_is_refused_at_once(method, backbone):
    with pytest.raises(ConfigError, match="meetings of fields"):
        gated(method, backbone)


PLUG_INS = [(family, name) for family in (GATES, BACKBONES) for name in sorted(family.table)]


@pytest.mark.parametrize(("family", "name"), PLUG_INS, ids=[name for _, name in PLUG_INS])
def test_an_option_that_should_be_a_number_or_a_truth_value_is_refused_before_anything_is_built(family, name):
    wrong = {"True": ["no", 1], "False": ["no", 0]}
    for option, default in family.options(name).items():
        number = default.replace(".", "").replace("e-", "").isdigit()
        for value in wrong.get(default, ["much", None, float("nan"), True] if number else []):
            with pytest.raises(ConfigError, match=f"`{option}` must be "):
                family.check(name, {option: value})


def test_a_whole_number_may_come_as_json_writes_it_and_half_a_one_may_not():
    GATES.check("optfeature", {"max_pairs": 3.0, "min_share": 0, "learning_rate": None})
    for value in (2.5, "3", [3]):
        with pytest.raises(ConfigError, match="`max_pairs` must be a whole number or null"):
            GATES.check("optfeature", {"max_pairs": value})


def fed(schema, ids, dense, names):
    """The part of a batch that a model over fewer fields reads."""
    slots = [field.name in names for field in schema.embedded for _ in range(field.slots)]
    columns = [field.name in names for field in schema.dense for _ in range(field.dense_width)]
    return ids[:, slots], dense[:, columns]


@EVERY_PAIRING
@pytest.mark.parametrize("dropped", [("genres", "item", "price"), ("noise", "user", "vector")], ids="-".join)
def test_the_slim_model_gives_the_logits_of_the_masked_one(method, backbone, dropped):
    """Each kind of field goes once and stays once; bags are empty in some rows."""
    model = gated(method, backbone).eval()
    selection = model.gate.revise(model.gate.select(Budget(keep=1.0), seed=0), drop=dropped)
    slim = model.narrow(selection)
    ids, dense = inputs(model.schema)
    ids[::7, [field.kind == "bag" for field in model.schema.embedded for _ in range(field.slots)]] = PAD
    assert set(slim.schema.names) == set(model.schema.names) - set(dropped)
    masked = model.masked_logits(ids, dense, selection)
    assert torch.allclose(masked, slim(*fed(model.schema, ids, dense, selection.kept)), atol=1e-5)


@EVERY_PAIRING
def test_in_eval_mode_the_gate_is_the_affine_map_that_it_writes_into_the_selection(method, backbone):
    model = gated(method, backbone).eval()
    everything = model.gate.select(Budget(keep=1.0), seed=0)
    batch = inputs(model.schema)
    assert torch.allclose(model(*batch), model.masked_logits(*batch, everything), atol=1e-5)


@EVERY_PAIRING
def test_every_gate_parameter_gets_a_gradient(method, backbone):
    model = gated(method, backbone)
    loss = model(*inputs(model.schema, rows=1000)).square().mean() + model.gate.penalty()
    if model.gate.learns:
        loss.backward()
    for name, parameter in model.gate.named_parameters():
        moved = parameter.grad.to_dense() != 0 if parameter.grad is not None else torch.zeros(1)
        assert moved.float().mean() > 0.95, name  # all but the rows of values that no batch holds, as of padding


@EVERY_GATE
def test_keep_one_keeps_everything(method):
    selection = gated(method).gate.select(Budget(keep=1.0), seed=0)
    assert selection.kept == mixed_schema().names
    assert all(len(decision.columns) == decision.width for decision in selection.fields.values())


@EVERY_GATE
@pytest.mark.parametrize("budget", [Budget(keep=0.01), Budget(fields=1), Budget(threshold=1.0), Budget(max_bytes=1)])
def test_at_least_one_field_survives_any_budget(method, budget):
    assert gated(method).gate.select(budget, seed=0).kept


@EVERY_GATE
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_keep_gives_that_share_of_the_fields_rounded_down(method, share):
    selection = gated(method).gate.select(Budget(keep=share), seed=0)
    assert len(selection.kept) == max(1, int(share * 6))
    kept, dropped = ([selection.fields[name].score for name in part] for part in (selection.kept, selection.dropped))
    assert min(kept) >= max(dropped)


@EVERY_GATE
def test_a_threshold_keeps_the_fields_whose_score_reaches_it(method):
    gate = gated(method).gate
    scores = gate.scores()
    for threshold in (score for score in scores.values() if 0 <= score <= 1):
        kept = gate.select(Budget(threshold=threshold), seed=0).kept
        assert kept == tuple(name for name, score in scores.items() if score >= threshold)


@EVERY_GATE
def test_a_false_discovery_rate_keeps_what_beats_the_probes_or_the_best_field(method):
    gate = gated(method, schema=with_probes(mixed_schema(), 2.0, 0)).gate
    q = q_values(gate.scores())
    kept = {name for name in gate.select(Budget(false_discovery=0.3), seed=0).kept if not is_probe(name)}
    assert kept == {name for name, value in q.items() if value <= 0.3} or (len(kept) == 1 and min(q.values()) > 0.3)


@EVERY_GATE
@pytest.mark.parametrize("limit", [100, 1000, 4000])
def test_a_byte_budget_is_never_exceeded(method, limit):
    selection = gated(method).gate.select(Budget(max_bytes=limit), seed=0)
    kept = sum(4 * len(d.columns) * d.bytes // (4 * d.width) for d in selection.fields.values())
    assert kept <= limit


@EVERY_GATE
def test_the_same_seed_gives_the_same_selection_to_the_bit(method):
    first, second = (searched(method).gate.select(Budget(keep=0.5), seed=0).model_dump_json() for _ in range(2))
    assert first == second


@EVERY_GATE
def test_the_order_in_which_fields_are_written_changes_nothing(method):
    forward, backward = mixed_schema(), mixed_schema(order=-1)
    selections = [
        gated(method, schema=s).gate.select(Budget(keep=0.5), seed=0).model_dump_json() for s in (forward, backward)
    ]
    assert selections[0] == selections[1]


@EVERY_GATE
def test_a_selection_survives_being_written_and_read(method):
    selection = gated(method).gate.select(Budget(keep=0.5), seed=0)
    assert Selection.model_validate_json(selection.model_dump_json()) == selection


def written(model, folder):
    """The model as an artifact gives it back."""
    with publish(folder, "gated") as scratch:
        save_model(model, scratch, Encoder(model.schema, {field.name: [] for field in model.schema.embedded}))
    return load_model(folder)


@pytest.mark.parametrize(
    ("method", "backbone"),
    [*((m, "pnn") for m in sorted(GATES.table)), *(("leap", b) for b in sorted(BACKBONES.table))],
)
def test_a_search_and_its_cut_survive_being_written_and_read(method, backbone, tmp_path):
    model = gated(method, backbone).eval()
    again, batch = written(model, tmp_path / "gated"), inputs(model.schema)
    assert torch.equal(again(*batch), model(*batch))
    for budget in (Budget(keep=0.5), Budget(fields=1)):
        selection = model.gate.select(budget, seed=0)
        assert again.gate.select(budget, seed=0) == selection
        slim, part = model.narrow(selection), fed(model.schema, *batch, selection.kept)
        assert torch.equal(written(slim, tmp_path / str(budget))(*part), slim(*part))


@pytest.mark.parametrize("method", [method for method in sorted(GATES.table) if GATES.load(method).weighs_pairs])
def test_meetings_take_two_fields_and_a_network_in_which_they_meet(method):
    with pytest.raises(ConfigError, match="two fields"):
        gated(method, schema=mixed_schema().narrow(["price"]))
    with pytest.raises(ConfigError, match="use deepfm or pnn"):
        parse(PretrainConfig, {"method": method, "model": {"backbone": "mlp"}})


@pytest.mark.parametrize("backbone", sorted(BACKBONES.table))
def test_the_gate_none_changes_no_logit(backbone):
    model = gated("none", backbone).eval()
    batch = inputs(model.schema)
    with_none = model(*batch)
    model.gate = None
    assert torch.equal(with_none, model(*batch))
