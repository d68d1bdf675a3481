"""What a model costs: parameters, bytes, multiply-adds, latency."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from slimrec.data.dataset import Split
from slimrec.model import Model

LATENCY_BATCHES = (1, 4096)
_SECONDS = 1.0  # of turns, after which a latency is known well enough
_FEWEST = 11  # turns, however long they take


def measure(models: dict[str, Model], tests: dict[str, Split], repeats: int) -> dict[str, Any]:
    """What report.json holds of the costs of `full` and `slim`, timed on the first rows of the splits that each reads."""
    batches = {name: _one_batch(test, max(LATENCY_BATCHES)) for name, test in tests.items()}
    sizes = {
        name: {**size(model), "multiply_adds": multiply_adds(model, batches[name])} for name, model in models.items()
    }
    latency = []
    for rows in LATENCY_BATCHES:
        full, slim = ((ids[:rows], dense[:rows]) for ids, dense in (batches["full"], batches["slim"]))
        full_ms, slim_ms = compare_latency(models["full"], full, models["slim"], slim, repeats)
        latency.append({"batch": rows, "full_ms": full_ms, "slim_ms": slim_ms})
    return {"size": sizes, "latency": latency}


def _one_batch(split: Split, rows: int) -> tuple[Tensor, Tensor]:
    """The first rows of a split, repeated up to `rows` where there are fewer."""
    batch = next(iter(split.batches(rows, shuffle="none")))
    times = -(-rows // len(batch.label))
    return batch.ids.repeat(times, 1)[:rows], batch.dense.repeat(times, 1)[:rows]


def size(model: Model) -> dict[str, int]:
    """Parameters, rows and bytes as served: tables, everything else (a gate included), and the sum."""
    tables: list[Tensor] = list(model.arena.tables.parameters())
    owned = {id(table) for table in tables}
    scaling = [model.arena.get_buffer(name) for name in ("dense_scale", "dense_shift")]
    dense = [*(p for p in model.parameters() if id(p) not in owned), *scaling]
    embedding_bytes, dense_bytes = (sum(t.numel() * t.element_size() for t in part) for part in (tables, dense))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "embedding_rows": sum(len(table) for table in tables),
        "embedding_bytes": embedding_bytes,
        "dense_bytes": dense_bytes,
        "bytes": embedding_bytes + dense_bytes,
    }


def multiply_adds(model: Model, batch: tuple[Tensor, Tensor]) -> int:
    """Multiply-adds of one row, by PyTorch's counter (matrix products only)."""
    ids, dense = batch
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(ids, dense)
    return round(counter.get_total_flops() / 2 / len(ids))


def compare_latency(
    full: Model, full_batch: tuple[Tensor, Tensor], slim: Model, slim_batch: tuple[Tensor, Tensor], repeats: int
) -> tuple[float, float]:
    """Median milliseconds of one forward pass of each model, over at most so many turns."""
    full, slim = full.eval(), slim.eval()
    seconds = timed(lambda: full(*full_batch), lambda: slim(*slim_batch), repeats=repeats, seconds=_SECONDS)
    return 1000 * seconds[0], 1000 * seconds[1]


@torch.inference_mode()
def timed(*works: Callable[[], object], repeats: int, seconds: float = math.inf) -> list[float]:
    """Median seconds of each, taken in turns so that a busy machine slows all; three turns before them warm up.

    Once they have taken so many `seconds` no further turn begins, but for the first eleven of `repeats`.
    """
    found: list[list[float]] = [[] for _ in works]
    for repeat in range(repeats + 3):
        if repeat >= _FEWEST + 3 and sum(map(sum, found)) >= seconds:
            break
        for work, own in zip(works, found):
            start = time.perf_counter()
            work()
            if repeat >= 3:
                own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in found]
