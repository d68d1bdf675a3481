"""Where raw data lies: a local path or s3://; what is there, and which error class a failure to read it belongs to."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from slimrec.errors import InputError, SlimrecError, TransientError


def filesystem(url: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or s3:// address, and the path within it.

    S3 takes its credentials from the usual AWS environment, and its endpoint from AWS_ENDPOINT_URL if that is set.
    """
    if not url.startswith("s3://"):
        if "://" in url:
            raise InputError(f"'{url}' is not a place we read from; give a local path or s3://bucket/prefix")
        return fs.LocalFileSystem(), os.path.abspath(url)
    options = {"region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        parts = urlsplit(endpoint)
        options |= {"scheme": parts.scheme, "endpoint_override": parts.netloc}
    return fs.S3FileSystem(**options), url.removeprefix("s3://").rstrip("/")


def list_files(url: str, suffixes: tuple[str, ...]) -> tuple[fs.FileSystem, list[str]]:
    """The file itself, or the files of a folder (and its folders) whose name ends so, sorted by path.

    Names that begin with '_' or '.' are left out. Raises InputError where there is no such path or no such file.
    """
    system, path = filesystem(url)
    try:
        found = system.get_file_info(path)
        if found.type == fs.FileType.NotFound:
            raise InputError(f"no such path: {url}")
        if found.type == fs.FileType.File:
            if not path.endswith(suffixes):
                raise InputError(f"{url} is not a file we read; allowed: {', '.join(suffixes)}")
            return system, [path]
        infos = system.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise reading_error(url, error) from error
    files = sorted(info.path for info in infos if info.type == fs.FileType.File)
    files = [file for file in files if file.endswith(suffixes) and not _hidden(file[len(path) :])]
    if not files:
        raise InputError(f"{url} holds no data file; put files there that end in {', '.join(suffixes)}")
    return system, files


def reading_error(name: str, error: Exception) -> SlimrecError:
    """The sentence and class for what went wrong while reading a file: bad data and missing rights are input."""
    reason = " ".join(str(error).split())[:300]
    if isinstance(error, FileNotFoundError):
        return InputError(f"no such path: {name}")
    if isinstance(error, PermissionError) or "ACCESS_DENIED" in reason:
        return InputError(f"no permission to read {name}; grant this user the right to read it")
    surroundings = isinstance(error, OSError) and (error.errno is not None or "AWS Error" in reason)
    if surroundings:
        return TransientError(f"reading {name} failed: {reason}; run the step again")
    return InputError(f"{name} cannot be read as data: {reason}; it may be cut off or damaged, write it again")


def _hidden(relative: str) -> bool:
    return any(part.startswith(("_", ".")) for part in relative.split("/"))
