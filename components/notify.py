"""Notify as a step: however the pipeline ended, one line says so, and a webhook if there is one."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def notify(status: dsl.PipelineTaskFinalStatus, workspace: str = "") -> str:
    """Log how the audit ended; post the same as JSON to SLIMREC_WEBHOOK where that is set; close its MLflow run.

    Args:
        status: How the pipeline ended, from Kubeflow.
        workspace: Folder where a failing step leaves its reason.

    Returns:
        Output: How it ended, and why if it failed.
    """
    from slimrec.stages.notify import notify

    return notify(status.state, status.pipeline_job_resource_name, status.error_message or "", workspace)
