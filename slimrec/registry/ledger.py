"""The ledger of a registered model: numbered entries that are written once, each by exactly one of all who try.

It is an MLflow run whose params are the entries. MLflow lets nobody change or delete a param, and its database takes
only one value for a name: so the first who writes entry 7 has it, on any store and over HTTP. Which run is the ledger
is settled the same way, by an experiment whose name can be taken once and that carries the run's id from its birth.
"""

from __future__ import annotations

import getpass
import json
import os
import uuid
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from slimrec.config import parse
from slimrec.errors import ConflictError, SecurityError
from slimrec.track import Server, experiment, reaching

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


class Ledger:
    """The entries of one registered model; the run is made with the first one."""

    def __init__(self, server: Server, name: str):
        self._server, self.name = server, name
        self._run = self._find()

    def entries(self) -> list[Entry]:
        """All entries in order."""
        if not self._run:
            return []
        with reaching():
            params = self._server.get_run(self._run).data.params
        found = [_read(self.name, params[key]) for key in sorted(params)]
        if [entry.number for entry in found] != list(range(1, len(found) + 1)):
            raise SecurityError(f"the ledger of '{self.name}' (MLflow run {self._run}) is not one unbroken sequence")
        return found

    def append(self, number: int, **what: str) -> Entry | None:
        """Write the entry `number`; None where somebody else has it already."""
        from mlflow.exceptions import MlflowException

        self._run = self._run or self._make()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        what = {"by": author(), "at": now, **what, "why": what["why"][:LONGEST_REASON]}
        entry = Entry(number=number, token=uuid.uuid4().hex, **what)
        with reaching():
            try:
                self._server.log_param(self._run, f"{number:08d}", entry.model_dump_json())
            except MlflowException:
                if f"{number:08d}" not in self._server.get_run(self._run).data.params:
                    raise
        return entry if entry in self.entries() else None

    def _find(self) -> str:
        """The run's id, "" as long as there is none."""
        with reaching():
            found = self._server.get_experiment_by_name(_place(self.name))
        if found is None:
            return ""
        if found.lifecycle_stage != "active":
            raise ConflictError(f"the experiment '{found.name}' was deleted: restore it, it leads to the ledger")
        return found.tags[RUN]

    def _make(self) -> str:
        """Offer a run of our own; where another is the ledger already, take that one."""
        from mlflow.exceptions import MlflowException

        with reaching():
            offered = self._server.create_run(
                experiment(self._server, RUNS), tags={RUN: self.name}, run_name=f"ledger of {self.name}"
            ).info.run_id
            try:
                self._server.create_experiment(_place(self.name), tags={RUN: offered})
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


def _place(name: str) -> str:
    return f"slimrec-ledger-{name}"


def _read(name: str, text: str) -> Entry:
    try:
        return parse(Entry, json.loads(text), SecurityError)
    except json.JSONDecodeError as error:
        raise SecurityError(f"the ledger of '{name}' holds what is no entry: {error}") from None
