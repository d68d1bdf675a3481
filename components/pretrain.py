"""Pretrain as a step: gated training on the subset; without method and subset, the full model to compare with."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def pretrain(
    dataset: dsl.Input[dsl.Dataset],
    gated: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    config: dict,
    subset: dsl.Input[dsl.Dataset] = None,  # no Optional: the executor would make an artifact of that type
    method: str = "",
    backbone: str = "",
    workspace: str = "",
):
    """Train the model with a selection method's gate in it.

    Args:
        dataset: From ingest.
        gated: The model with its gate.
        metrics: Figures of the training.
        config: The recipe's section `pretrain`.
        subset: From sample; all training rows without it.
        method: Selection method; "" for what the section says.
        backbone: Network behind the gate; "" for what the section says.
        workspace: Folder that outlives the step; checkpoints lie there.
    """
    from slimrec.stages import execute_or_exit

    figures = execute_or_exit(
        "pretrain",
        config,
        choices={"method": method or None, "model.backbone": backbone or None},
        workspace=workspace,
        dataset=dataset.path,
        subset=subset.path if subset else None,
        gated=gated.path,
    )
    gated.metadata.update(figures)
    metrics.metadata.update(figures)
