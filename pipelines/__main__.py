"""`python -m pipelines compile | run | submit`: the same audit as a file, on this machine, or on a cluster."""

import argparse
import os
import sys
from pathlib import Path

from slimrec.config import read_recipe
from slimrec.errors import ConfigError, SlimrecError, TransientError


def compile_pipeline(output: Path, recipe: Path | None = None) -> None:
    """Write the pipeline as YAML for the Kubeflow UI; a recipe's values become the defaults of its parameters."""
    if output.suffix not in (".yaml", ".yml", ".json"):
        raise ConfigError(f"the pipeline is written as .yaml or .json, got '{output}'")
    values = None if recipe is None else read_recipe(recipe)

    from kfp.compiler import Compiler

    from pipelines.audit import arguments, audit

    output.parent.mkdir(parents=True, exist_ok=True)
    Compiler().compile(audit, str(output), pipeline_parameters=arguments(values) if values else None)


def submit(recipe: Path, host: str) -> str:
    """Start the audit on a cluster; returns the run's id."""
    values = read_recipe(recipe)
    if not host:
        raise ConfigError("no host to submit to: give --host URL or set KFP_HOST to the Kubeflow Pipelines API")

    from kfp import Client
    from kfp_server_api import ApiException
    from urllib3.exceptions import HTTPError

    from pipelines.audit import arguments, audit

    try:
        run = Client(host=host).create_run_from_pipeline_func(audit, arguments(values), run_name=recipe.stem)
    except (ApiException, HTTPError, OSError) as error:
        said = " ".join(str(error).split())[:300]
        raise TransientError(
            f"Kubeflow Pipelines at {host} did not take the run: {said}; check the host, try again"
        ) from None
    return run.run_id


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("compile", help="write the pipeline as YAML")
    one.add_argument("--output", type=Path, required=True, help="file to write")
    one.add_argument("--recipe", type=Path, help="recipe whose values become the defaults")
    one = commands.add_parser("run", help="run a recipe on this machine")
    one.add_argument("recipe", type=Path)
    one.add_argument("--output", type=Path, help="folder of the run; runs/NAME-OF-RECIPE by default")
    one = commands.add_parser("submit", help="run a recipe on a cluster")
    one.add_argument("recipe", type=Path)
    one.add_argument(
        "--host", default=os.environ.get("KFP_HOST", ""), help="Kubeflow Pipelines API; KFP_HOST by default"
    )
    return parser


def main(words: list[str] | None = None) -> None:
    """Entry point: errors meant for a person end in one sentence and their exit class."""
    given = _parser().parse_args(words)
    try:
        if given.command == "compile":
            compile_pipeline(given.output, given.recipe)
        elif given.command == "submit":
            print(submit(given.recipe, given.host))
        else:
            from pipelines.local import run

            run(given.recipe, given.output or Path("runs", given.recipe.stem))
    except SlimrecError as error:
        print(f"slimrec: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
