"""Artifacts on s3://: pushed once, the manifest last and only where there is none; pulled with every digest checked.

At an address lie `manifest.json` and, in a folder named by the content's digest, the files. So two that push different
contents to one address never mix them: whoever creates the manifest first has the address, a killed push leaves nothing
that a reader would see, and pushing the same again changes nothing. What is there is told by the manifest, never by a
listing.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    NoCredentialsError,
    ResponseStreamingError,
)

from slimrec import faults
from slimrec.artifacts import MANIFEST, digest, listed, replacing, sha256, verify
from slimrec.errors import ConfigError, ConflictError, InputError, TransientError
from slimrec.faults import DENIED, MISSING

PART = 64 << 20  # bytes of a part of a multipart upload, more where 9,000 of them would not do
_TAKEN = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


class Address:
    """One artifact's place in a bucket, and a client for it; settings come from the usual AWS environment."""

    def __init__(self, url: str):
        bucket, _, key = url.removeprefix("s3://").partition("/")
        if not url.startswith("s3://") or not bucket or not key.strip("/"):
            raise InputError(f"'{url}' is no place for an artifact; give s3://BUCKET/FOLDER")
        self.url, self.bucket, self.key = url.rstrip("/"), bucket, key.strip("/")
        retries = {"mode": "standard", "total_max_attempts": faults.attempts()}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        with self.reaching():
            self.client = boto3.Session().client("s3", region_name=region, config=Config(retries=retries))

    def at(self, name: str) -> dict[str, str]:
        """Bucket and key of something at this address."""
        return {"Bucket": self.bucket, "Key": f"{self.key}/{name}"}

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Turns what boto3 raises into our errors: no rights and no such place are input, the rest as `faults` says."""
        try:
            yield
        except (ClientError, BotoCoreError, Boto3Error, ValueError) as error:
            code = "no credentials" if isinstance(error, NoCredentialsError) else _code(error)
            if code in DENIED | {"no credentials"}:
                raise InputError(
                    f"no permission for {self.url} ({code}): check the AWS credentials and rights"
                ) from error
            if code in MISSING:
                raise InputError(f"no artifact at {self.url} ({code}): check the address, push it first") from error
            failure = faults.sort(error, self.url, setting="AWS_ENDPOINT_URL")
            if failure is None:
                raise
            raise failure from error


def push(folder: str | Path, url: str, part: int = PART) -> bool:
    """Publish an artifact folder at an s3:// address; False where the same content was there already.

    Raises ConflictError (50) where another content has the address, ConfigError where the store does not know
    conditional writes, InputError, SecurityError and TransientError as their names say.
    """
    folder, place = Path(folder), Address(url)
    files, content = verify(folder)["files"], digest(folder)
    there = _content_at(place)
    if there is None:
        manifest = (folder / MANIFEST).read_bytes()
        _require_conditional_writes(place, f"{content}/claim", manifest)
        for name in sorted(files):
            _upload(place, f"{content}/{name}", folder / name, files[name], part)
        if _create(place, MANIFEST, manifest):
            return True
        there = _content_at(place)
    if there != content:
        raise ConflictError(f"{url} holds another artifact, {str(there)[:16]}: push {content[:16]} to another address")
    return False


def pull(url: str, folder: str | Path) -> None:
    """Bring an artifact from an s3:// address to a folder that does not exist yet; all or nothing.

    A file that comes other than its manifest says is fetched once more. Raises SecurityError when it is so again.
    """
    folder, place = Path(folder), Address(url)
    if folder.exists():
        raise InputError(f"{folder} exists already: give a new folder")
    with replacing(folder) as copy:
        with place.reaching():
            _fetch(place, MANIFEST, copy / MANIFEST)
        content = digest(copy)
        for name, entry in listed(copy).items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            with place.reaching():
                _fetch(place, f"{content}/{name}", copy / name)
                if sha256(copy / name) != entry["sha256"]:
                    _fetch(place, f"{content}/{name}", copy / name)
        verify(copy)


def _content_at(place: Address) -> str | None:
    """The digest of the artifact at an address; None where there is none."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with place.reaching():
                _fetch(place, MANIFEST, Path(scratch, MANIFEST))
        except InputError as error:
            if _code(error.__cause__) == "NoSuchKey":
                return None
            raise
        return digest(scratch)


def _require_conditional_writes(place: Address, name: str, content: bytes) -> None:
    """Of two that create one thing, the store has to refuse the second, else two could both think the address theirs."""
    if _create(place, name, content) and _create(place, name, content):
        raise ConfigError(
            f"the object store of {place.url} overwrites in spite of If-None-Match: push to one that honours conditional "
            "writes, or keep artifacts there through MLflow"
        )


def _create(place: Address, name: str, content: bytes) -> bool:
    """Write a small object where there is none; False where there is one."""
    check = base64.b64encode(hashlib.sha256(content).digest()).decode()
    with place.reaching():
        try:
            place.client.put_object(**place.at(name), Body=content, IfNoneMatch="*", ChecksumSHA256=check)
        except ClientError as error:
            if _code(error) in _TAKEN:
                return False
            if _code(error) in ("NotImplemented", "501"):
                raise ConfigError(
                    f"the object store of {place.url} does not know conditional writes: {error}"
                ) from error
            raise
    return True


def _upload(place: Address, name: str, path: Path, entry: dict[str, Any], part: int) -> None:
    """In parts, each checked by the store as it arrives; then what it holds is compared with what was sent."""
    size = max(part, -(-entry["bytes"] // 9_000))
    transfer = TransferConfig(multipart_threshold=size, multipart_chunksize=size)
    with place.reaching():
        place.client.upload_file(
            str(path), **place.at(name), ExtraArgs={"ChecksumAlgorithm": "SHA256"}, Config=transfer
        )
        held = place.client.head_object(**place.at(name), ChecksumMode="ENABLED")
    told = held.get("ChecksumSHA256", "").partition("-")[0]  # some stores add how many parts there are
    if told:
        same = told == _checksum(path, size)
    else:
        with tempfile.TemporaryDirectory() as scratch, place.reaching():
            _fetch(place, name, Path(scratch, "copy"))
            same = sha256(Path(scratch, "copy")) == entry["sha256"]
    if not same or held["ContentLength"] != entry["bytes"]:
        raise TransientError(f"{place.url} holds another {name} than was sent: push again")


def _checksum(path: Path, size: int) -> str:
    """What S3 calls the SHA-256 of an upload: of the content, or of its parts' digests where it went in parts."""
    with path.open("rb") as stream:
        parts = [hashlib.sha256(piece).digest() for piece in iter(lambda: stream.read(size), b"")]
    whole = path.stat().st_size < size
    found = (parts or [hashlib.sha256(b"").digest()])[0] if whole else hashlib.sha256(b"".join(parts)).digest()
    return base64.b64encode(found).decode()


def _fetch(place: Address, name: str, path: Path) -> None:
    """Stream an object to a file; a body that breaks off is asked for once more."""
    for attempt in range(2):
        body = place.client.get_object(**place.at(name))["Body"]
        try:
            with path.open("wb") as stream:
                shutil.copyfileobj(body, stream, 1 << 20)
            return
        except (FlexibleChecksumError, IncompleteReadError, ResponseStreamingError):
            if attempt:
                raise


def _code(error: BaseException | None) -> str:
    """The store's own code of an error, "" for none; boto3's uploads hide it one level down."""
    while error is not None and not isinstance(error, ClientError):
        error = error.__cause__ or error.__context__
    return error.response["Error"]["Code"] if error is not None else ""
