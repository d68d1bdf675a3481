"""Fingerprint as a step: recipe, choices and day settled once for all steps, and which raw data lies at the source now."""

from typing import NamedTuple

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fingerprint(
    recipe: dict,
    audit_date: str = "",
    override_allowed_auc_loss: str = "",
    override_approval: str = "",
    override_backbone: str = "",
    override_keep_share: str = "",
    override_method: str = "",
    override_registered_model: str = "",
    override_score_threshold: str = "",
    override_source: str = "",
    override_subset_share: str = "",
    workspace: str = "",
) -> NamedTuple(
    "Settled",
    [
        ("fingerprint", str),
        ("day", str),
        ("settled", dict),
        ("ingest", dict),
        ("sample", dict),
        ("pretrain", dict),
        ("baseline", dict),
        ("prune", dict),
        ("finetune", dict),
        ("evaluate", dict),
        ("register", dict),
    ],
):
    """Settle what this audit is, list the source, start the audit's MLflow run. It runs every time, so that ingest need not.

    Args:
        recipe: As the pipeline's.
        audit_date: As the pipeline's.
        override_allowed_auc_loss: As the pipeline's.
        override_approval: As the pipeline's.
        override_backbone: As the pipeline's.
        override_keep_share: As the pipeline's.
        override_method: As the pipeline's.
        override_registered_model: As the pipeline's.
        override_score_threshold: As the pipeline's.
        override_source: As the pipeline's.
        override_subset_share: As the pipeline's.
        workspace: Folder that outlives the step.

    Returns:
        fingerprint: A digest of names, sizes and times of change of the source: what the cache knows it by.
        day: Day the audit stands for, YYYY-MM-DD; "" for none.
        settled: The recipe with all choices in it.
        ingest: Its section for the step ingest; so on.
        sample: For sample.
        pretrain: For pretrain.
        baseline: For baseline.
        prune: For prune.
        finetune: For finetune.
        evaluate: For evaluate.
        register: For register.
    """
    from slimrec.stages import execute_or_exit

    choices = {
        "allowed_auc_loss": override_allowed_auc_loss,
        "approval": override_approval,
        "audit_date": audit_date,
        "backbone": override_backbone,
        "keep_share": override_keep_share,
        "method": override_method,
        "registered_model": override_registered_model,
        "score_threshold": override_score_threshold,
        "source": override_source,
        "subset_share": override_subset_share,
    }
    told = execute_or_exit("fingerprint", {"recipe": recipe, "choices": choices}, workspace=workspace)
    steps = ("ingest", "sample", "pretrain", "baseline", "prune", "finetune", "evaluate", "register")
    sections = [told["sections"][step] for step in steps]
    return told["fingerprint"], told["audit_date"], told["recipe"], *sections
