"""SIGTERM as a request: finish the step at hand, leave a checkpoint, go."""

from __future__ import annotations

import signal
import threading
from typing import Self


class StopRequest:
    """While open as a context, SIGTERM sets `asked`; outside the main thread, where no signals arrive, nothing does."""

    def __init__(self):
        self.asked = False
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *error) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, number, frame) -> None:
        self.asked = True
