"""One command line: `slimrec COMMAND`, every command in its family; `python -m pipelines` is the same program."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Annotated

import typer

from slimrec import __version__, faults
from slimrec.cli import artifacts, audit, cluster, data, registry, verdict
from slimrec.errors import ConfigError, SlimrecError, TransientError

FAMILIES = {
    "An audit on this machine": {"audit": audit.audit, "run": audit.run, "transfer": audit.transfer},
    "An audit on a cluster": {
        "submit": cluster.submit,
        "upload": cluster.upload,
        "schedule": cluster.schedule,
        "unschedule": cluster.unschedule,
        "list": cluster.list_all,
        "compile": cluster.compile_pipeline,
    },
    "A log and a model": {
        "schema": data.schema,
        "predict": data.predict,
        "certify": verdict.certify,
        "planted": data.planted,
    },
    "The registry": {"promote": registry.promote, "rollback": registry.rollback, "history": registry.history},
    "Artifacts and single stages": {
        "verify": artifacts.verify,
        "push": artifacts.push,
        "pull": artifacts.pull,
        "stage": audit.stage,
    },
}
# Which extra brings a package that is imported late. What an own network or method imports is nobody's extra.
EXTRAS = {
    "pipelines": {"docker", "kfp", "kfp_server_api"},
    "train": {"boto3", "cryptography", "jinja2", "kubeflow", "matplotlib", "mlflow", "numpy", "pandas", "pyarrow", "safetensors",
              "sklearn", "torch", "tqdm"},
    "sharded": {"fbgemm_gpu", "torchrec"},
}  # fmt: skip

app = typer.Typer(
    help="Which input fields of a CTR model earn their cost: audit them, prune the model, prove that nothing was lost.",
    epilog="A command ends with 0, or with a class: 2 not a command, 10 the data is bad, 20 the recipe or an option is bad, "
    "30 the surroundings failed, 40 preempted, 50 somebody else was faster, 60 an artifact is not what it should be.",
    pretty_exceptions_enable=False,
)
for panel, commands in FAMILIES.items():
    for called, does in commands.items():
        app.command(called, rich_help_panel=panel)(does)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"slimrec {__version__}")
        raise typer.Exit


@app.callback()
def _before_any_command(
    version: Annotated[
        bool, typer.Option("--version", help="Say the version.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the program itself."""


def main(words: list[str] | None = None, name: str = "slimrec") -> None:
    """Entry point: errors meant for a person end in one sentence and their exit class; without words, the help."""
    words = sys.argv[1:] if words is None else words
    try:
        _require_streams()
        try:
            app(args=words or ["--help"], prog_name=name)
        except SystemExit as ended:
            _flush()
            if isinstance(ended.__context__, BrokenPipeError):  # of which Typer and rich say nothing
                raise ended.__context__ from None
            raise
    except BrokenPipeError:
        _end(TransientError("whoever reads standard output closed it before all was written; read it to its end"))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
        if extra is None:
            raise
        _end(ConfigError(f'this needs {package}, which is not installed: pip install "slimrec[{extra}]", '
                         f'in a checkout pip install ".[{extra}]"'))  # fmt: skip
    except Exception as error:
        failure = faults.sort(error, places=filter(os.path.isfile, [os.path.realpath("/dev/stdout")]))
        if failure is None:
            raise
        _end(failure)


def _require_streams() -> None:
    """Refuse a result that has nowhere to go; who closes one of the other two streams does without it.

    In each one's place comes an open file: the next that is opened would have its number, and get what is said.
    """
    closed = [
        (name, mode) for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")) if not getattr(sys, name)
    ]
    for name, mode in closed:
        setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if ("stdout", "w") in closed:
        raise ConfigError("standard output is closed, and what this says has nowhere to go: > /dev/null throws it away")


def _flush() -> None:
    """Write what is left: Python's own end has no exit class for what cannot be written, and a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries the same once more
        raise


def _end(error: SlimrecError) -> None:
    with suppress(OSError):  # the error is what matters
        _flush()
    print(f"slimrec: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
