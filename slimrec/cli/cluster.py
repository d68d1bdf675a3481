"""Commands that audit on a cluster: now, on a schedule, or started by people in the Kubeflow UI."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from slimrec.errors import ConfigError

SHOWN_RUNS = 10
Recipe = Annotated[Path, typer.Argument(help="YAML file, a section a stage")]
Preset = Annotated[str, typer.Option(help="size of the pods: S, M (one GPU) or L (eight)")]
Size = Annotated[
    list[str],
    typer.Option(help="KIND.WHAT=AMOUNT changed in the preset, such as train.memory=16Gi", show_default=False),
]
Tag = Annotated[bool, typer.Option("--allow-tag", help="take an image by its tag, which may be moved")]
Host = Annotated[
    str, typer.Option(envvar="KFP_HOST", help="of Kubeflow Pipelines, also as in the browser", show_default=False)
]
Namespace = Annotated[
    str, typer.Option(envvar="KFP_NAMESPACE", help="where many users share a cluster", show_default=False)
]
Account = Annotated[str, typer.Option(help="the pods' service account")]


def submit(
    recipe: Recipe,
    preset: Preset = "S",
    size: Size = (),
    allow_tag: Tag = False,
    host: Host = "",
    namespace: Namespace = "",
    service_account: Account = "slimrec-pipeline",
) -> None:
    """Start a recipe's audit on a cluster; prints the run's id."""
    sent = _program(recipe, preset, size, allow_tag)
    typer.echo(_cluster(host, namespace).submit(sent, recipe.stem, service_account))


def upload(
    recipe: Recipe,
    preset: Preset = "S",
    size: Size = (),
    allow_tag: Tag = False,
    host: Host = "",
    namespace: Namespace = "",
) -> None:
    """Bring the pipeline to a cluster, for people to start it in the UI; prints the version's name."""
    sent = _program(recipe, preset, size, allow_tag)
    _cluster(host, namespace).upload(sent)
    typer.echo(sent.name)


def schedule(
    recipe: Recipe,
    cron: Annotated[str, typer.Option(help="six fields: '0 0 3 * * 1' is every Monday at 3:00:00 UTC")],
    name: Annotated[
        str | None, typer.Option(help="of the schedule; the recipe's by default", show_default=False)
    ] = None,
    preset: Preset = "S",
    size: Size = (),
    allow_tag: Tag = False,
    host: Host = "",
    namespace: Namespace = "",
    service_account: Account = "slimrec-pipeline",
) -> None:
    """Start a recipe's audit on a cluster again and again; prints the name to take it off by."""
    from slimrec.pipelines.cron import check

    cron, name = check(cron), name or recipe.stem
    sent = _program(recipe, preset, size, allow_tag)
    _cluster(host, namespace).schedule(sent, name, cron, service_account)
    typer.echo(name)


def unschedule(
    name: Annotated[str, typer.Argument(help="as `schedule` printed it")], host: Host = "", namespace: Namespace = ""
) -> None:
    """Take a schedule off."""
    _cluster(host, namespace).unschedule(name)


def list_all(host: Host = "", namespace: Namespace = "") -> None:
    """Show what is scheduled and what ran last."""
    cluster = _cluster(host, namespace)
    planned = []
    for one in cluster.schedules():
        cron, version = one.trigger.cron_schedule, one.pipeline_version_reference
        uploaded = version.pipeline_version_id if version else "-"
        planned.append((one.display_name, cron.cron if cron else "-", one.status or one.mode, uploaded))
    ran = [
        (one.display_name, f"{one.created_at:%Y-%m-%d %H:%M}", one.state or "-", one.run_id)
        for one in cluster.runs(SHOWN_RUNS)
    ]
    _columns(("SCHEDULE", "WHEN (UTC)", "STATE", "VERSION"), planned)
    typer.echo()
    _columns((f"LAST {SHOWN_RUNS} RUNS", "BEGUN (UTC)", "STATE", "ID"), ran)


def _columns(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Lines that a terminal may wrap, and never shortened: people copy ids from them."""
    lines = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        typer.echo("  ".join(word.ljust(width) for word, width in zip(line, widths)).rstrip())


def compile_pipeline(
    output: Annotated[Path, typer.Option(help="YAML file to write")],
    recipe: Annotated[Path | None, typer.Argument(help="whose values become the defaults", show_default=False)] = None,
    preset: Preset = "S",
    size: Size = (),
    allow_tag: Tag = False,
    as_option: Annotated[Path | None, typer.Option("--recipe", hidden=True)] = None,
) -> None:
    """Write the pipeline as YAML for the Kubeflow UI; a recipe's values become the defaults of its parameters."""
    from slimrec.config import read_recipe

    if recipe and as_option:
        raise ConfigError(f"two recipes are given, {recipe} and {as_option}; give one")
    if output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"the pipeline is written as .yaml, got '{output}'")
    recipe = recipe or as_option
    values = read_recipe(recipe) if recipe else None

    from slimrec.pipelines.cluster import write

    write(output, values, preset, allow_tag, size)


def _program(recipe: Path, preset: str, size: Sequence[str], allow_tag: bool):
    """The recipe compiled: what can be wrong with it is found before a cluster is asked."""
    from slimrec.config import read_recipe
    from slimrec.pipelines.client import program

    return program(recipe.stem, read_recipe(recipe), preset, allow_tag, size)


def _cluster(host: str, namespace: str):
    from slimrec.pipelines.client import Cluster
    from slimrec.pipelines.connection import token

    return Cluster(host, namespace, token())
