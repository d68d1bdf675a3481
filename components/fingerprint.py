"""Fingerprint as a step: which raw data lies at the source now. It runs every time, so that ingest need not."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fingerprint(config: dict, source: str = "", audit_date: str = "", workspace: str = "") -> str:
    """List the source and start the audit's MLflow run.

    Args:
        config: The recipe's section `ingest`.
        source: File, folder or s3:// of Parquet or CSV; "" for what the section says.
        audit_date: Day of the audit as YYYY-MM-DD.
        workspace: Folder that outlives the step.

    Returns:
        A digest of names, sizes and times of change: what the cache knows the source by.
    """
    from slimrec.stages import execute_or_exit

    choices = {"source": source or None, "audit_date": audit_date or None}
    return execute_or_exit("fingerprint", config, choices=choices, workspace=workspace)["fingerprint"]
