"""The order of a pass over rows: windows, the batches in them, and each rank's part of a batch; arithmetic only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from slimrec.data.hashing import permutation


class Window(NamedTuple):
    """A stretch of stored rows that is read and shuffled as one."""

    start: int  # first row
    stop: int
    place: np.ndarray | None  # int64 (stop - start,): where each row goes within the window; None: where it stands
    batches: list[slice]  # rows within the window, after shuffling


def windows(
    rows: int,
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: Literal["window", "none"] = "window",
    window_rows: int = 1_048_576,
    start: int = 0,
) -> Iterator[Window]:
    """The windows of one pass over `rows` rows in `batch_count` batches, without the first `start` batches.

    A window has at most `window_rows` rows (one batch at least). Its rows are permuted, and so is the order of
    windows, except that the last window stays last, so that only the last batch differs in size. Windows made only
    of skipped batches are left out. All of it depends on (seed, epoch) alone.
    """
    total = batch_count(rows, batch_size)
    count = -(-total // max(1, window_rows // batch_size))
    edges = [total * i // count for i in range(count + 1)] if count else []
    order = np.arange(count)
    if shuffle == "window" and count:
        order[:-1] = permutation(count - 1, seed, epoch)
    done = 0
    for index in order.tolist():
        first, last = edges[index], edges[index + 1]
        skipped, done = max(0, start - done), done + last - first
        if done <= start:
            continue
        begin, end = first * batch_size, rows if last == total else last * batch_size
        place = permutation(end - begin, seed, epoch, index) if shuffle == "window" else None
        lows = [(batch - first) * batch_size for batch in range(first + skipped, last)]
        highs = [*(low + batch_size for low in lows[:-1]), end - begin]
        yield Window(begin, end, place, [slice(low, high) for low, high in zip(lows, highs)])


def batch_count(rows: int, batch_size: int) -> int:
    """Batches in one pass; a single left-over row joins the batch before it (no batch of one: it has no variance)."""
    full, left = divmod(rows, batch_size)
    return full + (left > 1 or (left == 1 and not full))


def part_of(size: int, rank: int, world: int) -> slice:
    """A rank's part of a batch of `size` rows; the parts follow one another and may be empty."""
    return slice(size * rank // world, size * (rank + 1) // world)


def rest_of(rows: np.ndarray, total: int) -> np.ndarray:
    """The positions of 0..total-1 that `rows` left out, ascending."""
    left = np.ones(total, bool)
    left[rows] = False
    return np.flatnonzero(left)
