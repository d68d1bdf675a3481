"""Budgets of costs: what fields are charged is what the served model saves without them, and no place goes to noise."""

import pytest
import torch
from test_contract import EVERY_GATE, gated, mixed_schema
from test_decide import found, scored
from torch.nn.modules.module import register_module_forward_hook

from slimrec.backbones.base import Backbone
from slimrec.config import ModelConfig
from slimrec.errors import ConfigError
from slimrec.gates.base import Gate
from slimrec.model import build, with_gate
from slimrec.model.arena import Arena
from slimrec.plugins import BACKBONES
from slimrec.probes import is_probe, with_probes
from slimrec.pruning.change import Change
from slimrec.pruning.charges import charges
from slimrec.pruning.decide import decide
from slimrec.pruning.findings import Twins
from slimrec.schema import Field, Schema, Statistics
from slimrec.selection import Budget, Selection
from slimrec.verdict.cost import size

BYTES, DIMS, TIME = Budget(max_bytes=10**9), Budget(dims=10**6), Budget(max_microseconds=1e9)


@pytest.mark.parametrize("backbone", sorted(BACKBONES.table))
def test_bytes_are_what_the_served_model_is_smaller_by_without_the_field(backbone):
    model = gated("random", backbone).eval()
    charged, names = charges(model, BYTES), mixed_schema().names
    for name in names:
        rest = model.narrow(Selection.whole(model.blocks, set(names) - {name}))
        whole = model.narrow(Selection.whole(model.blocks, names))
        assert charged[name] == size(whole)["bytes"] - size(rest)["bytes"]
    assert all(charged.values())


def test_columns_are_those_that_the_network_reads_whatever_the_kind_of_the_field():
    assert charges(gated("random"), DIMS) == {"genres": 4, "item": 4, "noise": 4, "price": 1, "user": 4, "vector": 6}
    assert charges(gated("random"), Budget(keep=0.5)) is None


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but where a field is read and in the network: it goes by what `takes` says of each."""

    class Clock:
        takes = staticmethod(lambda module: 1.0 if isinstance(module, Arena) else module.width)

        def __init__(self):
            self.now, self.seen = 0.0, []

    one = Clock()

    def pass_on(module, inputs, _):
        if isinstance(module, Arena | Backbone):
            one.seen.append((module, inputs))
            one.now += one.takes(module)

    monkeypatch.setattr("time.perf_counter", lambda: one.now)
    with register_module_forward_hook(pass_on):
        yield one


def microseconds(columns, seconds=1.0, column=1.0):
    """Of a row of 1,024 that take so many seconds to read, and so many a column in the network."""
    return {name: pytest.approx((seconds + column * width) * 1e6 / 1024, rel=1e-9) for name, width in columns.items()}


WIDTHS = {"genres": 4, "item": 4, "noise": 4, "price": 1, "user": 4, "vector": 6}


def test_time_is_that_of_a_row_for_reading_the_field_and_for_each_column_in_the_network(clock):
    model = gated("random", "mlp")
    clock.seen.clear()  # of the training that made it, where no test before this one had
    assert charges(model, TIME) == microseconds(WIDTHS)
    assert all(len(part) == 1024 for _, inputs in clock.seen for part in inputs)


def test_of_fifteen_turns_behind_three_that_warm_up_the_median_counts(clock):
    """The k-th turn of each takes k times as long: of the turns 4 to 18 the median is 11."""
    clock.takes = lambda module: sum(module is other for other, _ in clock.seen) * type(clock).takes(module)
    assert charges(gated("random", "mlp"), TIME) == microseconds(WIDTHS, 11, 11)


def test_a_network_that_is_no_slower_for_more_columns_charges_none(clock):
    clock.takes = lambda module: 1.0 if isinstance(module, Arena) else 1 / module.width
    assert charges(gated("random", "mlp"), TIME) == microseconds(WIDTHS, 1, 0)


def test_columns_are_timed_by_the_whole_network_and_one_of_the_first_half_of_the_fields_without_probes(clock):
    for schema in (mixed_schema(), with_probes(mixed_schema(), 1.0, 0)):
        model = gated("random", "mlp", schema=schema)
        clock.seen.clear()
        charged = charges(model, TIME)
        assert {network.width for network, _ in clock.seen if isinstance(network, Backbone)} == {23, 4 + 4 + 4}
        assert set(charged) == set(schema.names)


def test_a_field_is_read_in_rows_of_all_its_values_the_same_ones_each_time_and_from_nobodys_stream(clock):
    model, read = gated("random", "mlp"), []
    state = torch.get_rng_state()
    for _ in range(2):
        clock.seen.clear()
        charges(model, TIME)
        read.append({arena.schema.names[0]: inputs for arena, inputs in clock.seen if isinstance(arena, Arena)})
    assert torch.equal(torch.get_rng_state(), state)
    for name, (ids, dense) in read[0].items():
        assert torch.equal(ids, read[1][name][0]) and ids.dtype == torch.int32
        field = mixed_schema()[name]
        assert ids.shape == (1024, field.slots) and dense.shape == (1024, field.dense_width)
        assert not field.embedded or ids.max() < field.rows < 1.1 * len(ids.unique())


def test_the_only_field_is_charged_what_is_its_own_and_nothing_of_the_network(clock):
    for kind, bytes_ in (("category", 16 * 9), ("number", 8)):
        only = Field(name="only", kind=kind, statistics=Statistics(rows=9 if kind == "category" else 0))
        model = build(Schema(label="y", fields=(only,)), ModelConfig(backbone="mlp", embedding_dim=4), seed=0)
        model = with_gate(model, "random", {}, seed=0)
        assert charges(model, BYTES) == {"only": bytes_} and charges(model, TIME) == microseconds({"only": 0})


@EVERY_GATE
@pytest.mark.parametrize("limit", [4, 9, 15])
def test_a_budget_of_columns_is_never_exceeded_and_serves_every_method(method, limit):
    selection = gated(method).gate.select(Budget(dims=limit), seed=0)
    assert 0 < sum(len(decision.columns) for decision in selection.fields.values()) <= limit


def test_a_search_for_widths_spends_a_budget_of_columns_within_fields():
    gate = gated("irazor").gate
    for limit in (4, 8, 12, 20):
        columns = gate.fit(Budget(dims=limit))
        more = [cpt for cpt in gate.levels() if sum(map(len, gate.columns_at(cpt).values())) <= limit]
        assert sum(map(len, columns.values())) <= limit
        assert not more or columns == gate.columns_at(more[-1])


@EVERY_GATE
def test_what_is_charged_keeps_every_method_within_its_budget(method):
    gate = gated(method).gate
    gate.charged = {"genres": 5.0, "item": 3.0, "noise": 2.0, "price": 1.0, "user": 2.5, "vector": 40.0}
    width = {block.name: block.width for block in gate.blocks}
    for limit in (3.0, 6.0, 12.0):
        fields = gate.select(Budget(max_microseconds=limit), seed=0).fields
        spent = sum(gate.charged[name] * len(d.columns) / width[name] for name, d in fields.items())
        assert 0 < spent <= limit + 1e-9


def test_a_budget_that_holds_no_field_is_refused_with_what_the_cheapest_takes():
    gate = gated("random").gate
    gate.charged = dict.fromkeys(gate.schema.names, 7.5)
    with pytest.raises(ConfigError, match="max_microseconds=2 keeps no field: the cheapest, 'genres', takes 7.5 micro"):
        gate.select(Budget(max_microseconds=2), seed=0)
    with pytest.raises(ConfigError, match="dims=1 keeps no field: the cheapest, 'genres', takes 7.5 columns"):
        gate.select(Budget(dims=1), seed=0)


def test_a_vector_pays_for_its_columns_so_that_it_takes_no_bytes_from_a_field_that_scores_higher():
    """A vector once cost nothing: one of noise at .007 stayed where a table at .873 had no room."""
    gate = scored(item=0.873, vector=0.007, genres=0.0, noise=0.0, price=0.0, user=0.0)
    model = gated("random", "mlp")
    gate.charged = charges(model, BYTES)
    selection = decide(gate, found(), Budget(max_bytes=int(gate.charged["item"])), False, seed=0)
    assert selection.kept == ("item",)


def walked(worth, bar=0.001):
    gate = gated("leap").gate
    gate.importance.copy_(torch.tensor([worth.get(name, 0.0) for name in gate.schema.names]))
    gate.least = bar / float(gate.entropy)
    return gate


BUDGETS = [Budget(keep=1.0), Budget(fields=5), Budget(max_bytes=10**6), Budget(dims=22)]


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: next(iter(budget.model_dump(exclude_none=True))))
def test_no_place_of_a_budget_goes_to_what_the_method_takes_for_noise(budget):
    gate = walked({"item": 0.3, "user": 0.2, "price": 0.01, "vector": -0.001, "noise": 0.00001})
    selection = decide(gate, found(), budget, False, seed=0)
    assert selection.kept == ("item", "price", "user")
    assert "below the method's own threshold" in selection.fields["noise"].note
    assert not selection.fields["item"].note


def test_a_field_that_no_budget_would_have_kept_is_not_said_to_have_been_left_out():
    gate = walked({"item": 0.3, "user": 0.2, "price": 0.01})
    selection = decide(gate, found(), Budget(fields=2), False, seed=0)
    assert selection.kept == ("item", "user") and not any(d.note for d in selection.fields.values())


def test_a_method_whose_own_rule_is_a_count_fills_its_budget():
    assert not any(GATE.tells_noise for GATE in (Gate, type(gated("lightfmp").gate), type(gated("random").gate)))
    assert len(decide(gated("lightfmp").gate, found(), Budget(fields=5), False, seed=0).kept) == 5


@pytest.mark.parametrize("method", ["permutation", "mutual_information", "chi2"])
def test_no_evidence_is_no_noise_a_test_of_significance_leaves_no_place_empty(method):
    """On a gate slice of 1,000 rows permutation kept one of 39 fields, whether 10, 20 or 29 were asked for."""
    gate = gated(method).gate
    gate.importance.copy_(torch.tensor([0.3, 0.2, 0.1, 0.05, 0.02, 0.01]))
    assert decide(gate, found(), Budget(fields=4), False, seed=0).kept == gate.select(Budget(fields=4), seed=0).kept
    assert len(decide(gate, found(), Budget(fields=4), False, seed=0).kept) == 4


@pytest.mark.parametrize("reference", ["paper", "code"])
def test_what_is_asked_for_as_published_fills_its_share_by_rank_whatever_our_own_rules_say(reference):
    """A published search on MovieLens kept three of nine fields where half were asked for, one gate each below 1/2."""
    gate = gated("leap", options={"reference": reference}).gate
    order = ["item", "vector", "noise", "price", "user", "genres"]
    opened = torch.tensor([0.9 * 0.1 ** order.index(name) for name in gate.schema.names])
    gate.theta.data = gate.temperature * torch.logit(opened)
    removed = {"vector": cost(-0.05, 0.001), "genres": cost(0.05, 0.001)}
    selection = decide(gate, found(removed=removed), Budget(keep=0.5), False, seed=0, twins_once=False)
    assert selection.kept == ("item", "noise", "vector")
    assert "today: its mean does better" in selection.fields["vector"].note


def test_where_all_is_noise_the_best_field_stays():
    assert decide(walked({"item": 0.00001}), found(), Budget(fields=3), False, seed=0).kept == ("item",)


def cost(mean, error):
    return Change(mean=mean, error=error, rows=1000)


def test_on_the_path_doubt_costs_no_place_of_a_budget_but_to_be_worth_less_than_asked_or_harmful_does():
    worth = {"item": 0.05, "user": 0.02, "price": 0.0012, "genres": 0.0004, "vector": 0.0002, "noise": -0.0001}
    removed = {
        "item": cost(0.02, 1e-4), "user": cost(0.01, 1e-4), "price": cost(2e-4, 1e-3), "genres": cost(2e-4, 1e-4),
        "vector": cost(-0.01, 1e-3), "noise": cost(0.0, 1e-5),
    }  # fmt: skip
    selection = decide(walked(worth), found(removed=removed), Budget(fields=6), False, seed=0)
    assert selection.kept == ("item", "price", "user")
    assert "today: its mean does better" in selection.fields["vector"].note
    assert decide(walked(worth), found(removed=removed), Budget(), False, seed=0).kept == ("item", "user")


def test_probes_are_charged_with_their_fields_and_take_no_room():
    model = gated("random", schema=with_probes(mixed_schema(), 1.0, 0))
    charged = charges(model, BYTES)
    assert {name for name in charged if is_probe(name)} and charged["probe0:item"] == charged["item"]
    model.gate.charged = charged
    limit = int(sum(cost for name, cost in charged.items() if not is_probe(name)))
    assert set(decide(model.gate, found(),
                      Budget(max_bytes=limit), False, seed=0).kept) == set(mixed_schema().names)  # fmt: skip


def test_the_threshold_may_stand_in_the_widest_gap_of_the_path_whatever_the_entropy_asks_for():
    worth = {"item": 0.05, "user": 0.02, "price": 0.011, "genres": 0.0012, "vector": 0.0008, "noise": -0.0001}
    gate = gated("leap", options={"gap": True}).gate
    gate.importance.copy_(torch.tensor([worth[name] for name in gate.schema.names]))
    gate.entropy.fill_(5.0)  # a start of 0.0005, below which all is noise
    assert gate.bar() == pytest.approx((0.011 * 0.0012) ** 0.5)
    assert gate.select(Budget(), seed=0).kept == ("item", "price", "user")


def test_a_copy_takes_no_place_that_is_left_over_where_the_method_tells_noise():
    gate = walked({"item": 0.3, "user": 0.2, "price": 0.01})
    pair = found(twins=(Twins(fields=("item", "user"), together=cost(0.3, 1e-3)),))
    selection = decide(gate, pair, Budget(fields=4), False, seed=0)
    assert selection.kept == ("item", "price") and "its twin stays" in selection.fields["user"].note
    assert decide(gate, pair, Budget(fields=4), False, seed=0, twins_once=False).kept == ("item", "price", "user")
    assert decide(gate, pair, Budget(), False, seed=0).kept == ("item", "price", "user")
