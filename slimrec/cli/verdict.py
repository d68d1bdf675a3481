"""The command for the verdict alone, on scores that any two models gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

_RANK = typer.Option(help="what scores are: rank, probability or logit")
_BINDING = typer.Option(
    help="LOSS=BY, a loss that may be worse by so much: log_loss, calibration, slice_calibration, ..."
)


def certify(
    scores: Annotated[str, typer.Argument(help="Parquet or CSV, a row a line: a file, a folder or an s3:// address")],
    label: Annotated[str, typer.Option(help="column with the labels, 0 and 1")],
    full: Annotated[str, typer.Option(help="column with the scores of the model that is there")],
    slim: Annotated[str, typer.Option(help="column with the scores of the model that may replace it")],
    group: Annotated[str | None, typer.Option(help="column whose equal values count as one observation: users")] = None,
    weight: Annotated[str | None, typer.Option(help="column with the rows' weights")] = None,
    allowed_loss: Annotated[float, typer.Option(min=0, max=0.5, help="AUC that the slim model may lose")] = 0.001,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="of each bound")] = 0.95,
    slice_by: Annotated[list[str], typer.Option("--slice", help="column whose frequent values are protected")] = [],  # noqa: B006
    range_of: Annotated[list[str], typer.Option("--range", help="column of which four ranges are protected")] = [],  # noqa: B006
    allowed_slice_loss: Annotated[float, typer.Option(min=0, max=0.99, help="AUC that each slice may lose")] = 0.01,
    unproven_slices: Annotated[str, typer.Option(help="of too few rows: veto or remark")] = "veto",
    binding: Annotated[list[str], _BINDING] = [],  # noqa: B006
    ndcg_at: Annotated[int, typer.Option(min=1, help="places of the list that a group is shown")] = 10,
    scale: Annotated[str, _RANK] = "rank",
    schema: Annotated[
        Path | None, typer.Option(help="file whose csv, missing and rule of the label say how the rows are read")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="file for a page to read in a browser")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="all figures as JSON")] = False,
) -> None:
    """Is one model's AUC as good as another's, judged on their scores? No training; ends with 0 whatever the verdict."""
    from slimrec.artifacts import write_text
    from slimrec.artifacts.spare import spare
    from slimrec.data.files import PARQUET, TEXT
    from slimrec.errors import ConfigError
    from slimrec.verdict.scores import SCALES, html, judge, told

    if scale not in SCALES:
        raise ConfigError(f"--scale is '{scale}'; give {', '.join(SCALES)}")
    if report is not None:
        spare(scores, report, PARQUET + TEXT)
    limits = {"allowed_slice_loss": allowed_slice_loss, "unproven_slices": unproven_slices, "ndcg_at": ndcg_at}
    found = judge(
        scores, label, full, slim, group, weight, allowed_loss, confidence, scale, slice_by, range_of,
        schema=schema, binding=dict(_by_how_much(each) for each in binding), **limits
    )  # fmt: skip
    if report is not None:
        write_text(report, html(found))
    typer.echo(json.dumps(found, indent=1) if as_json else told(found))


def _by_how_much(text: str) -> tuple[str, float]:
    from slimrec.errors import ConfigError

    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ConfigError(f"--binding is '{text}'; give LOSS=BY, as grouped_auc=0.002") from None
