"""Are the best fields of a method the best ones? Test AUC of networks trained anew on 25, 50 and 75 % of the fields.

python -m benchmarks.rankings --data ../shared/data [--logs NAME ...] [--seeds N] [--methods M ...] [--json FILE]

One setting for all logs: default options of the methods, one network, one training. Methods that score a trained network
score the same one. Every set of fields is trained once for each seed, so that methods which choose alike are equal. A
method is `level` where its mean AUC lies within two standard errors of the best mean, paired by seed.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.datasets import census, movielens_1m
from slimrec import stages
from slimrec.artifacts import read_json
from slimrec.config import read_schema
from slimrec.data import planted
from slimrec.data.dataset import Dataset
from slimrec.gates.survey import Survey
from slimrec.metrics import auc
from slimrec.model import with_gate
from slimrec.model.files import load_model
from slimrec.model.scoring import score
from slimrec.plugins import GATES
from slimrec.pruning.decide import decide
from slimrec.pruning.findings import Findings
from slimrec.selection import Budget

MODEL = {"backbone": "widedeep", "options": {"hidden": [64, 32]}, "embedding_dim": 8, "embedding_std": 0.05}
TRAIN = {"epochs": 8, "patience": 1, "batch_size": 256, "embedding_learning_rate": 0.003, "device": "cpu", "threads": 1}
SPLIT = {"by": "random", "train": 0.6, "gate": 0.1, "valid": 0.1, "test": 0.2}
SHARES = (0.25, 0.5, 0.75)
RECIPES = Path(__file__).parents[1] / "pipelines" / "recipes"
METHODS = ("leap", "permutation", "shark", "group_lasso")


def _categories(table: pa.Table, label: str | dict, numbers: tuple[str, ...] = (), out: tuple[str, ...] = ()) -> tuple:
    name = label if isinstance(label, str) else label["column"]
    fields = [
        {"name": each, **({"kind": "number", "discretise": "quantile"} if each in numbers else {"kind": "category"})}
        for each in table.column_names
        if each != name and each not in out
    ]
    return table, {"label": label, "fields": fields}


def amazon(data: Path) -> tuple:
    return _categories(pq.read_table(data / "amazon_employee_access/train.parquet"), "ACTION")


def insurance(data: Path) -> tuple:
    left = ("id", "nclaims", "amount", "average")  # what the claim brings with it
    table = pq.read_table(data / "insurance_bemtpl97/bemtpl97.parquet")
    return _categories(table, "claim", ("expo", "ageph", "long", "lat"), left)


def avazu(data: Path) -> tuple:
    return _categories(pq.read_table(data / "avazu_sample/avazu_sample.parquet"), "click", out=("hour",))


def criteo(data: Path) -> tuple:
    numbers = tuple(f"I{i}" for i in range(1, 14))
    return _categories(pq.read_table(data / "criteo_sample/kaggle_dac_first10k.parquet"), "label", numbers)


def movielens_100k(data: Path) -> tuple:
    parts = {name: pq.read_table(data / f"movielens_100k/{name}.parquet") for name in ("inter", "item", "user")}
    table = parts["inter"].join(parts["item"], "item_id").join(parts["user"], "user_id")
    table = table.set_column(table.column_names.index("rating"), "rating", table["rating"].cast("float64"))
    return _categories(table, {"column": "rating", "positive_above": 3})


LOGS: dict[str, Callable[[Path], tuple]] = {
    "movielens_1m": lambda data: (movielens_1m(data, 0), read_schema(RECIPES / "movielens.schema.yaml")),
    "movielens_100k": movielens_100k,
    "census": lambda data: (census(data, 0), read_schema(RECIPES / "census.schema.yaml")),
    "amazon": amazon,
    "insurance": insurance,
    "planted": lambda data: planted.generate(100_000, 0),
    "avazu": avazu,
    "criteo": criteo,
}


def ingested(name: str, data: Path, folder: Path) -> Path:
    """The dataset of a log under `folder`."""
    made = folder / name / "dataset"
    if not made.exists():
        table, fields = LOGS[name](data)
        if not isinstance(fields, dict):
            fields = fields.model_dump(mode="json", exclude_unset=True)
        fields = {key: value for key, value in fields.items() if key != "time"}
        (folder / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / name / "log.parquet")
        config = {"source": str(folder / name / "log.parquet"), "fields": fields, "split": SPLIT}
        stages.execute("ingest", config, dataset=str(made))
    return made


def ranked(method: str, dataset: Path, folder: Path, seed: int) -> dict[float, tuple[str, ...]]:
    """The fields that stay by share; all methods that leave the network alone score that of `leap`."""
    surveys = issubclass(GATES.load(method), Survey)
    gated = folder / f"{'leap' if surveys else method}-{seed}"
    if not gated.exists():
        config = {"method": "leap" if surveys else method, "model": MODEL, "train": {**TRAIN, "seed": seed}}
        stages.execute("pretrain", config, dataset=str(dataset), gated=str(gated))
    model, findings = load_model(gated), Findings.model_validate(read_json(gated / "findings.json"))
    if surveys and method != "leap":
        slice_ = Dataset.open(dataset).split("gate")
        with_gate(model, method, {}, seed).eval().gate.survey(model, lambda: slice_.batches(1024, shuffle="none"))
        findings = findings.model_copy(update={"repeats": (), "kept": ()})
    return {share: decide(model.gate, findings, Budget(keep=share), False, seed).kept for share in SHARES}


def trained(kept: tuple[str, ...], dataset: Path, folder: Path, seed: int) -> float:
    """Test AUC of a network trained on these fields alone, from new weights."""
    from slimrec.config import ModelConfig, TrainConfig
    from slimrec.model import build
    from slimrec.training.loop import Trainer

    known = folder / "trained.json"
    found = read_json(known) if known.exists() else {}
    key = f"{seed}:{'|'.join(kept)}"
    if key not in found:
        data = Dataset.open(dataset, fields=kept)
        model = build(data.schema, ModelConfig(**MODEL), seed)
        Trainer(model, TrainConfig(**{**TRAIN, "seed": seed}), data.split("train"), data.split("valid")).fit()
        test = data.split("test")
        found[key] = auc(test.label, score(model, test), test.weight)
        known.write_text(json.dumps(found))
    return found[key]


def compare(name: str, data: Path, folder: Path, seeds: int, methods: list[str]) -> dict:
    """AUCs of a log by method and share, one a seed, and those of all fields."""
    dataset, place = ingested(name, data, folder), folder / name
    names = Dataset.open(dataset).schema.names
    rows: dict[str, dict[str, list[float]]] = {method: {str(share): [] for share in SHARES} for method in methods}
    kept: dict[str, dict[str, tuple[str, ...]]] = {method: {} for method in methods}
    whole = [trained(names, dataset, place, seed) for seed in range(seeds)]
    for method in methods:
        for seed in range(seeds):
            for share, fields in ranked(method, dataset, place, seed).items():
                rows[method][str(share)].append(trained(fields, dataset, place, seed))
                kept[method][str(share)] = fields
    return {"log": name, "fields": len(names), "all": whole, "auc": rows, "kept": kept}


def level(row: dict, method: str, share: float) -> bool:
    """Whether no method of the log is better by more than two standard errors of the paired difference, or by .0005."""
    own, best = (
        row["auc"][method][str(share)],
        max((each[str(share)] for each in row["auc"].values()), key=lambda values: mean(values)),
    )
    gaps = [theirs - ours for theirs, ours in zip(best, own)]
    error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    return mean(gaps) <= max(2 * error, 0.0005)


def show(rows: list[dict]) -> None:
    table = Table("log", "fields", "all", "share", *rows[0]["auc"], "leap")
    for row in rows:
        for share in SHARES:
            cells = [f"{mean(found[str(share)]):.4f}" for found in row["auc"].values()]
            best = "level" if "leap" in row["auc"] and level(row, "leap", share) else ""
            table.add_row(row["log"], str(row["fields"]), f"{mean(row['all']):.4f}", f"{share:.0%}", *cells, best)
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--logs", nargs="+", choices=LOGS, default=list(LOGS))
    parser.add_argument("--methods", nargs="+", choices=[m for m in GATES.table if m != "none"], default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep artifacts here and use again what lies there")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows: list[dict] = []
        for name in tqdm(given.logs, desc="logs"):
            rows.append(compare(name, given.data, given.folder or Path(scratch), given.seeds, given.methods))
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1))
            show(rows)


if __name__ == "__main__":
    main()
