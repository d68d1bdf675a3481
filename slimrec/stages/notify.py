"""Notify: however the audit ended, one line says so, a webhook gets the same as JSON, and its MLflow run is closed."""

from __future__ import annotations

import json
import os
import urllib.request

from slimrec import track
from slimrec.artifacts import failures
from slimrec.errors import TransientError


def notify(state: str, run: str, error: str = "", workspace: str = "") -> None:
    """Tell how the pipeline run `run` ended: its `state`, and the reason that the failing step left, else `error`.

    The webhook is SLIMREC_WEBHOOK, where that is set. Neither it nor MLflow can turn a good end into a bad one.
    """
    failed = state != "SUCCEEDED"
    left = failures.newest(workspace) if failed else None
    reason = f"{left['stage']}: {left['reason']}" if left else error
    text = f"audit {state.lower()}" + (f": {reason}" if failed and reason else "")
    print(f"slimrec: {text}")
    message = {"text": text, "state": state, "reason": reason, "run": run}
    _post({**message, "exit_code": left["exit_code"] if left else None})
    try:
        track.end_audit(failed=text if failed else "")
    except TransientError as trouble:
        print(f"slimrec: warning: {trouble}")


def _post(message: dict) -> None:
    webhook = os.environ.get("SLIMREC_WEBHOOK", "")
    if not webhook:
        return
    body = json.dumps(message).encode()
    try:
        request = urllib.request.Request(webhook, data=body, headers={"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=10).close()
    except (OSError, ValueError) as error:
        print(f"slimrec: warning: the webhook did not take the message: {error}")
