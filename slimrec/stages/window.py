"""Window: the key of what this audit stands for, or that the same was audited before and nothing is left to do."""

from __future__ import annotations

from slimrec.config import RegisterConfig, WindowConfig
from slimrec.registry import windows
from slimrec.track import Tracker
from slimrec.written import parse

CONFIG = WindowConfig
AUDITED = "audited"
# Of the section ingest: the day is told beside it, and in however many parts, the dataset is the same, byte for byte.
OF_NO_WINDOW = {"audit_date", "parts"}


def run(config: WindowConfig, tracker: Tracker) -> dict:
    """Returns `window`: the key, "" for an audit that stands for no day, AUDITED where an earlier audit still holds."""
    ingest = {name: value for name, value in config.recipe["ingest"].items() if name not in OF_NO_WINDOW}
    found = windows.key(config.fingerprint, config.audit_date, {**config.recipe, "ingest": ingest})
    name = parse(RegisterConfig, config.recipe.get("register", {})).name
    earlier = windows.audited(name, found)
    if not earlier:
        return {"window": found}
    tracker.tag("slimrec.audited", earlier)
    print(f"slimrec: {earlier}; nothing is left to do")
    return {"window": AUDITED}
