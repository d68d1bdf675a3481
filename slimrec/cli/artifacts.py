"""Commands for artifact folders: check one, bring it to an object store and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(help="any artifact folder")]
Address = Annotated[str, typer.Argument(help="s3://BUCKET/FOLDER; credentials and endpoint as AWS_... say")]


def verify(
    artifact: Annotated[Path, typer.Argument(help="any artifact folder, or the file of an audit bundle")],
    key: Annotated[Path | None, typer.Option(help="public key, PEM, of whoever should have signed the bundle")] = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="take a bundle that no key is at hand for")] = False,
) -> None:
    """Check every file of an artifact against its manifest; replay the decision of an audit bundle, which needs no network."""
    from slimrec.artifacts import digest
    from slimrec.artifacts import verify as check
    from slimrec.errors import ConfigError

    if artifact.is_dir():
        kind = check(artifact)["kind"]
        if kind != "bundle":
            if key is not None or unsigned:
                raise ConfigError(f"{artifact} holds a '{kind}': --key and --unsigned are for audit bundles")
            typer.echo(f"{kind} {digest(artifact)}")
            return
    from slimrec.registry import bundle

    for line in bundle.told(bundle.verify(artifact / bundle.FILE if artifact.is_dir() else artifact, key, unsigned)):
        typer.echo(line)


def push(folder: Folder, address: Address) -> None:
    """Publish an artifact at an s3:// address, once: another content there is a conflict."""
    from slimrec.artifacts import remote

    typer.echo("pushed" if remote.push(folder, address) else "the same content was there already")


def pull(address: Address, folder: Annotated[Path, typer.Argument(help="folder to make")]) -> None:
    """Bring an artifact from an s3:// address, every file checked against its manifest."""
    from slimrec.artifacts import remote

    remote.pull(address, folder)
