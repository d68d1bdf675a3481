"""From a scored search to one decision: repeats are pooled, probes taken out, noise, harm and twins settled."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection
from itertools import combinations

from slimrec.gates.base import Gate
from slimrec.probes import false_discovery_share, is_probe, p_values, q_values
from slimrec.pruning.findings import Findings
from slimrec.pruning.guards import guard_presence, guard_twins
from slimrec.selection import Budget, Selection, within_budget


def decide(
    gate: Gate, findings: Findings, budget: Budget, guard: bool, seed: int, twins_once: bool = True
) -> Selection:
    """The decision over all fields of the search; its probes are among them, dropped.

    Twins are never both dropped where the model needs what they say: the cheaper one comes back. Where fields compete
    for places, a method that judges only meetings of fields has them ranked by what shuffling each costs, no place goes
    to what a method's own rule takes for noise, though there be room, and twins take one place (`twins_once`): once one
    is in, the others rank behind every field that matters. A field that the method
    dropped although it matters on the few rows where it is present is noted, and comes back with `guard`. What comes
    back under a budget that is used up takes the place of the kept field that matters least, if that matters less; else
    it is only noted.
    """
    selection = gate.select(budget, seed)
    if len(findings.repeats) > 1:
        selection = _pool(gate, selection, findings, budget)
    selection = _without_probes(gate, selection)
    if gate.weighs_pairs and budget.ranks and findings.importance:
        selection = _by_importance(gate, selection, findings)
    own: Collection[str] = _own(gate, selection, findings)
    if gate.overruled:
        selection, own = _settle(gate, selection, findings, own)
    if gate.tells_noise and budget.ranks:
        selection = _leave_noise_out(gate, selection, own)
    selection = _name_harm(selection, findings)
    if twins_once and budget.ranks:
        selection = _count_twins_once(gate, selection, findings, own)
    selection = _with_doubt(selection)
    selection = guard_twins(gate, selection, findings)
    return guard_presence(gate, selection, findings, guard)


def _pool(gate: Gate, first: Selection, findings: Findings, budget: Budget) -> Selection:
    """The first repeat's decision with mean scores: under the budget, or by the majority of the repeats' own rules."""
    scores = {name: statistics.fmean(each[name] for each in findings.repeats) for name in first.fields}
    spread = {name: statistics.stdev(each[name] for each in findings.repeats) for name in first.fields}
    whole, costs = gate.takes(budget), gate.takes_as_kept(first)
    if budget != Budget():
        sets = [budget.choose(each, whole) for each in findings.repeats]
        chosen = budget.choose(scores, costs)
    else:
        sets = [{name for name in kept if not is_probe(name)} for kept in findings.kept]
        chosen = _majority(sets) or {
            max(first.fields, key=lambda name: (sum(name in kept for kept in sets), scores[name]))
        }
    pooled = _keeping(gate, first, chosen)
    fields = {n: d.model_copy(update={"score": scores[n], "spread": spread[n]}) for n, d in pooled.fields.items()}
    evidence = {"repeats": float(len(sets)), "jaccard": jaccard(sets)}
    return pooled.model_copy(update={"fields": fields, "evidence": pooled.evidence | evidence})


def _keeping(gate: Gate, selection: Selection, chosen: Collection[str]) -> Selection:
    """The decision for these fields and no others."""
    return gate.revise(selection, keep=chosen, drop=set(selection.fields).difference(chosen))


def _majority(sets: list[set[str]]) -> set[str]:
    """What at least half of the sets hold."""
    return {name for name in set().union(*sets) if 2 * sum(name in each for each in sets) >= len(sets)}


def _own(gate: Gate, selection: Selection, findings: Findings) -> set[str]:
    """The real fields that the method's own rule keeps, whatever the budget; of repeats the majority."""
    if len(findings.repeats) > 1:
        kept = _majority([set(each) for each in findings.kept])
    else:
        kept = set(gate.select(Budget(), selection.seed).kept)
    return {name for name in kept if not is_probe(name)}


def _leave_noise_out(gate: Gate, selection: Selection, own: Collection[str]) -> Selection:
    """The budget among the fields that the method's own rule keeps; what it takes for noise fills up no place."""
    idle = set(selection.kept) - set(own)
    if not idle:
        return selection
    scores = {name: decision.score for name, decision in selection.fields.items()}
    chosen = selection.budget.choose(scores, gate.takes_as_kept(selection), among=own)
    revised = _keeping(gate, selection, chosen)
    note = "below the method's own threshold: stays out, though the budget has room"
    return revised.noted(idle - chosen, note)


def _without_probes(gate: Gate, selection: Selection) -> Selection:
    """Probes dropped; where nothing else was kept, the best field stays in their place."""
    real = [name for name in selection.fields if not is_probe(name)]
    best = min(real, key=lambda name: (-selection.fields[name].score, name))
    keep = [] if set(real) & set(selection.kept) else [best]
    return gate.revise(selection, keep=keep, drop=[name for name in selection.fields if is_probe(name)])


def _by_importance(gate: Gate, selection: Selection, findings: Findings) -> Selection:
    """The budget's fields by importance, as a share of the largest their score too, but where probes have other ones."""
    worth = {name: max(0, change.mean) for name, change in findings.importance.items()}
    chosen = selection.budget.choose(worth, gate.takes(selection.budget))
    most = max(worth.values()) or math.inf  # where nothing matters no score is above 0
    revised = _keeping(gate, selection, chosen)
    if len(worth) < len(revised.fields):
        return revised
    scored = {n: d.model_copy(update={"score": worth[n] / most, "spread": None}) for n, d in revised.fields.items()}
    return revised.model_copy(update={"fields": scored})


def _settle(
    gate: Gate, selection: Selection, findings: Findings, own: Collection[str]
) -> tuple[Selection, Collection[str]]:
    """What scores cannot settle, by what a constant in a field's place costs on held-out rows; and what is no noise.

    A field that does harm goes, whatever it scores: its score is what it brings then, below nothing. By a method's own
    rule a field has to be worth more than the rule asks by as much as its cost is in doubt, or be sure to cost
    something. By that and by a threshold one stays that too few rows show. For a place of a budget the threshold itself is
    enough: noise is what is worth less than the rule asks, and not sure to cost something.
    """
    joint = {name: group.removed for group in findings.twins for name in group.fields if group.removed is not None}
    cost = {name: joint.get(name, alone) for name, alone in findings.removed.items()}
    harmful = {name for name, change in cost.items() if change.gain}
    few = [name for name in _too_few(findings) if name not in harmful]
    scores = {n: cost[n].mean if n in harmful else d.score for n, d in selection.fields.items()}
    bar, certain = gate.bar(), {n for n, change in cost.items() if change.certain and not is_probe(n)}
    together = {name: group.together for group in findings.twins for name in group.fields}
    shuffled = {name: together.get(name, alone) for name, alone in findings.importance.items()}
    doubt = {n: max(cost[n].doubt, shuffled[n].doubt) for n in own if n in cost}
    doubtful = {n for n in doubt if bar is not None and scores[n] < bar + doubt[n]}
    clear = set(own) - doubtful | certain
    own = {n for n in (*own, *certain, *few) if n not in harmful}
    budget = selection.budget
    if budget.ranks or budget.false_discovery is not None:
        chosen = budget.choose(scores, gate.takes_as_kept(selection))
    else:
        chosen = {n for n in (*(clear if budget.threshold is None else selection.kept), *few) if n not in harmful}
        chosen = chosen or {max(scores, key=lambda name: (not is_probe(name), scores[name], name))}
    revised = _keeping(gate, selection, chosen)
    fields = {name: d.model_copy(update={"score": scores[name]}) for name, d in revised.fields.items()}
    revised = revised.model_copy(update={"fields": fields})
    if budget == Budget():
        for name in sorted(doubtful - harmful - chosen):
            note = f"not told from noise on these rows: its worth is in doubt by {doubt[name]:.2g} nats a row"
            revised = revised.noted([name], note)
    for name in few:
        rows = findings.presence[name].shuffled.rows
        stays = "stays until more is seen" if name in chosen else "and the budget has no room to wait for more"
        revised = revised.noted([name], f"inconclusive: present in only {rows} of the held-out rows, {stays}")
    return revised, own


def _too_few(findings: Findings) -> list[str]:
    """Fields that too few held-out rows show, though what a constant costs in their place is not sure either way."""
    sure = {name for name, change in findings.removed.items() if change.certain or change.gain}
    return [name for name, presence in findings.presence.items() if not presence.enough and name not in sure]


def _name_harm(selection: Selection, findings: Findings) -> Selection:
    """A word on each field that a constant would do better than."""
    for name, change in findings.removed.items():
        if change.gain:
            note = f"costs you {-change.mean:.2g} ± {change.error:.1g} nats a row today: its mean does better"
            selection = selection.noted([name], note)
    return selection


def _count_twins_once(gate: Gate, selection: Selection, findings: Findings, own: Collection[str]) -> Selection:
    """The kept twins behind the best of their group stand back for dropped fields that matter, most important first.

    Where the method tells noise, they take no place that is left over either: beside its twin a copy is worth nothing.
    """
    best = sorted(selection.kept, key=lambda name: (-selection.fields[name].score, name))
    groups = [[name for name in best if name in group.fields] for group in findings.twins]
    back = [name for name in best if any(name in group[1:] for group in groups)]
    if not back:
        return selection
    said = {name for group in findings.twins for name in group.fields}
    matter = [name for name in _mattering(gate, selection, findings, own) if name not in said.union(best)]
    matter = [name for name in matter if name in own or not gate.tells_noise]
    order = [*(name for name in best if name not in back), *matter, *(() if gate.tells_noise else back)]
    chosen, limit = set(order[: len(best)]), selection.budget.limit
    if limit is not None:
        chosen = within_budget({name: -float(i) for i, name in enumerate(order)}, gate.takes_as_kept(selection), *limit)
    revised = gate.revise(selection, keep=chosen, drop=set(back) - chosen)
    taken = chosen - set(best)
    note = "a field that matters took its place, as its twin stays" if taken else "its twin stays and says the same"
    return revised.noted(set(back) - chosen, note)


def _mattering(gate: Gate, selection: Selection, findings: Findings, own: Collection[str]) -> list[str]:
    """Fields that matter, first those that matter most: by the scores where these are in nats, else by importance."""
    if gate.bar() is not None:
        worth = {name: selection.fields[name].score for name in own}
    else:
        worth = {name: change.mean for name, change in findings.importance.items() if change.certain}
    harm = {name for name, change in findings.removed.items() if change.gain}
    return sorted(worth.keys() - harm, key=lambda name: (-worth[name], name))


def _with_doubt(selection: Selection) -> Selection:
    """p- and q-values of the fields, where the search had probes."""
    scores = {name: decision.score for name, decision in selection.fields.items()}
    if not any(map(is_probe, scores)):
        return selection
    p, q, kept = p_values(scores), q_values(scores), selection.kept
    rate = selection.budget.false_discovery
    share = max(q[name] for name in kept) if rate is not None else false_discovery_share(scores, kept)
    fields = {
        name: d if is_probe(name) else d.model_copy(update={"p_value": p[name], "q_value": q[name]})
        for name, d in selection.fields.items()
    }
    evidence = {"probes": float(len(scores) - len(p)), "false_discovery_share": share}
    selection = selection.model_copy(update={"fields": fields, "evidence": selection.evidence | evidence})
    if rate is None or share <= rate:
        return selection
    note = f"no field beats its shuffled copies at a rate of {rate:g}; one has to stay"
    return selection.noted(kept, note)


def jaccard(sets: list[set[str]]) -> float:
    """Mean share of common members over all pairs of sets, at least one; two empty ones are alike."""
    pairs = [len(a & b) / len(a | b) if a | b else 1 for a, b in combinations(sets, 2)]
    return sum(pairs) / len(pairs)
