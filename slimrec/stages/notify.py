"""Notify: however the audit ended, one line says so, a webhook gets the same as JSON, and its MLflow run is closed."""

from __future__ import annotations

import json
import os
import urllib.request

from slimrec import track
from slimrec.artifacts import failures
from slimrec.errors import SlimrecError

# What Kubeflow Pipelines calls an end that was none, in any of its versions. Every other word is a good end: COMPLETE,
# SUCCEEDED, and RUNNING where a branch was left out.
FAILED = {"FAILED", "ERROR", "SYSTEM_ERROR", "CANCELED", "CANCELLED", "CANCELING", "CANCELLING", "TERMINATED"}
_NO_REASON = "no step left a reason: look at the run's pods (kubectl get events names images, quotas and nodes)"


def notify(state: str, run: str, error: str = "", workspace: str = "") -> str:
    """Tell how the pipeline run `run` ended: its `state`, and the reason that the failing step left, else `error`.

    Returns that in one line. The webhook is SLIMREC_WEBHOOK, where that is set. Neither it nor MLflow can turn a good
    end into a bad one.
    """
    failed = state.upper() in FAILED or bool(error.strip())
    left = failures.newest(workspace) if failed else None
    reason = f"{left['stage']}: {left['reason']}" if left else " ".join(error.split()) or (_NO_REASON if failed else "")
    text = f"audit {state.lower() if state.upper() in FAILED else 'failed' if failed else 'succeeded'}"
    text = track.redact(f"{text}: {reason}" if reason else text)
    print(f"slimrec: {text}")
    message = {"text": text, "state": state, "reason": track.redact(reason), "run": run}
    _post({**message, "exit_code": left["exit_code"] if left else None})
    try:
        track.end_audit(failed=text if failed else "")
    except SlimrecError as trouble:
        print(f"slimrec: warning: {trouble}")
    return text


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
