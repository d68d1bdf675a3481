"""Whether a step is at work in a workspace: it locks the folder, until its process ends, also where its audit was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def at_work(workspace: Path) -> Iterator[None]:
    """Hold the lock, beside other steps."""
    with _folder(workspace) as folder:
        fcntl.flock(folder, fcntl.LOCK_SH)
        yield


def is_busy(workspace: Path) -> bool:
    """Whether a step holds it."""
    if not workspace.is_dir():
        return False
    with _folder(workspace) as folder:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    folder = os.open(path, os.O_RDONLY)
    try:
        yield folder
    finally:
        os.close(folder)
