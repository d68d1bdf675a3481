"""Are twenty protected slices judged right together? Simulated worlds whose losses, slice by slice, are known.

    python -m benchmarks.slices [--worlds 500]

Rows are clustered by users with heavy tails, and every slice holds rows of many users. "above" is the share of worlds in
which any lower bound lies above its truth, "below" the same of upper bounds, "certified" that in which any slice passes
whose loss is what it is allowed. Then one slice of twenty loses what the others do not: "vetoed" is the share of worlds in
which the audit is stopped for it, with a loss that the pilot's rows tell with 90 % power, "certified" that in which an audit
without a loss passes with those rows.
"""

import argparse
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.verdict import truth, users
from slimrec.verdict import certify
from slimrec.verdict.decision import heed
from slimrec.verdict.sketch import Sketch
from slimrec.verdict.slices import judge, veto

SLICES = 20
CONFIDENCE = 0.95
World = tuple[
    np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray
]  # label, full, slim, slice and user of each row


def world(random: np.random.Generator, count: int, losses: np.ndarray) -> World:
    """Rows of users; in slice s the slim model is noisier by `losses[s]`; where that is 0 neither model is better."""
    label, full, slim, _, user = users(random, count, loss=1.0)
    place = random.integers(0, SLICES, len(label))
    noise = slim - full
    size = losses[place]
    swap = (np.random.default_rng(random.integers(2**32)).random(count) < 0.5)[user] & (size == 0)
    one, other = full + np.where(size == 0, 0.15 * noise, 0), full + np.where(size == 0, 0, size * noise)
    return label, np.where(swap, other, one), np.where(swap, one, other), place, user


def judged(made: World, allowed: np.ndarray) -> list[dict]:
    """The slices of a world."""
    label, full, slim, place, user = made

    def gather(rows: np.ndarray) -> Sketch:
        return certify.gather(label[rows], full[rows], slim[rows], None, user[rows])

    return judge([(f"slice {s}", gather(place == s), allowed[s]) for s in range(SLICES)], CONFIDENCE)


def true_losses(losses: np.ndarray) -> np.ndarray:
    """The loss in AUC of each slice, from millions of rows; slices of one size have one."""

    def known(size: float) -> float:
        def alone(random: np.random.Generator, count: int) -> tuple:
            label, full, slim, _, user = world(random, count, np.full(SLICES, size))
            return label, full, slim, None, user

        return -truth(alone, 1500, 4_000_000) if size else 0.0

    sizes = {size: known(size) for size in set(losses.tolist())}
    return np.array([sizes[size] for size in losses.tolist()])


def errors(worlds: int, losses: np.ndarray, about: int) -> dict[str, float]:
    """How often any of the twenty bounds is wrong, and any slice passes whose loss is what it is allowed."""
    loss = true_losses(losses)
    above = below = passed = 0
    for seed in range(worlds):
        found = judged(world(np.random.default_rng(seed), about, losses), np.where(losses > 0, loss, 0.05))
        above += any(s["low"] is not None and s["low"] > -truth for s, truth in zip(found, loss))
        below += any(s["high"] is not None and s["high"] < -truth for s, truth in zip(found, loss))
        passed += any(s["verdict"] == "certified" and size for s, size in zip(found, losses.tolist()))
    return {"above": above / worlds, "below": below / worlds, "certified": passed / worlds}


def power(worlds: int, planted: float, share_of_loss: float = 0.5) -> dict[str, float]:
    """A loss in one slice of 5 % of the rows, twice what it is allowed: rows by the pilot, and what comes of them."""
    losses = np.zeros(SLICES)
    losses[7] = planted
    loss = float(true_losses(losses)[7])
    allowed = np.full(SLICES, share_of_loss * loss)
    label, full, slim, place, user = world(np.random.default_rng(1), 40_000, losses)
    rows = place == 7
    pilot = certify.compare(label[rows], full[rows], slim[rows], None, user[rows], 1 - (1 - CONFIDENCE) / SLICES)
    count = round(40_000 * (certify.rows_needed(pilot, float(allowed[7])) or 0) / pilot.rows)
    outcomes = [_outcomes(seed, count, losses, allowed) for seed in range(worlds)]
    share: Callable[[str], float] = lambda name: sum(each[name] for each in outcomes) / worlds
    return {"loss": loss, "users": count, **{name: share(name) for name in outcomes[0]}}


def _outcomes(seed: int, count: int, losses: np.ndarray, allowed: np.ndarray) -> dict[str, bool]:
    found = judged(world(np.random.default_rng(seed), count, losses), allowed)
    outcome, reason = heed("certified", "", [veto(found, "veto")])
    lenient, _ = heed("certified", "", [veto(found, "remark")])
    equal = judged(world(np.random.default_rng(seed), count, 0 * losses), allowed)
    clean, _ = heed("certified", "", [veto(equal, "veto")])
    return {
        "vetoed": outcome != "certified",
        "vetoed as a remark": lenient != "certified",
        "rejected by name": outcome == "rejected" and reason.startswith("slice 7 "),
        "certified without a loss": clean == "certified",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=500)
    parser.add_argument("--users", type=int, default=8000)
    asked = parser.parse_args()
    console = Console()
    table = Table("slices that lose what they are allowed", "above", "below", "certified")
    for lose in (SLICES, SLICES // 2, 1):
        found = errors(asked.worlds, np.where(np.arange(SLICES) < lose, 0.6, 0.0), asked.users)
        table.add_row(
            f"{lose} of {SLICES}", *(f"{100 * found[name]:.1f} %" for name in ("above", "below", "certified"))
        )
    console.print(table)
    console.print(power(max(100, asked.worlds // 5), planted=0.4))


if __name__ == "__main__":
    main()
