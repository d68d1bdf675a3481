"""Versions of a registered model, read: where the aliases are, what a version says of itself, whether it still is that."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from slimrec.artifacts import digest, verify
from slimrec.errors import ConfigError, ConflictError, InputError, SecurityError, did_you_mean
from slimrec.registry import apart, brought
from slimrec.registry.ledger import Judged, Registered
from slimrec.track import Server, Version, client, enabled, reaching

CHALLENGER, CHAMPION = "challenger", "champion"  # aliases
DIGEST = "slimrec.digest"  # tag: content of the slim folder
CODE = "slimrec.code"  # tag: content of the code that it brings, "" for none
JUDGED = "slimrec.judged_against"  # tag: version that was champion when this one was judged, or NONE
JUDGED_DIGEST = "slimrec.judged_digest"  # tag: content of that version
JUDGEMENT = "slimrec.judgement"  # tag: what came of it
NONE = "none"
Found = TypeVar("Found")
TOLERANCE = 1e-6  # between a probability before and after the way through the registry


def connect(name: str = "") -> Server:
    """A client of the registry. Raises ConfigError where none is named, InputError where it has no model `name`."""
    if not enabled():
        raise ConfigError("this needs a registry: set MLFLOW_TRACKING_URI (sqlite:///mlflow.db will do)")
    server = client()
    if name and _found(server.get_registered_model, name) is None:
        with reaching():
            names = [model.name for model in server.search_registered_models()]
        hint = did_you_mean(name, names) if names else "it is empty"
        raise InputError(f"the registry has no model '{name}'; {hint}")
    return server


def version_at(server: Server, name: str, alias: str) -> str:
    """The version that an alias points to; "" for none, also where there is no such model."""
    model = _found(server.get_registered_model, name)
    return str(model.aliases.get(alias, "")) if model else ""


def born(server: Server, name: str) -> str:
    """When MLflow made the registered model, in milliseconds: what tells it from another of its name; "" for none."""
    model = _found(server.get_registered_model, name)
    return str(model.creation_timestamp) if model else ""


def exists(server: Server, name: str, version: str) -> bool:
    """Whether the version is there, and not deleted."""
    return _found(server.get_model_version, name, version) is not None


def read(server: Server, name: str, version: str) -> Version:
    """MLflow's record of a version; InputError where there is none."""
    record = _found(server.get_model_version, name, version)
    if record is None:
        raise InputError(f"'{name}' has no version {version}; `slimrec history {name}` lists what was champion")
    return record


def content(server: Server, name: str, version: str, registered: Registered | None) -> str:
    """Digest of the slim folder that a version was registered with, as `registered` or else its tag says, which anybody
    can change; "" where neither does, or it is not there.
    """
    record = _found(server.get_model_version, name, version)
    if record is None:
        return ""
    return registered.digest if registered else record.tags.get(DIGEST, "")


def number(version: str) -> str:
    """A version as MLflow writes it; InputError for another spelling: what is compared must have one form."""
    if not re.fullmatch(r"[1-9][0-9]*", version):
        raise InputError(f"a version is a number as the registry shows it, for example 3, got '{version}'")
    return version


def judged_against(record: Version) -> str | None:
    """The version that was champion when this one was judged, "" for none; None where the version does not say."""
    said = record.tags.get(JUDGED)
    return "" if said == NONE else said


def judgement(record: Version) -> Judged | None:
    """What the tags of a version, which anybody can change, say came of judging it; None where they do not."""
    against, tags = judged_against(record), record.tags
    if against is None:
        return None
    return Judged(against=against, content=tags.get(JUDGED_DIGEST, ""), verdict=tags.get(JUDGEMENT, ""))


def check(server: Server, name: str, version: str, registered: Registered | None) -> str:
    """Fetch a version, compare it with what it was registered as, load it and score with it; returns the digest.

    Raises InputError where there is no such version, SecurityError where its files are missing or others than were
    registered, ConflictError where they score otherwise through MLflow than by themselves. Code that the version brings
    runs only if it is what was registered, in a process of its own.
    """
    with tempfile.TemporaryDirectory() as scratch:
        slim = fetch(server, name, version, Path(scratch), registered)
        code = require_code(name, version, Path(scratch), registered)
        if code:
            apart.run(code, check_round_trip, scratch, slim)
        else:
            check_round_trip(scratch, slim)
        return digest(slim)


def require_code(name: str, version: str, model: Path, registered: Registered | None) -> list[Path]:
    """The code that a version brings; SecurityError unless it is what the ledger says that it was registered with."""
    code = brought.stored(model)
    told = ", ".join(each.name for each in code) or "no code"
    if registered is None and code:
        raise SecurityError(
            f"version {version} of '{name}' brings code of its own ({told}), and the ledger does not say which: register "
            f"the model again"
        )
    if registered is not None and brought.digest(code) != registered.code:
        raise SecurityError(
            f"version {version} of '{name}' brings other code ({told}) than it was registered with: do not use it, "
            f"register the model again"
        )
    return code


def fetch(server: Server, name: str, version: str, folder: Path, registered: Registered | None) -> Path:
    """Download a version, an MLflow model, into `folder`; returns where in it the slim folder lies, just as registered.

    `registered`: what the ledger says of the version, where it says something. Raises what `check` raises.
    """
    import mlflow

    record = read(server, name, version)
    uri = f"models:/{name}/{version}"
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    with reaching():
        there = mlflow.artifacts.list_artifacts(artifact_uri=uri)
        if not there:
            place = server.get_model_version_download_uri(name, version)
            raise SecurityError(
                f"version {version} of '{name}' has no files any more at {place}: bring them back there (MLflow keeps whole "
                "paths: a store that was moved does not find its own), or register the model again"
            )
        mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder))
        stored = mlflow.models.Model.load(str(folder)).flavors["python_function"]["artifacts"]["slim"]["path"]
    slim = folder / stored
    try:
        verify(slim)
    except InputError as error:
        raise SecurityError(f"version {version} of '{name}' is not a slim model: {error}") from None
    wanted = record.tags.get(DIGEST, "nothing") if registered is None else registered.digest
    if digest(slim) != wanted:
        raise SecurityError(
            f"version {version} of '{name}' holds {digest(slim)[:16]}, registered was {wanted[:16]}: register the model again"
        )
    return slim


def audit_file(server: Server, name: str, version: str, file: str, folder: Path) -> Path | None:
    """Download what the register step kept beside a version, by its path there; None where it did not."""
    run = read(server, name, version).run_id
    with reaching():
        if not run or all(item.path != file for item in server.list_artifacts(run, str(Path(file).parent))):
            return None
        return Path(server.download_artifacts(run, file, str(folder)))


def check_round_trip(model: str, slim: str | Path) -> None:
    """Load the logged model back and score raw rows: they must come out as from the folder."""
    import mlflow
    import numpy as np

    from slimrec.serving.predictor import (  # with torch: whoever only asks for aliases waits for no network
        Predictor,
        example_rows,
    )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = mlflow.pyfunc.load_model(model)  # first: it brings the code that the network may need
        predictor = Predictor.load(slim)
        rows = example_rows(predictor.encoder)
        stored, scored = loaded.predict(rows)[list(predictor.scores)].to_numpy(), predictor.predict(rows)
    if not np.allclose(stored, scored.reshape(stored.shape), rtol=0, atol=TOLERANCE):
        raise ConflictError(f"{model} scores otherwise than {slim}: it must not serve, log the model again")


def _found(ask: Callable[..., Found], *what: str) -> Found | None:
    """What the registry answers; None where it has no such thing."""
    from mlflow.exceptions import MlflowException

    with reaching():
        try:
            return ask(*what)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
