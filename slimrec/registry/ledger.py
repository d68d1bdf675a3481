"""The ledger of a registered model: numbered entries that are written once, each by exactly one of all who try.

It is an MLflow run whose params are the entries. MLflow lets nobody change or delete a param, and its database takes
only one value for a name: so the first who writes entry 7 has it, on any store and over HTTP. Which run is the ledger
is settled the same way, by an experiment whose name can be taken once and that carries the run's id from its birth.

A registered model is known by the moment at which MLflow made it and not by its name: one that was deleted and made
again under the same name begins a ledger of its own, one that was renamed keeps its. Beside the entries stands, once
for each version, the content that it was registered with, and what came of it whenever it was judged.
"""

from __future__ import annotations

import getpass
import json
import os
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from slimrec.errors import ConflictError, SecurityError
from slimrec.track import Server, experiment, reaching
from slimrec.written import Parsed, parse

if TYPE_CHECKING:
    from mlflow.entities import Experiment

RUNS = "slimrec-ledgers"  # experiment that holds the runs
RUN = "slimrec.ledger"  # tag of an experiment that leads to a ledger: id of its run
LONGEST_REASON = 2000  # characters; a param takes 6000


class Entry(BaseModel):
    """One line. An `intent` says what is about to happen; the entry after it, `commit` or `revert`, what came of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int  # from 1 without gaps: this orders entries, no clock does
    kind: Literal["intent", "commit", "revert"]
    action: Literal["promote", "rollback"]
    before: str  # version that was champion, "" for none
    after: str  # version that becomes it
    digest: str  # of the content of `after`
    by: str
    at: str  # UTC, for people
    why: str
    token: str  # of the writer: two that write the same are still two


class Registered(BaseModel):
    """What a version was when it was registered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str  # of the slim folder
    code: str  # digest of the code that it brings, "" where it brings none


class Judged(BaseModel):
    """What came of judging a version against the champion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    against: str  # version that was champion, "" for none
    content: str  # digest of that version, "" where it is not known
    verdict: str


class Ledger:
    """The entries of one registered model; the run is made with the first thing that is written."""

    def __init__(self, server: Server, name: str):
        self._server, self.name = server, name
        with reaching():
            self._born = server.get_registered_model(name).creation_timestamp
        self._run = self._find()

    def entries(self) -> list[Entry]:
        """All entries in order."""
        params = self._params()
        found = [_read(Entry, self.name, params[key]) for key in sorted(params) if key.isdigit()]
        if [entry.number for entry in found] != list(range(1, len(found) + 1)):
            raise SecurityError(f"the ledger of '{self.name}' (MLflow run {self._run}) is not one unbroken sequence")
        return found

    def append(self, number: int, **what: str) -> Entry | None:
        """Write the entry `number`; None where somebody else has it already."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        what = {"by": author(), "at": now, **what, "why": what["why"][:LONGEST_REASON]}
        entry = Entry(number=number, token=uuid.uuid4().hex, **what)
        self._write_once(f"{number:08d}", entry)
        return entry if entry in self.entries() else None

    def registered(self, version: str) -> Registered | None:
        """What a version was registered with; None for one that was registered otherwise, or by 0.1.0."""
        text = self._params().get(_key(version))
        return None if text is None else _read(Registered, self.name, text)

    def note(self, version: str, digest: str, code: str) -> None:
        """Write down what a version is, once and for all; SecurityError where something else was written before."""
        told = Registered(digest=digest, code=code)
        self._write_once(_key(version), told)
        if self.registered(version) != told:
            raise SecurityError(f"version {version} of '{self.name}' was registered with another content or other code")

    def judged(self, version: str) -> Judged | None:
        """What came of judging a version the last time; None for one that was registered otherwise, or by 0.1.0."""
        told = self._judgements(version)
        return _read(Judged, self.name, told[-1]) if told else None

    def judge(self, version: str, told: Judged) -> None:
        """Write down what came of judging a version, behind what came of it before."""
        while self.judged(version) != told:
            self._write_once(f"judged-{version}-{len(self._judgements(version)) + 1:08d}", told)

    def _judgements(self, version: str) -> list[str]:
        return [text for key, text in sorted(self._params().items()) if key.startswith(f"judged-{version}-")]

    def _params(self) -> dict[str, str]:
        if not self._run:
            return {}
        with reaching():
            return self._server.get_run(self._run).data.params

    def _write_once(self, key: str, what: BaseModel) -> None:
        from mlflow.exceptions import MlflowException

        self._run = self._run or self._make()
        with reaching():
            try:
                self._server.log_param(self._run, key, what.model_dump_json())
            except MlflowException:
                if key not in self._server.get_run(self._run).data.params:
                    raise

    def _find(self) -> str:
        """The run's id, "" as long as there is none."""
        with reaching():
            found = self._server.get_experiment_by_name(self._place()) or self._renamed() or self._of_0_1_0()
        if found is None:
            return ""
        if found.lifecycle_stage != "active":
            raise ConflictError(f"the experiment '{found.name}' was deleted: restore it, it leads to the ledger")
        return found.tags[RUN]

    def _place(self) -> str:
        return f"slimrec-ledger-{self._born}-{self.name}"

    def _renamed(self) -> Experiment | None:
        """The ledger that this model began under another name."""
        places = self._server.search_experiments(filter_string=f"name LIKE 'slimrec-ledger-{self._born}-%'")
        return places.pop() if len(places) == 1 else None

    def _of_0_1_0(self) -> Experiment | None:
        """The ledger by name alone, if it is not that of a model that was deleted before this one was made."""
        found = self._server.get_experiment_by_name(f"slimrec-ledger-{self.name}")
        return found if found is not None and found.creation_time >= self._born else None

    def _make(self) -> str:
        """Offer a run of our own; where another is the ledger already, take that one."""
        from mlflow.exceptions import MlflowException

        with reaching():
            offered = self._server.create_run(
                experiment(self._server, RUNS), tags={RUN: self.name}, run_name=f"ledger of {self.name}"
            ).info.run_id
            try:
                self._server.create_experiment(self._place(), tags={RUN: offered})
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                self._server.delete_run(offered)
            else:
                self._server.set_terminated(offered)
        return self._find()


def author() -> str:
    """Who acts: the tracking server's user, else this process's."""
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return user
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"user {os.getuid()}"


def _key(version: str) -> str:
    return f"version-{version}"


def _read(kind: type[Parsed], name: str, text: str) -> Parsed:
    try:
        return parse(kind, json.loads(text), SecurityError)
    except json.JSONDecodeError as error:
        raise SecurityError(f"the ledger of '{name}' holds what is no entry: {error}") from None
