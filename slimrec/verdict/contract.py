"""The contract: which raw columns a slim model needs, and which nobody has to compute any more."""

from __future__ import annotations

from typing import Any

from slimrec.schema import Schema
from slimrec.selection import Selection


def contract(facts: dict[str, Any], chosen: Selection, schema: Schema) -> dict[str, Any]:
    """Which raw columns the slim model needs, and which it would let go; the latter only with a certificate."""
    needed = {column for name in chosen.kept for column in schema[name].columns}
    roles = (schema.weight, schema.time, schema.group)
    training = {column for column in (*(label.column for label in schema.labels), *roles) if column}
    single = {schema[name].column for name in chosen.fields if not schema[name].cross}
    idle = [
        {"column": column, "field": name, "bytes": decision.bytes, "score": decision.score}
        for name, decision in chosen.fields.items()
        for column in schema[name].columns
        if not decision.kept and column not in needed | training and not (schema[name].cross and column in single)
    ]
    certified = facts["verdict"] == "certified"
    return {
        "format": 1,
        "needed_columns": sorted(needed),
        "training_columns": sorted(training),
        "safe_to_stop_computing": idle if certified else [],
        "candidates": [] if certified else idle,
        "digests": {"dataset": facts["dataset"], "slim": facts["slim_digest"]},
        "verdict": facts["verdict"],
    }
