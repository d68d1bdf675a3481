"""Register as a step: the slim model goes to the registry; or, in its place, a refusal with its reason."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def register(
    slim: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.Artifact],
    selection: dsl.Input[dsl.Artifact],
    dataset: dsl.Input[dsl.Dataset],
    bundle: dsl.Output[dsl.Artifact],
    config: dict,
    window: str = "",
    workspace: str = "",
) -> dict:
    """Put the model with its report into the registry and move the aliases.

    Args:
        slim: The trained slim model, from finetune.
        report: From evaluate.
        selection: From prune.
        dataset: From ingest, to judge on again if another model became champion in the meantime.
        config: The recipe's section `register`.
        window: What this audit stands for, from the step window.
        workspace: Folder that outlives the step.

    Returns:
        bundle: All that was decided on, in one file that `slimrec verify` replays.
        Output: Name, version and aliases in the registry.
    """
    from slimrec.stages import execute_or_exit

    return execute_or_exit(
        "register",
        {**config, "window": window},
        workspace=workspace,
        slim=slim.path,
        report=report.path,
        selection=selection.path,
        dataset=dataset.path,
        bundle=bundle and bundle.path,  # none in an audit compiled before there were bundles
    )


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def refuse(
    slim: dsl.Input[dsl.Model],
    report: dsl.Input[dsl.Artifact],
    selection: dsl.Input[dsl.Artifact],
    bundle: dsl.Output[dsl.Artifact],
    config: dict,
    window: str = "",
    workspace: str = "",
) -> str:
    """Leave the registry alone and say why. An outcome, not a failure: the same stage sees the verdict and refuses.

    Args:
        slim: The trained slim model, from finetune.
        report: From evaluate.
        selection: From prune.
        config: The recipe's section `register`.
        window: What this audit stands for, from the step window.
        workspace: Folder that outlives the step.

    Returns:
        bundle: All that was decided on, in one file that `slimrec verify` replays.
        Output: The reason.
    """
    from slimrec.stages import execute_or_exit

    outcome = execute_or_exit(
        "register",
        {**config, "window": window},
        workspace=workspace,
        slim=slim.path,
        report=report.path,
        selection=selection.path,
        bundle=bundle and bundle.path,  # none in an audit compiled before there were bundles
    )
    print(f"slimrec: not registered: {outcome['reason']}")
    return outcome["reason"]
