"""Ingest past one machine: files are counted and encoded in parts, side by side, to the dataset of one machine."""

from collections.abc import Callable
from typing import Any

from kfp import dsl
from slimrec.components.ingest_parts import count, encode, gather, merge, plan


def ingest_in_parts(
    step: Callable[[str, dsl.PipelineTask], dsl.PipelineTask], given: dict[str, Any], shared: dict[str, Any]
) -> dsl.PipelineTask:
    """Put the tasks into the pipeline that is being built; the last one, whose `dataset` is that of `ingest`.

    `step` is the one of `pipelines.audit.build`, `given` what `ingest` gets beside what all tasks share. There are as
    many parts as `parts` in the section says, at most one a file. The server has to know `dsl.Collected` (Kubeflow
    Pipelines 2.14, pull request 11725).
    """
    planned = step("plan", plan(**given, **shared))
    shared = {**shared, "plan": planned.outputs["plan"]}
    with dsl.ParallelFor(planned.outputs["Output"], name="count-parts") as part:
        counted = step("count", count(part=part, **shared))
    merged = step("merge", merge(counts=dsl.Collected(counted.outputs["counts"]), **shared))
    encoding = merged.outputs["encoding"]
    with dsl.ParallelFor(planned.outputs["Output"], name="encode-parts") as part:
        done = step("encode", encode(part=part, encoding=encoding, **shared))
    encoded = dsl.Collected(done.outputs["encoded"])
    return step("gather", gather(encoding=encoding, encoded=encoded, fingerprint=given["fingerprint"], **shared))
