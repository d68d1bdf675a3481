"""What a failing step leaves in the workspace: its reason, for people and for its own retries."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from slimrec import track
from slimrec.artifacts import MANIFEST, read_json, sha256
from slimrec.errors import BY_EXIT_CODE, PERMANENT, SlimrecError
from slimrec.faults import redact


class Attempt:
    """One try of a step. Its reason lies in a file named by audit, stage, settings and content of what it reads.

    A platform's retry cannot tell a bad recipe from a network that failed; the file can. It counts within its own
    audit only: the next one may well succeed, with a right granted or a source repaired in the meantime.
    """

    def __init__(self, workspace: str | Path, stage: str, config: Any, paths: Mapping[str, Path | list[Path]]):
        self.stage = stage
        key = hashlib.sha256(json.dumps([config, _content(paths)], sort_keys=True, default=str).encode())
        self._path = folder(workspace) / f"{stage}-{key.hexdigest()[:16]}.json" if workspace else None

    def begin(self) -> None:
        """Raise the error of an earlier try, if it was of a kind that trying again cannot mend."""
        if self._path is None or not self._path.is_file():
            return
        left = read_json(self._path)
        if track.audit() and left["exit_code"] in PERMANENT:
            raise BY_EXIT_CODE[left["exit_code"]](left["reason"])
        self._path.unlink(missing_ok=True)  # another rank of the step may have been first

    def fail(self, failure: SlimrecError) -> None:
        """Leave the reason, without credentials in URLs, whole or not at all."""
        if self._path is None:
            return
        left = {"stage": self.stage, "exit_code": failure.exit_code, "reason": redact(failure)}
        scratch = self._path.with_suffix(f".{os.getpid()}")
        with suppress(OSError):  # a workspace that takes nothing must not hide why the step failed
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps(left), encoding="utf-8")
            scratch.replace(self._path)


def folder(workspace: str | Path) -> Path:
    """Where the steps of this process's audit leave their reasons."""
    return Path(workspace, "failures", track.audit() or "by-hand")


def newest(workspace: str | Path) -> dict[str, Any] | None:
    """The last reason left (`stage`, `exit_code`, `reason`) and not overcome by a later try; None without one."""
    left = list(folder(workspace).glob("*.json")) if workspace else []
    return read_json(max(left, key=lambda path: path.stat().st_mtime_ns)) if left else None


def _content(paths: Mapping[str, Path | list[Path]]) -> dict[str, list[str]]:
    """Digests of the artifacts that are there before the step: those it reads."""
    manifests = {
        name: [folder / MANIFEST for folder in (given if isinstance(given, list) else [given])]
        for name, given in paths.items()
    }
    return {name: [sha256(file) for file in files if file.is_file()] for name, files in manifests.items()}
