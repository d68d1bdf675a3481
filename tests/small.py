"""A small audited world for tests: raw rows of every kind, the dataset, a trained full model, a selection, its cut."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slimrec.artifacts import digest, publish, read_json, write_json
from slimrec.config import IngestConfig, ModelConfig, PretrainConfig, TrainConfig
from slimrec.data.dataset import Dataset
from slimrec.data.encode import Encoder
from slimrec.model.files import load_model, save_model
from slimrec.schema import Schema
from slimrec.selection import Budget, Decision, Selection
from slimrec.stages import ingest, pretrain
from slimrec.track import Tracker

FIELDS = {
    "label": "click",
    "weight": "worth",
    "group": "user",
    "fields": [
        {"name": "device", "kind": "category"},
        {"name": "device_again", "kind": "category", "column": "device"},
        {"name": "embedding", "kind": "vector", "width": 3},
        {"name": "noise", "kind": "category"},
        {"name": "price", "kind": "number"},
        {"name": "tags", "kind": "bag", "max_length": 3},
        {"name": "user_id", "kind": "category", "column": "user"},
    ],
}
RECIPE = {  # of a whole audit, as short as it gets
    "ingest": {
        "source": "planted:rows=6000,seed=0",
        "audit_date": "2026-11-20",
        "split": {"by": "random", "train": 0.6, "gate": 0.1, "valid": 0.1, "test": 0.2},
    },
    "sample": {"fraction": 0.5},
    "pretrain": {
        "method": "random",
        "model": {"backbone": "widedeep", "options": {"hidden": [8]}, "embedding_dim": 4},
        "train": {"epochs": 1, "batch_size": 128, "learning_rate": 0.01, "threads": 1, "device": "cpu"},
    },
    "prune": {"budget": {"keep": 0.75}},
    "finetune": {"train": {"epochs": 1, "batch_size": 128, "learning_rate": 0.01, "threads": 1, "device": "cpu"}},
    "evaluate": {"allowed_auc_loss": 0.4, "latency_repeats": 2},
    "register": {"name": "small"},
}


class World(NamedTuple):
    raw: Path
    dataset: Path
    full: Path
    selection: Path
    slim: Path


def raw_rows(rows: int, seed: int = 0) -> pa.Table:
    """`device`, `price`, `embedding` and `tags` say something of `click`, `noise` nothing."""
    random = np.random.default_rng(seed)
    device, price = random.integers(0, 12, rows), random.lognormal(size=rows)
    embedding, tags = random.normal(size=(rows, 3)), random.integers(0, 9, (rows, 4))
    logit = 0.3 * (device - 6) + np.log(price) + embedding[:, 0] + 0.5 * (tags[:, 0] > 4) - 1
    columns = {
        "click": (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64),
        "worth": random.uniform(0.5, 2, rows),
        "user": random.integers(0, rows // 5 + 1, rows),
        "device": [f"phone {d}" for d in device],
        "price": price,
        "embedding": list(embedding),
        "noise": [f"n{n}" for n in random.integers(0, 300, rows)],
        "tags": [list(t[: 1 + i % 4].astype(str)) for i, t in enumerate(tags)],
        "unread": [{"a": 1}] * rows,
    }
    return pa.table(columns)


def ingest_rows(folder: Path, rows: int = 4000, gate: float = 0.0) -> Path:
    """`folder`/raw.parquet and `folder`/dataset."""
    raw = folder / "raw.parquet"
    pq.write_table(raw_rows(rows), raw)
    split = {"by": "random", "train": 0.5, "gate": gate, "valid": 0.1, "test": 0.4 - gate}
    ingest.run(IngestConfig(source=str(raw), fields=FIELDS, split=split), Tracker(), dataset=folder / "dataset")
    return raw


def make(folder: Path, dropped: tuple[str, ...] = ("device_again", "noise", "user_id"), rows: int = 4000) -> World:
    """Ingest, train a full model for one epoch, cut `dropped` and half the columns of `tags` from it."""
    world = World(ingest_rows(folder, rows), *(folder / name for name in ("dataset", "full", "selection", "slim")))
    train = TrainConfig(epochs=1, batch_size=256, learning_rate=0.01, embedding_learning_rate=0.02, device="cpu")
    config = PretrainConfig(model=ModelConfig(embedding_dim=4, options={"hidden": [16, 8]}), train=train)
    pretrain.run(config, Tracker(), dataset=world.dataset, gated=world.full)
    model, data = load_model(world.full), Dataset.open(world.dataset)
    chosen = choose(data.schema, dropped)
    with publish(world.selection, "selection") as scratch:
        write_json(scratch / "selection.json", chosen.model_dump(mode="json"))
    with publish(world.slim, "slim", dataset=data.fingerprint, selection=digest(world.selection)) as scratch:
        save_model(model.narrow(chosen), scratch, Encoder.load(world.dataset))
    return world


def choose(schema: Schema, dropped: tuple[str, ...]) -> Selection:
    """The selection that keeps all but `dropped`, and every second column of `tags`."""
    decisions = {}
    for i, field in enumerate(schema.fields):
        width = field.block_width(4)
        columns = () if field.name in dropped else tuple(range(0, width, 2 if field.name == "tags" else 1))
        decisions[field.name] = Decision(columns=columns, width=width, score=1 - i / 10, bytes=4 * field.rows * width)
    return Selection(
        method="by hand", seed=0, budget=Budget(fields=len(schema.fields) - len(dropped)), fields=decisions
    )


def variant(slim: Path, folder: Path, shift: float) -> Path:
    """The same slim model with another bias in its scores: a different content, as from another training."""
    model = load_model(slim, "slim")
    list(model.backbone.parameters())[-1].data += shift
    with publish(folder, "slim", dataset=read_json(slim / "manifest.json")["dataset"]) as scratch:
        save_model(model, scratch, Encoder.load(slim))
    return folder


def decision(champion: str = "", name: str = "ctr", **changed) -> dict:
    """What the registry reads of a report.json; `champion` is the version judged against, "" for none."""
    judged = {"model": name, "version": champion, "verdict": "certified"} if champion else None
    return {
        "decision": "accept",
        "verdict": "certified",
        "reason": "with 95 % confidence it is as good",
        "auc": {"difference": 0.0, "low": -0.0005, "high": 0.0005},
        "size": {"full": {"bytes": 2}, "slim": {"bytes": 1}},
        "fields": [{"kept": True}, {"kept": False}],
        "dataset": "d" * 64,
        "champion": judged,
        **changed,
    }
