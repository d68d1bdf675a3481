"""What one setting of all constants, at default options, has to show on planted logs, copies and MovieLens-1M."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_path import SPARSE, USEFUL, USELESS, decided, planted_log, search
from test_real_data import DATA

from benchmarks.datasets import movielens_1m
from slimrec.artifacts import read_json
from slimrec.config import FinetuneConfig, IngestConfig, ModelConfig, PruneConfig, TrainConfig, read_recipe, read_schema
from slimrec.data import planted
from slimrec.data.dataset import Dataset
from slimrec.metrics import auc
from slimrec.model.files import load_model
from slimrec.model.scoring import score
from slimrec.stages import finetune, ingest, prune
from slimrec.track import Tracker
from tests.test_house import ROOT

pytestmark = pytest.mark.battery
DEMO = read_recipe(ROOT / "pipelines" / "recipes" / "demo.yaml")
LONGER = DEMO.pretrain.train.model_copy(
    update={"epochs": 6, "batch_size": 256, "patience": 0}
)  # to find the interaction


def found(dataset, gated, train=DEMO.pretrain.train):
    """The search of the demo recipe, the full one."""
    return search(dataset, gated, model=DEMO.pretrain.model, train=train)


@pytest.mark.parametrize("seed", range(3))
def test_sparse_fields_stay_or_are_inconclusive_and_wide_useful_vectors_and_the_interaction_stay(tmp_path, seed):
    """Fields present in .1 and .3 % of 150,000 rows with effects from 1 to 3; vectors of 16 and of 256 columns."""
    planted_log(tmp_path, seed, rows=150_000, wide=256)
    fields, kept = decided(found(tmp_path / "dataset", tmp_path / "gated", LONGER), {})
    assert kept >= (USEFUL - {"device"}) | set(SPARSE) | {"wide"} and kept & {"device", "device_twin"}
    assert not kept & USELESS
    bare = [name for name in SPARSE if fields[name]["score"] < 1e-4 and "inconclusive" not in fields[name]["note"]]
    assert not bare


@pytest.mark.parametrize("seed", range(10))
def test_every_useless_field_goes_and_every_useful_one_stays_on_ten_logs(tmp_path, seed):
    log = DEMO.ingest.model_copy(update={"source": f"planted:rows=300000,seed={seed}"})
    ingest.run(log, Tracker(), dataset=tmp_path / "dataset")
    gated = found(tmp_path / "dataset", tmp_path / "gated")
    _, kept = decided(gated, {})
    assert not kept & USELESS and kept >= USEFUL - {"device"} and kept & {"device", "device_twin"}
    assert len(decided(gated, {"keep": 0.9})[1] & USELESS) <= 1  # room is no reason, but for chance


def copied(folder, copies):
    """A planted log in which `device` stands so many times, and the AUC of the best six fields after training on."""
    log = planted.Log(100_000, 3)
    pq.write_table(pa.Table.from_batches(planted.batches(log)), folder / "log.parquet")
    schema = planted.schema(log).model_dump(mode="json", exclude_unset=True)
    own = [field for field in schema["fields"] if field["name"] != "device_twin"]
    more = [{"name": f"again_{i}", "kind": "category", "column": "device"} for i in range(copies - 1)]
    split = {"by": "random", "train": 0.6, "gate": 0.1, "valid": 0.1, "test": 0.2}
    config = IngestConfig(source=str(folder / "log.parquet"), fields={**schema, "fields": [*own, *more]}, split=split)
    ingest.run(config, Tracker(), dataset=folder / "dataset")
    paths = {"gated": found(folder / "dataset", folder / "gated", LONGER)}
    paths |= {name: folder / name for name in ("selection", "slim")}
    prune.run(PruneConfig(budget={"fields": 10}), Tracker(), **paths)
    config = FinetuneConfig(start="fresh", train=TrainConfig(epochs=4, batch_size=512, embedding_learning_rate=0.003,
                                                             device="cpu", threads=1))  # fmt: skip
    finetune.run(config, Tracker(), dataset=folder / "dataset", tuned=folder / "tuned", **paths)
    fields = read_json(paths["selection"] / "selection.json")["fields"]
    model = load_model(folder / "tuned")
    test = Dataset.open(folder / "dataset", fields=model.schema.names).split("test")
    return {name for name, field in fields.items() if field["columns"]}, auc(
        test.label, score(model, test), test.weight
    )


def test_of_two_and_of_five_copies_one_stays_and_the_model_is_worth_what_it_is_with_one(tmp_path):
    """Ten places for ten fields of which the least is worth more than noise: a copy would take one of them."""
    got = {}
    for copies in (1, 2, 5):
        (tmp_path / str(copies)).mkdir()
        kept, worth = copied(tmp_path / str(copies), copies)
        same = {name for name in kept if name == "device" or name.startswith("again")}
        assert len(same) == 1 and len(kept) in (9, 10)
        got[copies] = kept - same, worth
    assert got[1][0] == got[2][0] == got[5][0]
    assert np.ptp([worth for _, worth in got.values()]) < 0.003


PUBLISHED = {"genres", "movie_id", "title", "user_id"}


@pytest.mark.parametrize("seed", range(3))
def test_on_movielens_the_published_four_come_first_and_the_noise_is_worth_nothing(tmp_path, seed):
    if not (DATA / "movielens_1m").is_dir():
        pytest.skip("no movielens_1m at ../shared/data: real data are not part of the repository")
    pq.write_table(movielens_1m(DATA, 0), tmp_path / "log.parquet")
    schema = read_schema(ROOT / "pipelines" / "recipes" / "movielens.schema.yaml")
    split = {"by": "random", "train": 0.75, "gate": 0.05, "valid": 0.1, "test": 0.1}
    fields = schema.model_dump(mode="json", exclude_unset=True)
    ingest.run(IngestConfig(source=str(tmp_path / "log.parquet"), fields=fields, split=split), Tracker(),
               dataset=tmp_path / "dataset")  # fmt: skip
    train = TrainConfig(epochs=4, batch_size=1024, embedding_learning_rate=0.003, device="cpu", threads=1, seed=seed)
    model = ModelConfig(backbone="widedeep", options={"hidden": [32, 16], "batch_norm": True, "dropout": 0.2})
    gated = search(tmp_path / "dataset", tmp_path / "gated", model=model, train=train)
    assert decided(gated, {"fields": 4}, twins_once=False)[1] == PUBLISHED
    scores, kept = decided(gated, {})
    assert kept >= PUBLISHED and "noise" not in kept and scores["noise"]["score"] < 1e-4
