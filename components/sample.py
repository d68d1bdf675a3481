"""Sample as a step: the rows that the search for a selection is run on."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def sample(
    dataset: dsl.Input[dsl.Dataset],
    subset: dsl.Output[dsl.Dataset],
    config: dict,
    workspace: str = "",
):
    """Choose training rows.

    Args:
        dataset: From ingest.
        config: The recipe's section `sample`.
        workspace: Folder that outlives the step.

    Returns:
        subset: A row selector over the dataset.
    """
    from slimrec.stages import execute_or_exit

    figures = execute_or_exit("sample", config, workspace=workspace, dataset=dataset.path, subset=subset.path)
    subset.metadata.update(figures)
