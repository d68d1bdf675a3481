"""Baseline as a step: the full model that the slim one is compared with, trained by the stage pretrain without a gate."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def baseline(
    dataset: dsl.Input[dsl.Dataset],
    subset: dsl.Input[dsl.Dataset],
    search: dsl.Input[dsl.Model],
    gated: dsl.Output[dsl.Model],
    retrained: dsl.Output[dsl.Artifact],
    config: dict,
    workspace: str = "",
):
    """Train the model with all its fields, on the rows and for the passes of the slim one.

    Args:
        dataset: From ingest.
        subset: From sample.
        search: From pretrain: where its network is that of a training without a gate, what it has been through is
            not trained again.
        config: The recipe's section `pretrain` for the full model: no method, and a training of its own.
        workspace: Folder that outlives the step; checkpoints lie there.

    Returns:
        gated: The full model behind a gate that lets all through, and the figures of its training.
        retrained: How it scores the certification slice when trained from other seeds; empty without retrains.
    """
    from slimrec.stages import execute_or_exit

    figures = execute_or_exit(
        "pretrain",
        config,
        workspace=workspace,
        dataset=dataset.path,
        subset=subset.path,
        search=search.path,
        gated=gated.path,
        retrained=retrained and retrained.path,  # none in an audit compiled before there were retrains
    )
    gated.metadata.update(figures)
