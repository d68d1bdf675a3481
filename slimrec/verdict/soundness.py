"""What a report says of how far its verdict can be trusted: leaks, evidence, training, self-test."""

from __future__ import annotations

from typing import Any

from slimrec.verdict import seeds
from slimrec.verdict.fairness import taken
from slimrec.verdict.pilot import undecided
from slimrec.verdict.tasks import of
from slimrec.verdict.wording import figure, literal, signed, whole

Facts = dict[str, Any]  # the content of report.json


def leaking(facts: Facts) -> list[str]:
    """What looks like a leak, a sentence each, what is trusted last."""
    ranked = sorted(facts["leaks"], key=lambda leak: leak["trusted"])
    starts = ("Looks like a leak", "Trusted")
    return [f"{starts[leak['trusted']]}: {literal(leak['said'])}." for leak in ranked]


def mind(facts: Facts) -> list[str]:
    """What weakens the verdict, a sentence each without its full stop."""
    parts = facts.get("tasks", [facts])
    warned = [(part.get("task", ""), seeds.warned(part["retrains"])) for part in parts]
    searched = f"In the search {note}" if (note := facts["made"]["note"]) else ""
    said = (facts["training"]["said"], searched, *(said and f"{of(task)}{said}" for task, said in warned))
    return [each for each in said if each]


def self_tests(facts: Facts) -> str:
    """What the comparison of each of several tasks made of models whose worth is known."""
    return "Self-test of " + "; of ".join(
        f"{literal(each['task'])}: {literal(self_test(each))}" for each in facts["tasks"]
    )


def self_test(facts: Facts) -> str:
    """What the comparison made of models whose worth is known."""
    found = facts["self_test"]
    if found["failed"]:
        return f"Failed: {found['failed']}"
    if not found["knows"]:
        return "passed, but the slim model is not told from its own scores in the wrong rows: it has little to lose"
    if not found["field"]:
        return "passed"
    told = "is told" if found["told"] else "is too small to be told on these rows"
    return (
        f"passed; {found['field']} shuffled, the slim model's AUC changes by {signed(found['shuffled'])}, which {told}"
    )


def trainings(facts: Facts) -> list[tuple[str, str]]:
    """How long each model trained, where its artifact tells."""
    return [(name, taken(facts["training"][name])) for name in ("full", "slim") if facts["training"][name]]


def piloted(facts: Facts) -> str:
    """Which loss the slice was planned to certify before any training, and which it could by what was found since."""
    told = facts["pilot"]
    if told["planned"] is None:
        return ""
    needed = (
        f", {figure(facts['allowed_auc_loss'])} with about {whole(told['rows_needed'])}" if told["rows_needed"] else ""
    )
    start = f"{whole(facts['rows'])} such rows were planned to certify a loss of {figure(told['planned'])}{needed}"
    if told["found"] is not None:
        start += f"; by the error that was found they certify {figure(told['found'])}"
    return f"{start}; {undecided(told['slices'])}" if told.get("slices") else start


def worth(facts: Facts) -> str:
    """What the rows of the certification slice are worth as evidence."""
    found = facts["evidence"]
    sides = (f"{whole(round(found[f'{side}_effective']))} {side}" for side in ("positive", "negative"))
    copies = f"; {whole(found['copies'])} rows repeat another one and do not count again" if found["copies"] else ""
    return (
        f"{whole(facts['rows'])} rows tell as much as {' and '.join(sides)} independent observations of equal weight"
        f"{copies}"
    )
