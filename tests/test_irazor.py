"""i-Razor against its paper: decisions, penalty and widths by hand (METHODS 2.8), published parameter counts (2.6)."""

from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from slimrec.config import IngestConfig, ModelConfig, TrainConfig
from slimrec.data.dataset import Dataset
from slimrec.errors import ConfigError
from slimrec.gates.irazor import IRazorGate, chosen_regions
from slimrec.model import build, with_gate
from slimrec.schema import Field, Schema, Statistics
from slimrec.selection import Budget
from slimrec.stages import ingest
from slimrec.track import Tracker
from slimrec.training.loop import Trainer

# Per-field cardinalities (datasets/Avazu.py, Criteo.py) and the widths searched (tf_main_retrain_model.py), facts of
# the released repository github.com/YaoYao1995/i-Razor at 122172e; fields are numbered in the order given there.
AVAZU = {
    "cardinalities": [7, 7, 3135, 3487, 24, 4002, 252, 28, 101449, 523672, 5925, 5, 4, 2417, 8, 9, 426, 4, 67, 166, 60]
    + [10, 24, 7],
    "widths": {1: 1, 2: 12, 3: 18, 5: 18, 6: 1, 7: 1, 8: 5, 9: 22, 10: 18, 12: 1, 13: 5, 16: 6, 19: 6, 20: 3, 21: 2}
    | {22: 3},
    "candidates": [0, 1, 2, 4, 8, 16, 30],
    "cpt": 0.45,
    "mass": 0.8,  # of the regions that have to be chosen
    "published": (16, 122, 12_323_301),
    "uncut": 19_355_850,
}
CRITEO = {
    "cardinalities": [4389, 8000, 329, 7432, 2646, 428, 233, 6301, 295, 11, 173, 176642, 585, 147117, 19845, 14830]
    + [6916, 18687, 4, 6646, 1272, 46, 141085, 64381, 63692, 11, 2156, 7806, 61, 5, 928, 15, 147387, 116331, 145634]
    + [57186, 9307, 63, 34],
    "widths": {0: 15, 1: 12, 2: 4, 3: 17, 4: 4, 5: 4, 6: 4, 7: 17, 8: 2, 9: 4, 10: 12, 11: 24, 12: 13, 13: 8, 14: 24}
    | {15: 25, 18: 4, 19: 24, 20: 16, 21: 16, 22: 17, 23: 25, 24: 21, 25: 17, 26: 8, 27: 23, 28: 4, 29: 8, 31: 16}
    | {32: 4, 33: 21, 34: 8, 35: 23, 36: 23, 37: 17, 38: 23},
    "candidates": [0, 1, 2, 4, 8, 16, 25],
    "cpt": 0.8,
    "mass": 0.9,
    "published": (36, 507, 18_135_899),
    "uncut": 29_472_725,
}


def categories(rows):
    fields = [Field(name=name, kind="category", statistics=Statistics(rows=count)) for name, count in rows.items()]
    return Schema(label="click", fields=fields)


def set_weights(gate, alpha):
    """Put the gate where its regions weigh `alpha` (one list a field)."""
    flat = torch.tensor([mass for row in alpha for mass in row], dtype=torch.double)
    gate.logits.data = gate.temperature * flat.log().clamp(min=-200).float()


def width(alpha, candidates, cpt, reference="paper"):
    sizes = [upper - lower for lower, upper in zip([0, *candidates], candidates)]
    return sum(sizes[m] for m in chosen_regions(alpha, cpt, reference))


@pytest.mark.parametrize(("cpt", "expected"), [(0.3, 0), (0.45, 4), (0.7, 4), (0.8, 7), (0.95, 9), (1.0, 10)])
def test_t1_the_table_of_thresholds_and_widths(cpt, expected):
    assert width([0.40, 0.05, 0.10, 0.15, 0.30], [0, 1, 3, 6, 10], cpt) == expected


def test_t2_the_threshold_has_to_be_reached_in_the_paper_and_exceeded_in_the_code():
    assert width([0.1, 0.2, 0.3, 0.4], [0, 1, 3, 6], 0.7) == 5
    assert width([0.1, 0.2, 0.3, 0.4], [0, 1, 3, 6], 0.7, "code") == 6


def test_t3_the_threshold_one_keeps_every_column_where_the_code_keeps_none():
    for alpha in ([0.25] * 4, [1 - 3e-7, 1e-7, 1e-7, 1e-7], [1 / 3, 1 / 3, 1 / 3 - 1e-16, 0.0]):
        assert width(alpha, [0, 1, 3, 6], 1.0) == 6
        assert width(alpha, [0, 1, 3, 6], 1.0, "code") == 0


def test_t3_rounding_within_the_tolerance_adds_no_region():
    assert chosen_regions([0.4, 0.3 - 5e-7, 0.3 + 5e-7], 0.7 + 1e-6) == (0, 2)


def test_t4_near_ties_keep_one_region_by_argmax_and_two_by_a_threshold():
    assert chosen_regions([0.33, 0.33, 0.34], 0.0) == (2,)
    assert chosen_regions([0.33, 0.33, 0.34], 0.6) == (0, 2)


def test_t5_the_penalty_weighs_expected_widths_by_cardinality():
    schema = categories({"few": 10, "many": 990})
    penalties = {}
    for weight in ("cardinality", "uniform"):
        gate = IRazorGate(schema, 6, candidates=[0, 2, 6], lambda_=1.0, lp_weight=weight)
        set_weights(gate, [[1 / 3] * 3, [0.0, 0.0, 1.0]])
        penalties[weight] = gate.penalty().item()
    assert penalties["cardinality"] == pytest.approx(0.02 + 3.96, abs=1e-6)
    assert penalties["uniform"] == pytest.approx((2 + 4) / 2, abs=1e-6)


@pytest.mark.parametrize("weight", ["cardinality", "uniform"])
def test_t5_probes_leave_the_pressure_on_real_fields_as_it_is(weight):
    rows = {"few": 10, "many": 990}
    gates = [IRazorGate(categories(each), 6, lp_weight=weight) for each in (rows, rows | {"probe0:many": 990})]
    assert torch.equal(gates[0].shares, gates[1].shares[:2]) and gates[1].shares[2] == gates[1].shares[1]


def test_the_released_code_steps_regions_and_network_together_on_training_rows():
    released = IRazorGate(mixed(), 8, reference="code", every=4)
    assert (released.stream, released.every, released.learning_rate) == ("train", 1, 0.01)
    assert IRazorGate(mixed(), 8, reference="code", stream="gate").stream == "gate"
    assert (IRazorGate(mixed(), 8).stream, IRazorGate(mixed(), 8).every) == ("gate", 4)
    paper = IRazorGate(mixed(), 8, reference="paper")
    assert (paper.stream, paper.every, paper.normalise) == ("train", 1, True)


def test_t5_the_code_weighs_every_field_with_a_hundredth():
    gate = IRazorGate(categories({"few": 10, "many": 990}), 6, candidates=[0, 2, 6], lambda_=1.0, reference="code")
    set_weights(gate, [[1 / 3] * 3, [0.0, 0.0, 1.0]])
    assert gate.penalty().item() == pytest.approx(0.01 * 6, abs=1e-7)


@pytest.mark.parametrize(("options", "unchanged"), [({}, True), ({"embedding_bn": False}, False)])
def test_t6_the_scale_of_a_table_changes_nothing_behind_batch_normalisation(options, unchanged):
    model = build(categories({"a": 40, "b": 40}), ModelConfig(embedding_dim=4, embedding_std=0.3), seed=0)
    with_gate(model, "irazor", options, seed=0).train()
    ids = torch.randint(0, 40, (512, 2), generator=torch.Generator().manual_seed(0))
    before = model(ids, torch.zeros(512, 0))
    with torch.no_grad():
        model.arena.rows_of("a").mul_(100)
    after = model(ids, torch.zeros(512, 0))
    assert bool((before - after).abs().max() < 1e-3) == unchanged


def test_in_training_a_column_is_normalised_by_its_batch_and_weighed_by_its_region():
    gate = IRazorGate(categories({"a": 9, "b": 9}), 6, candidates=[0, 2, 6])
    alpha = [[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]]
    set_weights(gate, alpha)
    x = torch.randn(256, 12) * torch.rand(12) * 3 + torch.randn(12)
    normal = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    weights = torch.tensor([0.2] * 2 + [0.3] * 4 + [0.6] * 2 + [0.3] * 4)
    assert torch.allclose(gate(x, torch.zeros(256, 2)), normal * weights, atol=1e-5)
    assert torch.allclose(
        gate.eval()(x, torch.zeros(256, 2)), normal * weights, atol=1e-4
    )  # the first batch counts in full


def test_running_statistics_come_from_gate_steps_alone():
    gate = IRazorGate(categories({"a": 9}), 4)
    gate.requires_grad_(False)
    gate(torch.randn(64, 4) + 5, torch.zeros(64, 1))
    assert float(gate.running_mean.abs().sum()) == 0


def test_the_codes_normalisation_only_scales():
    gate = IRazorGate(categories({"a": 9}), 4, reference="code").train()
    x = torch.randn(64, 4) + 5
    assert torch.allclose(gate(x, torch.zeros(64, 1)), x / 1.001**0.5 / 4, atol=1e-6)  # four regions of equal weight


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The label follows `a_scalar` through one number a value and `b_wide` through its inner product with `d_eight`."""
    folder, random, rows = tmp_path_factory.mktemp("planted"), np.random.default_rng(0), 24_000
    a, b, c = random.integers(0, 20, rows), random.integers(0, 30, rows), random.integers(0, 4000, rows)
    eight = random.normal(size=(rows, 8))
    effect, directions = random.normal(size=20), random.normal(size=(30, 8))
    logit = 1.2 * effect[a] + (directions[b] * eight).sum(1)
    click = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    columns = {"click": click, "a_scalar": a.astype(str), "b_wide": b.astype(str), "c_noise": c.astype(str)}
    pq.write_table(pa.table({**columns, "d_eight": list(eight)}), folder / "raw.parquet")
    kinds = [{"name": name, "kind": "category"} for name in ("a_scalar", "b_wide", "c_noise")]
    fields = {"label": "click", "fields": [*kinds, {"name": "d_eight", "kind": "vector", "width": 8}]}
    split = {"by": "random", "train": 0.7, "gate": 0.15, "valid": 0.1, "test": 0.05}
    config = IngestConfig(source=str(folder / "raw.parquet"), fields=fields, split=split)
    ingest.run(config, Tracker(), dataset=folder / "dataset")
    return Dataset.open(folder / "dataset")


@pytest.mark.parametrize("stream", ["gate", "train"])
def test_t7_planted_widths_are_found_and_noise_gets_none(planted, stream):
    network = ModelConfig(backbone="pnn", embedding_dim=8, options={"hidden": [16]})
    model = with_gate(build(planted.schema, network, seed=0), "irazor", {"stream": stream}, seed=0)
    epochs, batch_size = (6, 256) if stream == "gate" else (1, 64)
    rates = {"learning_rate": 0.01, "embedding_learning_rate": 0.02}
    train = TrainConfig(epochs=epochs, batch_size=batch_size, patience=0, device="cpu", **rates)
    Trainer(model, train, *(planted.split(name) for name in ("train", "valid", "gate"))).fit()
    decided = {name: len(d.columns) for name, d in model.eval().gate.select(Budget(), seed=0).fields.items()}
    assert decided["c_noise"] == 0
    assert 0 < decided["a_scalar"] <= decided["b_wide"]


def put_where_the_paper_ended(data):
    """A gate over fields of the published cardinalities whose CPT decision has to be the published widths."""
    names = [f"f{i:02}" for i in range(len(data["cardinalities"]))]
    gate = IRazorGate(
        categories(dict(zip(names, data["cardinalities"]))),
        data["candidates"][-1],
        candidates=data["candidates"],
        cpt=data["cpt"],
    )
    sizes = [upper - lower for lower, upper in zip([0, *data["candidates"]], data["candidates"])]
    alpha = []
    for i in range(len(names)):
        wanted = regions_of_width(sizes, data["widths"].get(i, 0))
        rest = (1 - data["mass"]) / (len(sizes) - len(wanted))
        alpha.append([data["mass"] / len(wanted) if m in wanted else rest for m in range(len(sizes))])
    set_weights(gate, alpha)
    return gate


def regions_of_width(sizes, wanted):
    """The fewest regions whose sizes add up to a width; the zero region for 0."""
    if wanted == 0:
        return (0,)
    some = (chosen for n in range(1, len(sizes)) for chosen in combinations(range(1, len(sizes)), n))
    return next(chosen for chosen in some if sum(sizes[m] for m in chosen) == wanted)


@pytest.mark.parametrize("data", [AVAZU, CRITEO], ids=["avazu", "criteo"])
def test_golden_accounting_the_published_widths_make_the_published_number_of_parameters(data):
    """METHODS 2.6: 12,323,301 on Avazu and 18,135,899 on Criteo, counted in the tables of the rebuilt model."""
    gate = put_where_the_paper_ended(data)
    uncut = sum(field.rows for field in gate.schema.fields) * data["candidates"][-1]
    selection = gate.select(Budget(), seed=0)
    slim = gate.schema.narrow(selection.kept)
    plan = ModelConfig(embedding_dim=data["candidates"][-1], options={"hidden": [4]})
    model = build(slim, plan, seed=0, blocks=selection.blocks(gate.blocks))
    columns = sum(len(decision.columns) for decision in selection.fields.values())
    assert uncut == data["uncut"]
    assert (len(selection.kept), columns, sum(t.numel() for t in model.arena.tables.values())) == data["published"]


@pytest.mark.parametrize("backbone", ["mlp", "widedeep", "deepfm", "dcn", "pnn", "xdeepfm"])
def test_t8_a_model_rebuilt_with_unequal_widths_has_the_sum_of_cardinality_times_width(backbone):
    cardinalities = {"a": 11, "b": 23, "c": 5, "d": 40}
    gate = IRazorGate(categories(cardinalities), 6, candidates=[0, 1, 3, 6], cpt=0.5)
    set_weights(gate, [[0.1, 0.3, 0.1, 0.5], [0.1, 0.4, 0.1, 0.4], [0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.6, 0.2]])
    selection = gate.select(Budget(), seed=0)
    columns = {name: decision.columns for name, decision in selection.fields.items()}
    assert columns == {"a": (3, 4, 5), "b": (0, 3, 4, 5), "c": (), "d": (1, 2)}  # neither prefixes nor candidates
    slim = gate.schema.narrow(selection.kept)
    plan = ModelConfig(backbone=backbone, embedding_dim=6)
    model = build(slim, plan, seed=0, blocks=selection.blocks(gate.blocks))
    assert sum(table.numel() for table in model.arena.tables.values()) == 11 * 3 + 23 * 4 + 40 * 2
    with pytest.raises(KeyError, match="'c'"):
        model.arena.rows_of("c")
    assert model(torch.zeros(7, 3, dtype=torch.int32), torch.zeros(7, 0)).shape == (7,)


@pytest.mark.parametrize("backbone", ["deepfm", "pnn", "xdeepfm"])
def test_a_model_rebuilt_with_unequal_widths_maps_each_field_to_one_width_on_request(backbone):
    """A matrix a field, as in the paper: beside the rest, sum of width times the common width numbers."""
    gate = spread_gate(cpt=0.5)
    selection = gate.select(Budget(), seed=0)
    widths = [len(selection.fields[name].columns) for name in selection.kept]
    assert widths == [3, 5]
    rebuilt = {}
    for projection in (0, 6):
        plan = ModelConfig(backbone=backbone, embedding_dim=6, options={"projection": projection})
        rebuilt[projection] = build(gate.schema.narrow(selection.kept), plan, 0, selection.blocks(gate.blocks))
    assert count(rebuilt[6].backbone) == count(rebuilt[0].backbone) + 6 * (3 + 5)
    assert rebuilt[6](torch.zeros(7, 2, dtype=torch.int32), torch.zeros(7, 0)).shape == (7,)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def spread_gate(**options):
    gate = IRazorGate(categories({"a": 10, "b": 100, "c": 1000}), 6, candidates=[0, 1, 3, 6], **options)
    set_weights(gate, [[0.05, 0.15, 0.2, 0.6], [0.2, 0.1, 0.3, 0.4], [0.5, 0.05, 0.15, 0.3]])
    return gate


@pytest.mark.parametrize("reference", ["paper", "code"])
def test_a_byte_budget_takes_the_largest_threshold_whose_columns_fit(reference):
    gate = spread_gate(reference=reference)
    for limit in (4 * 330, 4 * 360, 4 * 3500, 4 * 5000):
        budget = Budget(max_bytes=limit)
        taken = gate.fit(budget)
        best = max(
            (gate.cost_of(gate.columns_at(cpt), budget) for cpt in np.linspace(0, 0.999, 2000)),
            key=lambda size: size if size <= limit else -1,
        )
        assert gate.cost_of(taken, budget) == best <= limit
    everything = Budget(max_bytes=4 * 6 * 1110)
    assert gate.cost_of(gate.fit(everything), everything) == 4 * 6 * 1110


def test_a_byte_budget_below_the_smallest_decision_keeps_the_best_fields_that_fit():
    gate = spread_gate()
    assert gate.select(Budget(max_bytes=4 * 100), seed=0).kept == ("a",)
    with pytest.raises(ConfigError, match="max_bytes"):
        gate.select(Budget(max_bytes=4), seed=0)


def test_fields_are_ranked_by_the_weight_of_their_columns_and_keep_at_least_one_region():
    gate = spread_gate(cpt=0.3)
    assert gate.scores() == pytest.approx({"a": 0.95, "b": 0.8, "c": 0.5}, abs=1e-5)
    assert gate.select(Budget(), seed=0).kept == ("a", "b")
    everything = gate.select(Budget(fields=3), seed=0)
    assert everything.fields["c"].columns == (3, 4, 5)
    assert gate.select(Budget(threshold=0.9), seed=0).kept == ("a",)


def test_a_field_that_comes_back_brings_the_columns_decided_and_the_cut_stays_exact():
    schema = categories({"a": 10, "b": 100, "c": 1000})
    model = build(schema, ModelConfig(backbone="pnn", embedding_dim=6, embedding_std=0.5), seed=0)
    model = with_gate(model, "irazor", {"candidates": [0, 1, 3, 6], "cpt": 0.5}, seed=0)
    set_weights(model.gate, [[0.05, 0.15, 0.2, 0.6], [0.2, 0.1, 0.3, 0.4], [0.5, 0.05, 0.15, 0.3]])
    ids = torch.randint(1, 10, (200, 3), dtype=torch.int32)
    model(ids, torch.zeros(200, 0))
    tight = model.eval().gate.select(Budget(fields=1), seed=0)
    assert tight.kept == ("a",)
    wide = model.gate.revise(tight, keep=["b", "c"])
    assert {name: wide.fields[name].columns for name in "abc"} == {"a": (3, 4, 5), "b": (1, 2, 3, 4, 5), "c": (3, 4, 5)}
    masked = model.masked_logits(ids, torch.zeros(200, 0), wide)
    assert torch.allclose(masked, model.narrow(wide)(ids, torch.zeros(200, 0)), atol=1e-5)
    assert model.gate.revise(wide, drop=["b", "c"]) == tight


def test_one_field_survives_where_every_zero_region_wins():
    gate = spread_gate()
    set_weights(gate, [[0.9, 0.05, 0.03, 0.02], [0.8, 0.1, 0.05, 0.05], [0.95, 0.03, 0.01, 0.01]])
    selection = gate.select(Budget(), seed=0)
    assert selection.kept == ("b",) and selection.fields["b"].columns == (0,)


def test_probes_of_a_search_stay_in_no_selection_and_use_up_no_bytes():
    plain = spread_gate()
    gate = IRazorGate(categories({"a": 10, "b": 100, "c": 1000, "probe0:c": 1000}), 6, candidates=[0, 1, 3, 6])
    set_weights(gate, [*plain.masses(), [0.0, 0.1, 0.2, 0.7]])
    for budget in (Budget(), Budget(keep=1.0), Budget(fields=3), Budget(max_bytes=4 * 360), Budget(max_bytes=4 * 6660)):
        with_probe, without = (g.select(budget, seed=0).fields for g in (gate, plain))
        assert {name: d.columns for name, d in with_probe.items()} == {
            **{name: d.columns for name, d in without.items()},
            "probe0:c": (),
        }


def mixed():
    fields = [
        Field(name="item", kind="category", statistics=Statistics(rows=9)),
        Field(name="price", kind="number", statistics=Statistics(mean=(0.0,), deviation=(1.0,))),
        Field(name="vector", kind="vector", width=28, statistics=Statistics()),
    ]
    return Schema(label="click", fields=fields)


@pytest.mark.parametrize(
    ("candidates", "item", "vector"),
    [
        ("exponential", (0, 1, 2, 4, 8), (0, 1, 2, 4, 8, 16, 28)),
        ("linear", (0, 1, 3, 6, 8), (0, 1, 3, 6, 10, 15, 21, 28)),
        ("uniform", (0, 2, 4, 6, 8), (0, 4, 8, 12, 16, 20, 24, 28)),
        ([0, 5, 100], (0, 5, 8), (0, 5, 28)),
        ([1, 3], (1, 3, 8), (1, 3, 28)),
        ({"item": [0, 3], "vector": "linear"}, (0, 3, 8), (0, 1, 3, 6, 10, 15, 21, 28)),
    ],
)
def test_candidate_widths_end_at_the_native_width_of_each_field(candidates, item, vector):
    gate = IRazorGate(mixed(), 8, candidates=candidates)
    assert (gate.widths[0], gate.widths[2]) == (item, vector)
    assert gate.widths[1] in ((0, 1), (1,))


@pytest.mark.parametrize(
    "options",
    [
        {"stream": "valid"},
        {"temperature": 0.0},
        {"cpt": 1.5},
        {"lp_weight": "rows"},
        {"reference": "blog"},
        {"candidates": "cubic"},
        {"candidates": [0, -1]},
        {"candidates": [0, 2.5]},
        {"candidates": []},
    ],
)
def test_an_option_outside_its_range_is_refused(options):
    with pytest.raises(ValueError, match="got"):
        IRazorGate(mixed(), 8, **options)


def test_candidates_for_an_unknown_field_are_refused():
    with pytest.raises(ValueError, match="did you mean 'item'"):
        IRazorGate(mixed(), 8, candidates={"items": [0, 3]})
