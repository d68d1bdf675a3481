"""Prune: ask the gate for its selection, guard it by what the search found, then cut the model down to it, exactly."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from slimrec.artifacts import digest, publish, read_json, read_manifest, write_json
from slimrec.backbones.hidden import best_units
from slimrec.config import PruneConfig
from slimrec.data.encode import Encoder
from slimrec.errors import ConfigError, SecurityError
from slimrec.model import Model
from slimrec.model.files import load_model, save_model
from slimrec.pruning.charges import charges
from slimrec.pruning.decide import decide
from slimrec.pruning.findings import FINDINGS, Findings
from slimrec.schema import MISSING, PAD, Field
from slimrec.selection import Selection
from slimrec.track import Tracker
from slimrec.verdict.wording import literal
from slimrec.written import parse

CONFIG = PruneConfig
_SEEN_AGAIN = (
    "rows were seen {} times with the gate on them: it was asked for as published, and keeps noise that the network has "
    "memorised"
)


def run(config: PruneConfig, tracker: Tracker, gated: Path, selection: Path, slim: Path) -> dict:
    """Write the artifacts `selection` and `slim` (the cut model, weights carried over).

    The selection is there for machines (selection.json), for tables (scores.parquet) and for people (selection.md).
    """
    model, facts = load_model(gated, "gated"), read_manifest(gated)
    findings = parse(Findings, read_json(gated / FINDINGS), SecurityError)
    model.gate.charged = charges(model, config.budget)
    searched = decide(model.gate, findings, config.budget, config.guard, facts["seed"], config.twins_once)
    if facts.get("gate_passes", 0) > 1:
        searched = searched.model_copy(update={"note": _SEEN_AGAIN.format(facts["gate_passes"])})
    if config.hidden_keep is not None:
        searched = searched.model_copy(update={"hidden": _units(model, findings, config.hidden_keep)})
    cut, decided = model.narrow(searched), searched.without_probes()
    difference = _checked(model, cut, searched, config.tolerance)
    source = {"gated": digest(gated), "dataset": facts["dataset"]}
    with publish(selection, "selection", **source) as folder:
        write_json(folder / "selection.json", decided.model_dump(mode="json"))
        pq.write_table(_scores(decided), folder / "scores.parquet")
        (folder / "selection.md").write_text(_page(decided), encoding="utf-8")
    with publish(slim, "slim", **source, selection=digest(selection)) as folder:
        save_model(cut, folder, Encoder.load(gated))
    tracker.artifact(selection / "selection.json")
    return {
        "fields_before": len(decided.fields),
        "fields_after": len(decided.kept),
        "columns_before": sum(d.width for d in decided.fields.values()),
        "columns_after": sum(len(d.columns) for d in decided.fields.values()),
        "hidden_before": sum(map(len, findings.hidden)),
        "hidden_after": sum(map(len, (decided.hidden or dict(enumerate(findings.hidden))).values())),
        "table_bytes_before": _table_bytes(model),
        "table_bytes_after": _table_bytes(cut),
        "max_logit_difference": difference,
    }


def _checked(model: Model, cut: Model, selection: Selection, tolerance: float | None) -> float:
    """The largest difference that a cut makes to the logits; ConfigError where the recipe allows no such."""
    difference, size = cut_error(model, cut, selection)
    if tolerance is not None and not difference <= tolerance * max(1.0, size):
        raise ConfigError(
            f"the cut of {type(model.backbone).__name__} is not exact: on random rows its logits, of up to {size:.3g}, "
            f"differ by {difference:.2g}; let its `narrow` heed the constants in `fill`, or allow more by prune.tolerance"
        )
    return difference


def _scores(decided: Selection) -> pa.Table:
    decisions = decided.fields.items()
    return pa.table(
        {
            "field": [name for name, _ in decisions],
            "score": [decision.score for _, decision in decisions],
            "kept": [decision.kept for _, decision in decisions],
            "columns": [list(decision.columns) for _, decision in decisions],
            "width": [decision.width for _, decision in decisions],
            "bytes": [decision.bytes for _, decision in decisions],
            "spread": pa.array([decision.spread for _, decision in decisions], pa.float64()),
            "p_value": pa.array([decision.p_value for _, decision in decisions], pa.float64()),
            "q_value": pa.array([decision.q_value for _, decision in decisions], pa.float64()),
            "note": [decision.note for _, decision in decisions],
        }
    )


def _page(decided: Selection) -> str:
    """What stays and why, as a Markdown table, the highest score first."""
    lines = [
        f"{len(decided.kept)} of {len(decided.fields)} fields stay",
        "",
        *([f"**Mind:** {decided.note}.", ""] if decided.note else []),
        "| field | stays | columns | score | remark |",
        "|---|---|---:|---:|---|",
    ]
    for name, decision in sorted(decided.fields.items(), key=lambda item: (-item[1].score, item[0])):
        stays = "yes" if decision.kept else "no"
        columns = f"{len(decision.columns)} of {decision.width}"
        lines.append(f"| {literal(name)} | {stays} | {columns} | {decision.score:.3g} | {literal(decision.note)} |")
    return "\n".join(lines) + "\n"


def _units(model: Model, findings: Findings, keep: float) -> dict[int, tuple[int, ...]]:
    if not findings.hidden:
        raise ConfigError(
            f"prune.hidden_keep is set, but no hidden units of {type(model.backbone).__name__} were scored: search with a "
            "method, a gate slice and a network that has hidden layers"
        )
    return best_units(findings.hidden, keep)


def _table_bytes(model: Model) -> int:
    return sum(table.numel() * table.element_size() for table in model.arena.tables.values())


@torch.no_grad()
def cut_error(model: Model, cut: Model, selection: Selection, rows: int = 256) -> tuple[float, float]:
    """The largest difference in logits between the cut model and the masked one, on random rows; and the largest logit.

    The rows have values of every kind, bags of every length down to none.
    """
    generator = torch.Generator().manual_seed(0)
    full = {field.name: _random_rows(field, rows, generator) for field in model.schema.fields}

    def inputs(of: Model) -> tuple[torch.Tensor, torch.Tensor]:
        ids = [full[field.name] for field in of.schema.embedded]
        dense = [full[field.name] for field in of.schema.dense]
        return (
            torch.cat(ids, 1) if ids else torch.zeros(rows, 0, dtype=torch.int32),
            torch.cat(dense, 1) if dense else torch.zeros(rows, 0),
        )

    masked = model.eval().masked_logits(*inputs(model), selection)
    return float((masked - cut.eval()(*inputs(cut))).abs().max()), float(masked.abs().max())


def _random_rows(field: Field, rows: int, generator: torch.Generator) -> torch.Tensor:
    if not field.embedded:
        return torch.randn(rows, field.dense_width, generator=generator)
    ids = torch.randint(MISSING, field.rows, (rows, field.slots), generator=generator, dtype=torch.int32)
    if field.kind != "bag":
        return ids
    lengths = torch.randint(0, field.slots + 1, (rows, 1), generator=generator)
    return torch.where(torch.arange(field.slots) < lengths, ids, PAD)
