"""Commands for artifact folders: check one, bring it to an object store and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(help="any artifact folder")]
Address = Annotated[str, typer.Argument(help="s3://BUCKET/FOLDER; credentials and endpoint as AWS_... say")]


def verify(folder: Folder) -> None:
    """Check every file of an artifact against its manifest."""
    from slimrec.artifacts import digest
    from slimrec.artifacts import verify as check

    typer.echo(f"{check(folder)['kind']} {digest(folder)}")


def push(folder: Folder, address: Address) -> None:
    """Publish an artifact at an s3:// address, once: another content there is a conflict."""
    from slimrec.artifacts import remote

    typer.echo("pushed" if remote.push(folder, address) else "the same content was there already")


def pull(address: Address, folder: Annotated[Path, typer.Argument(help="folder to make")]) -> None:
    """Bring an artifact from an s3:// address, every file checked against its manifest."""
    from slimrec.artifacts import remote

    remote.pull(address, folder)
