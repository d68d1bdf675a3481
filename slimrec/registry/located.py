"""A slim model wherever it lies, as a folder on this machine: a folder, an s3:// address, a version of the registry."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimrec.errors import ConfigError, InputError
from slimrec.registry import store, versions
from slimrec.registry.ledger import Ledger

_VERSION = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@contextmanager
def located(address: str) -> Iterator[Path]:
    """The folder of the slim model at `address`; what has to be fetched is checked and goes with the context.

    `address` is a folder, s3://BUCKET/FOLDER, models:/NAME@ALIAS or models:/NAME/VERSION. Raises InputError where
    there is no such model, SecurityError where it is not what was registered.
    """
    if address.startswith("models:"):
        with tempfile.TemporaryDirectory() as scratch:
            yield _fetched(address, Path(scratch))
    elif address.startswith("s3://"):
        from slimrec.artifacts import remote

        with tempfile.TemporaryDirectory() as scratch:
            remote.pull(address, Path(scratch) / "model")
            yield Path(scratch) / "model"
    elif "://" in address:
        raise ConfigError(
            f"the model is '{address}'; give a folder, s3://BUCKET/FOLDER, models:/NAME@champion or models:/NAME/VERSION"
        )
    else:
        yield Path(address)


def _fetched(address: str, folder: Path) -> Path:
    told = _VERSION.fullmatch(address)
    if told is None:
        raise ConfigError(f"'{address}' names no version; give models:/NAME@champion or models:/NAME/VERSION")
    store.find()
    name, alias = told["name"], told["alias"]
    server = versions.connect(name)
    version = versions.version_at(server, name, alias) if alias else told["version"]
    if not version:
        raise InputError(f"'{name}' has no {alias}; `slimrec history {name}` lists what was champion")
    return versions.fetch(server, name, version, folder, Ledger(server, name).registered(version))
