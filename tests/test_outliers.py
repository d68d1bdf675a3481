"""Numbers so far off that scaling makes one of all others: who is told, and who has no reason to be."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from slimrec.config import IngestConfig
from slimrec.data.dataset import Dataset
from slimrec.data.draft import draft
from slimrec.stages import ingest
from slimrec.track import Tracker

ROWS = 4000
random = np.random.default_rng(0)
FLAT = {  # name: values of which a few make one of all others, and what is said of them
    "huge": (random.normal(size=ROWS), [1e300], "1e+300"),
    "large": (random.normal(size=ROWS), [1e30], "1e+30"),
    "below": (random.exponential(size=ROWS), [-1e12], "-1e+12"),
    "often": (random.uniform(size=ROWS), [9999999] * 20, "1e+07"),
    "just": (random.normal(size=ROWS), [10_000] * 4, "10000"),
    "clock": (1.7e9 + random.uniform(0, 3600, ROWS), [0], "0"),
}
SOUND = {
    "normal": random.normal(size=ROWS),
    "price": random.lognormal(3, 2, ROWS),
    "apart": np.where(np.arange(ROWS) < 4, 1000, random.normal(size=ROWS)),
    "seldom": np.where(random.random(ROWS) < 0.005, random.uniform(1, 1000, ROWS), 0),
    "count": random.zipf(1.6, ROWS).clip(0, 10_000).astype(float),
    "holes": np.where(random.random(ROWS) < 0.999, np.nan, random.normal(size=ROWS)),
}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    columns = {"click": random.integers(0, 2, ROWS)} | dict(SOUND)
    for name, (values, far, _) in FLAT.items():
        columns[name] = values.copy()
        columns[name][: len(far)] = far
    path = tmp_path_factory.mktemp("outliers") / "log.parquet"
    pd.DataFrame(columns).sample(frac=1, random_state=0).to_parquet(path, index=False)
    return path


def ingested(log, folder, **options):
    fields = [{"name": name, "kind": "number", **options} for name in (*FLAT, *SOUND)]
    config = IngestConfig(
        source=str(log), fields={"label": "click", "fields": fields},
        split={"by": "random", "train": 0.97, "gate": 0.01, "valid": 0.01, "test": 0.01},
    )  # fmt: skip
    return ingest.run(config, Tracker(), dataset=folder)["remarks"]


def test_ingest_names_the_field_the_number_and_the_remedy_and_no_field_whose_numbers_stay_apart(log, tmp_path):
    remarks = ingested(log, tmp_path / "dataset")
    told = {remark.split("'")[1]: remark for remark in remarks if "come out alike" in remark}
    assert set(told) == set(FLAT)
    for name, remark in told.items():
        assert f"one is {FLAT[name][2]}:" in remark and "`discretise: quantile`" in remark and "`scale: log`" in remark
    values = pq.read_table(log)["often"].to_numpy()
    low, high = map(float, told["often"].partition(" lie from ")[2].partition(", and one")[0].split(" to "))
    assert np.mean((values >= low) & (values <= high)) == pytest.approx(0.98, abs=0.01)


def test_what_is_told_comes_true_and_the_remedy_is_one(log, tmp_path):
    """Of a field that is named the values are one number to the network, of quantiles they are many."""
    ingested(log, tmp_path / "flat")
    rows = next(Dataset.open(tmp_path / "flat").split("train").batches(ROWS, shuffle="none"))
    names = [field.name for field in Dataset.open(tmp_path / "flat").schema.dense]
    spread = dict(zip(names, np.ptp(np.quantile(rows.dense.numpy(), [0.01, 0.99], axis=0), axis=0)))
    assert (
        max(spread[name] for name in FLAT)
        < 0.02
        < min(spread[name] for name in SOUND if name not in ("seldom", "holes"))
    )
    assert not ingested(log, tmp_path / "quantile", discretise="quantile")
    rows = next(Dataset.open(tmp_path / "quantile").split("train").batches(ROWS, shuffle="none"))
    names = [field.name for field in Dataset.open(tmp_path / "quantile").schema.embedded]
    assert all(len(np.unique(rows.ids.numpy()[:, names.index(name)])) > 20 for name in FLAT)


def test_a_draft_says_so_beside_the_field(log):
    lines = {line.split("name: ")[1].split(",")[0]: line for line in draft(str(log)).splitlines() if "name: " in line}
    assert {name for name in (*FLAT, *SOUND) if "come out alike" in lines[name]} == set(FLAT)
