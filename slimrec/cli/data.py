"""Commands for a log and a model: draft a schema, score rows, make a log up."""

from __future__ import annotations

import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Annotated

import typer

from slimrec.errors import ConfigError

LOOKED_AT = 100_000  # rows, for leaks


def schema(
    log: Annotated[str, typer.Argument(help="Parquet or CSV to look at: a file, a folder or an s3:// address")],
    label: Annotated[str | None, typer.Option(help="the label column, if its name does not tell")] = None,
    output: Annotated[Path | None, typer.Option(help="write here instead of to the screen")] = None,
) -> None:
    """Draft a schema YAML from a log, for a person to edit."""
    from slimrec.artifacts import write_text
    from slimrec.artifacts.spare import spare
    from slimrec.data.draft import draft
    from slimrec.data.files import PARQUET, TEXT

    if output is not None:
        spare(log, output, PARQUET + TEXT)
    text = draft(log, label)
    text = "".join(f"# {line}\n" for line in _leaking(log, text)) + text
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, text)


def _leaking(log: str, text: str) -> list[str]:
    """What looks like a leak in the first rows of a log, read by a drafted schema."""
    from slimrec.config import IngestConfig, SplitConfig
    from slimrec.errors import InputError
    from slimrec.stages import ingest
    from slimrec.track import Tracker
    from slimrec.verdict import leaks

    with tempfile.TemporaryDirectory(prefix="slimrec-") as scratch:
        drafted = Path(scratch) / "schema.yaml"
        drafted.write_text(text, encoding="utf-8")
        config = IngestConfig(source=log, fields=str(drafted), max_rows=LOOKED_AT, split=SplitConfig(by="random"))
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # the screen is the draft's, often a file
                ingest.run(config, Tracker(), Path(scratch) / "dataset")
        except (InputError, ConfigError) as error:
            return [f"Leaks were not looked for: {error}"]
        return [f"LOOKS LIKE A LEAK: {leak.said}." for leak in leaks.read(Path(scratch) / "dataset")]


def predict(
    model: Annotated[
        str, typer.Argument(help="a slim model: folder, s3:// address, models:/NAME@champion or models:/NAME/VERSION")
    ],
    log: Annotated[str, typer.Argument(help="raw rows, Parquet or CSV: a file, a folder or an s3:// address")],
    output: Annotated[Path | None, typer.Option(help="write Parquet or CSV here instead of to the screen")] = None,
    key: Annotated[
        list[str], typer.Option(metavar="COLUMN", help="column to write beside the probability; again for another")
    ] = [],  # noqa: B006
) -> None:
    """Score raw rows with a slim model: one probability a row."""
    from slimrec.registry.located import located
    from slimrec.serving.predictor import predict_file

    with located(model) as folder:
        predict_file(folder, log, output, key)
    if output is not None:
        typer.echo(f"wrote {output}: {', '.join([*key, 'probability'])}", err=True)


def planted(
    output: Annotated[Path, typer.Argument(help="Parquet file to write")],
    rows: Annotated[int, typer.Option(help="how many")] = 60_000,
    seed: Annotated[int, typer.Option(help="another one, another log")] = 0,
    drift: Annotated[
        float, typer.Option(help="0 to 1: how much `fades` loses its effect, and `rises` gains one")
    ] = 0.0,
) -> None:
    """Write a generated click log whose useful and useless fields are known."""
    from slimrec.data.files import PARQUET, is_parquet
    from slimrec.data.planted import write

    if not is_parquet(output.name):
        raise ConfigError(f"the log is written as {' or '.join(PARQUET)}, got '{output}'")

    write(output, rows=rows, seed=seed, drift=drift)
