"""Evaluate as a step: the slim model against the full one on rows that no search has seen."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    dataset: dsl.Input[dsl.Dataset],
    slim: dsl.Input[dsl.Model],
    full: dsl.Input[dsl.Model],
    selection: dsl.Input[dsl.Artifact],
    slim_retrained: dsl.Input[dsl.Artifact],
    full_retrained: dsl.Input[dsl.Artifact],
    report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    curve: dsl.Output[dsl.ClassificationMetrics],
    config: dict,
    workspace: str = "",
) -> str:
    """Compare, report, decide.

    Args:
        dataset: From ingest.
        slim: The trained slim model, from finetune.
        full: The full model, from baseline.
        selection: From prune.
        slim_retrained: From finetune.
        full_retrained: From baseline.
        config: The recipe's section `evaluate`.
        workspace: Folder that outlives the step.

    Returns:
        report: report.html, report.md, report.json, contract.json, roc.json, sketch.json, and diff.json where there is a champion.
        page: The report for the Kubeflow UI.
        summary: The report in short for the Kubeflow UI.
        metrics: The figures of both models.
        curve: The slim model's ROC curve for the Kubeflow UI.
        Output: "accept", or why not in one word.
    """
    import json
    import shutil
    from pathlib import Path

    from slimrec.stages import execute_or_exit

    figures = execute_or_exit(
        "evaluate",
        config,
        workspace=workspace,
        dataset=dataset.path,
        slim=slim.path,
        full=full.path,
        selection=selection.path,
        slim_retrained=slim_retrained and slim_retrained.path,  # none in an audit compiled before there were retrains
        full_retrained=full_retrained and full_retrained.path,
        report=report.path,
    )
    shutil.copyfile(Path(report.path) / "report.html", page.path)
    shutil.copyfile(Path(report.path) / "report.md", summary.path)
    curve.log_roc_curve(**json.loads((Path(report.path) / "roc.json").read_text(encoding="utf-8")))
    report.metadata.update(figures)
    metrics.metadata.update({name: value for name, value in figures.items() if not isinstance(value, str)})
    return figures["decision"]
