"""The leaderboard's page, drawn from its results: ranks with intervals, what they cost, and the figures of each log."""

from collections import defaultdict
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from scipy.stats import t as student

from benchmarks.leaderboard.cells import ALL, PLAIN, SETTINGS, SHARES

PAGE = Path(__file__).parents[2] / "docs" / "leaderboard.md"
_DRAWS = 2000  # of logs, for the intervals of ranks
_OWN = 0.999  # from which a selection is a method's own
HEAD = """# Leaderboard

Every method on every log at 25, 50 and 75 % of the fields: `python -m benchmarks.leaderboard run` fills
`benchmarks/leaderboard/results.parquet` cell by cell, `python -m benchmarks.leaderboard page` draws this page from it. A
method of your own enters by its entry point: `run --methods NAME`; `--again` runs anew what was changed.

{filled}

One setting for all logs, default options of the methods (what a method's own documentation asks for stands in
`benchmarks.methods`; a search in one pass takes smaller batches, so that it has some thousand steps). A method is
judged by its own scores: what an audit does beside them (twins that take one place, places that stay empty rather than hold
noise) has no say here. Not so where it is part of the method, as with `leap`, whose twins share a gate for one place, or
where scores are of pairs and say nothing of a field, which shuffling ranks then: such hybrids are marked †, with the share of the places that their own scores would not
have filled so. A selection is judged twice: by a network (Wide & Deep) trained anew on it, and by an outside judge, LightGBM
trained on the same fields. Widths count for the network, pairs for neither. Seeds differ in search and networks; rows, split
and worlds are the same, and so are trees on the same fields. Trees see nothing of fields that say something only in pairs (`pure_interaction`). Logs and worlds: `benchmarks/leaderboard/logs.py`, `worlds.py`.
"""


def draw(rows: list[dict]) -> str:
    """The page in Markdown."""
    rows = [row for row in rows if row["settings"] == SETTINGS]
    found, whole, refused = _sorted(rows)
    logs = [log for log in dict.fromkeys(row["log"] for row in rows) if log in whole]
    methods = sorted({method for method, *_ in found})
    seeds = {row["seed"] for row in rows}
    complete = [log for log in logs if all(_there(found, refused, method, log, seeds) for method in methods)]
    filled = (
        f"Now: {len(methods)} methods, {len(logs)} logs, {len(seeds)} seeds, {len(rows)} rows. Ranks are over the logs on "
        f"which every method has been run with every seed: {', '.join(complete) or 'none yet'}."
    )
    parts = [HEAD.format(filled=filled)]
    if complete and methods:
        parts.append(_overall(found, whole, refused, methods, complete))
    parts += [_of_log(found, whole, refused, methods, log) for log in logs]
    return "\n".join(parts)


def _sorted(rows: list[dict]) -> tuple[dict, dict, dict]:
    """Rows by (method, log, share) and seed, those of all fields by log and seed, and refusals by (method, log)."""
    found, whole, refused = defaultdict(dict), defaultdict(dict), {}
    for row in rows:
        if row["refused"]:
            refused[row["method"], row["log"]] = row["refused"]
        elif row["method"] == ALL:
            whole[row["log"]][row["seed"]] = row
        else:
            found[row["method"], row["log"], row["share"]][row["seed"]] = row
    return found, whole, refused


def _there(found: dict, refused: dict, method: str, log: str, seeds: set[int]) -> bool:
    return (method, log) in refused or all(seeds <= found.get((method, log, share), {}).keys() for share in SHARES)


def ranks(found: dict, methods: list[str], log: str, figure: str = "auc") -> dict[str, float]:
    """Mean rank of each method on a log over shares and seeds that all have, 1 the best, ties shared; the refused last."""
    total = defaultdict(list)
    for share in SHARES:
        cells = {method: found.get((method, log, share), {}) for method in methods}
        seeds = set.intersection(*(set(each) for each in cells.values() if each)) if any(cells.values()) else set()
        for seed in seeds:
            value = {m: each[seed][figure] if each else -1.0 for m, each in cells.items()}
            for method in methods:
                better = sum(other > value[method] + 1e-12 for other in value.values())
                equal = sum(abs(other - value[method]) <= 1e-12 for other in value.values())
                total[method].append(better + (equal + 1) / 2)
    return {method: mean(values) for method, values in total.items()}


def _overall(found: dict, whole: dict, refused: dict, methods: list[str], logs: list[str]) -> str:
    network, trees = ({log: ranks(found, methods, log, figure) for log in logs} for figure in ("auc", "trees_auc"))
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(logs), (_DRAWS, len(logs)))
    lines = [
        "## Ranks",
        "",
        (
            f"Mean rank among {len(methods)} methods over logs, shares and seeds, 1 the best, with the 95 % interval of drawing "
            "the logs anew. Level: in how many cells (log and share) no method is better by more than two standard errors, "
            f"paired by seed, and by more than .0005. Search: processor time over that of `{PLAIN}`, which is a plain training "
            "and a look at its network, median over logs and seeds. Stability: the mean Jaccard index between seeds at half of "
            "the fields; bytes: what is left of the network then. The AUC lost is that of the network, against all fields."
        ),
        "",
        "| method | rank, network | rank, trees | level in | AUC lost, 25 / 50 / 75 % | search x | stability | bytes, 50 % |",
        "|---|---|---|---|---|---:|---:|---:|",
    ]
    for method in sorted(methods, key=lambda m: mean(network[log][m] for log in logs)):
        cells = [(log, share) for log in logs for share in SHARES if (method, log, share) in found]
        if not cells:
            continue
        level = sum(_level(found, methods, method, *cell) for cell in cells)
        shown = f"{level} of {len(logs) * len(SHARES)}"
        costs = _costs(found, whole, method, logs)
        both = " | ".join(_interval([place[log][method] for log in logs], drawn) for place in (network, trees))
        lost = " / ".join(_lost(found, whole, method, logs, share) for share in SHARES)
        lines.append(f"| `{method}`{_mark(found, method, logs)} | {both} | {shown} | {lost} | {costs} |")
    gone = [f"`{method}` on {log} ({why})" for (method, log), why in sorted(refused.items()) if log in logs]
    return "\n".join([*lines, "", *([f"Not run: {'; '.join(gone)}.", ""] if gone else [])])


def _interval(values: list[float], drawn: np.ndarray) -> str:
    low, high = np.quantile(np.array(values)[drawn].mean(axis=1), [0.025, 0.975])
    return f"{mean(values):.1f} ({low:.1f} to {high:.1f})"


def _lost(found: dict, whole: dict, method: str, logs: list[str], share: float) -> str:
    lost = [
        whole[log][seed]["auc"] - row["auc"]
        for log in logs
        for seed, row in found.get((method, log, share), {}).items()
        if seed in whole[log]
    ]
    return f"{mean(lost):.4f}" if lost else ""


def _costs(found: dict, whole: dict, method: str, logs: list[str]) -> str:
    """Search over that of `PLAIN`, stability and bytes, as cells of a table."""
    times, bytes_, stable = [], [], []
    for log in logs:
        half = found.get((method, log, 0.5), {})
        for seed in half.keys() & whole[log].keys():
            bytes_.append(half[seed]["bytes"] / whole[log][seed]["bytes"])
        plain = found.get((PLAIN, log, 0.5), {})
        times += [half[seed]["search_seconds"] / plain[seed]["search_seconds"] for seed in half.keys() & plain.keys()]
        pairs = list(combinations([set(row["kept"]) for row in half.values()], 2))
        stable += [len(a & b) / len(a | b) for a, b in pairs]
    steady = f"{mean(stable):.2f}" if stable else ""
    dear = f"{np.median(times):.1f}" if times else ""
    return f"{dear} | {steady} | {mean(bytes_):.0%}"


def _mark(found: dict, method: str, logs: list[str]) -> str:
    own = [row["own"] for log in logs for share in SHARES for row in found.get((method, log, share), {}).values()]
    return f" † {1 - mean(own):.0%}" if own and mean(own) < _OWN else ""


def _level(found: dict, methods: list[str], method: str, log: str, share: float) -> bool:
    """Whether the best mean of the cell is not better by more than two paired standard errors and by .0005."""
    cell = {m: found.get((m, log, share), {}) for m in methods}
    best = max((m for m in methods if cell[m]), key=lambda m: mean(row["auc"] for row in cell[m].values()))
    gaps = [cell[best][seed]["auc"] - cell[method][seed]["auc"] for seed in cell[best].keys() & cell[method].keys()]
    if not gaps:
        return False
    error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    return mean(gaps) <= max(2 * error, 0.0005)


def _spread(values: list[float]) -> str:
    """Mean, and half of the 95 % interval by Student's t where there are several."""
    if len(values) < 2:
        return f"{mean(values):.4f}"
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.4f} ± {half:.4f}"


def _of_log(found: dict, whole: dict, refused: dict, methods: list[str], log: str) -> str:
    rows = list(whole[log].values())
    network, trees = ([row[figure] for row in rows] for figure in ("auc", "trees_auc"))
    lines = [
        f"## {log}",
        "",
        (
            f"{rows[0]['fields_before']} fields; with all of them AUC {_spread(network)}, trees {_spread(trees)} "
            f"({len(rows)} seeds, 95 % intervals over them)."
        ),
        "",
        "| method | " + " | ".join(f"{share:.0%} | trees" for share in SHARES) + " |",
        "|---|" + "---:|---:|" * len(SHARES),
    ]
    there = [method for method in methods if any((method, log, share) in found for share in SHARES)]

    def worth(method: str) -> float:
        return -mean(row["auc"] for share in SHARES for row in found.get((method, log, share), {}).values())

    for method in sorted(there, key=worth):
        cells = []
        for share in SHARES:
            each = found.get((method, log, share), {}).values()
            cells += [_spread([row[figure] for row in each]) if each else "" for figure in ("auc", "trees_auc")]
        lines.append(f"| `{method}`{_mark(found, method, [log])} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
