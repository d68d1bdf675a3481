"""What a recipe's selection is worth: kept fields and AUC of full and slim models over selection and retrain seeds.

python -m benchmarks.selection RECIPE [--select-seeds 0 1] [--retrain-seeds 0 1] [--log-seeds 0 1 ...] [--json FILE]
python -m benchmarks.selection RECIPE --seeds 0 1 2 [--max-rows N]

`--seeds` runs the recipe once a seed, search and retraining; the last line has the mean difference and its interval over
whatever was run (Student, 95 %: chance of seeds), the others the verdict's (chance of rows). `--max-rows` takes the log's first.
`--log-seeds` (planted logs only) makes a new log for each seed and says whether the planted truth was recovered.
`--options` overrides the method's options. "step cost" is the time per row of the search over that of the full model's
training, which means something only where both train alike.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.intervals import interval
from slimrec import stages
from slimrec.artifacts import read_json
from slimrec.config import Recipe, read_recipe
from slimrec.data.planted import TRUTH

RECIPES = Path(__file__).parents[1] / "pipelines" / "recipes"
USEFUL = {name for name, role in TRUTH.items() if role in ("useful", "interaction", "rare")}
USELESS = {name for name, role in TRUTH.items() if role in ("noise", "unique", "constant")}


def recovered(kept: set[str]) -> bool:
    """All useful fields and no useless one; of the twins `device` and `device_twin`, either stands for both."""
    standing = kept | ({"device"} if "device_twin" in kept else set())
    return USEFUL <= standing and not USELESS & kept


def seeded(section: Any, seed: int) -> dict:
    """A section as a dict with the seed of its training replaced."""
    values = section.model_dump()
    return {**values, "train": {**values["train"], "seed": seed}}


def audit(recipe: Recipe, folder: Path, source: str, select_seed: int, retrain_seed: int) -> dict:
    """One audit with all its folders; what an earlier call left (same source, same seeds) is used again."""
    data = folder / "".join(c if c.isalnum() else "-" for c in source)
    searched, ended = data / f"select-{select_seed}", data / f"select-{select_seed}" / f"retrain-{retrain_seed}"
    full = searched / f"full-{retrain_seed}"
    gated, selection, slim = (searched / name for name in ("gated", "selection", "slim"))

    def once(stage: str, made: Path, config: dict, **paths: Path) -> None:
        if not made.exists():
            stages.execute(stage, config, **{name: str(path) for name, path in paths.items()})

    dataset, subset = data / "dataset", data / "subset"
    once("ingest", dataset, {**recipe.ingest.model_dump(), "source": source}, dataset=dataset)
    once("sample", subset, recipe.sample.model_dump(), dataset=dataset, subset=subset)
    search = seeded(recipe.pretrain, select_seed)
    once("pretrain", gated, search, dataset=dataset, subset=subset, gated=gated)
    once("prune", slim, recipe.prune.model_dump(), gated=gated, selection=selection, slim=slim)
    tuned = ended / "tuned"
    paths = {"dataset": dataset, "subset": subset, "gated": gated, "selection": selection, "slim": slim}
    once("finetune", tuned, seeded(recipe.finetune, retrain_seed), **paths, tuned=tuned)
    plain = {**search, "method": "none", "options": {}, "after": seeded(recipe.finetune, retrain_seed)}
    once("pretrain", full, plain, dataset=dataset, subset=subset, gated=full)
    paths = {"dataset": dataset, "slim": tuned, "full": full, "selection": selection}
    once("evaluate", ended / "report", recipe.evaluate.model_dump(), **paths, report=ended / "report")
    row = _row(source, selection, ended / "report")
    searching, plain = (read_json(each / "manifest.json")["figures"]["rows_per_second"] for each in (gated, full))
    return {**row, "select_seed": select_seed, "retrain_seed": retrain_seed, "step_cost": round(plain / searching, 2)}


def _row(source: str, selection: Path, report: Path) -> dict:
    decided, judged = read_json(selection / "selection.json")["fields"], read_json(report / "report.json")
    kept = {name for name, decision in decided.items() if decision["columns"]}
    planted = source.startswith("planted:")
    return {
        "source": source,
        "fields": len(decided),
        "kept": sorted(kept),
        "scores": {name: round(decision["score"], 4) for name, decision in decided.items()},
        "full_auc": judged["auc"]["full"],
        "slim_auc": judged["auc"]["slim"],
        "low": judged["auc"]["low"],
        "high": judged["auc"]["high"],
        "verdict": judged["verdict"],
        "truth_recovered": recovered(kept) if planted else None,
    }


def show(rows: list[dict]) -> None:
    """The table a person reads."""
    table = Table("source", "seeds", "kept", "AUC full", "AUC slim", "difference", "verdict", "truth", "step cost")
    for row in rows:
        difference = f"{row['slim_auc'] - row['full_auc']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        truth = {None: "", True: "recovered", False: "missed"}[row["truth_recovered"]]
        seeds = f"{row['select_seed']}/{row['retrain_seed']}"
        shown = ", ".join(row["kept"]) if len(row["kept"]) <= 6 else f"{len(row['kept'])} of {row['fields']}"
        full, slim = f"{row['full_auc']:.4f}", f"{row['slim_auc']:.4f}"
        table.add_row(
            row["source"], seeds, shown, full, slim, difference, row["verdict"], truth, f"{row['step_cost']:.2f}"
        )
    full, slim = (mean(row[f"{which}_auc"] for row in rows) for which in ("full", "slim"))
    table.add_row(
        "mean",
        "",
        "",
        f"{full:.4f}",
        f"{slim:.4f}",
        f"{slim - full:+.4f}{interval([row['slim_auc'] - row['full_auc'] for row in rows])}",
        "",
        "",
        f"{mean(row['step_cost'] for row in rows):.2f}",
    )
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--select-seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--retrain-seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seeds", type=int, nargs="+", help="search and retrain once each, instead of the two above")
    parser.add_argument("--max-rows", type=int, help="of the log, from its start")
    parser.add_argument("--log-seeds", type=int, nargs="+")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON of method options")
    parser.add_argument("--folder", type=Path, help="keep artifacts here and use again what lies there")
    parser.add_argument("--json", type=Path, help="write the rows here")
    given = parser.parse_args()
    recipe = read_recipe(given.recipe)
    options = {**recipe.pretrain.options, **given.options}
    pretrain = recipe.pretrain.model_copy(update={"options": options})
    ingest = recipe.ingest.model_copy(update={"max_rows": given.max_rows} if given.max_rows else {})
    recipe = recipe.model_copy(update={"pretrain": pretrain, "ingest": ingest})
    sources = [recipe.ingest.source]
    if given.log_seeds is not None:
        base = recipe.ingest.source.rpartition(",seed=")[0] or recipe.ingest.source
        sources = [f"{base},seed={seed}" for seed in given.log_seeds]
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        seeds = [(s, r) for s in given.select_seeds for r in given.retrain_seeds]
        seeds = seeds if given.seeds is None else [(seed, seed) for seed in given.seeds]
        rows = [audit(recipe, folder, source, *each) for source in sources for each in seeds]
    show(rows)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
