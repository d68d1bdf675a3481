"""The path of a search as a figure: what each field was worth where it fell, how sure that is, and what became of it."""

from __future__ import annotations

import math
from typing import Any


def path(facts: dict[str, Any]) -> dict[str, Any] | None:
    """Fields from the least worth to the most, with places from 0 (left) to 100 on a logarithmic scale of nats a row.

    `fields` have name, fate, nats as text, note, and `from` and `to` two standard errors on both sides of their worth;
    `bar` is the place of what the own rule asks for. None where the search walked no path.
    """
    evidence = facts["made"]["evidence"]
    bar = evidence.get("least_nats")
    if not bar:
        return None
    rows = sorted(facts["fields"], key=lambda field: (field["score"], field["name"]))
    low, high = bar / 5, max(2 * bar, *(field["score"] for field in rows))
    doubt = {field["name"]: 2 * evidence.get(f"error/{field['name']}", 0) for field in rows}

    def place(nats: float) -> float:
        return 100 * math.log(min(max(nats, low), high) / low) / math.log(high / low)

    fields = [
        {
            "name": field["name"],
            "fate": "kept" if field["kept"] else "dropped",
            "nats": ("at least " if f"beyond/{field['name']}" in evidence else "")
            + f"{field['score'] + 0:.2g}",  # nothing is written 0 and not -0
            "note": field["note"],
            "from": place(field["score"] - doubt[field["name"]]),
            "to": place(field["score"] + doubt[field["name"]]),
        }
        for field in rows
    ]
    return {"fields": fields, "bar": place(bar), "nats": f"{bar:.2g}"}
