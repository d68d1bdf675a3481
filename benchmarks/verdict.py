"""How often the verdict is wrong: thousands of simulated certification slices whose true loss is exactly what is allowed.

python -m benchmarks.verdict [--worlds 1000] [--json FILE]

Each kind of world is a large population with a known difference in AUC, from which slices are drawn. "wrong" is the
share of slices that are certified although the allowed loss is the true one; "above" the share whose bound lies above the
truth, whatever the verdict; "row-level" the same for DeLong's interval over rows, which knows no clusters; "certified at
no loss" the share of slices of the planned size that are certified where the models are equally good. "ever wrong" is the
share of sequences of weekly looks, or of looks at one slice with another model each, of which at least one finds a gain
where the models are equally good.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from slimrec.verdict.certify import Comparison, compare, conclude, gather, influence, rows_needed, verdict
from slimrec.verdict.sequence import challenge, repeated
from slimrec.verdict.sketch import Sketch

World = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]  # as `compare` takes them
Looks = Iterator[tuple[Sketch, float]]  # what each look finds, and the confidence that pays for it
CONFIDENCE = 0.95


def users(random: np.random.Generator, count: int, loss: float = 0.15) -> World:
    """Rows of users with heavy-tailed numbers of rows, who share taste and what the models make of it."""
    sizes = np.minimum(np.ceil(random.pareto(1.5, count) + 0.5), 300).astype(int)
    user = np.repeat(np.arange(count), sizes)
    taste, quirk = random.normal(size=count)[user], random.normal(size=count)[user]
    rows = len(user)
    signal = taste + random.normal(size=rows)
    label = (random.random(rows) < 1 / (1 + np.exp(1.5 - signal))).astype(int)
    full = signal + 0.5 * random.normal(size=rows)
    slim = full + loss * 2 * quirk + loss * 2 * random.normal(size=rows)
    return label, full, slim, None, user


def strangers(shares: tuple[float, ...]) -> Callable[[np.random.Generator, int], World]:
    """Rows without clusters, but groups of these shares are taken for one user each."""

    def world(random: np.random.Generator, count: int) -> World:
        label, full, slim = plain(random, count)
        group = np.arange(1, count + 1)
        place = random.random(count)
        for number, (low, high) in enumerate(zip(np.cumsum((0, *shares)), np.cumsum(shares))):
            group = np.where((low <= place) & (place < high), -number, group)
        return label, full, slim, None, group

    return world


def plain(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Independent rows; the slim model is the full one and some noise."""
    label = (random.random(count) < 0.2).astype(int)
    full = label + random.normal(size=count)
    return label, full, full + 0.4 * random.normal(size=count)


def weighted(deviation: float) -> Callable[[np.random.Generator, int], World]:
    """Lognormal weights, as inverse propensities have them."""
    return lambda random, count: (*plain(random, count), np.exp(deviation * random.normal(size=count)), None)


def separated(rate: float) -> Callable[[np.random.Generator, int], World]:
    """Both models separate; the slim one misranks a positive now and then."""

    def world(random: np.random.Generator, count: int) -> World:
        label = np.arange(count) % 2
        full, slim = 5 * label + random.random(count), 3 * label + random.random(count)
        slim[(label == 1) & (random.random(count) < rate)] = -1
        return label, full, slim, None, None

    return world


def copied(times: int, share: float = 1.0) -> Callable[[np.random.Generator, int], World]:
    """A share of the lines stands several times."""

    def world(random: np.random.Generator, count: int) -> World:
        often = np.where(random.random(count) < share, times, 1)
        return *(np.repeat(values, often) for values in plain(random, count)), None, None

    return world


KINDS: dict[str, tuple[Callable[[np.random.Generator, int], World], int]] = {  # and how many rows or users a slice has
    "users, heavy tails": (users, 1500),
    "users, models far apart": (partial(users, loss=0.8), 1500),
    "one group of 97 %": (strangers((0.97,)), 3000),
    "one group of 50 %": (strangers((0.5,)), 3000),
    "two groups of 45 %": (strangers((0.45, 0.45)), 3000),
    "ten groups of 8 %": (strangers((0.08,) * 10), 3000),
    "forty groups of 2.5 %": (strangers((0.025,) * 40), 3000),
    "weights of deviation 1": (weighted(1), 3000),
    "weights of deviation 2": (weighted(2), 3000),
    "weights of deviation 3": (weighted(3), 3000),
    "AUC near 1": (separated(0.005), 400),
    "AUC near 1, more rows": (separated(0.005), 2000),
    "twelve and twelve, separated": (separated(0.02), 24),
    "every line ten times": (copied(10), 400),
    "a third of the lines five times": (copied(5, 1 / 3), 400),
}


def truth(world: Callable[[np.random.Generator, int], World], count: int, about: int) -> float:
    """The difference in AUC of the population, from about so many rows."""
    random, rows = np.random.default_rng(99), len(world(np.random.default_rng(0), count)[0])
    label, full, slim, weight, _ = world(random, about * count // rows)
    weight = np.ones(len(label)) if weight is None else weight
    return influence(label == 1, slim, weight)[0] - influence(label == 1, full, weight)[0]


def row_level(label: np.ndarray, full: np.ndarray, slim: np.ndarray) -> float:
    """The lower bound of DeLong's interval over rows."""
    positive, (full_auc, a), (slim_auc, b) = (
        (label == 1),
        *(influence(label == 1, s, np.ones(len(s))) for s in (full, slim)),
    )
    error = float(np.sqrt(np.square((b - a)[positive]).sum() + np.square((b - a)[~positive]).sum()))
    return slim_auc - full_auc - stats.norm.ppf(CONFIDENCE) * error


def measure(name: str, worlds: int, about: int = 4_000_000) -> dict:
    """The shares of one kind of world, whose truth is told by about so many rows."""
    world, count = KINDS[name]
    loss = truth(world, count, about)
    outcomes, above, contrast = [], 0, 0
    for seed in range(worlds):
        label, full, slim, weight, group = world(np.random.default_rng(seed), count)
        if len(np.unique(label)) < 2:
            continue
        found = compare(label, full, slim, weight, group, CONFIDENCE)
        outcomes.append(verdict(found, -loss)[0])
        above += found.low is not None and found.low > loss
        contrast += row_level(label, full, slim) > loss
    share = {"wrong": outcomes.count("certified"), "above": above, "row-level": contrast}
    return {"world": name, "loss": round(-loss, 5), **{key: int(count) / len(outcomes) for key, count in share.items()}}


def equal(random: np.random.Generator, count: int) -> World:
    """Users on whose rows either model is the better one by the toss of a coin."""
    label, full, slim, _, user = users(random, count)
    swap = np.random.default_rng(random.integers(2**32)).random(count)[user] < 0.5
    return label, np.where(swap, slim, full), np.where(swap, full, slim), None, user


def ever_wrong(worlds: int, grows: bool, weeks: int = 52, count: int = 150) -> dict:
    """Weekly looks at so many new users, or at all so far where the slice grows, of models that are equally good."""

    def looks(seed: int) -> Looks:
        label, full, slim, _, user = equal(np.random.default_rng(seed), weeks * count)
        for week in range(1, weeks + 1):
            start, end = np.searchsorted(user, [0 if grows else (week - 1) * count, week * count])
            rows = slice(start, end)
            yield gather(label[rows], full[rows], slim[rows], None, user[rows]), challenge(CONFIDENCE, week)

    return {"rows": "add up" if grows else "all new", **_wrong(worlds, looks)}


def one_slice(worlds: int, looks: int = 10, count: int = 2000) -> dict:
    """As many looks at one slice of so many rows, each with another model, all as good as the full one."""

    def each(seed: int) -> Looks:
        random = np.random.default_rng(seed)
        label, full, _ = plain(random, count)
        for look in range(1, looks + 1):
            swap, other = random.random(count) < 0.5, full + 0.4 * random.normal(size=count)
            found = gather(label, np.where(swap, other, full), np.where(swap, full, other))
            yield found, repeated(CONFIDENCE, look)

    return {"looks": looks, **_wrong(worlds, each)}


def _wrong(worlds: int, looks: Callable[[int], Looks]) -> dict[str, float]:
    """Share of worlds in which any look is wrong: with the same confidence each time, and with the one that pays for it."""
    wrong = {"naive": 0, "paid": 0}
    for seed in range(worlds):
        seen = dict.fromkeys(wrong, False)
        for found, paid in looks(seed):
            for name, confidence in (("naive", CONFIDENCE), ("paid", paid)):
                low = conclude(found, confidence).low
                seen[name] |= low is not None and low > 0
        wrong = {name: wrong[name] + seen[name] for name in wrong}
    return {name: float(times / worlds) for name, times in wrong.items()}


def power(worlds: int, allowed: float = 0.004) -> dict:
    """Certified at no loss with the rows that a pilot plans, in worlds of users."""
    first: Comparison = replace(compare(*equal(np.random.default_rng(12345), 4000)), difference=0.0)
    count = round(4000 * rows_needed(first, allowed) / first.rows)
    outcomes = [verdict(compare(*equal(np.random.default_rng(seed), count)), allowed)[0] for seed in range(worlds)]
    return {"users": count, "allowed": allowed, "certified at no loss": outcomes.count("certified") / worlds}


def seconds(rows: int = 1_000_000) -> float:
    """One comparison of so many rows."""
    label, full, slim, weight, user = users(np.random.default_rng(0), rows // 2)
    start = time.perf_counter()
    compare(label[:rows], full[:rows], slim[:rows], weight, user[:rows])
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = [measure(name, asked.worlds) for name in KINDS]
    table = Table("world", "true loss", "wrong", "above", "row-level")
    for row in rows:
        shares = (f"{100 * row[name]:.1f} %" for name in ("wrong", "above", "row-level"))
        table.add_row(row["world"], f"{row['loss']:.5f}", *shares)
    planned, took = power(max(100, asked.worlds // 5)), seconds()
    weekly = [ever_wrong(asked.worlds, grows) for grows in (True, False)]
    audits = one_slice(asked.worlds)
    console = Console()
    console.print(table)
    console.print(planned, f"one million rows in {took:.2f} s")
    console.print("ever wrong in 52 weekly looks:", *weekly)
    console.print("ever wrong in looks at one slice:", audits)
    if asked.json:
        asked.json.write_text(
            json.dumps({"worlds": rows, "power": planned, "weekly": weekly, "slice": audits, "seconds": took}, indent=1)
            + "\n"
        )


if __name__ == "__main__":
    main()
