"""The command for the verdict alone, on scores that any two models gave."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def certify(
    scores: Annotated[str, typer.Argument(help="Parquet or CSV, a row a line: a file, a folder or an s3:// address")],
    label: Annotated[str, typer.Option(help="column with the labels, 0 and 1")],
    full: Annotated[str, typer.Option(help="column with the scores of the model that is there")],
    slim: Annotated[str, typer.Option(help="column with the scores of the model that may replace it")],
    group: Annotated[str | None, typer.Option(help="column whose equal values count as one observation: users")] = None,
    weight: Annotated[str | None, typer.Option(help="column with the rows' weights")] = None,
    allowed_loss: Annotated[float, typer.Option(min=0, max=0.5, help="AUC that the slim model may lose")] = 0.001,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="of each bound")] = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="all figures as JSON")] = False,
) -> None:
    """Is one model's AUC as good as another's, judged on their scores? No training; ends with 0 whatever the verdict."""
    from slimrec.verdict.scores import judge, told

    found = judge(scores, label, full, slim, group, weight, allowed_loss, confidence)
    typer.echo(json.dumps(found, indent=1) if as_json else told(found))
