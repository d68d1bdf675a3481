"""Ingest on many machines as steps: a plan, counts of each part, what they come to, each part encoded, all gathered."""

from typing import List  # noqa: UP035  KFP knows a list of artifacts by this name

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan(
    plan: dsl.Output[dsl.Artifact],
    config: dict,
    fingerprint: str = "",
    workspace: str = "",
) -> List[int]:  # noqa: UP006
    """Settle how rows are split and which part reads which files.

    Args:
        config: The recipe's section `ingest`.
        fingerprint: Of the source; another one makes Kubeflow run this step again instead of taking what it cached.
        workspace: Folder that outlives the step.

    Returns:
        plan: What every part has to know.
        Output: The numbers of the parts.
    """
    from slimrec.stages import execute_or_exit

    figures = execute_or_exit("plan", config, workspace=workspace, plan=plan.path)
    return list(range(figures["parts"]))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def count(counts: dsl.Output[dsl.Artifact], plan: dsl.Input[dsl.Artifact], part: int, workspace: str = ""):
    """Learn from the training rows of one part.

    Args:
        plan: From plan.
        part: Number of the part.
        workspace: Folder that outlives the step.

    Returns:
        counts: Values and how often they came, exact sums, samples for quantiles.
    """
    from slimrec.stages import execute_or_exit

    execute_or_exit("count", {"part": part}, workspace=workspace, plan=plan.path, counts=counts.path)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def merge(
    encoding: dsl.Output[dsl.Artifact],
    plan: dsl.Input[dsl.Artifact],
    counts: dsl.Input[List[dsl.Artifact]],  # noqa: UP006
    workspace: str = "",
):
    """Join the counts of all parts to vocabularies and scales.

    Args:
        plan: From plan.
        counts: From count, of all parts.
        workspace: Folder that outlives the step.

    Returns:
        encoding: The fitted schema and its vocabularies.
    """
    from slimrec.stages import execute_or_exit

    paths = [each.path for each in counts]
    execute_or_exit("merge", {}, workspace=workspace, plan=plan.path, counts=paths, encoding=encoding.path)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def encode(
    encoded: dsl.Output[dsl.Artifact],
    plan: dsl.Input[dsl.Artifact],
    encoding: dsl.Input[dsl.Artifact],
    part: int,
    workspace: str = "",
):
    """Encode the rows of one part.

    Args:
        plan: From plan.
        encoding: From merge.
        part: Number of the part.
        workspace: Folder that outlives the step.

    Returns:
        encoded: The part's rows as ids and scaled numbers.
    """
    from slimrec.stages import execute_or_exit

    paths = {"plan": plan.path, "encoding": encoding.path, "encoded": encoded.path}
    execute_or_exit("encode", {"part": part}, workspace=workspace, **paths)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def gather(
    dataset: dsl.Output[dsl.Dataset],
    plan: dsl.Input[dsl.Artifact],
    encoding: dsl.Input[dsl.Artifact],
    encoded: dsl.Input[List[dsl.Artifact]],  # noqa: UP006
    fingerprint: str = "",
    workspace: str = "",
):
    """Put the encoded rows of all parts into one dataset.

    Args:
        plan: From plan.
        encoding: From merge.
        encoded: From encode, of all parts.
        fingerprint: Of the source, to be noted.
        workspace: Folder that outlives the step.

    Returns:
        dataset: Folder with schema, vocabularies, shards and manifest; the same as from ingest.
    """
    from slimrec.stages import execute_or_exit

    paths = {"plan": plan.path, "encoding": encoding.path, "encoded": [each.path for each in encoded]}
    figures = execute_or_exit("gather", {}, workspace=workspace, dataset=dataset.path, **paths)
    dataset.metadata.update({**figures, "source_fingerprint": fingerprint})
