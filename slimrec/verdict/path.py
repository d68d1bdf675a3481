"""The path of a search as a figure: which field fell first, which last, at how many nats, and what became of it."""

from __future__ import annotations

import math
from typing import Any


def path(facts: dict[str, Any]) -> dict[str, Any] | None:
    """Fields from the first to fall to the last, with places from 0 (left) to 100 on a logarithmic scale of nats a row.

    `fields` have name, fate, nats as text, note, and `from` and `to` where their gates fell first and for good; `bar` is
    the place of what the own rule asks for. None where the search walked no path.
    """
    evidence = facts["made"]["evidence"]
    bar = evidence.get("least_nats")
    if not bar:
        return None
    rows = sorted(facts["fields"], key=lambda field: (field["score"], field["name"]))
    low, high = bar / 20, max(2 * bar, *(field["score"] for field in rows))

    def place(nats: float) -> float:
        return 100 * math.log(min(max(nats, low), high) / low) / math.log(high / low)

    fields = [
        {
            "name": field["name"],
            "fate": "kept" if field["kept"] else "dropped",
            "nats": ("at least " if f"beyond/{field['name']}" in evidence else "") + f"{field['score']:.2g}",
            "note": field["note"],
            "from": place(min(evidence.get(f"fell_first/{field['name']}", field["score"]), field["score"])),
            "to": place(field["score"]),
        }
        for field in rows
    ]
    return {"fields": fields, "bar": place(bar), "nats": f"{bar:.2g}"}
