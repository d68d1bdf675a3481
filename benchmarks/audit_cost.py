"""What an audit costs over the training of the full model that it judges by: processor time, the two in turns.

python -m benchmarks.audit_cost [demo] [criteo] [wide] [--rounds 2] [--rows N] [--method leap] [--json FILE]

- demo: the demo recipe on its planted log, 20 fields.
- criteo: 400,000 rows of Criteo's shape, 39 fields, width 16, tower 400-400-400, batch 4096, two epochs.
- wide: 100,000 rows of 300 categories, width 8, tower 64-32, batch 1024, two epochs.

Plain: the full model's training, its epochs of the search and that after the cut. Audit: search with its findings, prune, finetune,
baseline (which takes the search's network), evaluate. All in one process, with one thread: what starting a step costs
is not counted, and ingest, which a training needs as well, neither.

Then, of one epoch over the same epoch without a gate: LeAP as it is by default (no gate within the training), with gates
at every fourth step on held-out rows, and with gates and network together; and the seconds of the path that follows.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.selection import RECIPES
from benchmarks.sizing import CATEGORIES, NUMBERS, write_log
from slimrec.config import PretrainConfig, Recipe, parse, read_recipe
from slimrec.data.dataset import Dataset
from slimrec.model import build, with_gate
from slimrec.stages import evaluate, finetune, ingest, pretrain, prune
from slimrec.stages.settle import sections
from slimrec.track import Tracker
from slimrec.training.loop import Trainer

FIELDS = 300
SIZES = {"demo": 300_000, "criteo": 400_000, "wide": 100_000}
SPLIT = {"by": "random", "train": 0.7, "gate": 0.05, "valid": 0.1, "test": 0.15}
GATED = {"plain": None, "path": {}, "every fourth step": {"alpha": 0.001}, "together": {"stream": "train"}}
STAGES = ("search", "prune", "finetune", "baseline", "evaluate")


def write_wide(file: Path, rows: int) -> None:
    """`FIELDS` categories of 5 to 1,000 values; clicks depend on a tenth of them."""
    draw = np.random.default_rng(0)
    columns, logit = {}, np.full(rows, -1.5)
    for i, values in enumerate(np.geomspace(5, 1000, FIELDS).astype(int)):
        drawn = draw.integers(0, values, rows)
        logit += 0.2 * draw.standard_normal(values)[drawn] * (i % 10 == 0)
        columns[f"c{i}"] = drawn.astype(np.int32)
    columns["label"] = (draw.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    pq.write_table(pa.table(columns), file)


def recipe_of(name: str, folder: Path, rows: int, method: str) -> Recipe:
    """The recipe of one of the three logs, with the log where it names it."""
    if name == "demo":
        recipe = read_recipe(RECIPES / "demo.yaml")
        source = recipe.ingest.source.replace(f"rows={SIZES['demo']}", f"rows={rows}")
        searching = recipe.pretrain.model_copy(update={"method": method})
        changed = {"ingest": recipe.ingest.model_copy(update={"source": source}), "pretrain": searching}
        return recipe.model_copy(update=changed)
    log = folder / "log.parquet"
    if name == "criteo":
        write_log(log, rows)
        fields = [{"name": f"n{i}", "kind": "number", "scale": "log"} for i in range(NUMBERS)]
        fields += [{"name": f"c{i}", "kind": "category"} for i in range(CATEGORIES)]
        model = {"options": {"hidden": [400, 400, 400]}, "embedding_dim": 16}
        size = 4096
    else:
        write_wide(log, rows)
        fields = [{"name": f"c{i}", "kind": "category"} for i in range(FIELDS)]
        model, size = {"options": {"hidden": [64, 32]}, "embedding_dim": 8}, 1024
    train = {"batch_size": size, "patience": 0, "threads": 1}
    told = {
        "ingest": {"source": str(log), "fields": {"label": "label", "fields": fields}, "split": SPLIT},
        "pretrain": {"method": method, "model": model, "train": {**train, "epochs": 2}},
        "finetune": {"train": {**train, "epochs": 1}},
    }
    return parse(Recipe, told)


def timed(run: Callable, *words, **paths: Path) -> float:
    """Processor seconds of a stage."""
    began = time.process_time()
    run(*words, Tracker(), **paths)
    return time.process_time() - began


def full_of(recipe: Recipe) -> PretrainConfig:
    """The training of the full model."""
    return parse(PretrainConfig, sections(recipe)["baseline"])


def plain(recipe: Recipe, data: Path, folder: Path) -> float:
    return timed(pretrain.run, full_of(recipe), dataset=data, gated=folder / "plain")


def audit(recipe: Recipe, data: Path, folder: Path) -> dict[str, float]:
    """Processor seconds by stage."""
    at = {name: folder / name for name in ("gated", "selection", "slim", "tuned", "full", "report")}
    cut = {name: at[name] for name in ("gated", "selection", "slim")}
    judged = {"slim": at["tuned"], "full": at["full"], "selection": at["selection"], "report": at["report"]}
    seconds = {"search": timed(pretrain.run, recipe.pretrain, dataset=data, gated=at["gated"])}
    seconds["prune"] = timed(prune.run, recipe.prune, **cut)
    seconds["finetune"] = timed(finetune.run, recipe.finetune, dataset=data, tuned=at["tuned"], **cut)
    seconds["baseline"] = timed(pretrain.run, full_of(recipe), dataset=data, search=at["gated"], gated=at["full"])
    seconds["evaluate"] = timed(evaluate.run, recipe.evaluate, dataset=data, **judged)
    return seconds


def gated(recipe: Recipe, data: Dataset, options: dict | None) -> tuple[float, float]:
    """Processor seconds of one epoch with LeAP of these options, or with no gate, and of what follows on the gate slice."""
    told = recipe.pretrain.train.model_copy(update={"epochs": 1})
    model = build(data.schema, recipe.pretrain.model, told.seed)
    model = with_gate(model, "none", {}, 0) if options is None else with_gate(model, "leap", options, 0)
    slice_, began = data.split("gate"), time.process_time()
    Trainer(model, told, train=data.split("train"), valid=data.split("valid"), gate=slice_).fit()
    trained = time.process_time()
    if options is not None:
        model.eval().gate.survey(model, lambda: slice_.batches(told.batch_size, shuffle="none"))
    return trained - began, time.process_time() - trained


def measure(name: str, rows: int, rounds: int, method: str) -> dict:
    """Seconds of both sides in turns, how many rows the search trains on, and what gates add to a step."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        recipe = recipe_of(name, folder, rows, method)
        ingest.run(recipe.ingest, Tracker(), dataset=folder / "dataset")
        found = []
        for turn in range(rounds):
            here = folder / str(turn)
            here.mkdir()
            before = plain(recipe, folder / "dataset", here)
            found.append({"plain": before, **audit(recipe, folder / "dataset", here)})
        data = Dataset.open(folder / "dataset")
        steps = [{kind: gated(recipe, data, options) for kind, options in GATED.items()} for _ in range(rounds)]
        trained = len(data.split("train"))
    return {"log": name, "rows": trained, "rounds": found, "steps": steps}


def show(console: Console, results: list[dict]) -> None:
    table = Table("log", "training rows", "plain, s", *(f"{stage}, s" for stage in STAGES), "audit / plain")
    for one in results:
        each = {key: mean(turn[key] for turn in one["rounds"]) for key in ("plain", *STAGES)}
        ratios = [sum(turn[stage] for stage in STAGES) / turn["plain"] for turn in one["rounds"]]
        shown = [f"{each[key]:.1f}" for key in ("plain", *STAGES)]
        ratio = f"{mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.add_row(one["log"], f"{one['rows']:,}", *shown, ratio)
    console.print(table)
    table = Table("log", "epoch, s", *(f"{kind} / plain" for kind in GATED if kind != "plain"), "the path, s")
    for one in results:
        ratios = [mean(turn[kind][0] / turn["plain"][0] for turn in one["steps"]) for kind in GATED if kind != "plain"]
        epoch, after = (mean(turn[kind][i] for turn in one["steps"]) for kind, i in (("plain", 0), ("path", 1)))
        table.add_row(one["log"], f"{epoch:.1f}", *(f"{ratio:.2f}" for ratio in ratios), f"{after:.1f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="*", help=f"of {', '.join(SIZES)}; all by default")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, help="of the log, in place of its own number")
    parser.add_argument("--method", default="leap")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    names = given.logs or list(SIZES)
    if unknown := set(names) - set(SIZES):
        parser.error(f"no log {', '.join(sorted(unknown))}: there are {', '.join(SIZES)}")
    measure("demo", 5_000, 1, given.method)  # what is imported at first use is no part of it
    results = [measure(name, given.rows or SIZES[name], given.rounds, given.method) for name in names]
    show(Console(width=120), results)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
