"""The window of an audit: the data of one day under one recipe. An audit of the same window again has nothing to do."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from slimrec.registry import versions
from slimrec.registry.versions import JUDGED
from slimrec.track import client, enabled, experiment_name, reaching

KEY, VERSION = "slimrec.window", "slimrec.version"  # tags of the run that registers, beside JUDGED
MODEL = "slimrec.registered_model"  # the same: which registered model, by when it was made


def key(fingerprint: str, audit_date: str, recipe: Any) -> str:
    """SHA-256 of source, day and everything that was set (`recipe`, JSON); "" for an audit that stands for no day, which always runs."""
    if not audit_date:
        return ""
    content = json.dumps([fingerprint, audit_date, recipe], sort_keys=True, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()


def record(run_id: str, name: str, window: str, version: str, champion: str) -> None:
    """Note on a run that it ended the audit of a window for the model `name`.

    With which `version`, "" for none, and judged against which `champion`.
    """
    if not window or not run_id:
        return
    server = client()
    told = {MODEL: versions.born(server, name), VERSION: version, JUDGED: champion, KEY: window}
    with reaching():
        for tag, value in told.items():
            server.set_tag(run_id, tag, value)


def audited(name: str, window: str) -> str:
    """One sentence about the first audit of this window; "" when there is none that still holds.

    It no longer holds when the registered model is another one under the same name, when the champion of `name` is
    neither the one it was judged against nor its own version, or when that version was deleted: then the same data has
    to be judged again.
    """
    if not window or not enabled():
        return ""
    server = client()
    with reaching():
        place = server.get_experiment_by_name(experiment_name())
        runs = place and server.search_runs(
            [place.experiment_id], f"tags.`{KEY}` = '{window}'", order_by=["start_time"]
        )
    champion, born = versions.version_at(server, name, versions.CHAMPION), versions.born(server, name)
    for run in runs or ():
        version, judged = run.data.tags[VERSION], run.data.tags[JUDGED]
        if run.data.tags.get(MODEL, born) not in ("", born):
            continue
        if champion in (version, judged) and (not version or versions.exists(server, name, version)):
            audit = run.data.tags.get("mlflow.parentRunId", run.info.run_id)
            outcome = f"it registered version {version} of '{name}'" if version else "it registered nothing"
            return f"this window was audited already, by MLflow run {audit}: {outcome}"
    return ""
