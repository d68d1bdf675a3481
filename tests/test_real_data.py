"""On real logs: MovieLens-1M with a harmful noise field (METHODS T8) and Census-Income; skipped where they are not."""

from pathlib import Path

import pytest

from benchmarks.datasets import main as make
from benchmarks.selection import audit
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


def test_t8_movielens_the_noise_falls_the_best_four_stay_and_dropping_the_rest_gains_a_hundredth(tmp_path):
    row = run("movielens_1m", "movielens", tmp_path, epochs=7, batch_size=512)
    assert set(row["kept"]) == {"genres", "movie_id", "title", "user_id"}
    assert row["scores"]["noise"] < 0.05
    assert row["slim_auc"] >= row["full_auc"] + 0.010


def test_census_goes_from_forty_fields_to_twenty_and_loses_at_most_two_thousandths(tmp_path):
    row = run("census_income_kdd", "census", tmp_path, epochs=4)
    assert row["fields"] == 40 and len(row["kept"]) <= 20
    assert row["slim_auc"] >= row["full_auc"] - 0.002
