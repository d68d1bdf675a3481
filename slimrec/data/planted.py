"""A log of clicks whose truth is known: useful, rare, weak, constant, twin, leaking and noise fields of every kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slimrec.errors import ConfigError, did_you_mean
from slimrec.schema import Schema
from slimrec.written import parse

TRUTH = {  # what each field is by construction; `fades` and `rises` are useful and noise as long as drift is 0
    "site": "useful", "device": "useful", "item": "useful", "fades": "useful", "price": "useful",
    "embedding": "useful", "genres": "useful",
    "query": "interaction", "layout": "interaction",  # only their meeting moves the click
    "rare": "rare",  # active on one row in a hundred, and strong there
    "weak": "weak",
    "device_twin": "twin",  # of `device`
    "constant": "constant",
    "leak": "leak",  # the label with one bit in twenty flipped; not in the schema unless leak=1
    "rises": "noise", "noise_small": "noise", "noise_large": "noise", "noise_number": "noise",
    "noise_vector": "noise", "noise_bag": "noise",
    "noise_id": "unique",  # a new value on almost every row
}  # fmt: skip
LOGIT = "truth_logit"  # a column beside the fields: the logit that the labels were drawn from

WIDTH = 16  # of the vectors
_PIECE = 65_536  # rows generated at once, each piece from a seed of its own
_SIZES = {
    "site": 10,
    "device": 50,
    "item": 2000,
    "fades": 20,
    "weak": 8,
    "rises": 20,
    "noise_small": 5,
    "noise_large": 500,
}
_EFFECT = {
    "site": 0.35,
    "device": 0.35,
    "item": 0.5,
    "fades": 0.35,
    "weak": 0.1,
    "rises": 0.35,
}  # deviations of the logit
_INTERCEPT = -1.45  # about 26 clicks in a hundred rows
_START, _SPAN = 1_767_225_600, 28 * 86_400  # seconds: four weeks from 2026-01-01 UTC


@dataclass(frozen=True)
class Log:
    """What to generate. `drift` in 0..1 lets `fades` lose its effect over time and `rises` gain one."""

    rows: int = 60_000
    seed: int = 0
    drift: float = 0.0
    leak: int = 0  # 1 puts the leaking field into the schema

    def __post_init__(self):
        if self.rows < 1 or self.seed < 0 or not 0 <= self.drift <= 1 or self.leak not in (0, 1):
            raise ConfigError(f"planted log {self}: rows >= 1, seed >= 0, drift in 0..1 and leak 0 or 1 are allowed")


def parse_source(source: str) -> Log:
    """`planted:rows=60000,seed=0,drift=0.5,leak=1`, every part optional; raises ConfigError for anything else."""
    kinds: dict[str, Callable] = {"rows": int, "seed": int, "drift": float, "leak": int}
    given = {}
    for part in filter(None, source.removeprefix("planted:").split(",")):
        name, _, value = part.partition("=")
        if name not in kinds:
            raise ConfigError(f"'{source}': the planted log has no '{name}'; {did_you_mean(name, kinds)}")
        try:
            given[name] = kinds[name](value)
        except ValueError:
            raise ConfigError(f"'{source}': {name} must be a number, got '{value}'") from None
    return Log(**given)


def schema(log: Log) -> Schema:
    """The log's schema, not fitted: every field of TRUTH, `leak` only on request."""
    declared = {
        "price": {"kind": "number", "scale": "log"},
        "noise_number": {"kind": "number"},
        "embedding": {"kind": "vector", "width": WIDTH},
        "noise_vector": {"kind": "vector", "width": WIDTH},
        "genres": {"kind": "bag", "max_length": 5},
        "noise_bag": {"kind": "bag", "max_length": 5},
    }
    names = [name for name in TRUTH if name != "leak" or log.leak]
    rows = [{"name": name, **declared.get(name, {"kind": "category"})} for name in names]
    return parse(Schema, {"label": "click", "time": "time", "group": "user", "fields": rows})


def generate(rows: int, seed: int = 0, drift: float = 0.0) -> tuple[pa.Table, Schema]:
    """The whole log in memory, and its schema."""
    log = Log(rows, seed, drift)
    return pa.Table.from_batches(batches(log)), schema(log)


def write(path: str | Path, rows: int, seed: int = 0, drift: float = 0.0) -> Schema:
    """The log as one Parquet file, written piece by piece; returns its schema."""
    log = Log(rows, seed, drift)
    pieces = batches(log)
    first = next(pieces)
    with _whole(Path(path)) as scratch, pq.ParquetWriter(scratch, first.schema) as writer:
        writer.write_batch(first)
        for piece in pieces:
            writer.write_batch(piece)
    return schema(log)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its name once it is whole; `path` itself where that is a device or a pipe."""
    if path.exists() and not path.is_file():
        yield path
        return
    target = path.resolve()  # what a link leads to, not the link
    scratch = target.with_name(f".{target.name[:200]}.{uuid4().hex}.partial")
    try:
        yield scratch
        scratch.replace(target)
    except OSError as error:  # Arrow does not name the file, nor would a person know this one
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        scratch.unlink(missing_ok=True)


def starts(log: Log) -> range:
    """First rows of the pieces that the log is generated in."""
    return range(0, log.rows, _PIECE)


def batches(log: Log, pieces: Iterable[int] | None = None) -> Iterator[pa.RecordBatch]:
    """The log in order of time, or those of its pieces that start at these rows."""
    for start in starts(log) if pieces is None else pieces:
        columns, effects, rng = _piece(log, start)
        logit = _INTERCEPT + sum(effects.values())
        click = (rng.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(np.int8)
        leak = np.where(rng.random(len(logit)) < 0.05, 1 - click, click)
        arrays = {name: _arrow(values) for name, values in columns.items()}
        yield pa.RecordBatch.from_pydict(
            arrays | {"leak": pa.array(leak.astype(str)), "click": pa.array(click), LOGIT: pa.array(logit)}
        )


def contributions(log: Log) -> dict[str, np.ndarray]:
    """What each field adds to the logit of each row, float64 (rows,); the interaction stands under `query`."""
    pieces = [_piece(log, start)[1] for start in starts(log)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


@dataclass(frozen=True)
class _World:
    """What stays the same from piece to piece."""

    effect: dict[str, np.ndarray]  # of each value of a category, deviation as in _EFFECT under `chance`
    chance: dict[str, np.ndarray]  # of each value
    device_of_user: np.ndarray
    user_chance: np.ndarray
    direction: np.ndarray  # (WIDTH,), unit length
    genre_effect: np.ndarray


@lru_cache(maxsize=4)
def _world(log: Log) -> _World:
    rng = np.random.default_rng([log.seed, 0])
    users = max(20, log.rows // 30)
    chance = {name: _zipf(size, 5.0 if size > 50 else 3.0) for name, size in _SIZES.items()}
    effect = {}
    for name, deviation in _EFFECT.items():
        drawn = rng.standard_normal(_SIZES[name])
        drawn -= chance[name] @ drawn
        effect[name] = drawn * deviation / np.sqrt(chance[name] @ drawn**2)
    direction = rng.standard_normal(WIDTH)
    genre = rng.permutation(np.linspace(-1.0, 1.0, 20))
    return _World(
        effect=effect,
        chance=chance,
        device_of_user=rng.choice(_SIZES["device"], users, p=chance["device"]),
        user_chance=_zipf(users, 10.0),
        direction=direction / np.linalg.norm(direction),
        genre_effect=genre,
    )


def _piece(log: Log, start: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.random.Generator]:
    """Columns, contributions to the logit, and the generator to draw the labels from."""
    world, rng = _world(log), np.random.default_rng([log.seed, 1, start // _PIECE])
    count = min(_PIECE, log.rows - start)
    age = (start + np.arange(count)) / log.rows  # 0..1 over the log
    user = rng.choice(len(world.user_chance), count, p=world.user_chance)
    codes = {name: rng.choice(size, count, p=world.chance[name]) for name, size in _SIZES.items() if name != "device"}
    codes["device"] = world.device_of_user[user]
    effects = {name: world.effect[name][codes[name]] for name in _EFFECT}
    effects["fades"] = effects["fades"] * (1 - log.drift * age)
    effects["rises"] = effects["rises"] * log.drift * age
    columns = {name: _labels(name, values) for name, values in codes.items()}
    columns["device_twin"] = _labels("twin", codes["device"])
    columns["user"] = _labels("user", user)
    columns["time"] = _START + (age * _SPAN).astype(np.int64)
    columns["constant"] = np.full(count, "same", object)
    columns["noise_id"] = _labels("id", rng.integers(0, 10 * max(log.rows, 100), count))
    columns["noise_small"][rng.random(count) < 0.1] = None

    rare = rng.random(count) < 0.01
    columns["rare"], effects["rare"] = np.where(rare, "active", "idle").astype(object), np.where(rare, 3.0, 0.0)
    query, layout = rng.integers(0, 2, (2, count))
    columns["query"], columns["layout"] = _labels("query", query), _labels("layout", layout)
    effects["query"] = np.where(query == layout, 1.0, -1.0)

    price = rng.standard_normal(count)
    known = rng.random(count) >= 0.05
    columns["price"] = np.where(known, np.exp(2.5 + 0.8 * price), np.nan)
    effects["price"] = np.where(known, -0.35 * price, 0.0)
    columns["noise_number"] = rng.gamma(2.0, 3.0, count)
    vector = rng.standard_normal((count, WIDTH))
    columns["embedding"], effects["embedding"] = vector.astype(np.float32), 0.4 * vector @ world.direction
    columns["noise_vector"] = rng.standard_normal((count, WIDTH)).astype(np.float32)
    genres, lengths = rng.integers(0, 20, (count, 5)), rng.integers(1, 6, count)
    inside = np.arange(5) < lengths[:, None]
    effects["genres"] = 0.9 * (world.genre_effect[genres] * inside).sum(axis=1) / lengths
    columns["genres"] = _bag("genre", genres, inside)
    columns["noise_bag"] = _bag(
        "tag", rng.integers(0, 40, (count, 5)), np.arange(5) < rng.integers(0, 6, count)[:, None]
    )
    return columns, effects, rng


def _zipf(size: int, offset: float) -> np.ndarray:
    """Chances falling as 1 / (rank + offset)."""
    weight = 1 / (np.arange(size) + offset)
    return weight / weight.sum()


def _labels(name: str, codes: np.ndarray) -> np.ndarray:
    """Codes as text: `name_17`."""
    distinct, inverse = np.unique(codes, return_inverse=True)
    return np.array([f"{name}_{code}" for code in distinct], object)[inverse]


def _bag(name: str, codes: np.ndarray, inside: np.ndarray) -> pa.Array:
    offsets = np.concatenate([[0], inside.sum(axis=1).cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(_labels(name, codes[inside])))


def _arrow(values: np.ndarray | pa.Array) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.array(values, from_pandas=True)
