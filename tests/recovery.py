"""A log of ten categories, three of which decide the click, and short real searches on it: does a method tell them apart?"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slimrec.config import IngestConfig, ModelConfig, PretrainConfig, SampleConfig, TrainConfig
from slimrec.gates.base import Gate
from slimrec.model.files import load_model
from slimrec.stages import ingest, pretrain, sample
from slimrec.track import Tracker

STRONG = ("strong_a", "strong_b", "strong_c")
NOISE = {f"noise_{values}": values for values in (2, 5, 10, 20, 50, 100, 500)}  # in front of the strong ones by name


def make_dataset(folder: Path, rows: int = 16_000, seed: int = 0) -> Path:
    """`folder`/dataset: half of the rows to train on, a quarter for gates."""
    random = np.random.default_rng(seed)
    strong = {name: random.integers(0, 8, rows) for name in STRONG}
    effects = {name: random.permutation(np.linspace(-1.5, 1.5, 8)) for name in STRONG}
    logit = sum(effects[name][values] for name, values in strong.items())
    columns = {**strong, **{name: random.integers(0, values, rows) for name, values in NOISE.items()}}
    table = {name: pa.array(values.astype(str)) for name, values in columns.items()}
    pq.write_table(
        pa.table({**table, "click": (random.random(rows) < 1 / (1 + np.exp(-logit))) * 1}), folder / "log.pq"
    )
    fields = {"label": "click", "fields": [{"name": name, "kind": "category"} for name in columns]}
    split = {"by": "random", "train": 0.5, "gate": 0.25, "valid": 0.1, "test": 0.15}
    (folder / "log.pq").rename(folder / "log.parquet")
    config = IngestConfig(source=str(folder / "log.parquet"), fields=fields, split=split)
    ingest.run(config, Tracker(), dataset=folder / "dataset")
    return folder / "dataset"


def search(folder: Path, dataset: Path, method: str, options: dict | None = None, seed: int = 0, rows: int = 2000,
           epochs: int = 20, backbone: str = "mlp") -> Gate:  # fmt: skip
    """The trained gate of `folder`/gated, after a search on a subset of `rows` training rows (`folder`/subset)."""
    sample.run(SampleConfig(rows=rows, seed=seed), Tracker(), dataset=dataset, subset=folder / "subset")
    train = TrainConfig(
        epochs=epochs, patience=0, batch_size=256, learning_rate=0.01, embedding_learning_rate=0.01, seed=seed,
        device="cpu",
    )  # fmt: skip
    model = ModelConfig(backbone=backbone, embedding_dim=4, options={"hidden": [8]})
    config = PretrainConfig(method=method, options=options or {}, model=model, train=train)
    pretrain.run(config, Tracker(), dataset=dataset, gated=folder / "gated", subset=folder / "subset")
    return load_model(folder / "gated").gate
