"""The audit bundle: one signed file with all that was decided on, from which anybody replays the decision, offline and without torch.

It is an in-toto statement about four artifacts by their digests. What it says of them (report, selection, what the verdict
was concluded from, ledger, software) is bound to those digests, so that a bundle which no signature covers cannot mix two
audits by accident.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slimrec.artifacts import digest_of, publish, read_json, read_manifest, text
from slimrec.artifacts.codebase import bill_of_materials, code, image
from slimrec.artifacts.envelope import own_key, public_key, seal, unseal
from slimrec.errors import SecurityError
from slimrec.written import parse

if TYPE_CHECKING:
    from slimrec.verdict.case import Case

FILE = "bundle.json"
SAME = 1e-12  # what another processor's rounding may do to a bound
_AUC = {"full": "full_auc", "slim": "slim_auc", **{name: name for name in ("difference", "error", "low", "high")}}


class Audit(BaseModel):
    """What a bundle says of its subjects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifests: dict[Literal["slim", "report", "selection"], dict[str, Any]]
    report: dict[str, Any]  # report.json
    sketch: dict[str, Any]  # sketch.json: what the verdict is concluded from
    selection: dict[str, Any]  # selection.json
    registry: dict[str, Any]  # what the step that registers came to, and what the ledger says of the version
    code: str  # version and digest of the library
    image: str  # that the step ran in, "" outside one
    software: dict[str, Any]  # CycloneDX


class Statement(BaseModel):
    """in-toto Statement v1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: list[dict[str, Any]]
    about: Literal["urn:slimrec:audit:1"] = Field(alias="predicateType")
    predicate: Audit


class Replay(BaseModel):
    """What came of replaying a bundle."""

    model_config = ConfigDict(frozen=True)

    verdict: str
    reason: str
    low: float | None
    high: float | None
    digests: dict[str, str]
    audit: Audit
    signer: str  # id of the key, "" where nobody signed


def write(target: Path, slim: Path, report: Path, selection: Path, registry: dict[str, Any]) -> Path:
    """Publish the artifact `bundle` and return its file, signed if the environment names a key.

    `registry` is what the register step came to. The bundle is replayed before it is published: one that does not say what
    the report says is never written.
    """
    folders = {"slim": slim, "report": report, "selection": selection}
    audit = {
        "manifests": {name: read_manifest(folder) for name, folder in folders.items()},
        "report": read_json(report / "report.json"),
        "sketch": read_json(report / "sketch.json"),
        "selection": read_json(selection / "selection.json"),
        "registry": registry,
        "code": code(),
        "image": image(),
        "software": bill_of_materials(),
    }
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": value}} for name, value in _digests(audit).items()],
        "predicateType": "urn:slimrec:audit:1",
        "predicate": audit,
    }
    _replay(statement, "")
    key = own_key()
    with publish(target, "bundle", slim=digest_of(audit["manifests"]["slim"]), signed=key is not None) as folder:
        (folder / FILE).write_bytes(seal(statement, key))
    return target / FILE


def verify(path: Path, key: Path | None = None, unsigned: bool = False) -> Replay:
    """Check a bundle's signature by the public key in the file `key`, then replay its decision.

    Raises SecurityError for a bundle that is not what was signed, or says another thing than its figures; also, unless
    `unsigned`, where no key is given to check it by.
    """
    statement, signer = unseal(path, None if key is None else public_key(key))
    if key is None and not unsigned:
        who = f"by the key {signer[:16]}: give its public half, --key PUBLIC.pem" if signer else "by nobody"
        raise SecurityError(f"{path} is signed {who}; --unsigned takes it on trust")
    return _replay(statement, signer if key is not None else "")


def told(replay: Replay) -> list[str]:
    """What a person who checks a bundle wants to read, a line each."""
    registry = replay.audit.registry
    place = f"{registry['model']} version {registry['version']}" if registry["registered"] else "nothing registered"
    return [
        f"signature {f'by the key {replay.signer}' if replay.signer else 'not checked: anybody may have written this'}",
        f"replayed  {replay.verdict}: {replay.reason}",
        f"registry  {place}",
        *(f"{name:<9} {value}" for name, value in replay.digests.items()),
        f"code      slimrec {replay.audit.code}, replayed by {code()}",
        f"image     {replay.audit.image or 'none'}",
        f"software  {len(replay.audit.software['components'])} components",
    ]


def _replay(statement: dict[str, Any], signer: str) -> Replay:
    """The decision, made again from the figures; SecurityError where anything in the bundle contradicts another thing."""
    said = parse(Statement, statement, SecurityError)
    try:
        return _decided(said.subject, said.predicate, signer)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SecurityError(f"the bundle lacks what a decision takes: {type(error).__name__} {error}") from None


def _decided(subject: list[dict[str, Any]], audit: Audit, signer: str) -> Replay:
    digests = _digests(audit.model_dump())
    _require(subject == [{"name": n, "digest": {"sha256": d}} for n, d in digests.items()], "its subjects")
    report, manifest = audit.report, audit.manifests["report"]
    _require(report["slim_digest"] == manifest["slim"] == digests["slim"], "which model was judged")
    _require(manifest["dataset"] == report["dataset"], "which data it was judged on")
    for kind, name, content in (
        ("report", "report.json", report),
        ("report", "sketch.json", audit.sketch),
        ("selection", "selection.json", audit.selection),
    ):
        listed = audit.manifests[kind]["files"][name]["sha256"]  # type: ignore[index]
        _require(hashlib.sha256(text(content).encode()).hexdigest() == listed, name)
    kept = {name: bool(field["columns"]) for name, field in audit.selection["fields"].items()}
    _require({field["name"]: field["kept"] for field in report["fields"]} == kept, "which fields are kept")
    outcome, reason, low, high = _verdict(audit)
    accepted = outcome == "certified"
    _require(report["verdict"] == outcome and report["decision"] == ("accept" if accepted else "reject"), "the verdict")
    _require(accepted or not audit.registry["registered"], "whether it was registered")
    noted = audit.registry.get("content")
    _require(noted is None or noted["digest"] == digests["slim"], "what the ledger says")
    return Replay(verdict=outcome, reason=reason, low=low, high=high, digests=digests, audit=audit, signer=signer)


def _verdict(audit: Audit) -> tuple[str, str, float | None, float | None]:
    """Verdict, reason and bounds by the sketch alone, each figure of the report held against it."""
    from slimrec.verdict import case, tasks  # statistics take a second to import

    report, cases = audit.report, case.read_all(audit.sketch)
    if "" in cases:
        return _replayed(report, report, cases[""])
    told, again = report["tasks"], []
    _require(sorted(each["task"] for each in told) == sorted(cases), "which tasks are judged")
    for each in told:
        outcome, reason, *_ = _replayed(report, each, cases[each["task"]])
        _require(each["verdict"] == outcome, f"the verdict of task '{each['task']}'")
        again.append({**each, "reason": reason})
    head = tasks.joined(again)
    for name in head.keys() - {"reason", "tasks"}:
        _require(report[name] == head[name], f"the task that decides, by its '{name}'")
    return head["verdict"], head["reason"], head["auc"]["low"], head["auc"]["high"]


def _replayed(
    whole: dict[str, Any], report: dict[str, Any], told_of: Case
) -> tuple[str, str, float | None, float | None]:
    """The same of one label, of which `report` tells; `whole` is the report that it stands in."""
    from slimrec.verdict.decision import decide
    from slimrec.verdict.signs import Leak

    judged = told_of.judge(report["confidence"])
    found = judged.comparison
    for name, figure in _AUC.items():
        _require(_same(getattr(found, figure), report["auc"][name]), f"the figure '{name}' of the AUC")
    for name, value in report["evidence"].items():
        _require(_same(getattr(found, name), value), f"the evidence '{name}'")
    _require((found.rows, found.clusters) == (report["rows"], report["clusters"]), "the number of rows")
    for kind in ("slices", "losses"):
        again, told = getattr(judged, kind), report[kind]
        _require([each["name"] for each in again] == [each["name"] for each in told], f"which {kind} are judged")
        for one, other in zip(again, told):
            fits = one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
            _require(fits, f"the {kind} of '{other['name']}'")
    leaking = [parse(Leak, each, SecurityError) for each in whole["leaks"]]
    leaking = [leak for leak in leaking if leak.task in ("", report.get("task", ""))]
    outcome, reason = decide(
        found, report["allowed_auc_loss"], leaking, report["self_test"], whole["training"], judged.vetoes
    )
    return outcome, reason, found.low, found.high


def _digests(audit: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of all that the bundle is about."""
    artifacts = {name: digest_of(audit["manifests"][name]) for name in ("slim", "report", "selection")}
    return {**artifacts, "dataset": audit["report"]["dataset"]}


def _same(found: Any, told: Any) -> bool:
    if isinstance(found, float) and isinstance(told, int | float):
        return abs(found - told) <= SAME * max(1.0, abs(told))
    return bool(found == told)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise SecurityError(f"the bundle contradicts itself about {what}; do not use it")
