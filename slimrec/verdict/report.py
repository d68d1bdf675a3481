"""The selection report: one set of facts as self-contained HTML, as Markdown and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from slimrec.artifacts import write_json
from slimrec.verdict import seeds, sequence
from slimrec.verdict.losses import Facts, titled
from slimrec.verdict.outline import (
    against_champion,
    axis,
    before_after,
    by_task,
    changes,
    consequence,
    evidence,
    headline,
    probed,
    ranked,
    scored,
    stoppable_title,
)
from slimrec.verdict.path import path
from slimrec.verdict.soundness import leaking, mind, piloted, self_test, self_tests, trainings, worth
from slimrec.verdict.wording import bound, figure, literal, sentence, signed, size, whole

PROBED = "share of meaningless fields to expect among those that score as high, told by shuffled copies of the fields"


def write(folder: Path, facts: Facts) -> None:
    """Write report.html, report.md and report.json into an artifact folder under way."""
    write_json(folder / "report.json", facts)
    (folder / "report.html").write_text(html(facts), encoding="utf-8")
    (folder / "report.md").write_text(markdown(facts), encoding="utf-8")


def html(facts: Facts) -> str:
    """A page that needs no script, no request and no server; whatever the data calls itself comes out escaped."""
    return page(
        "report.html.jinja",
        facts,
        headline=headline(facts),
        consequence=consequence(facts),
        before_after=before_after(facts),
        ranked=ranked(facts),
        probed=probed(facts),
        path=path(facts),
        top_score=max(1 if path(facts) is None else 0, *(field["score"] for field in facts["fields"])) or 1,
        axis=axis(facts),
        against_champion=against_champion(facts),
        changes=changes(facts),
        trainings=trainings(facts),
        worth=worth(facts),
        piloted=piloted(facts),
        minds=mind(facts),
        statement=seeds.told(facts["retrains"]),
        looked=sequence.told(facts),
        self_tested=self_test(facts),
        stoppable_title=stoppable_title(facts),
        PROBED=PROBED,
        parts=by_task(facts),
        several="tasks" in facts,
        **evidence(facts),
    )


def page(template: str, facts: Facts, **more: Any) -> str:
    """One of the templates beside this file, filled with what it asks for."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(
        size=size, bound=bound, figure=figure, signed=signed, whole=whole, scored=scored, titled=titled
    )
    return environment.get_template(template).render(facts, **more)


def markdown(facts: Facts) -> str:
    """The same in short."""
    lines = [
        f"# {facts['verdict'].capitalize()}: {headline(facts)}",
        "",
        *(f"- **{text}**" for text in leaking(facts)),
        *([""] if facts["leaks"] else []),
        consequence(facts),
        "",
        *([] if facts["verdict"] == "certified" else [sentence(facts["reason"]), ""]),
        *(line for said in mind(facts) for line in (f"**Mind:** {said}.", "")),
    ]
    lines += ["| | full | slim | change |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {full} | {slim} | {change} |" for name, full, slim, change in before_after(facts)]
    lines += _tasks(facts)
    for part in by_task(facts):
        lines += _protected(part) + _losses(part)
    lines += ["", f"## {stoppable_title(facts)}", "", ", ".join(map(literal, facts["stoppable"])) or "None."]
    lines += ["", "## Fields", ""]
    lines += ["| field | kind | fate | score | columns | rows | table | remark |"]
    lines += ["|---|---|---|---:|---:|---:|---:|---|"]
    for field in ranked(facts):
        fate = "kept" if field["kept"] else "dropped"
        table = f"{whole(field['rows'])} | {size(field['bytes'])}" if field["rows"] else "|"
        doubt = [] if field["q_value"] is None else [f"q = {field['q_value']:.2g}"]
        remark = "; ".join(filter(None, [*doubt, field["note"]]))
        lines.append(
            f"| {literal(field['name'])} | {field['kind']} | {fate} | {scored(field)} "
            f"| {field['columns']} / {field['width']} | {table} | {literal(remark)} |"
        )
    if probed(facts):
        lines += ["", f"q: {PROBED}"]
    if facts["pairs"] is not None:
        lines += ["", "## Fields that meet", ""]
        lines += [", ".join(f"{literal(a)} × {literal(b)}" for a, b in facts["pairs"]) or "None."]
    if said := against_champion(facts):
        lines += ["", "## Against the champion", "", said]
    if facts["diff"] is not None:
        lines += ["", "## Since the champion's audit", ""]
        lines += [f"- {literal(name)}: {what}" for name, what in changes(facts)] or ["No field changed its fate."]
    made = facts["made"]
    lines += [
        "",
        f"{worth(facts)}. Self-test: {literal(self_test(facts))}.",
        f"The bound is {seeds.told(facts['retrains'])}.",
        f"It is {sequence.told(facts)}.",
        *([f"Pilot: {piloted(facts)}."] if piloted(facts) else []),
        *(f"Training of the {name} model: {text}." for name, text in trainings(facts)),
    ]
    lines += ["", f"Method {literal(made['method'])}, seed {made['seed']}, data `{facts['dataset'][:16]}`."]
    return "\n".join(lines) + "\n"


def _of(facts: Facts) -> str:
    return f", task {literal(facts['task'])}" if "task" in facts else ""


def _tasks(facts: Facts) -> list[str]:
    """The verdict on each of several tasks."""
    if "tasks" not in facts:
        return []
    lines = ["", "## Tasks", "", "| task | verdict | rows | full | slim | change | not below | not above | allowed |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|---:|---:|"]
    for each in facts["tasks"]:
        qualities = (bound(each["auc"][name], False) for name in ("full", "slim"))
        changes = (bound(each["auc"][name]) for name in ("difference", "low", "high"))
        cells = (literal(each["task"]), each["verdict"], whole(each["rows"]), *qualities, *changes)
        lines.append(f"| {' | '.join(cells)} | {signed(-each['allowed_auc_loss'])} |")
    return [*lines, "", f"{self_tests(facts)}."]


def _protected(facts: Facts) -> list[str]:
    """The table of slices, where there are any."""
    if not facts["slices"]:
        return []
    lines = [
        "",
        f"## Protected slices{_of(facts)}",
        "",
        "| slice | verdict | rows | change | not below | not above | allowed |",
    ]
    lines += ["|---|---|---:|---:|---:|---:|---:|"]
    for part in facts["slices"]:
        figures = (bound(part[name]) for name in ("difference", "low", "high"))
        cells = (literal(part["name"]), part["verdict"], whole(part["rows"]), *figures, signed(-part["allowed"]))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _losses(facts: Facts) -> list[str]:
    """The table of other losses."""
    lines = [
        "",
        f"## Other losses{_of(facts)}",
        "",
        "| loss | full | slim | slim is worse by | at least | at most | allowed | |",
    ]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---|"]
    for loss in facts["losses"]:
        figures = (
            bound(loss[name], name not in ("full", "slim")) for name in ("full", "slim", "worse", "least", "most")
        )
        allowed = "" if loss["allowed"] is None else figure(loss["allowed"])
        lines.append(f"| {' | '.join((literal(titled(loss['name'])), *figures, allowed, loss['verdict']))} |")
    return lines if facts["losses"] else []
