"""`python -m pipelines COMMAND`: the same audit as a file, on this machine, or on a cluster, now or on a schedule."""

import argparse
import os
import sys
from pathlib import Path

from slimrec.config import read_recipe
from slimrec.errors import ConfigError, SlimrecError

SHOWN_RUNS = 10


def compile_pipeline(given: argparse.Namespace) -> None:
    """Write the pipeline as YAML for the Kubeflow UI; a recipe's values become the defaults of its parameters."""
    if given.output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"the pipeline is written as .yaml, got '{given.output}'")
    recipe = read_recipe(given.recipe) if given.recipe else None

    from slimrec.pipelines.cluster import write

    write(given.output, recipe, given.preset, given.allow_tag, given.size)


def run_here(given: argparse.Namespace) -> None:
    """Run the audit on this machine."""
    from slimrec.pipelines.local import run

    run(given.recipe, given.output or Path("runs", given.recipe.stem), given.runner, given.memory)


def submit(given: argparse.Namespace) -> None:
    """Start the audit on a cluster; prints the run's id."""
    sent = _program(given)
    print(_cluster(given).submit(sent, given.recipe.stem, given.service_account))


def upload(given: argparse.Namespace) -> None:
    """Bring the pipeline to a cluster, for people to start it in the UI; prints the version's name."""
    sent = _program(given)
    _cluster(given).upload(sent)
    print(sent.name)


def schedule(given: argparse.Namespace) -> None:
    """Start the audit on a cluster again and again; prints the name to take it off by."""
    from slimrec.pipelines.cron import check

    cron, name = check(given.cron), given.name or given.recipe.stem
    sent = _program(given)
    _cluster(given).schedule(sent, name, cron, given.service_account)
    print(name)


def unschedule(given: argparse.Namespace) -> None:
    """Take a schedule off."""
    _cluster(given).unschedule(given.name)


def list_all(given: argparse.Namespace) -> None:
    """Show what is scheduled and what ran last."""
    from rich.console import Console
    from rich.table import Table

    cluster = _cluster(given)
    planned = Table("schedule", "when (UTC)", "state", "version", title="Schedules", title_justify="left")
    for one in cluster.schedules():
        cron, version = one.trigger.cron_schedule, one.pipeline_version_reference
        planned.add_row(
            one.display_name,
            cron.cron if cron else "",
            one.status or one.mode,
            version.pipeline_version_id if version else "",
        )
    ran = Table("run", "begun (UTC)", "state", "id", title=f"Last {SHOWN_RUNS} runs", title_justify="left")
    for one in cluster.runs(SHOWN_RUNS):
        ran.add_row(one.display_name, f"{one.created_at:%Y-%m-%d %H:%M}", one.state, one.run_id)
    for table in (planned, ran):
        Console().print(table)


def _program(given: argparse.Namespace):
    """The recipe compiled: what can be wrong with it is found before a cluster is asked."""
    from slimrec.pipelines.client import program

    return program(given.recipe.stem, read_recipe(given.recipe), given.preset, given.allow_tag, given.size)


def _cluster(given: argparse.Namespace):
    from slimrec.pipelines.client import Cluster
    from slimrec.pipelines.connection import token

    return Cluster(given.host, given.namespace, token())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, does) -> argparse.ArgumentParser:
        told = does.__doc__.rstrip(".")
        one = commands.add_parser(name, help=told[0].lower() + told[1:], description=told)
        one.set_defaults(does=does)
        return one

    one = command("compile", compile_pipeline)
    one.add_argument("--output", type=Path, required=True, help="file to write")
    one.add_argument("--recipe", type=Path, help="recipe whose values become the defaults")
    _add_program(one)
    one = command("run", run_here)
    one.add_argument("recipe", type=Path, help="YAML file, a section a stage")
    one.add_argument("--output", type=Path, help="folder of the run; runs/NAME-OF-RECIPE by default")
    one.add_argument("--runner", choices=("process", "docker"), default="process", help="what a step is run as")
    one.add_argument("--memory", default="4g", help="what a step's container may use; 4g by default")
    for name, does in (("submit", submit), ("upload", upload), ("schedule", schedule)):
        one = command(name, does)
        one.add_argument("recipe", type=Path, help="YAML file, a section a stage")
        _add_program(one)
        _add_host(one)
        if does is not upload:
            one.add_argument("--service-account", default="slimrec-pipeline", help="the pods' service account")
        if does is schedule:
            one.add_argument("--cron", required=True, help="six fields: '0 0 3 * * 1' is every Monday at 3:00:00 UTC")
            one.add_argument("--name", help="of the schedule; the recipe's by default")
    one = command("unschedule", unschedule)
    one.add_argument("name", help="as `schedule` printed it")
    _add_host(one)
    _add_host(command("list", list_all))
    return parser


def _add_program(one: argparse.ArgumentParser) -> None:
    one.add_argument("--preset", default="S", help="size of the pods: S, M (one GPU) or L (eight); S by default")
    one.add_argument("--size", action="append", default=[], help="KIND.WHAT=AMOUNT changed in it: train.memory=16Gi")
    one.add_argument("--allow-tag", action="store_true", help="take an image by its tag, which may be moved")


def _add_host(one: argparse.ArgumentParser) -> None:
    host, namespace = (os.environ.get(name, "") for name in ("KFP_HOST", "KFP_NAMESPACE"))
    one.add_argument("--host", default=host, help="Kubeflow Pipelines API; KFP_HOST by default")
    one.add_argument(
        "--namespace", default=namespace, help="where many users share a cluster; KFP_NAMESPACE by default"
    )


def main(words: list[str] | None = None) -> None:
    """Entry point: errors meant for a person end in one sentence and their exit class."""
    words = sys.argv[1:] if words is None else words
    given = _parser().parse_args(words or ["--help"])
    try:
        given.does(given)
    except SlimrecError as error:
        print(f"slimrec: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
