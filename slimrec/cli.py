"""The command line for one thing at a time: draft a schema, score rows, move a champion. `python -m pipelines` runs audits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from slimrec.errors import ConfigError, SlimrecError, TransientError

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def schema(
    path: Annotated[Path, typer.Argument(help="Parquet or CSV file to look at")],
    label: Annotated[str | None, typer.Option(help="the label column, if its name does not tell")] = None,
    output: Annotated[Path | None, typer.Option(help="write here instead of to the screen")] = None,
) -> None:
    """Draft a schema YAML from a file, for a person to edit."""
    from slimrec.data.draft import draft

    text = draft(path, label)
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="folder of a slim model")],
    file: Annotated[Path, typer.Argument(help="Parquet or CSV file of raw rows")],
    output: Annotated[Path | None, typer.Option(help="write Parquet or CSV here instead of to the screen")] = None,
) -> None:
    """Score raw rows with a slim model: one probability a row."""
    from slimrec.serving.predictor import predict_file

    predict_file(model, file, output)


@app.command()
def planted(
    output: Annotated[Path, typer.Argument(help="Parquet file to write")],
    rows: Annotated[int, typer.Option(help="how many")] = 60_000,
    seed: Annotated[int, typer.Option(help="another one, another log")] = 0,
    drift: Annotated[
        float, typer.Option(help="0 to 1: how much `fades` loses its effect, and `rises` gains one")
    ] = 0.0,
) -> None:
    """Write a generated click log whose useful and useless fields are known."""
    from slimrec.data.files import PARQUET
    from slimrec.data.planted import write

    if not output.name.endswith(PARQUET):
        raise ConfigError(f"the log is written as {' or '.join(PARQUET)}, got '{output}'")

    write(output, rows=rows, seed=seed, drift=drift)


@app.command()
def verify(folder: Annotated[Path, typer.Argument(help="any artifact folder")]) -> None:
    """Check every file of an artifact against its manifest."""
    from slimrec.artifacts import digest
    from slimrec.artifacts import verify as check

    typer.echo(f"{check(folder)['kind']} {digest(folder)}")


@app.command()
def stage(
    name: Annotated[
        str,
        typer.Argument(
            help="ingest, sample, pretrain, prune, finetune, evaluate or register; fingerprint and window come before "
            "them; plan, count, merge, encode and gather are ingest in parts"
        ),
    ],
    recipe: Annotated[Path, typer.Argument(help="recipe YAML; the stage reads its own section")],
    path: Annotated[
        list[str], typer.Option(help="NAME=FOLDER, one for each artifact read or written; NAME+=FOLDER for one of many")
    ],
    workspace: Annotated[str, typer.Option(help="folder for checkpoints, kept between tries")] = "",
    part: Annotated[int | None, typer.Option(help="which part to count or encode, from 0 on")] = None,
) -> None:
    """Run one stage by hand, or under torchrun."""
    from slimrec.config import read_recipe
    from slimrec.stages import STAGES, execute

    broken = [item for item in path if "=" not in item]
    if broken:
        raise ConfigError(f"--path takes NAME=FOLDER, got '{broken[0]}'")
    values = read_recipe(recipe)
    # the plan's settings, and the source of a fingerprint, are those of ingest; the other parts have none of their own
    section = getattr(values, name, values.ingest) if name in (*STAGES, "plan") else None
    config = {} if section is None else section.model_dump()
    if part is not None:
        config["part"] = part
    metrics = execute(name, config, workspace=workspace, **_folders(path))
    typer.echo(json.dumps(metrics, indent=1, default=str))


def _folders(path: list[str]) -> dict[str, str | list[str]]:
    folders: dict[str, str | list[str]] = {}
    for name, folder in (item.split("=", 1) for item in path):
        if name.endswith("+"):
            folders.setdefault(name[:-1], []).append(folder)
        else:
            folders[name] = folder
    return folders


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="any artifact folder")],
    address: Annotated[str, typer.Argument(help="s3://BUCKET/FOLDER; credentials and endpoint as AWS_... say")],
) -> None:
    """Publish an artifact at an s3:// address, once: another content there is a conflict."""
    from slimrec.artifacts import remote

    typer.echo("pushed" if remote.push(folder, address) else "the same content was there already")


@app.command()
def pull(
    address: Annotated[str, typer.Argument(help="s3:// address of an artifact")],
    folder: Annotated[Path, typer.Argument(help="folder to make")],
) -> None:
    """Bring an artifact from an s3:// address, every file checked against its manifest."""
    from slimrec.artifacts import remote

    remote.pull(address, folder)


Name = Annotated[str, typer.Argument(help="registered model, in the registry at MLFLOW_TRACKING_URI")]
Why = Annotated[str, typer.Option(help="reason for the ledger")]


@app.command()
def promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="version to make champion; the challenger by default")] = "",
    why: Why = "",
) -> None:
    """Make a version champion, if it was judged against the present one and is still what was registered."""
    from slimrec.registry import promotion

    _tell(promotion.promote(name, version, why))


@app.command()
def rollback(name: Name, why: Why = "") -> None:
    """Make the previous champion champion again."""
    from slimrec.registry import promotion

    _tell(promotion.rollback(name, why))


@app.command()
def history(name: Name) -> None:
    """List who moved the champion from where to where, when and why."""
    from slimrec.registry import promotion

    found = promotion.history(name)
    for entry in found.entries:
        line = f"{entry.number:4} {entry.at} {entry.by}: {entry.kind} {entry.action} {entry.before or '-'} -> {entry.after}"
        typer.echo(f"{line}  {entry.why}".rstrip())
    typer.echo(f"champion of {name}: {f'version {found.champion}' if found.champion else 'none'}")
    for remark in found.remarks:
        typer.echo(f"mind: {remark}")


def _tell(move) -> None:
    for remark in move.remarks:
        typer.echo(remark)
    before = f", before: {f'version {move.before}' if move.before else 'none'}" if move.moved else " already"
    typer.echo(f"champion of {move.name}: version {move.after}{before}")


def main() -> None:
    """Entry point: errors meant for a person end in one sentence and their exit class."""
    try:
        app()
    except SlimrecError as error:
        print(f"slimrec: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"slimrec: {error}", file=sys.stderr)
        sys.exit(TransientError.exit_code)


if __name__ == "__main__":
    main()
