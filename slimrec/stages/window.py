"""Window: the key of what this audit stands for, or that the same was audited before and nothing is left to do."""

from __future__ import annotations

from slimrec.config import WindowConfig
from slimrec.registry import windows
from slimrec.track import Tracker

CONFIG = WindowConfig
AUDITED = "audited"
SAME_DATASET = {"parts"}  # of the section ingest: whatever it says, the dataset is the same, byte for byte


def run(config: WindowConfig, tracker: Tracker) -> dict:
    """Returns `window`: the key, "" for an audit that stands for no day, AUDITED where an earlier audit still holds."""
    ingest = {name: value for name, value in config.ingest.items() if name not in SAME_DATASET}
    found = windows.key(config.fingerprint, config.audit_date, [config.name, ingest, *config.recipe])
    earlier = windows.audited(config.name, found)
    if not earlier:
        return {"window": found}
    tracker.tag("slimrec.audited", earlier)
    print(f"slimrec: {earlier}; nothing is left to do")
    return {"window": AUDITED}
