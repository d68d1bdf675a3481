"""The logs of the leaderboard: public ones as they are, a planted one, that with drift, and worlds that ask one thing each."""

import argparse
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.datasets import census
from benchmarks.leaderboard.worlds import WORLDS, Log
from slimrec.config import read_schema
from slimrec.data import planted

RECIPES = Path(__file__).parents[2] / "pipelines" / "recipes"


def _categories(table: pa.Table, label: str | dict, numbers: tuple[str, ...] = (), out: tuple[str, ...] = ()) -> Log:
    """Every column a category, but `numbers`, in quantiles, and those left `out`."""
    name = label if isinstance(label, str) else label["column"]
    fields = [
        {"name": each, **({"kind": "number", "discretise": "quantile"} if each in numbers else {"kind": "category"})}
        for each in table.column_names
        if each != name and each not in out
    ]
    return table, {"label": label, "fields": fields}


def movielens_1m(data: Path) -> Log:
    """The first 200,000 ratings by time: the nine fields of the published benchmark, the timestamp as a category."""
    ratings, users, movies = (pq.read_table(data / f"movielens_1m/{n}.parquet") for n in ("ratings", "users", "movies"))
    first = ratings.sort_by([(name, "ascending") for name in ("timestamp", "user_id", "movie_id")]).slice(0, 200_000)
    table = first.join(users, "user_id").join(movies, "movie_id")
    return _categories(table, {"column": "rating", "positive_above": 3})


def movielens_100k(data: Path) -> Log:
    """100,000 ratings, more than 3 stars a click; the timestamp is a category."""
    parts = {name: pq.read_table(data / f"movielens_100k/{name}.parquet") for name in ("inter", "item", "user")}
    table = parts["inter"].join(parts["item"], "item_id").join(parts["user"], "user_id")
    table = table.set_column(table.column_names.index("rating"), "rating", table["rating"].cast("float64"))
    return _categories(table, {"column": "rating", "positive_above": 3})


def census_income(data: Path) -> Log:
    """Census-Income (KDD): 200,000 persons with weights; the label is an income above 50,000 dollars."""
    schema = read_schema(RECIPES / "census.schema.yaml")
    return census(data, 0), schema.model_dump(mode="json", exclude_unset=True)


def amazon(data: Path) -> Log:
    """Amazon Employee Access: 33,000 requests, nine ids; the label is whether access was granted."""
    return _categories(pq.read_table(data / "amazon_employee_access/train.parquet"), "ACTION")


def insurance(data: Path) -> Log:
    """Belgian motor insurance of 1997: 163,000 policies; the label is whether there was a claim."""
    left = ("id", "nclaims", "amount", "average")  # what the claim brings with it
    table = pq.read_table(data / "insurance_bemtpl97/bemtpl97.parquet")
    return _categories(table, "claim", ("expo", "ageph", "long", "lat"), left)


def avazu(data: Path) -> Log:
    """Avazu, a sample of 10,000 impressions, without the hour and the id of the impression."""
    return _categories(pq.read_table(data / "avazu_sample/avazu_sample.parquet"), "click", out=("hour", "id"))


def criteo(data: Path) -> Log:
    """Criteo (Kaggle), its first 10,000 impressions; the thirteen numbers in quantiles."""
    numbers = tuple(f"I{i}" for i in range(1, 14))
    return _categories(pq.read_table(data / "criteo_sample/kaggle_dac_first10k.parquet"), "label", numbers)


def _world(name: str, data: Path) -> Log:
    return WORLDS[name]()


def planted_log(data: Path) -> Log:
    """100,000 rows of the planted log: fields of every kind, a pure interaction, and noise of every kind."""
    return _planted(100_000, drift=0.0)


def drifting_log(data: Path) -> Log:
    """60,000 rows of the planted log, split by time: one field fades, another one rises."""
    return _planted(60_000, drift=1.0)


def _planted(rows: int, drift: float) -> Log:
    table, schema = planted.generate(rows, 0, drift)
    fields = schema.model_dump(mode="json", exclude_unset=True)
    return table, {key: value for key, value in fields.items() if key != "time" or drift}


# Those that take least time first. A log with a time is split by it.
LOGS: dict[str, Callable[[Path], Log]] = {
    **{name: partial(_world, name) for name in WORLDS if name != "thousand_fields"},
    "criteo": criteo,
    "avazu": avazu,
    "amazon": amazon,
    "movielens_100k": movielens_100k,
    "drift": drifting_log,
    "planted": planted_log,
    "insurance": insurance,
    "census": census_income,
    "thousand_fields": partial(_world, "thousand_fields"),
    "movielens_1m": movielens_1m,
}
MADE = (*WORLDS, "planted", "drift")  # the others are public


def about(name: str) -> str:
    """What a log is, in a sentence; nothing of one from elsewhere."""
    make = WORLDS.get(name) or LOGS.get(name)
    return (inspect.getdoc(make) or "").split("\n")[0] if make else ""


def arguments(description: str | None, logs: list[str]) -> argparse.ArgumentParser:
    """What a benchmark that goes over logs, by default over these, is asked for on its command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--logs", nargs="+", choices=LOGS, default=logs)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep artifacts here and use again what lies there")
    parser.add_argument("--json", type=Path)
    return parser
