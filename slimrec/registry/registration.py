"""The registry: a slim model becomes a version once, is loaded back before anybody can call it, and gets its aliases."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import slimrec
from slimrec.artifacts import digest
from slimrec.errors import ConfigError
from slimrec.registry import apart, brought, promotion
from slimrec.registry.ledger import Judged, Ledger
from slimrec.registry.versions import (
    CHALLENGER,
    CHAMPION,
    CODE,
    DIGEST,
    JUDGED,
    JUDGED_DIGEST,
    JUDGEMENT,
    NONE,
    check_round_trip,
    connect,
    version_at,
)
from slimrec.schema import Schema
from slimrec.track import Server, client, reaching

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.models.model import ModelInfo

SERVING = tuple("mlflow numpy pandas pyarrow pydantic pyyaml safetensors scikit-learn scipy torch".split())


def register(
    name: str, slim: Path, report: Path, decision: dict[str, Any], approval: str, run_id: str
) -> dict[str, Any]:
    """Make the slim model a version of `name` under the MLflow run `run_id`, or find the version that it already is.

    `decision` is the content of report.json. Alias `challenger` always; `champion` too where `approval` is automatic and
    the model is certified against the present champion. A retry makes no second version and no second promotion. Raises
    ConfigError without a registry or where the report is about the champion of another model, ConflictError when the
    stored model scores otherwise than the folder, or when another became champion since this one was judged.
    """
    content, champion = digest(slim), decision["champion"]
    if champion and champion["model"] != name:
        raise ConfigError(
            f"judged against the champion of '{champion['model']}', to be registered as '{name}': use one"
        )
    server = connect()
    with reaching(), _no_bytecode():
        found = _version_of(server, name, content)
        if found is None:
            code = _own_code(slim)
            model = _log_model(slim, report, run_id, code)
            if code:
                apart.run((), check_round_trip, model.model_uri, slim)  # by the code that was stored, and no other
            else:
                check_round_trip(model.model_uri, slim)
            found = _create_version(server, name, model, run_id, {DIGEST: content, CODE: brought.digest(code)})
        _note(server, name, found)
        judged = _judged(decision["champion"], found, decision["verdict"])
        if judged:
            Ledger(server, name).judge(found, judged)
        for key, value in _tags(decision, judged).items():
            server.set_model_version_tag(name, found, key, value)
        server.update_model_version(name, found, description=decision["reason"])
        server.set_registered_model_alias(name, CHALLENGER, found)
    reason = decision["reason"]
    if champion and champion["verdict"] != "certified":
        reason += f"; version {champion['version']} stays champion: {champion['reason']}"
    elif approval == "automatic":
        if not promotion.was_champion(server, name, found):
            promotion.promote(name, found, "approved automatically")
        elif version_at(server, name, CHAMPION) != found:
            reason += (
                f"; version {found} was champion before, only a person makes it that again: slimrec promote {name}"
            )
    aliases = [alias for alias in (CHALLENGER, CHAMPION) if version_at(server, name, alias) == found]
    return {"registered": True, "version": found, "aliases": aliases, "reason": reason}


def refuse(reason: str, run_id: str) -> dict[str, Any]:
    """Register nothing; the reason becomes a tag of the run."""
    if run_id:
        with reaching():
            client().set_tag(run_id, "slimrec.refused", reason)
    return {"registered": False, "version": "", "aliases": [], "reason": reason}


def told(name: str, version: str) -> dict[str, Any]:
    """What the ledger says of a version: `content`, what it was registered with, and `entries` that made it champion."""
    ledger = Ledger(connect(), name)
    content = ledger.registered(version)
    return {
        "content": None if content is None else content.model_dump(),
        "entries": [entry.model_dump() for entry in ledger.entries() if entry.after == version],
    }


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """MLflow tries a model where it is stored: that leaves no __pycache__ beside it, whatever the process writes else."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _version_of(server: Server, name: str, content: str) -> str | None:
    """The oldest version of `name` with this content."""
    rows = server.search_model_versions(f"name = '{name}' and tags.`{DIGEST}` = '{content}'")
    return min((str(row.version) for row in rows), key=int, default=None)


def _note(server: Server, name: str, version: str) -> None:
    """Write into the ledger what a version is, also where the step that made it was killed before it could."""
    ledger, tags = Ledger(server, name), server.get_model_version(name, version).tags
    if CODE in tags and ledger.registered(version) is None:
        ledger.note(version, tags[DIGEST], tags[CODE])


def _log_model(slim: Path, report: Path, run_id: str, code: list[Path]) -> ModelInfo:
    """Log folder, code and report under the run; nothing is registered yet."""
    import mlflow

    from slimrec.serving.predictor import Predictor, example_rows

    encoder = Predictor.load(slim).encoder
    rows = example_rows(encoder)
    packages = filter(None, map(brought.package, brought.from_outside(slim)))
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in sorted(report.glob("*.*")):
            mlflow.log_artifact(str(path), "report")
        return mlflow.pyfunc.log_model(
            name="slim",
            python_model=str(Path(slimrec.__file__).parent / "serving" / "pyfunc.py"),
            artifacts={"slim": slim.resolve().as_uri()},
            code_paths=[str(Path(slimrec.__file__).parent), *map(str, code)],
            pip_requirements=[f"{package}=={version(package)}" for package in (*SERVING, *packages)],
            signature=_signature(encoder.schema, list(rows.columns)),
            input_example=rows,
        )


def _own_code(slim: Path) -> list[Path]:
    """Files or folders of plug-ins from outside that belong to no package that could be installed."""
    tops = [top for top in brought.from_outside(slim) if not brought.package(top)]
    code = brought.on_the_path(tops)
    if len(code) < len(tops):
        raise ConfigError(f"the model needs the modules {', '.join(tops)}, which are not all on the Python path")
    return code


def _signature(schema: Schema, columns: list[str]) -> ModelSignature:
    """Column types that let MLflow read CSV as ingest does: text for categories, doubles for numbers.

    MLflow reads no CSV for a model that takes lists: there only the names are held, and the encoder says itself what it
    cannot read.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec
    from mlflow.types import Schema as Columns
    from mlflow.types.schema import AnyType

    from slimrec.serving.predictor import score_columns

    lists = any(field.width or (field.kind == "bag" and field.separator is None) for field in schema.fields)
    numbers = {field.column for field in schema.fields if field.kind == "number"}
    numbers = numbers.union(*(field.discretised for field in schema.fields))
    types = {name: AnyType() if lists else "double" if name in numbers else "string" for name in columns}
    return ModelSignature(
        inputs=Columns([ColSpec(kind, name) for name, kind in types.items()]),
        outputs=Columns([ColSpec("double", name) for name in score_columns(schema)]),
    )


def _create_version(server: Server, name: str, model: ModelInfo, run_id: str, tags: dict[str, str]) -> str:
    """A new version, tagged with its content in the same request; where two steps race, the older version stays."""
    from mlflow.exceptions import MlflowException

    try:
        server.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = server.create_model_version(name, model.model_uri, run_id=run_id, tags=tags, model_id=model.model_id)
    oldest = _version_of(server, name, tags[DIGEST]) or str(made.version)
    if oldest != str(made.version):
        server.delete_model_version(name, made.version)
    return oldest


def _judged(champion: dict[str, Any] | None, version: str, verdict: str) -> Judged | None:
    """What came of judging a version; None for the champion found again, which is not judged against itself."""
    if not champion:
        return Judged(against="", content=NONE, verdict=verdict)
    if champion["version"] == version:
        return None
    return Judged(against=champion["version"], content=champion.get("digest", ""), verdict=champion["verdict"])


def _tags(decision: dict[str, Any], judged: Judged | None) -> dict[str, str]:
    """What a person wants to know of a version at a glance, and what it was judged against."""
    auc, size = decision["auc"], decision["size"]
    told = {JUDGED: judged.against or NONE, JUDGED_DIGEST: judged.content, JUDGEMENT: judged.verdict} if judged else {}
    kept = sum(field["kept"] for field in decision["fields"])
    several = [each["task"] for each in decision.get("tasks", ())]
    return {
        "slimrec.verdict": decision["verdict"],
        **({"slimrec.tasks": ", ".join(several), "slimrec.task": decision["task"]} if several else {}),
        "slimrec.auc_difference": f"{auc['difference']:+.6f}",
        "slimrec.auc_interval": f"{auc['low']:+.6f} to {auc['high']:+.6f}",
        "slimrec.fields": f"{kept} of {len(decision['fields'])}",
        "slimrec.bytes": f"{size['slim']['bytes']} of {size['full']['bytes']}",
        "slimrec.dataset": decision["dataset"],
        **told,
    }
