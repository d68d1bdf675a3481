"""Filling the leaderboard: cells that are missing, one after the other or several at a time, each kept once it is done."""

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import product
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

from tqdm import tqdm

from benchmarks.leaderboard import results
from benchmarks.leaderboard.cells import SETTINGS, Place, cell
from benchmarks.leaderboard.worlds import Log

Makers = dict[str, Callable[[Path], Log]]


def work(log: str, make: Callable[[Path], Log], method: str, seed: int, data: Path, folder: Path) -> list[dict]:
    """One cell from nothing, or from what lies in `folder`."""
    place = Place(folder, log, seed)
    place.ingest(make, data)
    return cell(place, method)


def missing(file: Path, logs: Iterable[str], methods: Iterable[str], seeds: int) -> list[tuple[str, str, int]]:
    """Cells that are not in the results, log by log and seed by seed, so that what is there can be compared."""
    done = {results.key(row) for row in results.read(file)}
    asked = [(log, method, seed) for log in logs for seed in range(seeds) for method in methods]
    return [each for each in asked if (*each, SETTINGS) not in done]


def forget(file: Path, folder: Path, logs: Iterable[str], methods: Iterable[str]) -> None:
    """Take out what is known of these methods on these logs, as after a change of a method."""
    logs, methods = list(logs), list(methods)
    results.forget(file, logs, methods)
    for log, method in product(logs, methods):
        for search in (folder / SETTINGS / log).glob(f"*/search-{method}.json"):
            search.unlink()


def _leave_no_orphan() -> None:
    """End this process when that which gives it work is gone, killed perhaps: it would wait for work forever."""

    def follow() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=follow, daemon=True).start()


def fill(
    file: Path,
    logs: Makers,
    methods: list[str],
    seeds: int,
    data: Path,
    folder: Path,
    processes: int = 1,
    minutes: float | None = None,
) -> int:
    """Run what is missing, in `processes` at a time; begins no cell after `minutes`. Returns how many it ran."""
    began, cells = time.monotonic(), missing(file, logs, methods, seeds)
    queue, running, ran = iter(cells), set[Future](), 0
    with (
        ProcessPoolExecutor(processes, get_context("spawn"), _leave_no_orphan, max_tasks_per_child=20) as pool,
        tqdm(total=len(cells), desc="cells", dynamic_ncols=True) as bar,
    ):
        while True:
            while len(running) < processes and (minutes is None or time.monotonic() - began < 60 * minutes):
                if (each := next(queue, None)) is None:
                    break
                log, method, seed = each
                bar.set_postfix_str(f"{log} {method} {seed}")
                running.add(pool.submit(work, log, logs[log], method, seed, data, folder))
            if not running:
                return ran
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                results.add(file, future.result())
                ran += 1
                bar.update()
