"""Are the best fields of a method the best ones? Test AUC of networks trained anew on 25, 50 and 75 % of the fields.

python -m benchmarks.rankings --data ../shared/data [--logs NAME ...] [--seeds N] [--methods M ...] [--json FILE]

One setting for all logs: default options of the methods, one network, one training. Methods that score a trained network
score the same one; `lightgbm` (to be installed beside) ranks by the gain of its trees. Every set of fields is trained once
for each seed, so that methods which choose alike are equal. A method is `level` where its mean AUC lies within two standard
errors of the best mean, paired by seed.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev

import numpy as np
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
TREES = "lightgbm"  # no method of ours, but what many rank fields by


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


def searched(method: str, dataset: Path, folder: Path, seed: int) -> Path:
    """The search of a method; all methods that leave the network alone score that of `leap`."""
    gated = folder / f"{method}-{seed}"
    if not gated.exists():
        config = {"method": method, "model": MODEL, "train": {**TRAIN, "seed": seed}}
        stages.execute("pretrain", config, dataset=str(dataset), gated=str(gated))
    return gated


def network_of(method: str) -> str:
    """Whose search a method needs."""
    return "leap" if method == TREES or issubclass(GATES.load(method), Survey) else method


def ranked(method: str, dataset: Path, folder: Path, seed: int) -> dict[float, tuple[str, ...]]:
    """The fields that stay by share."""
    if method == TREES:
        gain = gains(dataset, seed)
        order = sorted(gain, key=lambda name: (-gain[name], name))
        return {share: tuple(sorted(order[: max(1, int(share * len(order)))])) for share in SHARES}
    gated = searched(network_of(method), dataset, folder, seed)
    model, findings = load_model(gated), Findings.model_validate(read_json(gated / "findings.json"))
    if issubclass(GATES.load(method), Survey) and method != "leap":
        slice_ = Dataset.open(dataset).split("gate")
        with_gate(model, method, {}, seed).eval().gate.survey(model, lambda: slice_.batches(1024, shuffle="none"))
        findings = findings.model_copy(update={"repeats": (), "kept": ()})
    return {share: decide(model.gate, findings, Budget(keep=share), False, seed).kept for share in SHARES}


def gains(dataset: Path, seed: int) -> dict[str, float]:
    """By field, the gain of LightGBM's trees over its columns; ids are categories."""
    import lightgbm

    data = Dataset.open(dataset)
    columns: list[str] = [field.name for field in data.schema.fields for _ in range(field.slots)]
    categories = list(range(len(columns)))
    columns += [field.name for field in data.schema.fields for _ in range(field.dense_width)]
    parts = []
    for name in ("train", "valid"):
        batches = list(data.split(name).batches(65_536, shuffle="none"))
        table = np.hstack([np.concatenate([getattr(b, kind).numpy() for b in batches]) for kind in ("ids", "dense")])
        label, weight = (np.concatenate([getattr(b, kind).numpy() for b in batches]) for kind in ("label", "weight"))
        parts.append(lightgbm.Dataset(table.astype(np.float64), label, weight=weight, categorical_feature=categories))
    options = {"objective": "binary", "seed": seed, "deterministic": True, "num_threads": 1, "verbosity": -1}
    stop = lightgbm.early_stopping(20, verbose=False)
    trees = lightgbm.train(options, parts[0], 300, valid_sets=[parts[1]], callbacks=[stop])
    found = dict.fromkeys(data.schema.names, 0.0)
    for column, gain in zip(columns, trees.feature_importance("gain")):
        found[column] += float(gain)
    return found


def trained(kept: tuple[str, ...], dataset: Path, folder: Path, seed: int) -> float:
    """Test AUC of a network trained on these fields alone, from new weights."""
    from slimrec.config import ModelConfig, TrainConfig
    from slimrec.model import build
    from slimrec.training.loop import Trainer

    key = hashlib.sha256(f"{seed}:{'|'.join(kept)}".encode()).hexdigest()[:16]
    known = folder / f"trained-{key}.json"
    if not known.exists():
        data = Dataset.open(dataset, fields=kept)
        model = build(data.schema, ModelConfig(**MODEL), seed)
        Trainer(model, TrainConfig(**{**TRAIN, "seed": seed}), data.split("train"), data.split("valid")).fit()
        test = data.split("test")
        known.write_text(json.dumps(auc(test.label, score(model, test), test.weight)))
    return json.loads(known.read_text())


def compare(names: list[str], data: Path, folder: Path, seeds: int, methods: list[str], processes: int) -> list[dict]:
    """By log the AUCs by method and share, one a seed, and those of all fields."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:

        def done(what: str, work: Callable, tasks: dict) -> dict:
            futures = {key: pool.submit(work, *arguments) for key, arguments in tasks.items()}
            return {key: future.result() for key, future in tqdm(futures.items(), desc=what)}

        made = done("logs", ingested, {name: (name, data, folder) for name in names})
        place = {name: (made[name], folder / name) for name in names}
        fields = {name: Dataset.open(made[name]).schema.names for name in names}
        runs = [(name, seed) for name in names for seed in range(seeds)]
        wanted = {(*run, network_of(method)) for run in runs for method in methods}
        done("searches", searched, {key: (key[2], *place[key[0]], key[1]) for key in sorted(wanted)})
        every = {(*run, method): (method, *place[run[0]], run[1]) for run in runs for method in methods}
        chosen = done("rankings", ranked, every)
        sets = {(name, seed, fields[name]) for name, seed in runs}
        sets |= {(name, seed, kept) for (name, seed, _), by_share in chosen.items() for kept in by_share.values()}
        order = sorted(sets, key=lambda one: (names.index(one[0]), one[1:]))
        worth = done("networks", trained, {key: (key[2], *place[key[0]], key[1]) for key in order})
    return [
        {
            "log": name,
            "fields": len(fields[name]),
            "all": [worth[name, seed, fields[name]] for seed in range(seeds)],
            "auc": {
                m: {str(s): [worth[name, seed, chosen[name, seed, m][s]] for seed in range(seeds)] for s in SHARES}
                for m in methods
            },
            "kept": {m: {str(s): chosen[name, 0, m][s] for s in SHARES} for m in methods},
        }
        for name in names
    ]


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
    known = [method for method in GATES.table if method != "none"]
    parser.add_argument("--methods", nargs="+", choices=[*known, TREES], default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep artifacts here and use again what lies there")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        rows = compare(given.logs, given.data, folder, given.seeds, given.methods, given.processes)
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1))
        show(rows)


if __name__ == "__main__":
    main()
