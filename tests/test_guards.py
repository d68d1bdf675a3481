"""What comes back although a method dropped it, field by field: whose place it takes, and what is said of it."""

import pytest
from test_contract import gated, mixed_schema
from test_decide import LITTLE, MUCH, found, scored

from slimrec.probes import with_probes
from slimrec.pruning.change import NOTHING, Change
from slimrec.pruning.findings import Findings, Presence, Twins
from slimrec.pruning.guards import _fits, _put_back, guard_presence, guard_twins
from slimrec.selection import Budget

NAMES = ("genres", "item", "noise", "price", "user", "vector")
TABLES = {"genres": 12, "item": 200, "noise": 30, "price": 0, "user": 50, "vector": 0}  # rows of 16 bytes


def sure(mean):
    return Change(mean=mean, error=abs(mean) / 10, rows=100)


def kept(*names, budget=None, gate=None, **scores):
    """A gate, and its decision for these fields."""
    gate = gate or scored(**scores)
    chosen = gate.select(Budget(keep=1.0), seed=0).model_copy(update={"budget": budget or Budget()})
    return gate, gate.revise(chosen, drop=set(gate.schema.names) - set(names))


def matters(**means):
    """Findings of fields that matter so much when they are shuffled, the others not at all."""
    return Findings(importance={name: sure(means.get(name, 0.0)) for name in NAMES})


@pytest.mark.parametrize(
    ("budget", "names", "fits"),
    [
        (Budget(), NAMES, True),
        (Budget(threshold=0.5), NAMES, True),
        (Budget(fields=2), ("item", "user"), True),
        (Budget(fields=2), ("item", "user", "price"), False),
        (Budget(keep=0.5), ("item", "user", "price"), True),
        (Budget(keep=0.5), ("item", "user", "price", "noise"), False),
        (Budget(max_bytes=16 * 62), ("genres", "user"), True),
        (Budget(max_bytes=16 * 62 - 1), ("genres", "user"), False),
        (Budget(dims=9), ("genres", "item", "price"), True),
        (Budget(dims=8), ("genres", "item", "price"), False),
    ],
)
@pytest.mark.parametrize("probes", [0.0, 1.0])
def test_what_fits_is_counted_over_real_fields_by_places_or_by_what_they_take(budget, names, fits, probes):
    schema = with_probes(mixed_schema(), probes, 0) if probes else mixed_schema()
    gate, selection = kept(*names, budget=budget, gate=gated("random", schema=schema).gate)
    assert _fits(gate, selection) is fits


def test_a_field_comes_back_in_the_place_of_the_least_important_one_that_is_worth_less():
    findings = matters(item=0.015, user=0.01, price=0.02, vector=0.01)
    gate, roomy = kept("item", "price", "user")
    assert _put_back(gate, roomy, findings, "noise", 0.0).kept == ("item", "noise", "price", "user")
    gate, full = kept("item", "price", "user", budget=Budget(fields=3))
    for worth in (0.0101, 0.016):
        assert _put_back(gate, full, findings, "noise", worth).kept == ("item", "noise", "price")
    assert _put_back(gate, full, findings, "noise", 0.01) is None
    gate, alike = kept("user", "vector", budget=Budget(fields=2))
    assert _put_back(gate, alike, findings, "noise", 1.0).kept == ("noise", "vector")


def test_where_the_place_of_the_least_important_field_is_too_small_the_next_one_makes_room():
    findings = matters(item=0.03, user=0.02, price=0.01)
    gate, selection = kept("item", "price", "user", budget=Budget(max_bytes=16 * 250))
    assert _put_back(gate, selection, findings, "noise", 0.025).kept == ("item", "noise", "price")
    assert _put_back(gate, selection, findings, "noise", 0.015) is None


def test_every_group_of_twins_is_noted_beside_what_was_known_before():
    gate, selection = kept("item", "user")
    selection = selection.model_copy(update={"evidence": {"before": 1.0}})
    pairs = (Twins(fields=("item", "noise"), together=MUCH), Twins(fields=("genres", "price"), together=NOTHING))
    told = guard_twins(gate, selection, found(twins=pairs))
    assert told.evidence == {"before": 1.0, "twins/item|noise": 0.05, "twins/genres|price": 0.0}
    assert told.kept == ("item", "user")
    notes = {name: decision.note for name, decision in told.fields.items() if decision.note}
    first, second = "item or noise: one says what all say", "genres or price: one says what all say"
    assert notes == {"item": first, "noise": first, "genres": second, "price": second}


def test_of_twins_that_take_as_many_bytes_the_one_that_scores_higher_comes_back():
    pair = found(twins=(Twins(fields=("price", "vector"), together=MUCH),))
    for better, scores in (("vector", {"price": 0.1, "vector": 0.2}), ("price", {"price": 0.2, "vector": 0.1})):
        gate, selection = kept("item", **scores)
        told = guard_twins(gate, selection, pair)
        assert told.kept == tuple(sorted(("item", better)))
        expected = f"price or vector: one says what all say; all were dropped, which costs, so '{better}' came back"
        assert {told.fields[name].note for name in ("price", "vector")} == {expected}
    gate, selection = kept("item", user=0.9, genres=0.1)
    three = found(twins=(Twins(fields=("genres", "noise", "user"), together=MUCH),))
    assert guard_twins(gate, selection, three).kept == ("genres", "item")  # 12 rows of table, 30, 50


def test_twins_stay_gone_where_that_costs_nothing_sure_or_was_published_or_no_place_is_left():
    unsure = Change(mean=0.05, error=0.02, rows=100)
    for together, published, note in (
        (unsure, False, "price or user: one says what all say"),
        (LITTLE, True, "price or user: one says what all say; all were dropped, which costs, but was decided as published"),
        (LITTLE, False, "price or user: one says what all say; all were dropped, which costs, but the budget has no room"),
    ):  # fmt: skip
        gate, selection = kept("item", budget=Budget() if published else Budget(fields=1))
        gate.published = published
        told = guard_twins(gate, selection, found(twins=(Twins(fields=("price", "user"), together=together),)))
        assert told.kept == ("item",) and told.fields["user"].note == note


def rare(shuffled=NOTHING, missed=NOTHING, information=16.0, share=0.1):
    return Presence(share=share, shuffled=shuffled, missed=missed, information=information)


def noticed(presence, selection, gate, guard=False, **more):
    findings = matters(item=0.01, user=0.03, vector=0.02, price=0.9, genres=-1.0)
    return guard_presence(gate, selection, findings.model_copy(update={"presence": presence, **more}), guard)


def test_without_a_field_that_is_usually_absent_nothing_is_said():
    gate, selection = kept("item")
    assert guard_presence(gate, selection, Findings(), True) is selection


@pytest.mark.parametrize(
    ("shuffled", "missed", "strongest", "told"),
    [
        (sure(0.02), NOTHING, 0.02, True),  # the median of what is kept is enough
        (sure(0.0199), NOTHING, 0.0199, False),
        (NOTHING, sure(0.02), 0.02, True),
        (sure(0.03), Change(mean=5.0, error=4.0, rows=100), 0.03, True),  # what is sure goes before what is large
        (Change(mean=5.0, error=4.0, rows=100), NOTHING, 5.0, False),
        (Change(mean=0.03, error=0.01, rows=100), NOTHING, 0.03, False),
    ],
)
def test_what_is_absent_matters_where_it_is_sure_to_cost_as_much_as_half_of_the_kept_fields(
    shuffled, missed, strongest, told
):
    gate, selection = kept("item", "user", "vector")
    selection = selection.model_copy(update={"evidence": {"before": 1.0}})
    found = noticed({"noise": rare(shuffled, missed)}, selection, gate)
    assert found.evidence == {"before": 1.0, "importance/noise": 0.0, "presence/noise": strongest}
    note = f"matters where it is present (10.00% of the rows): {strongest:.3g} nats a row"
    assert found.fields["noise"].note == (note if told else "") and found.kept == selection.kept


def test_what_is_kept_or_said_by_a_kept_twin_needs_no_word_and_those_behind_it_have_theirs():
    gate, selection = kept("item", "user", "vector")
    presence = {name: rare(sure(0.05)) for name in ("item", "genres", "noise", "price")}
    presence["genres"] = rare(LITTLE)
    pair, other = Twins(fields=("noise", "user"), together=MUCH), Twins(fields=("price", "genres"), together=MUCH)
    found = noticed(presence, selection, gate, twins=(pair, other))
    assert [name for name in NAMES if found.fields[name].note] == ["price"]
    assert "presence/genres" in found.evidence and "presence/item" in found.evidence


@pytest.mark.parametrize(
    ("information", "shuffled", "overruled", "told"),
    [
        (15.0, NOTHING, False, True),
        (16.0, NOTHING, False, False),
        (15.0, sure(0.001), False, False),
        (15.0, NOTHING, True, False),  # what overrules has said so
    ],
)
def test_that_too_few_rows_tell_is_said_where_nothing_else_tells(information, shuffled, overruled, told):
    gate, selection = kept("item", "user", "vector")
    gate.overruled = overruled
    note = noticed({"noise": rare(shuffled, information=information)}, selection, gate).fields["noise"].note
    assert note == ("present in only 0 of the held-out rows, too few to tell what it is worth" if told else "")


@pytest.mark.parametrize(
    ("share", "guard", "stay", "said"),
    [
        (0.021, True, ("noise", "user", "vector"), "; came back"),  # 0.5 on 2.1 % of the rows is more than 0.01 on all
        (0.019, True, ("item", "user", "vector"), "; the budget has no room for it"),
        (0.021, False, ("item", "user", "vector"), ""),
    ],
)
def test_what_comes_back_for_a_few_rows_is_worth_what_it_is_there_times_their_share(share, guard, stay, said):
    gate, selection = kept("item", "user", "vector", budget=Budget(fields=3))
    found = noticed({"noise": rare(sure(0.5), share=share)}, selection, gate, guard)
    assert found.kept == stay
    assert found.fields["noise"].note == f"matters where it is present ({share:.2%} of the rows): 0.5 nats a row{said}"
