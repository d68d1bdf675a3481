"""Which pairs may meet, by field, by value or by a mix of both: what each grain of OptFeature is worth on public logs.

python -m benchmarks.grains --data ../shared/data [--logs NAME ...] [--seeds N] [--flows own paper] [--folder DIR] [--json F]

An inner-product network searches with each grain (its selector stays in the slim model, as published) and trains again from
its initial weights with the selection frozen; `all` is the same network with every pair. Grains of one flow are compared:
`paper` steps every grain beside the network, at one rate, in every step; `own` steps fields on the gate slice and values in
the first epoch alone; `gate` steps all on the gate slice. AUC on the slice that stepped or surveyed the gate and on the test
slice, both of the retrained network: where the first is far above, the selection remembers rows. `stepped` is the share of
values whose row of the selector was moved.
"""

import json
import tempfile
from pathlib import Path
from statistics import mean

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.intervals import gain
from benchmarks.leaderboard.logs import LOGS, arguments
from slimrec import stages
from slimrec.artifacts import read_json
from slimrec.config import ModelConfig
from slimrec.data.dataset import Dataset
from slimrec.metrics import auc
from slimrec.model import Model, build, with_gate
from slimrec.model.files import load_model
from slimrec.model.scoring import score
from slimrec.schema import RESERVED_ROWS

ALL = "all"  # the grain of no selection
GRAINS = (ALL, "field", "hybrid", "value")
FLOWS = {"own": {}, "gate": {"stream": "gate"}, "paper": {"reference": "paper"}}  # options of each
MODEL = {"backbone": "pnn", "options": {"hidden": [64, 32]}, "embedding_dim": 8, "embedding_std": 0.05}
TRAIN = {"epochs": 6, "patience": 1, "batch_size": 64, "embedding_learning_rate": 0.003, "device": "cpu", "threads": 1}
SPLIT = {"by": "random", "train": 0.6, "gate": 0.1, "valid": 0.1, "test": 0.2}


def ingest(log: str, data: Path, folder: Path) -> Path:
    """The dataset of a log, made once."""
    made = folder / log / "dataset"
    if not made.exists():
        table, fields = LOGS[log](data)
        made.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, made.with_name("log.parquet"))
        config = {"source": str(made.with_name("log.parquet")), "fields": fields, "split": SPLIT}
        stages.execute("ingest", config, dataset=str(made))
    return made


def measure(dataset: Path, folder: Path, grain: str, flow: str, seed: int) -> dict[str, float]:
    """One search and its retraining; what lies there is used again."""
    known = folder / "row.json"
    if known.exists():
        return read_json(known)
    train = {**TRAIN, "seed": seed}
    chosen = {"grain": grain, "fall_back": False, **FLOWS[flow or "own"]}
    method = {"method": "none"} if grain == ALL else {"method": "optfeature", "options": chosen}
    places = {name: str(folder / name) for name in ("gated", "selection", "slim")}
    stages.execute("pretrain", {**method, "model": MODEL, "train": train}, dataset=str(dataset), gated=places["gated"])
    stages.execute("prune", {}, **places)
    tuned = {"dataset": str(dataset), **places, "tuned": str(folder / "tuned")}
    stages.execute("finetune", {"start": "initial", "train": train}, **tuned)
    gated, slim = load_model(places["gated"]), load_model(tuned["tuned"])
    row = {"pairs": gated.gate.evidence().get("pairs_on_per_row"), "stepped": stepped(gated, seed)}
    for name in ("gate", "test"):
        split = Dataset.open(dataset, fields=slim.schema.names).split(name)
        row[name] = auc(split.label, score(slim, split), split.weight)
    known.write_text(json.dumps(row))
    return row


def stepped(model: Model, seed: int) -> float | None:
    """The share of values whose row of the selector is not as it was drawn; None where there is none."""
    if getattr(model.gate, "grain", "field") == "field":
        return None
    first = with_gate(build(model.schema, ModelConfig(**MODEL), seed), "optfeature", model.gate.options, seed).gate.raw
    moved = (first.values != model.gate.raw.values).any(1).numpy()
    of_values = [moved[s + RESERVED_ROWS : s + f.rows] for s, f in zip(first.starts, model.schema.fields) if f.embedded]
    return float(np.concatenate(of_values).mean())


def show(rows: list[dict]) -> None:
    """Means over seeds; the gain over field grain with its error, paired by seed."""
    table = Table("log", "grain", "flow", "pairs a row", "stepped", "AUC gate", "AUC test", "over field grain")
    for key in dict.fromkeys((row["log"], row["grain"], row["flow"]) for row in rows):
        mine = [row for row in rows if (row["log"], row["grain"], row["flow"]) == key]
        rival = (key[0], "field", key[2] or "own")
        theirs = {row["seed"]: row["test"] for row in rows if (row["log"], row["grain"], row["flow"]) == rival}
        gains = [row["test"] - theirs[row["seed"]] for row in mine if row["seed"] in theirs]
        formats = {"pairs": "{:.1f}", "stepped": "{:.1%}", "gate": "{:.4f}", "test": "{:.4f}"}
        shown = [f.format(mean(row[n] for row in mine)) if mine[0][n] is not None else "" for n, f in formats.items()]
        table.add_row(*key, *shown, gain(gains) if gains and key[1] != "field" else "")
    Console(width=140).print(table)


def main() -> None:
    parser = arguments(__doc__, ["movielens_100k", "amazon", "criteo"])
    parser.add_argument("--grains", nargs="+", choices=GRAINS, default=GRAINS)
    parser.add_argument("--flows", nargs="+", choices=FLOWS, default=["own", "paper"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows: list[dict] = []
        for log in given.logs:
            folder = given.folder or Path(scratch)
            dataset = ingest(log, given.data, folder)
            for seed in range(given.seeds):
                for grain in given.grains:
                    for flow in [""] if grain == ALL else given.flows:
                        place = folder / log / f"{grain}-{flow}-{seed}"
                        found = measure(dataset, place, grain, flow, seed)
                        rows.append({"log": log, "grain": grain, "flow": flow, "seed": seed, **found})
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1))
    show(rows)


if __name__ == "__main__":
    main()
