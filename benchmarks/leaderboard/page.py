"""The leaderboard's page, drawn from its results: ranks with intervals, what they cost, and the figures of each log."""

from collections import defaultdict
from itertools import combinations
from pathlib import Path
from statistics import mean

import numpy as np

from benchmarks.intervals import half
from benchmarks.leaderboard.cells import ALL, PLAIN, SETTINGS, SHARES
from benchmarks.leaderboard.logs import MADE, about

PAGE = Path(__file__).parents[2] / "docs" / "leaderboard.md"
_CLOSE = 0.002  # of AUC: a smaller loss is called none
_OWN = 0.999  # from which a selection is a method's own
HEAD = """# Leaderboard

Every method on every log at 25, 50 and 75 % of the fields. {filled}

How to read it:

- **One setting for all logs**: default options, but for what a method's own documentation asks for (`ASKED` in
  `benchmarks/leaderboard/cells.py`); a search in one pass takes smaller batches, so that it has some thousand steps.
- **Two judges**: a network (Wide & Deep) trained anew on each selection, and LightGBM trained on the same fields, which
  no method but `lightgbm` has searched with. Trees see little of fields that say something only in pairs (`pure_interaction`).
- **A budget counts fields.** `irazor`, `autodim` and `optembed` narrow the fields that they keep as well, and the network
  is as narrow: read their ranks beside the bytes. Pairs do not count: what `autofis` and `optfeature` cut of them is not judged.
- **Own scores decide.** What an audit does beside them (twins that take one place, places that stay empty rather than hold
  noise) has no say. Not so where it is part of the method, as with `leap`, whose twins share a gate for one place, or where
  scores are of pairs and say nothing of a field, which shuffling ranks then: such hybrids are marked †, with the share of the
  places that their own scores would have filled otherwise.
- **Intervals** are Student's, at 95 %: those of ranks over logs, those of AUC over seeds, which search and network start
  from. Rows, split and worlds are the same for all seeds, and so are trees on the same fields (no interval then). A test set
  of 2,000 rows (criteo, avazu) leaves each AUC in doubt by some .03 more, though much the same for all methods.

`python -m benchmarks.leaderboard run` fills `benchmarks/leaderboard/results.parquet` cell by cell, `python -m
benchmarks.leaderboard page` draws this page from it. A method of your own enters by its entry point: `run --methods NAME`;
`--again` runs anew what was changed. Logs and worlds are made in `logs.py` and `worlds.py` there.
"""


def draw(rows: list[dict]) -> str:
    """The page in Markdown."""
    rows = [row for row in rows if row["settings"] == SETTINGS]
    found, whole, refused = _sorted(rows)
    begun = {log for _, log, _ in found}
    logs = [log for log in dict.fromkeys(row["log"] for row in rows) if log in whole and log in begun]
    methods = sorted({method for method, *_ in found})
    seeds = {row["seed"] for row in rows}
    complete = [log for log in logs if all(_there(found, refused, method, log, seeds) for method in methods)]
    filled = (
        f"Now: {len(methods)} methods, {len(logs)} logs, {len(seeds)} seeds, {len(rows)} rows.\nRanks are over the logs on "
        f"which every method has been run with every seed: {', '.join(complete) or 'none yet'}."
    )
    parts = [HEAD.format(filled=filled)]
    if complete and methods:
        parts.append(_overall(found, whole, refused, methods, complete))
    parts += [_of_log(found, whole, methods, log, log in complete) for log in logs]
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
    methods = sorted(methods, key=lambda m: mean(network[log][m] for log in logs))
    behind = {m: [network[log][m] - network[log][methods[0]] for log in logs] for m in methods}
    parts = [[log for log in logs if (log in MADE) is made] for made in (False, True)]
    lines = [
        "## Ranks",
        "",
        (
            f"Mean rank among {len(methods)} methods over logs, shares and seeds, 1 the best, ties shared; on public logs and "
            "on those that we made, each alone; and how far behind the first, log by log. "
            f"{_not_told(behind, methods[0])}Ranks count who is better, not by how much. Close: in how many cells (log and "
            f"share) the mean AUC is within {_CLOSE} of the best one's. AUC lost: by the network, against all fields, mean over logs (one "
            f"that a method fails on can make most of it). Search: processor time over that of `{PLAIN}`, which is a plain training and a "
            "look at its network, median over logs and seeds. Stability: the mean Jaccard index between seeds at half of the "
            "fields; bytes: what is left of the network then."
        ),
        "",
        (
            "| method | rank, network | public / made | behind the first | rank, trees | close in | AUC lost, 25 / 50 / 75 % "
            "| search x | stability | bytes, 50 % |"
        ),
        "|---|---|---|---|---|---|---|---:|---:|---:|",
    ]
    for method in methods:
        cells = [(log, share) for log in logs for share in SHARES if (method, log, share) in found]
        if not cells:
            continue
        places = [_spread([place[log][method] for log in logs], 1) for place in (network, trees)]
        two = " / ".join(f"{mean(network[log][method] for log in part):.1f}" if part else "–" for part in parts)
        later = _spread(behind[method], 1) if method != methods[0] else ""
        close = f"{sum(_close(found, methods, method, *cell) for cell in cells)} of {len(logs) * len(SHARES)}"
        lost = " / ".join(_lost(found, whole, method, logs, share) for share in SHARES)
        figures = (places[0], two, later, places[1], close, lost, _costs(found, whole, method, logs))
        lines.append(f"| `{method}`{_mark(found, method, logs)} | {' | '.join(figures)} |")
    gone = [f"`{method}` on {log} ({why})" for (method, log), why in sorted(refused.items()) if log in logs]
    return "\n".join([*lines, "", *([f"Not run: {'; '.join(gone)}.", ""] if gone else [])])


def _not_told(behind: dict[str, list[float]], first: str) -> str:
    """Which methods cannot be told from the first: where the interval of what they are behind holds 0."""
    level = [m for m, gaps in behind.items() if m != first and len(gaps) > 1 and mean(gaps) <= half(gaps)]
    if not level:
        return ""
    named = ", ".join(f"`{method}`" for method in level)
    return f"Not to be told from `{first}` by what they are behind it, each taken alone: {named}. "


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
        middle = found.get((method, log, 0.5), {})
        for seed in middle.keys() & whole[log].keys():
            bytes_.append(middle[seed]["bytes"] / whole[log][seed]["bytes"])
        plain = found.get((PLAIN, log, 0.5), {})
        times += [
            middle[seed]["search_seconds"] / plain[seed]["search_seconds"] for seed in middle.keys() & plain.keys()
        ]
        pairs = list(combinations([set(row["kept"]) for row in middle.values()], 2))
        stable += [len(a & b) / len(a | b) for a, b in pairs]
    steady = f"{mean(stable):.2f}" if stable else ""
    dear = f"{np.median(times):.1f}" if times else ""
    return f"{dear} | {steady} | {mean(bytes_):.0%}"


def _mark(found: dict, method: str, logs: list[str]) -> str:
    own = [row["own"] for log in logs for share in SHARES for row in found.get((method, log, share), {}).values()]
    return f" † {1 - mean(own):.0%}" if own and mean(own) < _OWN else ""


def _close(found: dict, methods: list[str], method: str, log: str, share: float) -> bool:
    """Whether a method's mean over seeds is at most `_CLOSE` below the best one's."""
    cells = {m: found.get((m, log, share), {}).values() for m in methods}
    means = {m: mean(row["auc"] for row in rows) for m, rows in cells.items() if rows}
    return max(means.values()) - means[method] <= _CLOSE


def _spread(values: list[float], digits: int = 4) -> str:
    """Mean, and half of its interval where there are several values that are not all the same."""
    doubt = half(values) if len(values) > 1 else 0.0
    return f"{mean(values):.{digits}f}" + (f" ± {doubt:.{digits}f}" if round(doubt, digits) else "")


def _of_log(found: dict, whole: dict, methods: list[str], log: str, complete: bool) -> str:
    rows = list(whole[log].values())
    network, trees = ([row[figure] for row in rows] for figure in ("auc", "trees_auc"))
    plain = [row["search_seconds"] for row in found.get((PLAIN, log, SHARES[0]), {}).values()]
    said = [
        about(log),
        "" if complete else "Not all methods and seeds are there yet.",
        f"{rows[0]['fields_before']} fields; with all of them AUC {_spread(network)}, trees {_spread(trees)}.",
        f"A plain training and a look at its network take {np.median(plain):.0f} s." if plain else "",
    ]
    lines = [
        f"## {log}",
        "",
        " ".join(filter(None, said)),
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
