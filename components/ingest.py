"""Ingest as a step: raw logs in, the dataset that all later steps read out."""

from kfp import dsl
from slimrec.components import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def ingest(
    dataset: dsl.Output[dsl.Dataset],
    config: dict,
    source: str = "",
    fields: dict = {},  # noqa: B006  KFP reads the default, nobody changes it
    fingerprint: str = "",
    workspace: str = "",
):
    """Read, split, encode and shard the log.

    Args:
        dataset: Folder with schema, vocabularies, shards and manifest.
        config: The recipe's section `ingest`.
        source: File, folder or s3:// of Parquet or CSV; "" for what the section says.
        fields: The schema as JSON; empty for what the section says.
        fingerprint: Of the source; another one makes Kubeflow run this step again instead of taking what it cached.
        workspace: Folder that outlives the step.
    """
    from slimrec.stages import execute_or_exit

    figures = execute_or_exit(
        "ingest",
        config,
        choices={"source": source or None, "fields": fields or None},
        workspace=workspace,
        dataset=dataset.path,
    )
    dataset.metadata.update({**figures, "source_fingerprint": fingerprint})
