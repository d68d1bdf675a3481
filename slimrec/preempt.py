"""SIGTERM as a request: finish the step at hand, leave a checkpoint, go."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self


@contextmanager
def on_sigterm(action: Callable[[], None]) -> Iterator[None]:
    """While open, SIGTERM does this; outside the main thread, where no signals arrive, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: action())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopRequest:
    """While open as a context, SIGTERM sets `asked`; outside the main thread nothing does."""

    def __init__(self):
        self.asked = False

    def __enter__(self) -> Self:
        self._open = on_sigterm(self._ask)
        self._open.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._open.__exit__(*error)

    def _ask(self) -> None:
        self.asked = True
