"""Where LeAP's own rule draws its line: what `least` of three values and `gap` keep of one search, and what that is worth.

python -m benchmarks.thresholds [--data ../shared/data] [--logs planted movielens_100k] [--seeds 3] [--folder DIR] [--json FILE]

Logs, split, network and training are those of the leaderboard; a network is trained anew on what each rule keeps. Beside
it the order of the fields: whether all gates have fallen, whether any two fields tie, and which neighbours stand nearer
to each other than two standard errors.
"""

import json
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from benchmarks.intervals import gain
from benchmarks.leaderboard.cells import ALL, Place, cell, judged, searched
from benchmarks.leaderboard.logs import LOGS, arguments
from slimrec.data.dataset import Dataset
from slimrec.gates.leap import LeapGate
from slimrec.pruning.decide import decide
from slimrec.selection import Budget

RULES = {"least .002": {"least": 0.002}, "least .001": {"least": 0.001}, "least .0005": {}, "gap": {"gap": True}}
USUAL = "least .0005"


def one(folder: Path, log: str, data: Path, seed: int) -> dict:
    """What each rule keeps of one search, and the order that the search gave."""
    place = Place(folder, log, seed)
    place.ingest(LOGS[log], data)
    model, findings, _ = searched(place, Dataset.open(place.dataset), "leap")
    gate, found = model.gate, {}
    usual = {"least": gate.least, "gap": gate.gap}
    for rule, options in RULES.items():
        for name, value in (usual | options).items():
            setattr(gate, name, value)
        chosen = decide(gate, findings, Budget(), False, seed)
        found[rule] = {"kept": chosen.kept, "bar": gate.bar(), "auc": judged(place, chosen, chosen.kept)["auc"]}
    full = cell(place, ALL)[0]["auc"]
    return {"log": log, "seed": seed, "all": full, "rules": found, **order_of(gate)}


def order_of(gate: LeapGate) -> dict:
    """Fields from the best to the least with nats and errors; twins, which share a gate, count as one."""
    names, groups = gate.schema.names, gate.group.tolist()
    own = {groups.index(group): group for group in groups}
    scored = [(names[i], float(gate.importance[i]), float(gate.error[i])) for i in own]
    scored.sort(key=lambda field: -field[1])
    near = sum(above[1] - below[1] < 2 * (above[2] ** 2 + below[2] ** 2) ** 0.5 for above, below in pairwise(scored))
    tied = len(scored) - len({worth for _, worth, _ in scored})
    return {"order": scored, "fallen": bool(gate.fallen.all()), "tied": tied, "near": near}


def show(rows: list[dict]) -> None:
    table = Table("log", "all fields", *RULES, "gap - usual", "not fallen", "tied", "near neighbours")
    for log in dict.fromkeys(row["log"] for row in rows):
        here = [row for row in rows if row["log"] == log]
        shown = []
        for rule in RULES:
            counts = sorted(len(row["rules"][rule]["kept"]) for row in here)
            shown.append(f"{mean(row['rules'][rule]['auc'] for row in here):.4f} ({counts[0]} to {counts[-1]})")
        apart = [row["rules"]["gap"]["auc"] - row["rules"][USUAL]["auc"] for row in here]
        total = [str(sum(values)) for values in zip(*((not row["fallen"], row["tied"], row["near"]) for row in here))]
        full = f"{mean(row['all'] for row in here):.4f}"
        table.add_row(log, full, *shown, gain(apart), *total)
    Console(width=160).print(table)
    for row in rows:
        fields = ", ".join(f"{name} {worth:.2g} ± {error:.1g}" for name, worth, error in row["order"])
        print(f"{row['log']}, seed {row['seed']}, at the gap {row['rules']['gap']['bar']:.2g}: {fields}")


def main() -> None:
    given = arguments(__doc__, ["planted", "movielens_100k"]).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        rows = [one(folder, log, given.data, seed) for log in given.logs for seed in range(given.seeds)]
    show(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
