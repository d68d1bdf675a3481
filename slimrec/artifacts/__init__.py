"""Artifact folders: published atomically with a SHA-256 manifest, verified when read; models as safetensors + JSON."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from uuid import uuid4

from slimrec.errors import ConfigError, InputError, SecurityError

MANIFEST = "manifest.json"
_CHUNK = 1 << 20


@contextmanager
def publish(folder: str | Path, kind: str, **facts: Any) -> Iterator[Path]:
    """Yield a scratch folder; when the block ends well it becomes `folder`, manifest last, as `replacing` says.

    `facts` go into the manifest.
    """
    with replacing(Path(folder)) as scratch:
        yield scratch
        files = {path.relative_to(scratch).as_posix(): path for path in sorted(scratch.rglob("*")) if path.is_file()}
        listed = {name: {"sha256": sha256(path), "bytes": path.stat().st_size} for name, path in files.items()}
        write_json(scratch / MANIFEST, {"kind": kind, **facts, "files": listed})


def copy(source: Path, target: Path) -> Path:
    """An artifact in another place, whole or not at all; where it lies already nothing is done. Returns `target`."""
    if not (target / MANIFEST).is_file() or digest(target) != digest(source):
        with replacing(target) as scratch:
            shutil.copytree(source, scratch, dirs_exist_ok=True)
    return target


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder; when the block ends well it takes the place of `folder` in one rename.

    A block that fails leaves nothing; what a killed process left, the next one that replaces `folder` sweeps. Raises
    ConfigError where `folder` holds anything that no artifact of ours brought there: it would be lost.
    """
    _refuse_strangers(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    scratch, replaced = (_aside(folder, uuid4().hex, why) for why in ("partial", "replaced"))
    scratch.mkdir()
    lock = _lock(scratch)
    try:
        yield scratch
        if folder.exists():
            _refuse_strangers(folder)
            folder.rename(replaced)
            scratch.rename(folder)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _refuse_strangers(folder: Path) -> None:
    """Look before replacing: a folder of ours holds its manifest and what that lists."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file, and an artifact is a folder; name another place")
    ours: set[str] = set()
    with suppress(InputError, SecurityError):  # no manifest, or one of something else
        facts = read_manifest(folder)
        if isinstance(facts, dict) and "kind" in facts and isinstance(facts.get("files"), dict):
            ours = {MANIFEST, *facts["files"]}
    strange = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    for name in strange:
        if name not in ours:
            raise ConfigError(
                f"{folder} holds '{name}', which no artifact of ours brought there, and would be replaced; name a new or "
                "empty folder"
            )


def _aside(folder: Path, token: str, why: str) -> Path:
    return folder.with_name(f".{folder.name}.{token}.{why}")


def _sweep(folder: Path) -> None:
    """Remove what others that were replacing `folder` left that live no more."""
    left = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]+\.(partial|replaced)")
    for path in folder.parent.iterdir():
        if left.fullmatch(path.name) and (lock := _lock(path)) is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A lock on a folder that ends with the process; None where another holds one or the file system has none.

    A process id would not tell who lives: containers that share a volume count each for itself.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # published in this very moment
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def verify(folder: str | Path, kind: str | None = None) -> dict[str, Any]:
    """The manifest of an artifact folder, after checking every file against it.

    Raises InputError where there is no such artifact, SecurityError where it is not what its manifest says.
    """
    folder = Path(folder)
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise InputError(f"no artifact at {folder}: {MANIFEST} is missing; run the stage that makes it")
    facts = read_manifest(folder)
    if kind is not None and facts.get("kind") != kind:
        raise InputError(f"{folder} holds a '{facts.get('kind')}', a '{kind}' is needed here")
    for name, entry in listed(folder).items():
        path = folder / name
        if path.is_symlink():
            raise SecurityError(f"{path} is a link: an artifact holds plain files only")
        if not path.is_file() or path.stat().st_size != entry["bytes"] or sha256(path) != entry["sha256"]:
            raise SecurityError(f"{path} is not the file its manifest describes; make the artifact again")
    return facts


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of an artifact folder as it stands, with nothing checked against it: `verify` does that, once."""
    return read_json(Path(folder) / MANIFEST)


def listed(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The files that a manifest lists, `bytes` and `sha256` of each; none of them may lie outside the folder."""
    files = read_manifest(folder).get("files", {})
    for name in files:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name:
            raise SecurityError(
                f"{Path(folder) / MANIFEST} lists '{name}', which is not a plain path inside the folder"
            )
    return files


def digest(folder: str | Path) -> str:
    """One SHA-256 for the whole content of an artifact: over the manifest's list of files."""
    return digest_of(read_manifest(folder))


def check_made_of(folder: str | Path, **parts: str) -> None:
    """Raise InputError where the artifact says that it was made of another part than the one with this digest."""
    facts = read_manifest(folder)
    for name, found in parts.items():
        if facts.get(name, found) != found:
            raise InputError(
                f"{folder} was made of another {name}, {facts[name][:16]} and not {found[:16]}: give the one that it was "
                "made of, or make it again"
            )


def digest_of(manifest: dict[str, Any]) -> str:
    """The same, of a manifest that was read already."""
    files = manifest["files"]
    return hashlib.sha256("".join(f"{name} {files[name]['sha256']}\n" for name in sorted(files)).encode()).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            total.update(piece)
    return total.hexdigest()


def write_json(path: Path, values: Any) -> None:
    """Strict JSON (no NaN), in one canonical form, flushed to disk."""
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text(values))
        stream.flush()
        os.fsync(stream.fileno())


def write_text(path: Path, text: str) -> None:
    """A text file whole or not at all, in UTF-8: what was there stays where the disk is full.

    A link is followed to the file behind it; what is no plain file is written to, never replaced.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    scratch = path.with_name(f".{path.name[:100]}.{uuid4().hex[:8]}.partial")
    try:
        scratch.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, scratch)
        scratch.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        scratch.unlink(missing_ok=True)


def text(values: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(values, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Strict JSON: NaN and infinities are refused."""

    def refuse(constant: str) -> NoReturn:
        raise SecurityError(f"{path}: '{constant}' is not JSON")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SecurityError(f"{path} is not JSON: {error}") from None
