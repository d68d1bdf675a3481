"""Where raw data lies: a local path or s3://; what is there, and which error class a failure to read it belongs to."""

from __future__ import annotations

import os
import re
import sys
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from slimrec import faults
from slimrec.errors import ConfigError, InputError, SlimrecError, TransientError

# What Arrow says of an object store's answers; all others of them heal.
_DENIED = re.compile(
    "ACCESS_DENIED|INVALID_(ACCESS_KEY|CLIENT_TOKEN|SIGNATURE)|SIGNATURE_DOES_NOT_MATCH|EXPIRED|HTTP status 40[13]"
)
_NOWHERE = re.compile("NO_SUCH_(BUCKET|KEY|UPLOAD)|RESOURCE_NOT_FOUND|HTTP status 404|[Cc]ould(n't| not) resolve host")
_CONTENT = {  # what a file may be instead of text: the ending that says so, and its first bytes
    "Parquet": (".parquet", b"PAR1\x15"),
    "gzip": (".gz", b"\x1f\x8b"),
    "a zip archive": (".zip", b"PK\x03\x04"),
    "zstd": (".zst", b"\x28\xb5\x2f\xfd"),
    "bzip2": (".bz2", b"BZh91A"),
    "xz": (".xz", b"\xfd7zXZ"),
    "Avro": (".avro", b"Obj\x01"),
}


def filesystem(url: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or s3:// address, and the path within it.

    S3 takes its credentials from the usual AWS environment, and its endpoint from AWS_ENDPOINT_URL if that is set.
    """
    if not url.startswith("s3://"):
        if "://" in url or (is_address(url) and not os.path.exists(url)):
            raise InputError(f"'{url}' is not a place we read from; give a local path or s3://bucket/prefix")
        return fs.LocalFileSystem(), os.path.abspath(url)
    if not url.removeprefix("s3://").partition("/")[0]:
        raise InputError(f"'{url}' names no bucket; give s3://bucket/prefix")
    options = {"region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(
                f"AWS_ENDPOINT_URL is '{faults.redact(endpoint)}'; give http://HOST:PORT or https://HOST:PORT"
            )
        options |= {"scheme": parts.scheme, "endpoint_override": parts.netloc}
    return fs.S3FileSystem(
        **options,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=faults.attempts()),
    ), url.removeprefix("s3://").rstrip("/")


def list_files(url: str, suffixes: tuple[str, ...]) -> tuple[fs.FileSystem, list[str]]:
    """The file itself, or the files of a folder (and its folders) whose name ends so in any case, sorted by path.

    Hidden names (those that begin with '.' or '_', but for the partitions of a table, `_day=1`) are left out; what
    else is not read is said on stderr. Raises InputError where there is no such path or no such file.
    """
    system, path = filesystem(url)
    try:
        found = system.get_file_info(path)
        if found.type == fs.FileType.NotFound:
            raise InputError(f"no such path: {url}")
        if found.type == fs.FileType.File:
            if not path.lower().endswith(suffixes):
                raise InputError(f"{url} is not a file we read; allowed: {', '.join(suffixes)}")
            return system, [path]
        infos = system.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise reading_error(url, error) from error
    every = sorted(info.path[len(path) :].lstrip("/") for info in infos if info.type == fs.FileType.File)
    if any(name.startswith("_delta_log/") for name in every):
        raise InputError(
            f"{url} is a Delta table, whose folder holds removed rows too; write its rows as Parquet elsewhere"
        )
    shown = [name for name in every if not _hidden(name)]
    files = [name for name in shown if name.lower().endswith(suffixes)]
    others = [name for name in shown if name not in set(files)]
    if not files:
        there = f"; there are {_some(others)}" if others else ""
        raise InputError(f"{url} holds no data file; put files there that end in {', '.join(suffixes)}{there}")
    if others:
        print(f"slimrec: not read in {url}: {_some(others)}; data files end in {', '.join(suffixes)}", file=sys.stderr)
    return system, [f"{path}/{name}" for name in files]


def is_address(path: str) -> bool:
    """Whether a path looks like scheme://..., also where one of the slashes was lost."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", path) is not None


def of_path(file: str) -> dict[str, str | None]:
    """Columns that stand in the names of a file's folders, as `day=2026-01-01/` does, with their value; null as Hive
    writes it."""
    pairs = [folder.split("=", 1) for folder in file.split("/")[:-1] if folder.partition("=")[0] and "=" in folder]
    values = {unquote(name): unquote(value) for name, value in pairs}
    return {name: None if value == "__HIVE_DEFAULT_PARTITION__" else value for name, value in values.items()}


def check_content(system: fs.FileSystem, file: str, ending: str) -> None:
    """Raise InputError where a file is not what its name says: `.parquet`, `.gz`, or text for any other ending."""
    with system.open_input_stream(file, compression=None) as stream:
        head = stream.read(6)
    there = next((what for what, (_, first) in _CONTENT.items() if head.startswith(first)), "text")
    wanted = next((what for what, (suffix, _) in _CONTENT.items() if suffix == ending), "text")
    if head and there != wanted:
        ends = f"ends in {_CONTENT[there][0]}" if there != "text" else "tells"
        raise InputError(
            f"{file} is named as {wanted}, and its content is {there}; give it a name that {ends}, or write it again"
        )


def reading_error(name: str, error: Exception) -> SlimrecError:
    """The sentence and class for what went wrong while reading a file: bad data and missing rights are input."""
    reason = " ".join(str(error).split())[:300]
    if isinstance(error, FileNotFoundError) or _NOWHERE.search(reason):
        return InputError(f"no such path: {name}" + (f" ({reason})" if "AWS Error" in reason else ""))
    if isinstance(error, PermissionError) or _DENIED.search(reason):
        return InputError(f"no permission to read {name}; grant this user the right to read it")
    if isinstance(error, OSError) and ("AWS Error" in reason or (error.errno is not None and faults.heals(error))):
        return TransientError(f"reading {name} failed: {reason}; run the step again")
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(f"{name} cannot be read: {reason}; give another path")
    return InputError(f"{name} cannot be read as data: {reason}; it may be cut off or damaged, write it again")


def _hidden(relative: str) -> bool:
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in relative.split("/"))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
