"""Pretrain as a step: gated training on the subset."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def pretrain(
    dataset: dsl.Input[dsl.Dataset],
    gated: dsl.Output[dsl.Model],
    config: dict,
    subset: dsl.Input[dsl.Dataset] = None,  # no Optional: the executor would make an artifact of that type
    workspace: str = "",
):
    """Train the model with a selection method's gate in it.

    Args:
        dataset: From ingest.
        config: The recipe's section `pretrain`.
        subset: From sample; all training rows without it.
        workspace: Folder that outlives the step; checkpoints lie there.

    Returns:
        gated: The model with its gate, and the figures of its training.
    """
    from slimrec.stages import execute_or_exit

    figures = execute_or_exit(
        "pretrain",
        config,
        workspace=workspace,
        dataset=dataset.path,
        subset=subset.path if subset else None,
        gated=gated.path,
    )
    gated.metadata.update(figures)
