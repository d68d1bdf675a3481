"""What living beside the training changes for LeAP: its network, what it selects, and what the search costs.

python -m benchmarks.beside --data ../shared/data [--logs NAME ...] [--seeds N] [--folder DIR] [--json FILE]

`beside`: default options, gates on the finished network. `within`: gates at every fourth step of the training on held-out
rows, at a fixed price (`alpha: 0.001`). `paper`: gates and network together on the training rows (`reference: paper`).
Settings, budgets and the judge, a network trained anew, are the leaderboard's; the search's own network is looked at with
its gate in place, on the test rows, against that of `beside`, which is a plain training's to the bit.
"""

import json
import tempfile
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from benchmarks.intervals import interval
from benchmarks.leaderboard.cells import MODEL, SHARES, TRAIN, Place, judged, selected
from benchmarks.leaderboard.logs import LOGS, arguments
from slimrec import stages
from slimrec.artifacts import read_json
from slimrec.data.dataset import Dataset
from slimrec.metrics import auc
from slimrec.model.files import load_model
from slimrec.model.scoring import score
from slimrec.pruning.findings import FINDINGS, Findings
from slimrec.selection import Budget

KINDS = {"beside": {}, "within": {"alpha": 0.001}, "paper": {"reference": "paper"}}


def measure(place: Place, kind: str) -> dict:
    """Test AUC of the search's network and of networks on what it selects, by share of the fields, and its seconds."""
    gated = place.folder / f"beside-{kind}"
    config = {"method": "leap", "options": KINDS[kind], "model": MODEL, "train": {**TRAIN, "seed": place.seed}}

    def search() -> dict:
        stages.execute("pretrain", config, dataset=str(place.dataset), gated=str(gated))
        return {}

    seconds = place.kept(gated.name, search)["seconds"]
    model, findings = load_model(gated), Findings.model_validate(read_json(gated / FINDINGS))
    test = Dataset.open(place.dataset).split("test")
    row = {"log": place.log, "kind": kind, "seed": place.seed, "seconds": seconds}
    row["network"] = auc(test.label, score(model, test), test.weight)
    for share in SHARES:
        chosen, _ = selected(model.gate, findings, Budget(keep=share), place.seed)
        row[f"{share:.0%}"] = judged(place, chosen, chosen.kept)["auc"]
    return row


def show(rows: list[dict]) -> None:
    """What each kind gives over `beside`, paired by seed, with Student's interval at 95 %; seconds as a ratio."""
    values = ("network", *(f"{share:.0%}" for share in SHARES))
    table = Table("log", "kind", *values, "search x")
    for log, kind in dict.fromkeys((row["log"], row["kind"]) for row in rows):
        mine, base = (
            {row["seed"]: row for row in rows if (row["log"], row["kind"]) == (log, k)} for k in (kind, "beside")
        )
        shown = []
        for value in values:
            gains = [row[value] - base[seed][value] for seed, row in mine.items()]
            own = f"{mean(row[value] for row in mine.values()):.4f}"
            shown.append(own if kind == "beside" else f"{mean(gains):+.4f}{interval(gains)}")
        cost = mean(row["seconds"] / base[seed]["seconds"] for seed, row in mine.items())
        table.add_row(log, kind, *shown, f"{cost:.2f}")
    Console(width=140).print(table)


def main() -> None:
    given = arguments(__doc__, ["amazon", "movielens_100k", "planted", "twins"]).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows: list[dict] = []
        for log in given.logs:
            for seed in range(given.seeds):
                place = Place(given.folder or Path(scratch), log, seed)
                place.ingest(LOGS[log], given.data)
                rows += [measure(place, kind) for kind in KINDS]
                if given.json:
                    given.json.write_text(json.dumps(rows, indent=1))
    show(rows)


if __name__ == "__main__":
    main()
