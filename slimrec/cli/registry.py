"""Commands for the registry: who is champion, since when, and who becomes it."""

from __future__ import annotations

from typing import Annotated

import typer

Name = Annotated[
    str, typer.Argument(help="registered model, in the registry at MLFLOW_TRACKING_URI, else in that of runs/")
]
Why = Annotated[str, typer.Option("--reason", "--why", help="for the ledger")]


def promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="version to make champion; the challenger by default")] = "",
    why: Why = "",
    force: Annotated[bool, typer.Option("--force", help="against its judgement; needs a reason")] = False,
) -> None:
    """Make a version champion, if it was judged against the present one, not rejected, and is what was registered."""
    from slimrec.registry import promotion, store

    store.find()
    _tell(promotion.promote(name, version, why, force))


def rollback(name: Name, why: Why = "") -> None:
    """Make the previous champion champion again."""
    from slimrec.registry import promotion, store

    store.find()
    _tell(promotion.rollback(name, why))


def history(name: Name) -> None:
    """List who moved the champion from where to where, when and why."""
    from slimrec.registry import promotion, store

    store.find()
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
