"""Planted worlds of the leaderboard: each asks one thing of a method, and its truth stands in the names of the fields.

Fields called `noise...` say nothing of the label, all others do.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

Log = tuple[pa.Table, dict]  # the table, and its fields as a recipe names them


def _log(columns: dict[str, np.ndarray], logit: np.ndarray, random: np.random.Generator, **kinds: dict) -> Log:
    click = (random.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    arrays = {name: _arrow(values) for name, values in columns.items()}
    fields = [{"name": name, "kind": "category", **kinds.get(name, {})} for name in columns]
    return pa.table({**arrays, "click": pa.array(click)}), {"label": "click", "fields": fields}


def _arrow(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values.astype(str))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _effects(codes: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    """What each row's code adds to the logit: drawn once a code, of this deviation over rows."""
    drawn = random.standard_normal(codes.max() + 1)[codes]
    return (drawn - drawn.mean()) * deviation / drawn.std()


def _noise(sizes: tuple[int, ...], rows: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    return {f"noise_{size}": random.integers(0, size, rows) for size in sizes}


def sparse_strong(rows: int = 30_000) -> Log:
    """Five fields active on one row in a hundred, and strong there; four as rare that say nothing; three that say a little."""
    random = np.random.default_rng(1)
    columns = {f"common_{i}": random.integers(0, 8, rows) for i in range(3)}
    logit = sum(_effects(codes, 0.4, random) for codes in columns.values()) - 1
    for i, effect in enumerate((3.0, -3.0, 3.0, 2.5, 2.5)):
        columns[f"rare_{i}"] = (random.random(rows) < 0.01).astype(int)
        logit += effect * columns[f"rare_{i}"]
    columns |= {f"noise_rare_{i}": (random.random(rows) < 0.01).astype(int) for i in range(4)}
    return _log(columns | _noise((2, 5, 10, 50, 200, 1000), rows, random), logit, random)


def pure_interaction(rows: int = 30_000) -> Log:
    """Three pairs of fields of which each half alone says nothing; eight fields that say nothing at all."""
    random, columns, logit = np.random.default_rng(2), {}, -0.5 * np.ones(rows)
    for i in range(3):
        left, right = random.integers(0, 4, (2, rows))
        columns |= {f"left_{i}": left, f"right_{i}": right}
        logit += np.where((left + right) % 2 == 0, 0.8, -0.8)
    return _log(columns | _noise((2, 3, 4, 8, 20, 50, 100, 300), rows, random), logit, random)


def twins(rows: int = 30_000) -> Log:
    """Five fields that say much, each twice under two names, and six that say nothing."""
    random, columns, logit = np.random.default_rng(3), {}, -np.ones(rows)
    for i in range(5):
        codes = random.integers(0, 20, rows)
        columns |= {f"first_{i}": codes, f"second_{i}": 19 - codes}
        logit += _effects(codes, 0.5, random)
    return _log(columns | _noise((2, 4, 8, 20, 100, 500), rows, random), logit, random)


def wide_vectors(rows: int = 30_000) -> Log:
    """Vectors of 256 columns, all zero on 99.9 % of the rows: two decide the click where they are not, two say nothing."""
    random, width = np.random.default_rng(4), 256
    columns = {f"common_{i}": random.integers(0, 8, rows) for i in range(4)}
    logit = sum(_effects(codes, 0.4, random) for codes in columns.values()) - 1
    kinds = {}
    for name in ("vector_0", "vector_1", "noise_vector_0", "noise_vector_1"):
        present = random.random(rows) < 0.001
        columns[name] = np.zeros((rows, width), np.float32)
        columns[name][present] = random.standard_normal((present.sum(), width))
        kinds[name] = {"kind": "vector", "width": width}
        if not name.startswith("noise"):
            logit += np.where(present, 3.0 + columns[name] @ (2 * random.standard_normal(width) / width**0.5), 0.0)
    return _log(columns | _noise((2, 8, 50, 200), rows, random), logit, random, **kinds)


def thousand_fields(rows: int = 20_000) -> Log:
    """A thousand fields of five values, of which twenty say something."""
    random = np.random.default_rng(5)
    columns = {f"useful_{i:02d}": random.integers(0, 5, rows) for i in range(20)}
    logit = sum(_effects(codes, 0.3, random) for codes in columns.values()) - 1
    columns |= {f"noise_{i:03d}": random.integers(0, 5, rows) for i in range(980)}
    return _log(columns, logit, random)


WORLDS: dict[str, Callable[[], Log]] = {
    "sparse_strong": sparse_strong,
    "pure_interaction": pure_interaction,
    "twins": twins,
    "wide_vectors": wide_vectors,
    "thousand_fields": thousand_fields,
}
