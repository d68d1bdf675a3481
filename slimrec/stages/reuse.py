"""Reuse: a step that is given what an earlier one was given, known by content, takes over what that one made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from slimrec.artifacts import MANIFEST, kept, sha256
from slimrec.artifacts.codebase import code
from slimrec.errors import SlimrecError
from slimrec.plugins import BACKBONES, GATES
from slimrec.registry import brought
from slimrec.stages.fingerprint import listed
from slimrec.track import Tracker
from slimrec.training.launch import threads

MAKES = {  # stage whose outcome is told by what it is given -> the artifacts that it writes
    "ingest": ("dataset",),
    "sample": ("subset",),
    "pretrain": ("gated", "retrained"),
    "prune": ("selection", "slim"),
    "finetune": ("tuned", "retrained"),
}
_COMPUTE = ("numpy", "pyarrow", "torch")  # packages whose other release may give other bits


class Reuse:
    """What a stage makes, under a key over all that it hangs on; nothing where the workspace keeps nothing.

    That is the stage, its settings, the content of the artifacts that it reads, and the code; of ingest the content of
    the source, too, and of trainings the threads and the GPU. No name of an artifact and no time is in it.
    """

    def __init__(self, stage: str, config: BaseModel, workspace: str, paths: Mapping[str, Path | list[Path]]):
        folders = {name: path for name, path in paths.items() if isinstance(path, Path)}
        self.makes = {name: folders[name] for name in MAKES.get(stage, ()) if name in folders}
        self.stage, self.config, self.place, self.source = stage, config, None, []
        shelf, alone = Path(workspace, kept.KEPT), "RANK" not in os.environ
        if workspace and self.makes and alone and shelf.is_dir():
            with suppress(SlimrecError, OSError):  # what cannot be read is for the stage to say
                self.source = self._listed()
                self.place = shelf / self._key({name: path for name, path in folders.items() if name not in self.makes})

    def take(self, tracker: Tracker) -> dict[str, Any] | None:
        """The stage's figures, with what was made before in its folders; None where it has to run."""
        note = kept.take(self.place, self.makes) if self.place else None
        if note is None:
            return None
        tracker.tag("slimrec.reused", note["run"])
        print("slimrec: reused")
        return note["figures"]

    def put(self, figures: dict[str, Any], tracker: Tracker) -> None:
        """Keep what the stage made, if the source is still what it was: else nobody knows which state was read."""
        if self.place and self._listed() == self.source:
            kept.put(self.place, self.makes, {"run": tracker.run_id, "figures": figures})

    def _key(self, reads: Mapping[str, Path]) -> str:
        read = {name: folder for name, folder in reads.items() if (folder / MANIFEST).is_file()}
        about = {
            "config": self.config.model_dump(mode="json"),
            "makes": sorted(self.makes),
            "reads": {name: sha256(folder / MANIFEST) for name, folder in read.items()},
            "source": self._content(),
            "code": [code(), self._brought(list(read.values())), *(version(name) for name in _COMPUTE)],
            "where": _where() if self.stage in ("pretrain", "finetune") else [],
        }
        return f"{self.stage}-{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()}"

    def _listed(self) -> list[tuple[str, int, int]]:
        """Name, size (bytes) and time of change (ns) of each file of the source, if the stage reads one."""
        source = getattr(self.config, "source", "planted:")
        return [] if source.startswith("planted:") else listed(source)

    def _content(self) -> list[Any]:
        """What the source holds: names of files, and digests of local ones and of a schema in a file of its own.

        A store far away is told as the cluster's cache tells it, without reading it.
        """
        far, schema = "://" in getattr(self.config, "source", ""), getattr(self.config, "fields", None)
        files = [entry if far else (entry[0], sha256(Path(entry[0]))) for entry in self.source]
        return [*files, *([sha256(Path(schema))] if isinstance(schema, str) else [])]

    def _brought(self, reads: list[Path]) -> str:
        """A digest of the code from outside: of the method and network that are named, and of those in what is read."""
        tops = {top for folder in reads if (folder / "model.json").is_file() for top in brought.from_outside(folder)}
        if self.stage == "pretrain":
            tops |= {GATES.brings(self.config.method), BACKBONES.brings(self.config.model.backbone)} - {""}
        return brought.digest(brought.on_the_path(sorted(tops)))


def _where() -> list[Any]:
    """What of this machine has a say in the bits that a training gives."""
    import torch

    return [threads(1), torch.cuda.get_device_name() if torch.cuda.is_available() else ""]
