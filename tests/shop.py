"""A shop for tests of several labels: people click, and those who clicked buy or do not."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slimrec.artifacts import digest, publish, write_json
from slimrec.config import FinetuneConfig, IngestConfig, PretrainConfig
from slimrec.data.dataset import Dataset
from slimrec.data.encode import Encoder
from slimrec.model.files import load_model, save_model
from slimrec.selection import Budget, Decision, Selection
from slimrec.stages import finetune, ingest, pretrain
from slimrec.track import Tracker

ESMM = ["click", {"column": "buy", "after": "click"}]
TRAIN = {"epochs": 3, "batch_size": 128, "learning_rate": 0.01, "embedding_learning_rate": 0.02, "device": "cpu"}
NETWORK = {"backbone": "mlp", "embedding_dim": 4, "options": {"hidden": [8]}}
FIELDS = [
    {"name": "shown", "kind": "category"},
    {"name": "price", "kind": "category"},
    {"name": "mood", "kind": "number"},
    {"name": "noise", "kind": "category"},
]
SPLIT = {"by": "random", "train": 0.5, "gate": 0.1, "valid": 0.1, "test": 0.3}


def rows_of_a_shop(count: int, seed: int = 0) -> pa.Table:
    """`shown` decides whether people click, `price` whether they then buy, `mood` a little of both; no click, no answer."""
    random = np.random.default_rng(seed)
    shown, price, mood = random.integers(0, 8, count), random.integers(0, 8, count), random.normal(size=count)
    chance = [
        1 / (1 + np.exp(-(0.8 * (code - 3.5) + 0.4 * mood + shift))) for code, shift in ((shown, 0.5), (price, 0))
    ]
    click, buy = (random.random(count) < each for each in chance)
    columns = {
        "shown": [f"s{code}" for code in shown],
        "price": [f"p{code}" for code in price],
        "mood": mood,
        "noise": [f"n{code}" for code in random.integers(0, 50, count)],
        "click": click.astype(np.int64),
        "buy": pa.array(buy.astype(np.int64), mask=~click),
        "user": random.integers(0, count // 4 + 1, count),
    }
    return pa.table(columns)


def shop(folder: Path, tasks: list, count: int = 6000, table: pa.Table | None = None) -> Dataset:
    source = folder / "raw.parquet"
    pq.write_table(rows_of_a_shop(count) if table is None else table, source)
    config = IngestConfig(source=str(source), fields={"tasks": tasks, "fields": FIELDS}, split=SPLIT)
    ingest.run(config, Tracker(), dataset=folder / "dataset")
    return Dataset.open(folder / "dataset")


def selection(schema, dropped: tuple[str, ...] = ("noise",)) -> Selection:
    """All fields but those, and every second column of `price`."""
    fields = {}
    for place, field in enumerate(schema.fields):
        width = field.block_width(4)
        columns = () if field.name in dropped else tuple(range(0, width, 2 if field.name == "price" else 1))
        fields[field.name] = Decision(columns=columns, width=width, score=1 - place / 10, bytes=0)
    return Selection(method="by hand", seed=0, budget=Budget(fields=4 - len(dropped)), fields=fields)


def pruned(folder: Path, dataset: Path, full: Path, dropped: tuple[str, ...]) -> dict[str, Path]:
    """A selection by hand, and the model that is cut by it and trained on, in `folder`."""
    folder.mkdir(exist_ok=True)
    data = Dataset.open(dataset)
    chosen, source = selection(data.schema, dropped), {"dataset": data.fingerprint}
    with publish(folder / "selection", "selection", **source) as scratch:
        write_json(scratch / "selection.json", chosen.model_dump(mode="json"))
    with publish(folder / "cut", "slim", **source, selection=digest(folder / "selection")) as scratch:
        save_model(load_model(full).narrow(chosen), scratch, Encoder.load(dataset))
    paths = {"dataset": dataset, "gated": full, "selection": folder / "selection", "slim": folder / "cut"}
    finetune.run(FinetuneConfig(train=TRAIN), Tracker(), **paths, tuned=folder / "slim")
    return {"dataset": dataset, "full": full, "selection": folder / "selection", "slim": folder / "slim"}


def full_model(folder: Path, dataset: Path) -> Path:
    """The full model, in `folder`."""
    config = PretrainConfig(model=NETWORK, train={**TRAIN, "epochs": 4})
    pretrain.run(config, Tracker(), dataset=dataset, gated=folder / "full")
    return folder / "full"
