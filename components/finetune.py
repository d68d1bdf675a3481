"""Finetune as a step: train the cut model to its end."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def finetune(
    dataset: dsl.Input[dsl.Dataset],
    subset: dsl.Input[dsl.Dataset],
    gated: dsl.Input[dsl.Model],
    selection: dsl.Input[dsl.Artifact],
    slim: dsl.Input[dsl.Model],
    tuned: dsl.Output[dsl.Model],
    retrained: dsl.Output[dsl.Artifact],
    config: dict,
    workspace: str = "",
):
    """Continue the training of the slim model, or retrain it.

    Args:
        dataset: From ingest.
        subset: From sample.
        gated: From pretrain.
        selection: From prune.
        slim: From prune.
        config: The recipe's section `finetune`.
        workspace: Folder that outlives the step; checkpoints lie there.

    Returns:
        tuned: The trained slim model, and the figures of its training.
        retrained: How the same cut scores the certification slice when trained from other seeds; empty without retrains.
    """
    from slimrec.stages import execute_or_exit

    figures = execute_or_exit(
        "finetune",
        config,
        workspace=workspace,
        dataset=dataset.path,
        subset=subset.path,
        gated=gated.path,
        selection=selection.path,
        slim=slim.path,
        tuned=tuned.path,
        retrained=retrained and retrained.path,  # none in an audit compiled before there were retrains
    )
    tuned.metadata.update(figures)
