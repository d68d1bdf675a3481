"""Does a false discovery rate hold? Planted logs, probes in the search: share of useless fields kept, useful ones found.

python -m benchmarks.false_discovery [--seeds 20] [--rates 0.05 0.1] [--probes 4] [--rows 300000] [--json FILE]

Log, network and training are those of the demo recipe; one search of a log serves all rates. By chance: what the rule
leaves where useless fields and probes score alike, 12 useful fields beyond them all, 7 useless ones, and a constant. Useful are the planted fields whose removal costs at least
0.001 AUC of the planted logit; of the twins `device` and `device_twin` either is right, and both together are.
"""

import argparse
import json
import tempfile
from functools import cache
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from benchmarks.selection import RECIPES, USELESS
from slimrec import stages
from slimrec.artifacts import read_json
from slimrec.config import read_recipe
from slimrec.data.planted import LOGIT, Log, batches, contributions
from slimrec.probes import discoveries

WORTH = 0.001  # AUC


@cache
def useful() -> frozenset[str]:
    """Fields worth `WORTH`; the planted interaction stands for both of its fields."""
    log = Log(rows=200_000, seed=0)
    pieces = list(batches(log))
    label, logit = (np.concatenate([piece[name].to_numpy() for piece in pieces]) for name in ("click", LOGIT))
    full = roc_auc_score(label, logit)
    parts = contributions(log)
    worth = {name: full - roc_auc_score(label, logit - part) for name, part in parts.items()}
    found = {name for name, loss in worth.items() if loss >= WORTH}
    return frozenset(found | ({"layout"} if "query" in found else set()))


def one(seed: int, rows: int, probes: float, rates: list[float]) -> list[dict]:
    """One row a rate, of one search."""
    recipe = read_recipe(RECIPES / "demo.yaml")
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(Path(folder, name)) for name in ("dataset", "gated")}
        source = f"planted:rows={rows},seed={seed}"
        stages.execute("ingest", {**recipe.ingest.model_dump(), "source": source}, dataset=paths["dataset"])
        search = recipe.pretrain.model_dump()
        search = {**search, "probes": probes, "train": {**search["train"], "patience": 0, "seed": seed}}
        stages.execute("pretrain", search, dataset=paths["dataset"], gated=paths["gated"])
        return [_judge(seed, rate, _kept(paths["gated"], Path(folder, str(rate)), rate)) for rate in rates]


def _kept(gated: str, folder: Path, rate: float) -> set[str]:
    selection = folder / "selection"
    cut = {"gated": gated, "selection": str(selection), "slim": str(folder / "slim")}
    stages.execute("prune", {"budget": {"false_discovery": rate}}, **cut)
    decided = read_json(selection / "selection.json")["fields"]
    return {name for name, decision in decided.items() if decision["columns"]}


def _judge(seed: int, rate: float, kept: set[str]) -> dict:
    standing = kept | ({"device"} if "device_twin" in kept else set())
    return {
        "seed": seed,
        "rate": rate,
        "kept": sorted(kept),
        "false_share": len(kept & USELESS) / max(len(kept), 1),
        "power": len(standing & useful()) / len(useful()),
        "missed": sorted(useful() - standing),
        "false": sorted(kept & USELESS),
    }


def by_chance(rate: float, probes: int, draws: int = 2000) -> float:
    """The share of useless fields among the kept, were they and their probes drawn from one distribution."""
    draw, shares = np.random.default_rng(0), []
    for _ in range(draws):
        scores = (
            {f"useful{i}": 100.0 for i in range(12)} | {f"useless{i}": draw.normal() for i in range(7)} | {"still": 0.0}
        )
        copies = {f"probe{turn}:{name}": draw.normal() * (name != "still") for name in scores for turn in range(probes)}
        kept = discoveries(scores | copies, rate)
        shares.append(sum(name.startswith("useless") for name in kept) / max(len(kept), 1))
    return mean(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05, 0.1])
    parser.add_argument("--probes", type=float, default=4, help="shuffled copies of every field")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    rows = []
    for seed in tqdm(seeds, desc="planted logs"):
        rows += one(seed, given.rows, given.probes, given.rates)
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1))
    for rate in given.rates:
        for name in ("false_share", "power"):
            values = [row[name] for row in rows if row["rate"] == rate]
            error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
            print(f"rate {rate:<6} {name:<12} {mean(values):.3f} ± {error:.3f} over {len(values)} logs")
        if given.probes == int(given.probes):
            print(f"rate {rate:<6} by chance    {by_chance(rate, int(given.probes)):.3f}")
    for row in rows:
        if row["missed"] or row["false"]:
            wrong = f"missed {row['missed'] or 'none'}, falsely kept {row['false'] or 'none'}"
            print(f"seed {row['seed']}, rate {row['rate']}: {wrong}")


if __name__ == "__main__":
    main()
