"""Window as a step: whether the same data of the same day was audited under the same recipe before."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def window(
    fingerprint: str,
    audit_date: str,
    name: str,
    source: str,
    fields: dict,
    method: str,
    backbone: str,
    keep: float,
    threshold: float,
    subset_fraction: float,
    allowed_auc_loss: float,
    approval: str,
    ingest_config: dict,
    sample_config: dict,
    pretrain_config: dict,
    baseline_config: dict,
    prune_config: dict,
    finetune_config: dict,
    evaluate_config: dict,
    register_config: dict,
    workspace: str = "",
) -> str:
    """Look for an earlier audit of this window. Only an audit that stands for a day has one.

    Args:
        fingerprint: What lies at the source now.
        audit_date: Day of the audit as YYYY-MM-DD; "" for an audit that always runs.
        name: Registered model.
        source: As the pipeline's.
        fields: As the pipeline's.
        method: As the pipeline's.
        backbone: As the pipeline's.
        keep: As the pipeline's.
        threshold: As the pipeline's.
        subset_fraction: As the pipeline's.
        allowed_auc_loss: As the pipeline's.
        approval: As the pipeline's.
        ingest_config: As the pipeline's.
        sample_config: As the pipeline's.
        pretrain_config: As the pipeline's.
        baseline_config: As the pipeline's.
        prune_config: As the pipeline's.
        finetune_config: As the pipeline's.
        evaluate_config: As the pipeline's.
        register_config: As the pipeline's.
        workspace: Folder that outlives the step.

    Returns:
        "audited" where nothing is left to do; else the window's key, for register to note.
    """
    from slimrec.stages import execute_or_exit

    scalars = [source, method, backbone, keep, threshold, subset_fraction, allowed_auc_loss, approval]
    sections = [sample_config, pretrain_config, baseline_config, prune_config, finetune_config, evaluate_config]
    config = {
        "fingerprint": fingerprint,
        "audit_date": audit_date,
        "name": name,
        "ingest": ingest_config,
        "recipe": [*scalars, fields, *sections, register_config],
    }
    return execute_or_exit("window", config, workspace=workspace)["window"]
