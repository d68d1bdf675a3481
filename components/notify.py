"""Notify as a step: however the pipeline ended, one line says so, and a webhook if there is one."""

from kfp import dsl

from components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def notify(status: dsl.PipelineTaskFinalStatus, workspace: str = ""):
    """Log how the audit ended; post the same as JSON to SLIMREC_WEBHOOK where that is set.

    Args:
        status: How the pipeline ended, from Kubeflow.
        workspace: Folder where a failing step leaves its reason.
    """
    import json
    import os
    import urllib.request
    from pathlib import Path

    failure = Path(workspace, "failure.json")
    failed = status.state != "SUCCEEDED"
    reason = status.error_message or ""
    if failed and workspace and failure.is_file():
        left = json.loads(failure.read_text(encoding="utf-8"))
        reason = f"{left['stage']}: {left['reason']}"
    text = f"audit {status.state.lower()}" + (f": {reason}" if failed and reason else "")
    print(f"slimrec: {text}")
    webhook = os.environ.get("SLIMREC_WEBHOOK", "")
    if not webhook:
        return
    message = {"text": text, "state": status.state, "reason": reason, "run": status.pipeline_job_resource_name}
    try:
        request = urllib.request.Request(
            webhook, data=json.dumps(message).encode(), headers={"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=10).close()
    except (OSError, ValueError) as error:
        print(f"slimrec: warning: the webhook did not take the message: {error}")
