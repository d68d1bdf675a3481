"""On real logs: MovieLens-1M with a harmful noise field (METHODS T8) and Census-Income; skipped where they are not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from services import HANG

from benchmarks.datasets import main as make
from benchmarks.selection import audit
from slimrec.artifacts import read_json
from slimrec.config import TrainConfig, read_recipe

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


def run(dataset, recipe_name, folder, **training):
    """One audit by the recipe, with shorter trainings."""
    if not (DATA / dataset).is_dir():
        pytest.skip(f"no {dataset} at ../shared/data: real data are not part of the repository")
    recipe = read_recipe(ROOT / "pipelines" / "recipes" / f"{recipe_name}.yaml")
    make(
        [
            recipe_name if recipe_name == "census" else dataset,
            "--data",
            str(DATA),
            "--output",
            str(folder / "l.parquet"),
        ]
    )
    train = TrainConfig(**{**recipe.finetune.train.model_dump(), **training})
    finetune = recipe.finetune.model_copy(update={"train": train})
    shorter = recipe.model_copy(update={"finetune": finetune})
    return audit(shorter, folder, str(folder / "l.parquet"), 0, 0)


@pytest.mark.battery
def test_t8_movielens_the_noise_falls_the_best_four_stay_and_dropping_the_rest_gains_a_hundredth(tmp_path):
    row = run("movielens_1m", "movielens", tmp_path, epochs=7, batch_size=512)
    assert set(row["kept"]) == {"genres", "movie_id", "title", "user_id"}
    assert row["scores"]["noise"] < 0.05
    assert row["slim_auc"] >= row["full_auc"] + 0.010


@pytest.mark.battery
def test_census_goes_from_forty_fields_to_twenty_and_loses_at_most_two_thousandths(tmp_path):
    row = run("census_income_kdd", "census", tmp_path, epochs=4)
    assert row["fields"] == 40 and len(row["kept"]) <= 20
    assert row["slim_auc"] >= row["full_auc"] - 0.002


@pytest.mark.battery
def test_the_pipeline_judges_income_and_marriage_each_by_a_bound_of_its_own(tmp_path):
    if not (DATA / "census_income_kdd").is_dir():
        pytest.skip("no census_income_kdd at ../shared/data: real data are not part of the repository")
    source = tmp_path / "runs" / "data" / "census_income_kdd.parquet"
    make(["census", "--data", str(DATA), "--output", str(source)])
    recipe = yaml.safe_load((ROOT / "pipelines" / "recipes" / "census_tasks.yaml").read_text(encoding="utf-8"))
    for section in ("pretrain", "finetune"):
        recipe[section]["train"] |= {"epochs": 1, "device": "cpu"}
    recipe["evaluate"] = {"allowed_auc_loss": 0.005, "slices": ["sex"]}
    (tmp_path / "census.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    shutil.copy(ROOT / "pipelines" / "recipes" / "census_tasks.schema.yaml", tmp_path)
    words = [sys.executable, "-m", "pipelines", "run", str(tmp_path / "census.yaml"), "--output", str(tmp_path / "out")]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "SLIMREC"))}
    environment = {**own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANG, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts = read_json(tmp_path / "out" / "evaluate" / "report" / "report.json")
    assert [each["task"] for each in facts["tasks"]] == ["income_50k", "never_married"]
    for each in facts["tasks"]:
        assert each["rows"] == facts["made"]["rows"]["test"] and each["auc"]["full"] > 0.9
        assert each["auc"]["low"] < each["auc"]["difference"] < each["auc"]["high"]
        assert each["confidence"] == pytest.approx(1 - 0.05 * 0.8 / 2)  # a first look at the slice, and two tasks
        assert len(each["slices"]) == 2
    assert sum(field["kept"] for field in facts["fields"]) <= 18
