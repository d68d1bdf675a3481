"""Prune as a step: the gate's decision as plain data, and the model cut down to it."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prune(
    gated: dsl.Input[dsl.Model],
    selection: dsl.Output[dsl.Artifact],
    slim: dsl.Output[dsl.Model],
    summary: dsl.Output[dsl.Markdown],
    config: dict,
    workspace: str = "",
):
    """Decide which columns of which field stay, and cut.

    Args:
        gated: From pretrain.
        config: The recipe's section `prune`.
        workspace: Folder that outlives the step.

    Returns:
        selection: selection.json, scores.parquet and selection.md.
        slim: The cut model with the weights it had; fields, columns and bytes before and after.
        summary: selection.md for the Kubeflow UI.
    """
    import shutil
    from pathlib import Path

    from slimrec.stages import execute_or_exit

    paths = {"gated": gated.path, "selection": selection.path, "slim": slim.path}
    figures = execute_or_exit("prune", config, workspace=workspace, **paths)
    shutil.copyfile(Path(selection.path) / "selection.md", summary.path)
    slim.metadata.update(figures)
