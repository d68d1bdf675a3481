"""Prune as a step: the gate's decision as plain data, and the model cut down to it."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def prune(
    gated: dsl.Input[dsl.Model],
    selection: dsl.Output[dsl.Artifact],
    slim: dsl.Output[dsl.Model],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    config: dict,
    keep: float = 0.0,
    threshold: float = 0.0,
    workspace: str = "",
):
    """Decide which columns of which field stay, and cut.

    Args:
        gated: From pretrain.
        selection: selection.json, scores.parquet and selection.md.
        slim: The cut model with the weights it had.
        summary: selection.md for the Kubeflow UI.
        metrics: Fields, columns and bytes before and after.
        config: The recipe's section `prune`.
        keep: Share of the fields that may stay; 0 for what the section says.
        threshold: Score from which a field stays; 0 for what the section says.
        workspace: Folder that outlives the step.
    """
    import shutil
    from pathlib import Path

    from slimrec.stages import execute_or_exit

    budget = {name: value for name, value in (("keep", keep), ("threshold", threshold)) if value}
    figures = execute_or_exit(
        "prune",
        config,
        choices={"budget": budget or None},
        workspace=workspace,
        gated=gated.path,
        selection=selection.path,
        slim=slim.path,
    )
    shutil.copyfile(Path(selection.path) / "selection.md", summary.path)
    slim.metadata.update(figures)
    metrics.metadata.update(figures)
