"""What ingest costs: rows a second on one core, memory and bytes a row, in one step and in parts; bytes a vocabulary entry.

python -m benchmarks.ingest [--rows 500000] [--log FILE.parquet --fields SCHEMA.yaml] [--parts 4] [--repeats 3]
    [--entries 2000000] [--json FILE]

Without `--log` the planted log. The log is written as eight files of equal length. Every step runs in a process of its
own; times are processor time, medians over the repeats. Memory is the peak above what a process that has imported
everything holds already.
"""

import argparse
import importlib
import json
import multiprocessing
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from slimrec.artifacts import digest
from slimrec.config import read_yaml
from slimrec.data import planted
from slimrec.stages import INGEST_IN_PARTS, execute

FILES = 8


def step(stage: str, config: dict, paths: dict) -> tuple[float, float]:
    """Processor seconds, and megabytes at the peak, of one step in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, stage, config, paths).result()


def _run(stage: str, config: dict, paths: dict) -> tuple[float, float]:
    for name in ("pandas", *(f"slimrec.stages.{stage}" for stage in ("ingest", *INGEST_IN_PARTS))):
        importlib.import_module(name)
    before, start = _peak(), time.process_time()
    execute(stage, config, **paths)
    return time.process_time() - start, _peak() - before


def _peak() -> float:
    """Most memory that this process has held, in megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def all_steps(config: dict, folder: Path) -> dict[str, tuple[float, float]]:
    """Seconds (summed over parts) and megabytes (of the largest part) of every step; `folder`/dataset and others stay."""
    at = {name: str(folder / name) for name in ("dataset", "plan", "encoding", "gathered")}
    found = {"ingest": step("ingest", config, {"dataset": at["dataset"]})}
    found["plan"] = step("plan", config, {"plan": at["plan"]})
    parts = range(len(json.loads((folder / "plan" / "plan.json").read_text())["parts"]))
    counts, encoded = ([str(folder / f"{name}{part}") for part in parts] for name in ("counts", "encoded"))
    shared = {"plan": at["plan"]}
    each = [step("count", {"part": part}, {**shared, "counts": counts[part]}) for part in parts]
    found["count"] = _joined(each)
    shared["encoding"] = at["encoding"]
    found["merge"] = step("merge", {}, {**shared, "counts": counts})
    each = [step("encode", {"part": part}, {**shared, "encoded": encoded[part]}) for part in parts]
    found["encode"] = _joined(each)
    found["gather"] = step("gather", {}, {**shared, "encoded": encoded, "dataset": at["gathered"]})
    if digest(at["gathered"]) != digest(at["dataset"]):
        raise AssertionError("parts made another dataset than one step")
    return found


def _joined(each: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(seconds for seconds, _ in each), max(memory for _, memory in each)


def entries_cost(entries: int, folder: Path) -> dict[str, float]:
    """Bytes of memory for each entry of a vocabulary of that many, by step: the peak above that of a hashed field."""
    random = np.random.default_rng(0)
    values = [f"device-{number:016x}" for number in random.permutation(entries).tolist()]
    (folder / "log").mkdir()
    labels = random.integers(0, 2, entries)
    for number, part in enumerate(np.array_split(np.arange(entries), 2)):
        table = pa.table({"click": labels[part], "device": pa.array(values[part[0] : part[-1] + 1])})
        pq.write_table(table, folder / "log" / f"{number}.parquet")
    peaks = []
    for hashed in ({}, {"hash_rows": 1000}):
        fields = {"label": "click", "fields": [{"name": "device", "kind": "category", **hashed}]}
        config = {"source": str(folder / "log"), "fields": fields, "parts": 2, "split": {"by": "random"}}
        peaks.append(all_steps(config, folder))
    held = {"ingest": 0.75, "count": 0.375, "merge": 0.75, "encode": 0.75}  # of the entries: those of the training rows
    return {name: (peaks[0][name][1] - peaks[1][name][1]) * 2**20 / (share * entries) for name, share in held.items()}


def write_log(source: pq.ParquetFile | None, rows: int, folder: Path) -> None:
    """The log as FILES files."""
    table = pa.Table.from_batches(planted.batches(planted.Log(rows))) if source is None else source.read()
    for number in range(FILES):
        low, high = (len(table) * edge // FILES for edge in (number, number + 1))
        pq.write_table(table.slice(low, high - low), folder / f"{number}.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--fields", type=Path)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--entries", type=int, default=2_000_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    source = pq.ParquetFile(given.log) if given.log else None
    rows = source.metadata.num_rows if source else given.rows
    fields = read_yaml(given.fields) if given.fields else planted.schema(planted.Log()).model_dump(mode="json")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "log").mkdir()
        write_log(source, rows, folder / "log")
        config = {"source": str(folder / "log"), "fields": fields, "parts": given.parts}
        runs = [all_steps(config, folder) for _ in range(given.repeats)]
        sizes = {
            at: sum(f.stat().st_size for f in (folder / at).rglob("*") if f.is_file()) for at in ("log", "dataset")
        }
    figures = {
        step: {
            "rows_a_second": rows / median(run[step][0] for run in runs),
            "peak_mb": median(run[step][1] for run in runs),
        }
        for step in runs[0]
    }
    with tempfile.TemporaryDirectory() as name:
        per_entry = entries_cost(given.entries, Path(name)) if given.entries else {}
    shown = Table(
        "step", "rows/s of a core", "peak MB", "bytes an entry", title=f"{given.log or 'planted'}, {rows} rows"
    )
    for step_name, row in figures.items():
        cost = per_entry.get(step_name)
        shown.add_row(step_name, f"{row['rows_a_second']:,.0f}", f"{row['peak_mb']:.0f}", f"{cost:.0f}" if cost else "")
    console = Console()
    console.print(shown)
    console.print(", ".join(f"{name}: {size / rows:.0f} bytes a row" for name, size in sizes.items()))
    if given.json:
        told = {"rows": rows, "steps": figures, "bytes": sizes, "bytes_an_entry": per_entry}
        given.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
