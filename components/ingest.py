"""Ingest as a step: raw logs in, the dataset that all later steps read out."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(dataset: dsl.Output[dsl.Dataset], config: dict, fingerprint: str = "", workspace: str = ""):
    """Read, split, encode and shard the log.

    Args:
        config: The recipe's section `ingest`.
        fingerprint: Of the source; another one makes Kubeflow run this step again instead of taking what it cached.
        workspace: Folder that outlives the step.

    Returns:
        dataset: Folder with schema, vocabularies, shards and manifest.
    """
    from slimrec.stages import execute_or_exit

    figures = execute_or_exit("ingest", config, workspace=workspace, dataset=dataset.path)
    dataset.metadata.update({**figures, "source_fingerprint": fingerprint})
