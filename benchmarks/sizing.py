"""What an audit costs: core time and bytes a row, memory a table and a vocabulary. For the sizing in docs/operations.md.

python -m benchmarks.sizing [rows] [memory] [--rows 200000 800000] [--values 500000 2500000] [--json FILE]

Each stage runs in a process of its own, with one thread, on logs of two sizes; the difference between the two is what a
row, a table or a vocabulary costs, without what starting up costs.

- rows: a log of Criteo's shape (13 numbers, 26 categories), width 16, tower 400-400-400, batch 4096.
- memory: a log with one large field, of width 64, that is hashed; then one that has a vocabulary.
"""

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.table import Table

NUMBERS, CATEGORIES, WIDTH = 13, 26, 64
ALONE = {"OMP_NUM_THREADS": "1"}
OPTIMIZERS = ("rowwise_adagrad", "lazy_adam")
TRAINED = {"plain": 0.8, "search": 0.75}  # shares of the rows by the default split: only a search spares the gate slice
TESTED = 0.1


def write_log(path: Path, rows: int) -> None:
    """Clicks that depend on a few fields; categories of 10 to 100,000 values, the frequent ones most of the time."""
    draw = np.random.default_rng(0)
    columns = {f"n{i}": draw.lognormal(size=rows).astype(np.float32) for i in range(NUMBERS)}
    for i, values in enumerate(np.geomspace(10, 100_000, CATEGORIES).astype(int)):
        columns[f"c{i}"] = np.char.mod("%06x", (values * draw.random(rows) ** 3).astype(int))
    chance = 1 / (1 + np.exp(2 - columns["n0"] + (columns["c3"] < "000003")))
    columns["label"] = (draw.random(rows) < chance).astype(np.int8)
    pq.write_table(pa.table(columns), path, row_group_size=65_536)


def write_values(path: Path, rows: int, values: int) -> None:
    """One field of so many values, each 16 letters long."""
    drawn = np.random.default_rng(0).permutation(rows) % values
    label = (np.arange(rows) % 2).astype(np.int8)
    pq.write_table(pa.table({"a": np.char.mod("value-%010d", drawn), "label": label}), path, row_group_size=65_536)


def aside(write, *words) -> None:
    """Write a log in another process: one that starts a process lends it its own peak of memory."""
    with ProcessPoolExecutor(1) as other:
        other.submit(write, *words).result()


def write_recipe(path: Path, source: Path, fields: list[dict], pretrain: dict) -> Path:
    """A recipe for one log."""
    content = {
        "ingest": {
            "source": str(source),
            "fields": {"label": "label", "fields": fields},
            "split": {"by": "random"},
        },
        "pretrain": pretrain,
        "prune": {"budget": {"keep": 1.0}},
        "evaluate": {"latency_repeats": 1},
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def measured(stage: str, recipe: Path, **paths: Path) -> dict[str, float]:
    """A stage in a process of its own: core seconds and the most memory it held, in bytes."""
    named = [word for name, path in paths.items() for word in ("--path", f"{name}={path}")]
    words = [sys.executable, "-m", "slimrec.cli", "stage", stage, str(recipe), *named]
    with open(os.devnull, "w") as nowhere:
        silent = [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1)]
        started = os.posix_spawn(sys.executable, words, {**os.environ, **ALONE}, file_actions=silent)
        _, status, used = os.wait4(started, 0)
    if status:
        raise RuntimeError(f"{stage} ended with {os.waitstatus_to_exitcode(status)}")
    return {"seconds": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss * 1024}


def audit(recipes: dict[str, Path], folder: Path) -> dict[str, dict[str, float]]:
    """Figures of the large stages: with the recipe `plain` the full model is trained, with `search` the gated one."""
    plain, search = recipes["plain"], recipes["search"]
    paths = {name: folder / name for name in ("dataset", "full", "gated", "selection", "slim", "report")}
    dataset = {"dataset": paths["dataset"]}
    return {
        "ingest": measured("ingest", plain, **dataset),
        "plain": measured("pretrain", plain, **dataset, gated=paths["full"]),
        "search": measured("pretrain", search, **dataset, gated=paths["gated"]),
        "prune": measured("prune", search, **{name: paths[name] for name in ("gated", "selection", "slim")}),
        "evaluate": measured(
            "evaluate", plain, **dataset, **{name: paths[name] for name in ("full", "selection", "slim", "report")}
        ),
        "log": {"bytes": (folder / "log.parquet").stat().st_size},
        "dataset": {"bytes": sum(path.stat().st_size for path in paths["dataset"].rglob("*.arrow"))},
    }


def by_rows(rows: int, folder: Path) -> dict[str, dict[str, float]]:
    """The audit of a log of Criteo's shape."""
    log = folder / "log.parquet"
    aside(write_log, log, rows)
    numbers = [{"name": f"n{i}", "kind": "number", "scale": "log"} for i in range(NUMBERS)]
    fields = [*numbers, *({"name": f"c{i}", "kind": "category"} for i in range(CATEGORIES))]
    train = {"epochs": 1, "batch_size": 4096, "embedding_optimizer": "rowwise_adagrad", "threads": 1}
    model = {"backbone": "mlp", "options": {"hidden": [400, 400, 400]}, "embedding_dim": 16}
    methods = {"plain": "none", "search": "leap"}
    recipes = {
        name: write_recipe(folder / f"{name}.yaml", log, fields, {"method": method, "model": model, "train": train})
        for name, method in methods.items()
    }
    return audit(recipes, folder)


def by_values(values: int, folder: Path) -> dict[str, dict[str, float]]:
    """The audit of a table of so many rows, trained by each optimizer; then ingest of a vocabulary of that size."""
    log, found = folder / "log.parquet", {}
    aside(write_values, log, 20_000, 10_000)
    fields = [{"name": "a", "kind": "category", "hash_rows": values}]
    recipes = {}
    for name, optimizer in zip(("plain", "search"), OPTIMIZERS):
        train = {"epochs": 2, "batch_size": 512, "embedding_optimizer": optimizer, "threads": 1}
        model = {"embedding_dim": WIDTH, "options": {"hidden": [16]}}
        pretrain = {"method": "leap", "model": model, "train": train}
        recipes[name] = write_recipe(folder / f"{name}.yaml", log, fields, pretrain)
    found = audit(recipes, folder)
    aside(write_values, log, 2_500_000, values // 4)  # each at least four times, so that training rows have nearly all
    recipe = write_recipe(folder / "vocabulary.yaml", log, [{"name": "a", "kind": "category"}], {})
    return {**found, "vocabulary": measured("ingest", recipe, dataset=folder / "vocabulary")}


def twice(measure, sizes: list[int]) -> list[dict]:
    """The figures of the smaller and of the larger size."""
    runs = []
    for size in sorted(sizes):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(measure(size, Path(folder)))
    return runs


def slope(runs: list[dict], sizes: list[int], name: str, figure: str) -> float:
    return (runs[1][name][figure] - runs[0][name][figure]) / (max(sizes) - min(sizes))


def show_rows(console: Console, runs: list[dict], sizes: list[int]) -> dict:
    """Core time a row that the stage sees."""
    shares = {"ingest": 1.0, **TRAINED, "evaluate": TESTED}
    cost = {name: slope(runs, sizes, name, "seconds") / share for name, share in shares.items()}
    table = Table("stage", "µs of a core a row", "core hours a billion rows", "memory at the larger size")
    for name, seconds in cost.items():
        memory = runs[1][name]["memory"] / 1e6
        table.add_row(name, f"{seconds * 1e6:.1f}", f"{seconds * 1e9 / 3600:.1f}", f"{memory:,.0f} MB")
    console.print(table)
    size = {name: slope(runs, sizes, name, "bytes") for name in ("log", "dataset")}
    console.print(f"bytes a row: {size['log']:.0f} in the log, {size['dataset']:.0f} in the dataset")
    return {"seconds": cost, "bytes": size}


def show_memory(console: Console, runs: list[dict], sizes: list[int]) -> dict:
    """Memory in tables of 4 * values * width bytes, and bytes a value of a vocabulary."""
    names = {"plain": OPTIMIZERS[0], "search": OPTIMIZERS[1], "prune": "prune", "evaluate": "evaluate"}
    held = {shown: slope(runs, sizes, name, "memory") / (4 * WIDTH) for name, shown in names.items()}
    table = Table("stage", "tables' worth of memory")
    for name, tables in held.items():
        table.add_row(name, f"{tables:.1f}")
    console.print(table)
    value = 4 * slope(runs, sizes, "vocabulary", "memory")
    console.print(f"bytes a value of a vocabulary while ingesting: {value:.0f}")
    return {"tables": held, "value": value}


def main(words: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="rows, memory; both by default")
    parser.add_argument("--rows", type=int, nargs=2, default=[200_000, 800_000])
    parser.add_argument("--values", type=int, nargs=2, default=[500_000, 2_500_000])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(words)
    console, result = Console(width=100), {}
    if not given.what or "rows" in given.what:
        result["rows"] = show_rows(console, twice(by_rows, given.rows), given.rows)
    if not given.what or "memory" in given.what:
        result["memory"] = show_memory(console, twice(by_values, given.values), given.values)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
