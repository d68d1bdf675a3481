"""`slimrec certify`: the same verdict for anybody's scores, from the command line and from Python."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from slimrec import certify
from slimrec.cli import app
from slimrec.errors import InputError
from slimrec.verdict.scores import judge


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    random = np.random.default_rng(0)
    label = (random.random(8000) < 0.3).astype(int)
    full = label + random.normal(size=8000)
    slim = full + 0.2 * random.normal(size=8000)
    user = np.where(random.random(8000) < 0.1, None, random.integers(0, 2000, 8000).astype(object))
    rows = pd.DataFrame({"y": label, "a": full, "b": slim, "g": user, "w": random.uniform(0.5, 2, 8000)})
    path = tmp_path_factory.mktemp("scores") / "scores.parquet"
    rows.to_parquet(path)
    rows.to_csv(path.with_suffix(".csv"), index=False)
    return path, rows


def command(*words):
    return CliRunner().invoke(app, ["certify", *map(str, words)])


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_the_command_says_what_python_finds_in_either_format(table, ending):
    path, rows = table
    found = judge(str(path.with_suffix(ending)), "y", "a", "b", weight="w", allowed_loss=0.02)
    here = certify.compare(rows["y"].to_numpy(), rows["a"].to_numpy(), rows["b"].to_numpy(), rows["w"].to_numpy())
    assert found["comparison"]["low"] == pytest.approx(here.low, abs=1e-6)
    assert found["verdict"] == certify.verdict(here, 0.02)[0] == "certified"
    words = ("--label", "y", "--full", "a", "--slim", "b", "--weight", "w", "--allowed-loss", 0.02)
    done = command(path.with_suffix(ending), *words)
    assert (
        done.exit_code == 0 and done.stdout.startswith("certified: with 95 % confidence") and "evidence" in done.stdout
    )
    assert json.loads(command(path.with_suffix(ending), *words, "--json").stdout)["verdict"] == "certified"


def test_rows_without_a_group_count_one_by_one(table):
    path, rows = table
    found = judge(str(path), "y", "a", "b", group="g")["comparison"]
    assert found["clusters"] == rows["g"].isna().sum() + rows["g"].nunique()


def test_a_column_that_is_not_there_or_holds_no_score_is_refused_by_name(table, tmp_path):
    path, rows = table
    with pytest.raises(InputError, match="nope"):
        judge(str(path), "y", "nope", "b")
    rows.assign(b=rows["b"].where(rows.index != 5)).to_parquet(tmp_path / "hole.parquet")
    with pytest.raises(InputError, match="slim model scores 1 of 8,000 rows as NaN"):
        judge(str(tmp_path / "hole.parquet"), "y", "a", "b")
