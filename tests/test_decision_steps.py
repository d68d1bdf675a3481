"""Each step from scores to a decision by itself: pooling, probes, importance, harm and doubt, twins, p- and q-values."""

import pytest
import torch
from test_contract import gated, mixed_schema, placed
from test_decide import LITTLE, MUCH, found, scored

from slimrec.probes import p_values, q_values, with_probes
from slimrec.pruning.change import NOTHING, Change
from slimrec.pruning.decide import (
    _by_importance,
    _count_twins_once,
    _leave_noise_out,
    _majority,
    _mattering,
    _name_harm,
    _own,
    _pool,
    _settle,
    _too_few,
    _with_doubt,
    _without_probes,
    decide,
    jaccard,
)
from slimrec.pruning.findings import Findings, Presence, Twins
from slimrec.selection import Budget

NAMES = ("genres", "item", "noise", "price", "user", "vector")


def cost(mean, error=0.001):
    return Change(mean=mean, error=error, rows=100)


COSTS, HARMS, UNSURE = cost(0.05), cost(-0.05), cost(0.002)


def probed(default=0.1, **scores):
    """A gate of the small schema with a probe of each field, scored `default` where nothing else is said."""
    gate = gated("random", schema=with_probes(mixed_schema(), 1.0, 0)).gate
    scores = {name.replace("probe_", "probe0:"): score for name, score in scores.items()}
    gate.draws.copy_(torch.tensor([scores.get(name, default) for name in gate.schema.names]))
    return gate


def of_pairs(schema):
    """A gate of meetings of fields."""
    return placed("optfeature", schema=schema, options={"grain": "field"}).gate


def selected(gate, budget=None, *kept):
    """The gate's selection, of exactly these fields if any are named."""
    selection = gate.select(budget or Budget(), seed=0)
    names = set(gate.schema.names)
    return gate.revise(selection, keep=kept, drop=names - set(kept)) if kept else selection


def notes(selection):
    return {name: decision.note for name, decision in selection.fields.items() if decision.note}


def test_what_at_least_half_hold_is_a_majority():
    assert _majority([{"a", "b"}, {"a"}, {"c", "b"}, {"d"}]) == {"a", "b"}
    assert _majority([{"a"}, {"b"}, {"c"}]) == set()


def test_jaccard_is_the_mean_over_pairs_of_sets_and_two_empty_ones_are_alike():
    assert jaccard([{"a", "b"}, {"b", "c"}, {"a", "b"}]) == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)
    assert jaccard([set(), set()]) == 1 and jaccard([{"a"}, set()]) == 0


def test_under_a_budget_repeats_are_pooled_by_their_mean_scores_which_may_choose_what_the_first_one_dropped():
    gate = scored(item=1.0, user=0.95)
    gate.evidence = lambda: {"before": 1.0}
    repeats = [
        dict.fromkeys(NAMES, 0.0) | {"item": 0.6, "price": 0.5},
        dict.fromkeys(NAMES, 0.0) | {"vector": 0.9, "price": 0.8},
    ]
    findings = Findings(repeats=tuple(repeats), kept=(("user",), ("user",)))
    pooled = _pool(gate, selected(gate, Budget(fields=2)), findings, Budget(fields=2))
    assert pooled.kept == ("price", "vector")  # means of 0.65 and 0.45
    assert pooled.fields["item"].score == pytest.approx(0.3)
    assert pooled.fields["item"].spread == pytest.approx(0.6 / 2**0.5)
    assert pooled.evidence == {"before": 1.0, "repeats": 2.0, "jaccard": pytest.approx(1 / 3)}


def test_without_a_budget_repeats_vote_for_real_fields():
    gate, scores = probed(), dict.fromkeys(probed().schema.names, 0.5)
    kept = (("item", "probe0:item", "user"), ("item", "probe0:item"), ("item",))
    findings = Findings(repeats=(scores,) * 3, kept=kept)
    pooled = _pool(gate, selected(gate), findings, Budget())
    assert pooled.kept == ("item",) and pooled.evidence["jaccard"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    findings = Findings(repeats=(scores | {"user": 0.6},) * 3, kept=(("probe0:item",), ("user", "item"), ("price",)))
    assert _pool(gate, selected(gate), findings, Budget()).kept == ("user",)  # all have a vote, one scores more
    findings = Findings(
        repeats=(scores | {"user": 0.6},) * 5, kept=(("item",), ("item",), ("user",), ("noise",), ("price",))
    )
    assert _pool(gate, selected(gate), findings, Budget()).kept == ("item",)


def test_one_repeat_is_no_pool():
    scores = dict.fromkeys(NAMES, 0.0)
    selection = decide(scored(price=0.2), found(repeats=(scores,), kept=(("noise",),)), Budget(), False, seed=0)
    assert selection.kept == ("genres", "item", "noise", "user", "vector")
    assert selection.fields["item"].spread is None and "repeats" not in selection.evidence


def test_the_own_rule_is_that_of_the_gate_or_of_most_repeats_and_keeps_no_probe():
    gate = probed(item=0.9, probe_user=0.9)
    once = Findings(repeats=({},), kept=(("price",),))
    assert _own(gate, selected(gate, Budget(fields=5)), once) == {"item"}
    twice = Findings(repeats=({}, {}), kept=(("price", "probe0:item"), ("price", "probe0:item")))
    assert _own(gate, selected(gate), twice) == {"price"}
    gate.select = lambda budget, seed: selected(probed(), None, "user", "probe0:item")
    assert _own(gate, selected(probed()), once) == {"user"}


def test_no_place_goes_to_what_the_own_rule_does_not_keep_unless_it_keeps_nothing():
    gate = scored(item=0.8, user=0.7)
    selection = selected(gate, Budget(fields=3), "item", "user", "vector")
    assert _leave_noise_out(gate, selection, set(NAMES)) is selection
    left = _leave_noise_out(gate, selection, {"item", "user", "price"})
    assert left.kept == ("item", "price", "user")  # 0.8, 0.9, 0.7
    assert notes(left) == {"vector": "below the method's own threshold: stays out, though the budget has room"}
    best = _leave_noise_out(gate, selected(gate, Budget(fields=1), "item"), set())
    assert best.kept == ("genres",) and list(notes(best)) == ["item"]


def test_no_noise_is_sought_where_no_fields_compete_for_places():
    gate = scored()
    gate.tells_noise = True
    scores = dict.fromkeys(NAMES, 0.9)
    findings = found(repeats=(scores,) * 3, kept=(("item",), ("user",), ("price",)))
    assert decide(gate, findings, Budget(), False, seed=0).kept == ("item",)


def test_probes_go_and_where_nothing_else_was_kept_the_best_field_stays_in_their_place():
    gate = probed(probe_item=0.9, user=0.5, price=0.5, item=0.4)
    both = _without_probes(gate, selected(gate, None, "item", "probe0:item"))
    assert both.kept == ("item",)
    assert _without_probes(gate, selected(gate, None, "probe0:item", "probe0:user")).kept == ("price",)


def test_meetings_are_ranked_by_importance_with_what_matters_most_at_one_and_what_does_good_to_lose_at_none():
    gate = of_pairs(mixed_schema())
    worth = dict.fromkeys(NAMES, cost(0.0)) | {"user": cost(0.02), "price": cost(0.05), "item": cost(-0.5)}
    selection = selected(gate, Budget(fields=2))
    selection = selection.model_copy(
        update={"fields": {n: d.model_copy(update={"spread": 0.1}) for n, d in selection.fields.items()}}
    )
    ranked = _by_importance(gate, selection, Findings(importance=worth))
    assert ranked.kept == ("price", "user")
    assert {name: decision.score for name, decision in ranked.fields.items()} == {
        **dict.fromkeys(NAMES, 0.0), "price": 1.0, "user": pytest.approx(0.4),
    }  # fmt: skip
    assert {decision.spread for decision in ranked.fields.values()} == {None}
    idle = _by_importance(gate, selection, Findings(importance=dict.fromkeys(NAMES, cost(-0.1))))
    assert {decision.score for decision in idle.fields.values()} == {0.0} and idle.kept == ("genres", "item")


def test_among_probes_meetings_are_ranked_by_importance_and_keep_their_scores():
    gate = of_pairs(with_probes(mixed_schema(), 1.0, 0))
    selection = selected(gate, Budget(fields=1))
    ranked = _by_importance(gate, selection, Findings(importance=dict.fromkeys(NAMES, LITTLE) | {"user": MUCH}))
    assert ranked.kept == ("user",)
    assert all(ranked.fields[name].score == decision.score for name, decision in selection.fields.items())


def test_where_nothing_was_shuffled_meetings_are_ranked_by_their_gate():
    gate = of_pairs(mixed_schema())
    kept = selected(gate, Budget(fields=2)).kept
    assert decide(gate, Findings(), Budget(fields=2), False, seed=0).kept == kept


def settled(gate=None, budget=None, bar=None, own=None, kept=(), importance=None, twins=(), presence=None, **removed):
    """What `_settle` makes of scores of 0.9, or those of the gate, and of these costs."""
    gate = gate or scored()
    gate.bar = lambda: bar
    findings = Findings(
        importance=dict.fromkeys(NAMES, NOTHING) | (importance or {}), twins=twins, presence=presence or {},
        removed={name.replace("probe_", "probe0:"): change for name, change in removed.items()},
    )  # fmt: skip
    return _settle(gate, selected(gate, budget, *kept), findings, set(NAMES) if own is None else own)


def test_harm_is_told_by_what_twins_do_together_where_that_is_known():
    unknown, harmful, costly = (Twins(fields=("item", "user"), together=MUCH, removed=r) for r in (None, HARMS, COSTS))
    for twins, item, user, gone in (
        ((), HARMS, COSTS, {"item"}), ((unknown,), HARMS, COSTS, {"item"}),
        ((harmful,), COSTS, UNSURE, {"item", "user"}), ((costly,), HARMS, HARMS, set()),
    ):  # fmt: skip
        selection, own = settled(twins=twins, item=item, user=user)
        assert set(NAMES) - set(selection.kept) == gone == set(NAMES) - own
        assert {name for name in NAMES if selection.fields[name].score == -0.05} == gone


def test_what_is_sure_to_cost_something_is_no_noise_and_no_probe_is_a_field():
    gate = probed(item=0.9, probe_user=0.9)
    selection, own = settled(gate, own={"item"}, user=COSTS, price=UNSURE, probe_item=COSTS)
    assert selection.kept == ("item", "user") and own == {"item", "user"}
    assert selection.fields["user"].score == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("bar", "removed", "importance", "doubt"),  # of a score of 0.9 that stays where no doubt is said
    [
        (0.6, {"item": cost(0.1, 0.18)}, {}, None),  # 1.645 * 0.18 is less than 0.3
        (0.6, {"item": cost(0.1, 0.19)}, {}, 0.31),
        (0.6, {"item": cost(0.1, 0.01)}, {"item": cost(0, 0.19)}, None),  # sure to cost something
        (0.6, {"item": cost(0.01, 0.01)}, {"item": cost(0, 0.18)}, None),
        (0.6, {"item": cost(0.01, 0.01)}, {"item": cost(0, 0.19)}, 0.31),  # the larger of both doubts
        (0.6, {}, {"item": cost(0, 9)}, None),  # where no constant was tried nothing is in doubt
        (0.9, {"item": NOTHING}, {}, None),  # what is asked is enough
        (0.9001, {"item": NOTHING}, {}, 0),
        (None, {"item": cost(0.1, 9)}, {}, None),  # scores that are not in nats
    ],
)
def test_a_field_is_worth_what_was_asked_and_its_doubt_more(bar, removed, importance, doubt):
    gate = scored(item=0.9)
    gate.draws.double()
    scores = dict(zip(NAMES, [0.9] * 6))
    gate.scores = lambda: scores
    selection, own = settled(gate, bar=bar, importance=importance, **removed)
    assert ("item" in selection.kept) == (doubt is None) and "item" in own
    said = f"not told from noise on these rows: its worth is in doubt by {doubt or 0:.2g} nats a row"
    assert notes(selection) == ({} if doubt is None else {"item": said})


def test_the_doubt_of_a_twin_is_that_of_both_shuffled_together():
    pair = Twins(fields=("item", "user"), together=cost(0.0, 0.19))
    selection, _ = settled(bar=0.6, twins=(pair,), item=UNSURE, user=UNSURE, price=UNSURE)
    assert set(NAMES) - set(selection.kept) == {"item", "user"}
    sure = pair.model_copy(update={"together": cost(0.0, 0.01)})
    loud = {"item": cost(0.0, 0.19), "user": cost(0.0, 0.19)}
    assert settled(bar=0.6, twins=(sure,), importance=loud, item=UNSURE, user=UNSURE)[0].kept == NAMES


def few(rows=7):
    return Presence(share=0.01, shuffled=Change(mean=0, error=0.1, rows=rows), missed=NOTHING, information=15)


def test_of_fields_in_doubt_those_that_do_harm_and_those_that_few_rows_show_are_called_that():
    doubtful = {"item": cost(-0.5, 0.2), "user": cost(0.1, 0.2), "price": cost(0.1, 0.2)}
    selection, own = settled(bar=0.6, presence={"user": few(), "item": few()}, **doubtful)
    assert set(NAMES) - set(selection.kept) == {"item", "price"} and set(NAMES) - own == {"item"}
    assert notes(selection) == {
        "price": "not told from noise on these rows: its worth is in doubt by 0.33 nats a row",
        "user": "inconclusive: present in only 7 of the held-out rows, stays until more is seen",
    }


def test_harm_that_twins_do_together_is_no_lack_of_rows():
    pair = Twins(fields=("item", "user"), together=MUCH, removed=HARMS)
    selection, own = settled(twins=(pair,), presence={"item": few()}, item=UNSURE)
    assert "item" not in selection.kept and "item" not in own and notes(selection) == {}


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (Budget(threshold=0.5), ("item", "price")),
        (Budget(threshold=0.95), ("noise", "price")),  # what no rows show stays beside the best that is left
        (Budget(fields=2), ("item", "vector")),
        (Budget(dims=5), ("item", "price")),
    ],
)
def test_a_budget_is_kept_with_the_scores_that_harm_leaves(budget, kept):
    gate = scored(item=0.8, user=1.0, price=0.6, vector=0.7, noise=0.1, genres=0.1)
    if budget.threshold == 0.95:
        gate.draws[NAMES.index("price")] = 0.96
        presence = {"noise": few()}
    else:
        presence = {}
    threshold = {"vector": HARMS} if budget.threshold == 0.5 else {}
    selection, _ = settled(gate, budget, presence=presence, user=HARMS, **threshold)
    assert selection.kept == kept
    assert not any("doubt" in note for note in notes(selection).values())


def test_doubt_costs_no_place_and_is_no_reason_for_a_budget():
    for budget in (Budget(fields=1), Budget(threshold=0.95)):
        selection, _ = settled(scored(user=0.96), budget, bar=0.6, item=cost(0.1, 0.19))
        assert selection.kept == ("user",) and notes(selection) == {}


def test_a_field_that_no_room_is_left_for_waits_outside():
    gate = scored(noise=0.1)
    selection, own = settled(gate, Budget(fields=2), own={"item"}, presence={"noise": few(3)})
    note = "inconclusive: present in only 3 of the held-out rows, and the budget has no room to wait for more"
    assert notes(selection) == {"noise": note} and own == {"item", "noise"}


def test_a_rate_of_false_discoveries_is_kept_with_the_scores_that_harm_leaves():
    gate = probed(0.2, item=0.9, user=0.95, price=0.8, noise=0.1)
    chosen = {"budget": Budget(false_discovery=0.6), "own": set(NAMES)}
    assert settled(gate, **chosen)[0].kept == ("item", "price", "user")
    assert settled(gate, user=HARMS, **chosen)[0].kept == ("item", "price")


def test_where_all_do_harm_the_field_that_does_least_stays_and_no_probe():
    gate = probed(0.9)
    worse = {name: cost(-0.1 * (i + 2) if name != "price" else -0.1) for i, name in enumerate(NAMES)}
    assert settled(gate, **worse)[0].kept == ("price",)


def test_noise_that_does_harm_takes_no_place_that_is_left_over():
    gate = scored()
    gate.overruled = gate.tells_noise = True
    selection = decide(gate, found(removed={"item": HARMS}), Budget(fields=6), False, seed=0)
    assert selection.kept == ("genres", "noise", "price", "user", "vector")
    gate.overruled = False  # as published: harm is only named
    assert "item" in decide(gate, found(removed={"item": HARMS}), Budget(fields=6), False, seed=0).kept


def test_too_few_rows_show_what_neither_they_nor_a_constant_in_its_place_tell():
    enough = few().model_copy(update={"information": 16})
    presence = {"item": few(), "user": few(), "price": few(), "vector": enough, "noise": few()}
    removed = {"item": COSTS, "user": HARMS, "price": UNSURE, "vector": UNSURE}
    assert _too_few(Findings(presence=presence, removed=removed)) == ["price", "noise"]


def test_a_word_on_each_field_that_does_harm_and_on_no_other():
    said = _name_harm(selected(scored()), Findings(removed={"item": HARMS, "user": UNSURE, "price": cost(-0.5, 0.1)}))
    assert notes(said) == {
        "item": "costs you 0.05 ± 0.001 nats a row today: its mean does better",
        "price": "costs you 0.5 ± 0.1 nats a row today: its mean does better",
    }


@pytest.mark.parametrize(
    ("bar", "mattering"), [(None, ["price", "item", "user"]), (0.1, ["genres", "price", "vector"])]
)
def test_fields_matter_by_what_the_own_rule_keeps_where_scores_are_nats_else_by_what_is_sure_to_cost(bar, mattering):
    gate = scored(genres=0.8, price=0.6, vector=0.6, item=0.7, noise=1.0)
    gate.bar = lambda: bar
    importance = {"item": cost(0.05), "user": cost(0.05), "price": cost(0.06), "vector": UNSURE, "noise": cost(0.9)}
    findings = Findings(importance=importance, removed={"noise": HARMS, "user": UNSURE})
    own = {"genres", "price", "vector", "noise"}
    assert _mattering(gate, selected(gate), findings, own) == mattering


def counted(gate, budget, kept, twins, own=NAMES, **importance):
    findings = Findings(
        importance=dict.fromkeys(NAMES, NOTHING) | importance,
        twins=tuple(Twins(fields=group, together=MUCH) for group in twins),
    )
    return _count_twins_once(gate, selected(gate, budget, *kept), findings, own)


TOOK, SAME = "a field that matters took its place, as its twin stays", "its twin stays and says the same"


@pytest.mark.parametrize(
    ("kept", "twins", "matter", "stay", "said"),
    [
        (("item", "user", "price"), [("item", "noise"), ("user", "vector")], {"genres": COSTS}, ("item", "price", "user"), {}),
        (("item", "user"), [("item", "user")], {"genres": COSTS}, ("genres", "user"), {"item": TOOK}),  # user scores more
        (("price", "vector"), [("price", "vector")], {"genres": COSTS}, ("genres", "price"), {"vector": TOOK}),  # alike
        (("item", "user"), [("item", "user")], {}, ("item", "user"), {}),
        (("item", "user"), [("item", "user")], {"genres": UNSURE}, ("item", "user"), {}),
        (("item", "user"), [("item", "user"), ("genres", "noise")], {"genres": COSTS}, ("item", "user"), {}),  # said by its twin
        (("item", "user", "noise"), [("item", "noise", "user")], {"genres": COSTS}, ("genres", "item", "user"), {"noise": TOOK}),
        (("item", "user", "noise"), [("item", "noise", "user")], {"genres": COSTS, "price": MUCH, "vector": LITTLE},
         ("genres", "price", "user"), {"noise": TOOK, "item": TOOK}),
        (("item", "user", "price", "noise"), [("item", "user"), ("noise", "price")], {"genres": COSTS, "vector": LITTLE},
         ("genres", "price", "user", "vector"), {"item": TOOK, "noise": TOOK}),
    ],
)  # fmt: skip
def test_twins_take_one_place_and_the_others_go_to_what_matters_most(kept, twins, matter, stay, said):
    gate = scored(item=0.8, user=0.9, noise=0.6, price=0.7, vector=0.7, genres=0.1)
    found = counted(gate, Budget(fields=len(kept)), kept, twins, **matter)
    assert found.kept == stay and notes(found) == said


def test_where_the_method_tells_noise_a_copy_leaves_its_place_empty_or_to_a_field_of_its_own_rule():
    gate = scored(item=0.8, user=0.9)
    gate.tells_noise = True
    matter = {"genres": COSTS, "price": MUCH}
    empty = counted(gate, Budget(fields=2), ("item", "user"), [("item", "user")], {"item", "user"}, **matter)
    assert empty.kept == ("user",) and notes(empty) == {"item": SAME}
    taken = counted(gate, Budget(fields=2), ("item", "user"), [("item", "user")], {"item", "user", "genres"}, **matter)
    assert taken.kept == ("genres", "user") and notes(taken) == {"item": TOOK}


@pytest.mark.parametrize(
    ("limit", "stay", "said"),
    [
        (62, ("genres", "user"), {"noise": TOOK}),  # tables of 50, 12 and 30 rows
        (80, ("genres", "user"), {"noise": TOOK}),
        (92, ("genres", "noise", "user"), {}),  # room for all
        (61, ("user",), {"noise": SAME}),  # neither finds room
    ],
)
def test_under_a_budget_of_bytes_twins_stand_back_for_as_much_as_fits(limit, stay, said):
    gate = scored(user=0.9, noise=0.8)
    budget = Budget(max_bytes=16 * limit)
    found = counted(gate, budget, ("noise", "user"), [("noise", "user")], genres=COSTS)
    assert found.kept == stay and notes(found) == said
    assert counted(gate, budget, ("noise", "user"), [("noise", "item")], genres=COSTS).kept == ("noise", "user")


def test_p_and_q_values_stand_beside_scores_where_there_were_probes():
    gate = probed(0.5, item=0.9, user=0.8, price=0.4)
    selection = selected(gate, Budget(fields=2), "item", "user")
    selection = selection.model_copy(update={"evidence": {"before": 1.0}})
    told = _with_doubt(selection)
    scores = {name: decision.score for name, decision in selection.fields.items()}
    for name, decision in told.fields.items():
        real = (p_values(scores)[name], q_values(scores)[name]) if name in NAMES else (None, None)
        assert (decision.p_value, decision.q_value) == real
    share = pytest.approx(6 * (1 / 7) / 2)  # six fields, no probe of six scores as high as the weaker of two
    assert told.evidence == {"before": 1.0, "probes": 6.0, "false_discovery_share": share} and notes(told) == {}
    plain = selected(scored())
    assert _with_doubt(plain) is plain


@pytest.mark.parametrize(("rate", "said"), [(0.5, False), (0.49, True)])
def test_where_no_field_beats_its_copies_at_the_rate_the_one_that_stays_says_so(rate, said):
    gate = probed(0.5, item=0.9, user=0.8)  # one false one to expect of two, by one copy each
    selection = selected(gate, Budget(false_discovery=0.5), "item", "user")
    told = _with_doubt(selection.model_copy(update={"budget": Budget(false_discovery=rate)}))
    assert told.evidence["false_discovery_share"] == 0.5 == told.fields["item"].q_value
    note = "no field beats its shuffled copies at a rate of 0.49; one has to stay"
    assert notes(told) == (dict.fromkeys(["item", "user"], note) if said else {})
