"""The code that a version brings with it: a network from outside, stored beside the weights and told by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from slimrec.artifacts import read_json, sha256
from slimrec.plugins import BACKBONES, GATES

_STORED, _OURS = "code", "slimrec"  # where MLflow keeps code of a model, and what of it is the library


def from_outside(slim: Path) -> list[str]:
    """The top-level modules that a slim model's network and gate come from, those of the library left out."""
    model = read_json(slim / "model.json")
    tops = {BACKBONES.brings(model["config"]["backbone"])}
    if model["gate"]:
        tops.add(GATES.brings(model["gate"]["method"]))
    return sorted(tops - {""})


def on_the_path(tops: Sequence[str]) -> list[Path]:
    """The files or folders of top-level modules as the Python path has them now, what is not there left out."""
    found = [find_spec(top) for top in tops]
    places = [spec.submodule_search_locations or [str(spec.origin)] for spec in found if spec is not None]
    return [Path(next(iter(place))) for place in places]


def package(top: str) -> str:
    """The installed distribution that a top-level module belongs to; "" for a module that lies on the path."""
    return next(iter(packages_distributions().get(top, [])), "")


def stored(model: Path) -> list[Path]:
    """The files and folders that an MLflow model brings beside the library; all of them go on the path where it loads."""
    return sorted(each for each in (model / _STORED).glob("*") if each.name not in (_OURS, "__pycache__"))


def digest(code: Sequence[Path]) -> str:
    """SHA-256 over names and contents of files and of the files of folders; "" for none."""
    total = hashlib.sha256()
    for each in sorted(code):
        for file in [each] if each.is_file() else sorted(file for file in each.rglob("*") if file.is_file()):
            if "__pycache__" not in file.parts:
                total.update(f"{file.relative_to(each.parent).as_posix()} {sha256(file)}\n".encode())
    return total.hexdigest() if code else ""


def other_release(model: Path, tops: Sequence[str]) -> str:
    """What is wrong with the installed distributions for this model; "" where they are those that it came with."""
    wanted = [line.strip() for line in (model / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    for top in tops:
        if not (name := package(top)):
            return f"it needs the package of '{top}', which is not installed here"
        here = f"{name}=={version(name)}"
        pinned = next((line for line in wanted if line.partition("==")[0] == name), "")
        if pinned != here:
            return f"it came with {pinned or 'another package'}, installed here is {here}"
    return ""
