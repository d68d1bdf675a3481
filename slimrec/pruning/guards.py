"""What comes back although a method dropped it: one of twins that the model needs, and what is vital where it is present."""

from __future__ import annotations

import statistics

from slimrec.gates.base import Gate
from slimrec.probes import is_probe
from slimrec.pruning.findings import Findings
from slimrec.selection import Selection


def guard_twins(gate: Gate, selection: Selection, findings: Findings) -> Selection:
    """Note who says the same, and keep one of them where all were dropped that matter together; not as published."""
    for group in findings.twins:
        evidence = {f"twins/{'|'.join(group.fields)}": group.together.mean}
        selection = selection.model_copy(update={"evidence": selection.evidence | evidence})
        note = f"{' or '.join(group.fields)}: one says what all say"
        gone = not set(group.fields) & set(selection.kept)
        if gone and group.together.certain:
            cheapest = min(group.fields, key=lambda name: (selection.fields[name].bytes, -selection.fields[name].score))
            revised = None if gate.published else _put_back(gate, selection, findings, cheapest, group.together.mean)
            stays = ", but was decided as published" if gate.published else ", but the budget has no room"
            note += "; all were dropped, which costs" + (f", so '{cheapest}' came back" if revised else stays)
            selection = revised or selection
        selection = selection.noted(group.fields, note)
    return selection


def guard_presence(gate: Gate, selection: Selection, findings: Findings, guard: bool) -> Selection:
    """Note, and with `guard` keep, what matters on its own rows more than half of the kept fields do on all rows."""
    if not findings.presence:
        return selection
    floor = statistics.median(findings.importance[name].mean for name in selection.kept)
    said = {name for group in findings.twins if set(group.fields) & set(selection.kept) for name in group.fields}
    for name, presence in findings.presence.items():
        strongest = max(presence.shuffled, presence.missed, key=lambda change: change.mean * change.certain)
        evidence = {f"importance/{name}": findings.importance[name].mean, f"presence/{name}": strongest.mean}
        selection = selection.model_copy(update={"evidence": selection.evidence | evidence})
        if name in said or selection.fields[name].kept:
            continue
        if not (presence.enough or strongest.certain or gate.overruled):  # what overrules has said so
            note = f"present in only {presence.shuffled.rows} of the held-out rows, too few to tell what it is worth"
            selection = selection.noted([name], note)
        if not strongest.certain or strongest.mean < floor:
            continue
        note = f"matters where it is present ({presence.share:.2%} of the rows): {strongest.mean:.3g} nats a row"
        if guard:
            revised = _put_back(gate, selection, findings, name, strongest.mean * presence.share)
            note += "; came back" if revised else "; the budget has no room for it"
            selection = revised or selection
        selection = selection.noted([name], note)
    return selection


def _put_back(gate: Gate, selection: Selection, findings: Findings, name: str, worth: float) -> Selection | None:
    """The decision with this field too, in the place of the least important one worth less where the budget is full."""
    matters = {other: findings.importance[other].mean for other in selection.kept}
    weaker = sorted((other for other in matters if matters[other] < worth), key=lambda other: (matters[other], other))
    for drop in ([], *([other] for other in weaker)):
        revised = gate.revise(selection, keep=[name], drop=drop)
        if _fits(gate, revised):
            return revised
    return None


def _fits(gate: Gate, selection: Selection) -> bool:
    budget, real = selection.budget, [name for name in selection.fields if not is_probe(name)]
    if (places := budget.places(len(real))) is not None:
        return len(selection.kept) <= places
    if budget.limit is not None:
        costs = gate.takes_as_kept(selection)
        return sum(costs[name] for name in selection.kept) <= budget.limit[1]
    return True
