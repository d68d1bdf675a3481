"""Flat logs from the public data sets: `python -m benchmarks.datasets movielens_1m --data DIR --output FILE.parquet`."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slimrec.errors import InputError, SlimrecError

NOISE_VALUES = 458_455  # distinct timestamps of MovieLens-1M, over its 1,000,209 ratings


def movielens_1m(data: Path, seed: int) -> pa.Table:
    """Ratings joined with users and movies, in the order of the ratings, with a planted near-unique `noise` column.

    The column stands in for the timestamp, which is harmful in the published benchmark: it is drawn from as many
    values as make the expected number of distinct ones that of the original.
    """
    ratings, users, movies = (_read(data / "movielens_1m" / f"{n}.parquet") for n in ("ratings", "users", "movies"))
    position = pa.array(np.arange(len(ratings)))
    table = ratings.select(["user_id", "movie_id", "rating"]).append_column("position", position)
    table = table.join(users, "user_id").join(movies, "movie_id").sort_by("position").drop_columns(["position"])
    pool = pool_size(NOISE_VALUES, len(table))
    noise = np.random.default_rng(seed).integers(0, pool, len(table))
    return table.append_column("noise", pa.array(noise))


def census(data: Path, seed: int) -> pa.Table:
    """Census-Income (KDD) as it is: 40 fields, label `income_50k`, weight `instance_weight`; the seed decides nothing."""
    table = _read(data / "census_income_kdd" / "train.parquet")
    lacking = {"income_50k", "instance_weight"} - set(table.column_names)
    if lacking or table.num_columns != 42:
        raise InputError(f"the census table has {table.num_columns} columns, 42 are needed; lacking: {sorted(lacking)}")
    return table


def amazon(data: Path, seed: int) -> pa.Table:
    """Amazon Employee Access as it is: nine ids, label `ACTION`; the seed decides nothing."""
    return _read(data / "amazon_employee_access" / "train.parquet")


def pool_size(distinct: int, draws: int) -> int:
    """How many values to draw from, so that `draws` uniform draws are expected to meet `distinct` of them."""
    low, high = distinct, 1000 * draws
    while low < high:  # the expectation pool * (1 - (1 - 1/pool)^draws) rises with the pool
        middle = (low + high) // 2
        expected = -middle * math.expm1(draws * math.log1p(-1 / middle))
        low, high = (middle + 1, high) if expected < distinct else (low, middle)
    return low


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise InputError(f"no such file: {path}; give the folder of the public data sets with --data")
    return pq.read_table(path)


def main(arguments: list[str] | None = None) -> int:
    """Write one log; returns the exit code."""
    makers = {"movielens_1m": movielens_1m, "census": census, "amazon": amazon}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.datasets", description=__doc__)
    parser.add_argument("name", choices=makers)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        table = makers[options.name](options.data, options.seed)
    except SlimrecError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    options.output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, options.output, compression="zstd")
    print(f"{options.output}: {len(table)} rows, {table.num_columns} columns")
    return 0


if __name__ == "__main__":
    sys.exit(main())
