"""One cell of the leaderboard: a method searches a log with one seed, and its best quarter, half and three quarters of the
fields are judged, by a network trained anew and by trees."""

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.leaderboard.worlds import Log
from slimrec import stages
from slimrec.artifacts import read_json
from slimrec.config import ModelConfig, TrainConfig
from slimrec.data.dataset import Dataset
from slimrec.errors import ConfigError, InputError
from slimrec.gates.base import Gate
from slimrec.gates.survey import Survey
from slimrec.gates.trees import grow
from slimrec.metrics import auc
from slimrec.model import Model, build, with_gate
from slimrec.model.files import load_model
from slimrec.model.scoring import score
from slimrec.plugins import GATES
from slimrec.pruning.decide import decide
from slimrec.pruning.findings import Findings, twins_of
from slimrec.selection import Budget, Selection
from slimrec.training.loop import Trainer
from slimrec.verdict.cost import size

MODEL = {"backbone": "widedeep", "options": {"hidden": [64, 32]}, "embedding_dim": 8, "embedding_std": 0.05}
TRAIN = {"epochs": 8, "patience": 1, "batch_size": 256, "embedding_learning_rate": 0.003, "device": "cpu", "threads": 1}
SPLIT = {"by": "auto", "train": 0.6, "gate": 0.1, "valid": 0.1, "test": 0.2}
SHARES = (0.25, 0.5, 0.75)
ALL = "none"  # the method that keeps every field
PLAIN = "random"  # whose search is a plain training: what surveys score
# What a method's own documentation asks for beside its defaults: options, section train, and the share of rows sampled
ASKED: dict[str, dict] = {
    "irazor": {"options": {"cpt": 0.8, "warmup": 0.0}, "train": {"epochs": 1}},  # the paper's cpt for Criteo; irazor.py
    "autodim": {"options": {"warmup": 0.0}, "train": {"epochs": 1}},
    "lpfs": {"options": {"warmup": 0.1}, "train": {"epochs": 1}},  # see lpfs.py
    "optfeature": {"options": {"grain": "field"}},  # a static list of pairs
    "lightfmp": {"sample": 0.1, "train": {"batch_size": 128}},  # a small subset, enough steps
}
ONE_PASS = ("optfs",)  # beside those of ASKED
STEPS = 1000  # of a search in one pass, about
MOST_PAIRS = 20_000  # that a network whose fields meet is tried with
SETTINGS = hashlib.sha256(json.dumps([MODEL, TRAIN, SPLIT, SHARES, STEPS]).encode()).hexdigest()[:8]


class Place:
    """Where one log lies and what was made of it with one seed, to be used again."""

    def __init__(self, folder: Path, log: str, seed: int):
        self.log, self.seed = log, seed
        self.above = folder / SETTINGS / log
        self.dataset, self.folder = self.above / "dataset", self.above / str(seed)
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One process at a time makes what several need."""
        with (self.above / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def ingest(self, make: Callable[[Path], Log], data: Path) -> None:
        with self.alone():
            if not self.dataset.exists():
                table, fields = make(data)
                pq.write_table(table, self.above / "log.parquet")
                config = {"source": str(self.above / "log.parquet"), "fields": fields, "split": SPLIT}
                stages.execute("ingest", config, dataset=str(self.dataset))

    def kept(self, name: str, make: Callable[[], dict]) -> dict:
        """What `make` gives, from a file where it was made before, with the processor seconds that it took."""
        known = self.folder / f"{name}.json"
        if not known.exists():
            began = time.process_time()
            made = make()
            scratch = known.with_suffix(".partial")
            scratch.write_text(json.dumps({**made, "seconds": time.process_time() - began}))
            scratch.replace(known)
        return json.loads(known.read_text())


def cell(place: Place, method: str) -> list[dict]:
    """A row a share of the fields, or a single one with `refused` where the method cannot search this log."""
    data = Dataset.open(place.dataset)
    base = {"log": place.log, "method": method, "seed": place.seed, "settings": SETTINGS}
    base["fields_before"] = len(data.schema.names)
    try:
        if method == ALL:
            return [base | judged(place, None, data.schema.names) | {"share": 1.0, "search_seconds": 0.0, "own": 1.0}]
        model, findings, seconds = searched(place, data, method)
    except (ConfigError, InputError) as error:  # a search that was stopped is to be run again
        return [base | {"refused": str(error)}]
    rows = []
    for share in SHARES:
        chosen, own = selected(model.gate, findings, Budget(keep=share), place.seed)
        rows.append(base | judged(place, chosen, chosen.kept) | {"share": share, "search_seconds": seconds, "own": own})
    return rows


def selected(gate: Gate, findings: Findings, budget: Budget, seed: int) -> tuple[Selection, float]:
    """What a method keeps by its own scores, and 1; what a decision does beside them has no say.

    But where it is part of the method (`overruled`, whose twins share a gate: the score of each is that of all, for one
    place), and where scores are of pairs and say nothing of a field: then what is decided, and which share of that the
    scores alone would have kept.
    """
    own = gate.select(budget, seed)
    if not (gate.overruled or gate.weighs_pairs):
        return own, 1.0
    chosen = decide(gate, findings, budget, False, seed, twins_once=gate.overruled)
    return chosen, len(set(own.kept) & set(chosen.kept)) / len(chosen.kept)


def searched(place: Place, data: Dataset, method: str) -> tuple[Model, Findings, float]:
    """The model with its gate, what the search found, and the processor seconds of the search."""
    survey = issubclass(GATES.load(method), Survey)
    name = PLAIN if survey else method
    if GATES.load(method).weighs_pairs and (count := len(data.schema.names)) * (count - 1) / 2 > MOST_PAIRS:
        raise ConfigError(f"{count * (count - 1) // 2:,} pairs of fields: more than {MOST_PAIRS:,} were not tried")
    gated = place.folder / f"search-{name}"
    with place.alone():
        took = place.kept(f"search-{name}", lambda: _pretrain(place, data, name, gated))["seconds"]
    model, findings = load_model(gated), Findings.model_validate(read_json(gated / "findings.json"))
    twins = findings.twins if GATES.load(method).overruled else ()
    findings = findings.model_copy(update={"repeats": (), "kept": (), "twins": twins})
    if survey:
        began = time.process_time()
        gate = with_gate(model, method, {}, place.seed).eval().gate
        gate.alike(twins_of(data.split("gate"), place.seed))
        rows = data.split(gate.surveyed)
        gate.survey(model, lambda: rows.batches(TRAIN["batch_size"], shuffle="none"))
        took += time.process_time() - began
    return model, findings, took


def _pretrain(place: Place, data: Dataset, method: str, gated: Path) -> dict:
    """The search, with default options but for what a method's documentation asks for (`ASKED`).

    A search in one pass takes so small batches that it makes about `STEPS` steps: on ten thousand rows it goes nowhere
    otherwise. One on a sample takes its share of the rows, or 2,000, which are the paper's.
    """
    asked, rows = ASKED.get(method, {}), len(data.split("train"))
    train = {**TRAIN, "seed": place.seed, **asked.get("train", {})}
    if train["epochs"] == 1 or method in ONE_PASS:
        train |= {"epochs": 1, "patience": 0, "batch_size": min(256, max(16, rows // STEPS))}
    pairs = GATES.load(method).weighs_pairs
    config = {
        "method": method,
        "options": asked.get("options", {}),
        "model": {**MODEL, "backbone": "pnn"} if pairs else MODEL,
        "train": train,
    }
    paths = {"dataset": str(place.dataset), "gated": str(gated)}
    if "sample" in asked:
        paths["subset"] = str(place.folder / f"subset-{method}")
        sample = {"rows": min(rows, max(2000, int(asked["sample"] * rows))), "seed": place.seed}
        stages.execute("sample", sample, dataset=paths["dataset"], subset=paths["subset"])
    stages.execute("pretrain", config, **paths)
    return {}


def judged(place: Place, chosen: Selection | None, names: tuple[str, ...]) -> dict:
    """What a selection is worth; what is equal is trained once. Pairs do not count: all are judged by one network."""
    columns = {name: chosen.fields[name].columns for name in names} if chosen else dict.fromkeys(names)
    key = hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()[:16]
    network = place.kept(f"network-{key}", lambda: _network(place, chosen, names))
    fields = hashlib.sha256("|".join(names).encode()).hexdigest()[:16]
    trees = place.kept(f"trees-{fields}", lambda: _trees(place, names))
    sizes = {name: network[name] for name in ("auc", "bytes", "columns")}
    return {**sizes, "trees_auc": trees["auc"], "retrain_seconds": network["seconds"], "kept": list(names)}


def _network(place: Place, chosen: Selection | None, names: tuple[str, ...]) -> dict:
    """Test AUC of a network trained from new weights on the columns that a selection keeps."""
    data, seed = Dataset.open(place.dataset, fields=names), place.seed
    fresh = build(data.schema, ModelConfig(**MODEL), seed)
    if chosen and any(len(chosen.fields[name].columns) < chosen.fields[name].width for name in names):
        fresh = build(data.schema, ModelConfig(**MODEL), seed, chosen.blocks(fresh.blocks))
    Trainer(fresh, TrainConfig(**{**TRAIN, "seed": seed}), data.split("train"), data.split("valid")).fit()
    test, columns = data.split("test"), sum(block.width for block in fresh.blocks)
    return {"auc": auc(test.label, score(fresh, test), test.weight), "bytes": size(fresh)["bytes"], "columns": columns}


def _trees(place: Place, names: tuple[str, ...]) -> dict:
    """Test AUC of LightGBM's trees on whole fields: a judge that no method here has searched with, but its own gain."""
    data = Dataset.open(place.dataset, fields=names)
    parts = {name: _table(data, name) for name in ("train", "valid", "test")}
    categories = sum(field.slots for field in data.schema.embedded)
    trees = grow(parts["train"], parts["valid"], categories, place.seed)
    table, label, weight = parts["test"]
    return {"auc": auc(label, trees.predict(table, raw_score=True), weight)}


def _table(data: Dataset, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns [ids, dense], label and weight of a split."""
    batches = list(data.split(split).batches(65_536, shuffle="none"))
    ids, dense, label, weight = (np.concatenate([part.numpy() for part in parts]) for parts in zip(*batches))
    return np.hstack([ids, dense]).astype(np.float32), label, weight
