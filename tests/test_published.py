"""The four recipes that follow a paper: each is whole, composes into the pipeline's sections, and runs on a sliver of a log."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.selection import audit, interval
from slimrec.artifacts import read_json
from slimrec.config import read_recipe
from slimrec.stages.settle import as_written, sections, settle

RECIPES = Path(__file__).parents[1] / "pipelines" / "recipes"
PUBLISHED = {  # how the gate's rows come, and the start after the cut, as the papers and their programs have it
    "leap": ("gate", "fresh", 0),
    "irazor": ("train", "fresh", 2),
    "optfeature": ("train", "initial", 2),
    "lightfmp": ("train", "warm", 2),
}
every_recipe = pytest.mark.parametrize("name", PUBLISHED)


def sliver(folder, fields):
    """A log with the recipe's columns; the first field says something of the label."""
    random = np.random.default_rng(0)
    columns = {field["name"]: random.integers(0, 6, 900) for field in fields["fields"]}
    first = next(iter(columns.values()))
    label = fields["label"] if isinstance(fields["label"], str) else fields["label"]["column"]
    above = 0 if isinstance(fields["label"], str) else fields["label"]["positive_above"]
    table = {name: pa.array(values.astype(str)) for name, values in columns.items()}
    table[label] = pa.array(above + (random.random(900) < 0.2 + 0.1 * first).astype(np.int64))
    pq.write_table(pa.table(table), folder / "log.parquet")
    return str(folder / "log.parquet")


@every_recipe
def test_a_published_protocol_composes_and_says_what_it_follows(name):
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    again = settle(as_written(recipe), {})
    assert again == recipe
    told = sections(again)
    assert told["pretrain"]["options"]["reference"] in ("paper", "code")
    assert told["finetune"]["start"] == PUBLISHED[name][1]
    assert told["baseline"]["model"] == told["pretrain"]["model"]


def test_the_interval_over_seeds_is_students_and_one_seed_tells_nothing():
    assert interval([0.001, 0.002, 0.003]) == " [-0.0005, +0.0045]"  # .002 ± 4.303 × .001 / √3
    assert interval([0.001]) == ""


@pytest.mark.battery
@every_recipe
def test_a_published_protocol_runs_from_the_log_to_the_verdict(name, tmp_path):
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    short = {"epochs": 2, "patience": 0}
    train = recipe.pretrain.train.model_copy(update=short)
    options = {**recipe.pretrain.model.options, "hidden": [8]}  # its layers say nothing about the flow
    model = recipe.pretrain.model.model_copy(update={"options": options})
    parts = {
        "pretrain": recipe.pretrain.model_copy(update={"train": train, "model": model}),
        "finetune": recipe.finetune.model_copy(update={"train": recipe.finetune.train.model_copy(update=short)}),
        "sample": recipe.sample.model_copy(update={"rows": recipe.sample.rows and 300}),
        "evaluate": recipe.evaluate.model_copy(update={"latency_repeats": 2}),
    }
    source = sliver(tmp_path, recipe.ingest.fields)
    row = audit(recipe.model_copy(update=parts), tmp_path, source, 0, 0)
    assert 0 < row["full_auc"] < 1 and row["verdict"] in ("certified", "rejected", "inconclusive")
    (searched,) = tmp_path.glob("*/select-0")
    note = read_json(searched / "selection" / "selection.json")["note"]
    passes = PUBLISHED[name][2]
    assert note.startswith(f"rows were seen {passes} times with the gate on them") if passes else note == ""
