"""All methods and baselines on the same splits and budgets: what each keeps, what that is worth, what the search costs.

python -m benchmarks.methods --data ../shared/data --dataset movielens_1m|census|planted --seeds N [--fields N ...] [--json F]

Every method searches with the training of the dataset's recipe, warm-up and all, but for what `ASKED` says; every
selection is retrained from new weights, with the same seeds for all methods; equal selections are retrained once.
Twins take the places that their scores give them (`twins_once: false`), so that each method is judged by its own ranking.
`own` is the share of the kept fields that the method's scores alone would have kept: below 1 the row is that of a hybrid,
such as methods that judge meetings of fields only, which shuffling ranks by field, and `leap`, which drops what does harm.
Normalised AUKC is our definition: the area under AUC - 0.5 over the share of kept fields, by trapezoids through 0 at
share 0, over that of a perfect ranker (AUC 1 with any field): 2 * area, in 0..1.
"""

import argparse
import hashlib
import inspect
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.datasets import main as make_log
from benchmarks.selection import RECIPES
from slimrec import stages
from slimrec.artifacts import read_json
from slimrec.config import read_recipe
from slimrec.data.dataset import Dataset
from slimrec.metrics import auc, log_loss
from slimrec.model.files import load_model
from slimrec.model.scoring import score
from slimrec.plugins import BACKBONES, GATES
from slimrec.selection import Budget
from slimrec.verdict.cost import size

matplotlib.use("Agg")
# dataset -> recipe, name for benchmarks.datasets, numbers of fields to retrain at (the first is the table's budget)
DATASETS = {
    "movielens_1m": ("movielens", "movielens_1m", (4, 2, 6)),
    "census": ("census", "census", (20, 10, 30)),
    "planted": ("demo", None, (12, 6, 9)),
}
# What a method's own documentation asks for, where the recipe says otherwise: sections sample and pretrain
ASKED = {
    "irazor": {"options": {"cpt": 0.8, "warmup": 0.0}, "train": {"epochs": 1}},  # the paper's cpt for Criteo; irazor.py
    "autodim": {"options": {"warmup": 0.0}, "train": {"epochs": 1}},
    "lpfs": {"options": {"warmup": 0.1}, "train": {"epochs": 1}},  # see lpfs.py
    "optfeature": {"options": {"grain": "field"}},  # a static list of pairs
    "lightfmp": {"sample": {"fraction": 0.1}, "train": {"batch_size": 128}},  # a small subset, enough steps
}
ITSELF = "itself"  # the budget under which a method decides by its own rule
ALL = "all"  # no cut


class Bench:
    """One dataset, one folder; what was searched or trained before is used again."""

    def __init__(self, dataset: str, data: Path, folder: Path, counts: Sequence[int] | None = None):
        name, log, usual = DATASETS[dataset]
        self.counts = tuple(counts or usual)
        self.folder, self.recipe = folder, read_recipe(RECIPES / f"{name}.yaml")
        source = self.recipe.ingest.source
        if log:
            source = str(folder / "log.parquet")
            if not Path(source).exists() and make_log([log, "--data", str(data), "--output", source]):
                raise SystemExit(10)
        self.dataset = folder / "dataset"
        self._once("ingest", self.dataset, {**self.recipe.ingest.model_dump(), "source": source}, dataset=self.dataset)

    def _once(self, stage: str, made: Path, config: dict, **paths: Path) -> None:
        if not made.exists():
            stages.execute(stage, config, **{name: str(path) for name, path in paths.items()})

    def backbone_for(self, method: str) -> str:
        """The recipe's network; for methods that gate meetings of fields, one in which fields meet."""
        name = self.recipe.pretrain.model.backbone
        return "pnn" if GATES.load(method).weighs_pairs and not BACKBONES.load(name).meets_pairs else name

    def search(self, method: str, backbone: str, seed: int) -> tuple[Path, float]:
        """The gated model and the processor seconds of its search (as first run): neighbours do not count in them."""
        folder = self.folder / f"{method}-{backbone}-{seed}"
        gated, clock = folder / "gated", folder / "seconds.json"
        if not clock.exists():
            section = self.recipe.pretrain.model_dump()
            asked = ASKED.get(method, {})
            known = inspect.signature(GATES.load(method)).parameters
            options = {name: value for name, value in section["options"].items() if name in known}
            train = {**section["train"], **asked.get("train", {}), "seed": seed}
            model = {**section["model"], "backbone": backbone}
            config = {"method": method, "options": options | asked.get("options", {}), "model": model, "train": train}
            paths = {"dataset": self.dataset, "gated": gated}
            began = time.process_time()
            if "sample" in asked:
                paths["subset"] = folder / "subset"
                sample = {**asked["sample"], "seed": seed}
                self._once("sample", paths["subset"], sample, dataset=self.dataset, subset=paths["subset"])
            self._once("pretrain", gated, config, **paths)
            clock.write_text(json.dumps(time.process_time() - began))
        return gated, read_json(clock)

    def select(self, gated: Path, budget: dict, label: str) -> tuple[dict, Path]:
        selection, slim = gated.parent / label / "selection", gated.parent / label / "slim"
        config = {"budget": budget, "twins_once": False}
        self._once("prune", slim, config, gated=gated, selection=selection, slim=slim)
        return read_json(selection / "selection.json"), gated.parent / label

    def alone(self, gated: Path, budget: dict, seed: int) -> set[str]:
        """What the scores of a method keep, before anything else has a say in the decision."""
        return set(load_model(gated).gate.select(Budget(**budget), seed).kept)

    def retrain(self, decided: dict, cut: Path, gated: Path, seed: int) -> dict:
        """Test AUC and log-loss of the selection trained from new weights; sizes of the trained model."""
        backbone = read_json(cut / "slim" / "model.json")["config"]["backbone"]
        columns = {name: decision["columns"] for name, decision in decided["fields"].items()}
        stays = (cut / "slim" / "gate.safetensors").exists()
        key = json.dumps([backbone, columns, decided["pairs"], seed, str(cut) if stays else ""])
        folder = self.folder / "retrained" / hashlib.sha256(key.encode()).hexdigest()[:16]
        if not (folder / "row.json").exists():
            train = {**self.recipe.finetune.train.model_dump(), "seed": seed}
            paths = {"dataset": self.dataset, "gated": gated, "selection": cut / "selection", "slim": cut / "slim"}
            self._once(
                "finetune", folder / "tuned", {"start": "fresh", "train": train}, **paths, tuned=folder / "tuned"
            )
            model = load_model(folder / "tuned")
            test = Dataset.open(self.dataset, fields=model.schema.names).split("test")
            logits = score(model, test)
            figures = {
                "auc": auc(test.label, logits, test.weight),
                "log_loss": log_loss(test.label, logits, test.weight),
            }
            row = {**figures, **size(model), "dims": sum(len(kept) for kept in columns.values())}
            (folder / "row.json").write_text(json.dumps(row))
        return read_json(folder / "row.json")


def jaccard(sets: list[set[str]]) -> float:
    """Mean over pairs of kept sets; 1 for a single one."""
    pairs = list(combinations(sets, 2))
    return mean(len(a & b) / len(a | b) for a, b in pairs) if pairs else 1.0


def aukc(points: dict[float, float]) -> float:
    """Normalised area under AUC - 0.5 over the kept share (ours, see the module's docstring)."""
    shares, gains = zip(*sorted({0.0: 0.0, **{share: value - 0.5 for share, value in points.items()}}.items()))
    return float(2 * np.trapezoid(gains, shares))


def uncut(bench: Bench, backbone: str, seeds: int) -> dict:
    """The row of a network with all its fields and pairs."""
    seconds, found = [], []
    for seed in range(seeds):
        gated, spent = bench.search("none", backbone, seed)
        decided, cut = bench.select(gated, {}, ITSELF)
        seconds.append(spent)
        found.append(bench.retrain(decided, cut, gated, seed))
    fields = len(decided["fields"])
    return {
        "method": f"none ({backbone})",
        "budget": ALL,
        "fields": fields,
        **{name: mean(row[name] for row in found) for name in ("auc", "log_loss", "dims", "parameters")},
        "pairs": fields * (fields - 1) // 2 if BACKBONES.load(backbone).meets_pairs else None,
        "seconds": mean(seconds),
        "search_cost": 1.0,
        "stability": 1.0,
        "own": 1.0,
        "aukc": aukc({1.0: mean(row["auc"] for row in found)}),
        "kept": sorted(decided["fields"]),
        "aucs": [row["auc"] for row in found],
    }


def measure(bench: Bench, method: str, seeds: int, full: dict) -> list[dict]:
    """A row for each budget: the numbers of fields of the dataset, and the method's own rule."""
    budgets = {str(count): {"fields": count} for count in bench.counts} | {ITSELF: {}}
    found: dict[str, list] = {label: [] for label in budgets}
    kept: dict[str, list[set[str]]] = {label: [] for label in budgets}
    own: dict[str, list[float]] = {label: [] for label in budgets}
    seconds = []
    for seed in range(seeds):
        gated, spent = bench.search(method, bench.backbone_for(method), seed)
        seconds.append(spent)
        for label, budget in budgets.items():
            decided, cut = bench.select(gated, budget, label)
            kept[label].append({name for name, decision in decided["fields"].items() if decision["columns"]})
            own[label].append(len(kept[label][-1] & bench.alone(gated, budget, seed)) / len(kept[label][-1]))
            pairs = None if decided["pairs"] is None else len(decided["pairs"])
            found[label].append({**bench.retrain(decided, cut, gated, seed), "pairs": pairs})
    total = len(decided["fields"])
    curve = {
        len(kept[label][0]) / total: mean(row["auc"] for row in found[label]) for label in budgets if label != ITSELF
    }
    return [
        {
            "method": method,
            "budget": label,
            "fields": mean(len(each) for each in kept[label]),
            **{name: mean(row[name] for row in rows) for name in ("auc", "log_loss", "dims", "parameters")},
            "pairs": rows[0]["pairs"],
            "search_cost": mean(seconds) / full["seconds"],
            "stability": jaccard(kept[label]),
            "own": mean(own[label]),
            "aukc": aukc({**curve, 1.0: full["auc"]}),
            "kept": sorted(kept[label][0]),
            "aucs": [row["auc"] for row in rows],
        }
        for label, rows in found.items()
    ]


def show(rows: list[dict], dataset: str, budget: str) -> None:
    console = Console(width=140)
    for label in (budget, ITSELF):
        title = f"{dataset}, {'the rule of each method' if label == ITSELF else f'best {label} fields'}"
        heads = (
            "method",
            "fields",
            "dims",
            "parameters",
            "pairs",
            "AUC",
            "log-loss",
            "search x",
            "stability",
            "own",
            "AUKC",
        )
        table = Table(*heads, title=title)
        for row in sorted((r for r in rows if r["budget"] in (label, ALL)), key=lambda r: -r["auc"]):
            figures = f"{row['fields']:.1f}", f"{row['dims']:.0f}", f"{row['parameters']:,.0f}", str(row["pairs"] or "")
            quality = f"{row['auc']:.4f}", f"{row['log_loss']:.4f}", f"{row['search_cost']:.2f}"
            steady = f"{row['stability']:.2f}", f"{row['own']:.2f}"
            table.add_row(row["method"], *figures, *quality, *steady, f"{row['aukc']:.3f}")
        console.print(table)


def plot(rows: list[dict], total: int, file: Path, dataset: str) -> None:
    """AUC against kept share, a line a method, the best first in the legend.

    Points of one share stand a little apart, so that methods which keep the same fields do not hide each other.
    """
    from matplotlib import pyplot

    lines: dict[str, list[tuple[float, float]]] = {}
    for row in sorted((r for r in rows if r["budget"] not in (ALL, ITSELF)), key=lambda row: row["fields"]):
        lines.setdefault(row["method"], []).append((row["fields"] / total, row["auc"]))
    best = sorted(lines, key=lambda method: -mean(value for _, value in lines[method]))
    figure, axes = pyplot.subplots(figsize=(10, 6))
    dashes = pyplot.cycler(linestyle=["-", "--"], marker=["o", "s"])
    axes.set_prop_cycle(dashes * pyplot.cycler(color=pyplot.colormaps["Dark2"].colors))
    for place, method in enumerate(best):
        apart = 0.004 * (place - (len(best) - 1) / 2)
        axes.plot(
            *zip(*((share + apart, value) for share, value in lines[method])), markersize=4, linewidth=1.2, label=method
        )
    for row, side in zip(sorted((r for r in rows if r["budget"] == ALL), key=lambda r: -r["auc"]), ("bottom", "top")):
        axes.axhline(row["auc"], linestyle=":", color="grey", linewidth=1)
        text = f"all {row['fields']} fields {row['method'].removeprefix('none ')}"
        axes.annotate(
            text, (0.01, row["auc"]), xycoords=("axes fraction", "data"), fontsize="small", color="grey", va=side
        )
    shares = sorted({share for points in lines.values() for share, _ in points})
    axes.set(title=f"{dataset}, retrained with the best fields of each method", ylabel="test AUC")
    axes.set_xticks(shares, [f"{100 * share:.0f} % ({share * total:.0f} fields)" for share in shares])
    axes.margins(x=0.08)
    if lines:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, bbox_inches="tight", dpi=120)
    pyplot.close(figure)


def run(bench: Bench, seeds: int, methods: list[str]) -> Iterator[list[dict]]:
    """The rows of the uncut networks, then those of each method."""
    full = {name: uncut(bench, name, seeds) for name in dict.fromkeys(map(bench.backbone_for, methods))}
    yield list(full.values())
    for method in tqdm(methods, desc="methods"):
        draws = max(3, seeds) if method == "random" else seeds
        yield measure(bench, method, draws, full[bench.backbone_for(method)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--dataset", choices=DATASETS, default="planted")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=[m for m in GATES.table if m != "none"])
    parser.add_argument("--fields", type=int, nargs="+", help="numbers of fields to retrain at, the table's first")
    parser.add_argument("--folder", type=Path, help="keep artifacts here and use again what lies there")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    methods = given.methods or [m for m in GATES.table if m != "none"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows: list[dict] = []
        bench = Bench(given.dataset, given.data, folder, given.fields)
        for found in run(bench, given.seeds, methods):
            rows += found
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1))
            if given.plot:
                plot(rows, int(rows[0]["fields"]), given.plot, given.dataset)
    show(rows, given.dataset, str(bench.counts[0]))


if __name__ == "__main__":
    main()
