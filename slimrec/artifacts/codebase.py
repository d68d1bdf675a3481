"""Which code this is: version and content of the library, what is installed beside it, and the refusal to run another one."""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import slimrec
from slimrec.artifacts import read_json, sha256
from slimrec.errors import ConfigError

COMPILED = "SLIMREC_COMPILED"  # in the environment of a step
ABOVE = ("pipelines", "components")


@cache
def code() -> str:
    """VERSION+DIGEST of the library's own files: the same in a checkout and in an image that was built from it.

    What compiles and submits (`ABOVE`) is left out: it lies elsewhere in a checkout, and no step runs it.
    """
    here, total = Path(slimrec.__file__).parent, hashlib.sha256()
    for path in sorted(
        path
        for path in here.rglob("*")
        if path.suffix in (".py", ".jinja") and path.relative_to(here).parts[0] not in ABOVE
    ):
        total.update(f"{path.relative_to(here).as_posix()} {sha256(path)}\n".encode())
    return f"{slimrec.__version__}+{total.hexdigest()[:12]}"


def compiled(image: str) -> str:
    """What a pipeline tells a step in COMPILED: the code it was compiled with, and the image that the step runs in."""
    return f"{code()} {image}"


def require_same(told: str | None = None) -> None:
    """ConfigError where this is not the code that the pipeline was compiled with; `told`: as `compiled` gives it."""
    expected, _, image = (os.environ.get(COMPILED, "") if told is None else told).partition(" ")
    if expected and expected != code():
        raise ConfigError(
            f"the image {image} holds slimrec {code()}, the pipeline was compiled with slimrec {expected}: build an image "
            f"from that code (`make images`) and name it in SLIMREC_IMAGE and SLIMREC_GPU_IMAGE, or compile with the code "
            f"of the image"
        )


def image() -> str:
    """The image that this step runs in, by the name that the pipeline was compiled with; "" outside one."""
    return os.environ.get(COMPILED, "").partition(" ")[2]


def bill_of_materials() -> dict[str, Any]:
    """All that is installed, as CycloneDX: the list that the image was built with, else the Python packages found here."""
    built = Path(sys.prefix) / "sbom.json"
    if built.is_file():
        return read_json(built)
    found = sorted({(each.name.lower().replace("_", "-"), each.version) for each in distributions()})
    parts = [
        {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}"}
        for name, version in found
    ]
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": parts}
