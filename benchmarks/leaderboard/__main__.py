"""An open leaderboard: every method x every log x three budgets x seeds, filled in slices that resume.

python -m benchmarks.leaderboard run [--logs NAME ...] [--methods M ...] [--seeds N] [--processes N] [--minutes M]
python -m benchmarks.leaderboard page

A cell, one method on one log with one seed, is run once; killed anywhere, at most the cells under way are lost. What the
cells share (dataset, plain search, retrained networks) lies in `--folder` and is used again.
"""

import argparse
from pathlib import Path

from benchmarks.leaderboard import page, results
from benchmarks.leaderboard.cells import ALL
from benchmarks.leaderboard.filling import fill, forget, missing
from benchmarks.leaderboard.logs import LOGS
from slimrec.plugins import GATES

ROOT = Path(__file__).parents[2]
METHODS = [ALL, *(method for method in GATES.table if method != ALL)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.leaderboard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="fill cells that are missing")
    running.add_argument("--data", type=Path, default=Path("../shared/data"))
    running.add_argument("--logs", nargs="+", choices=LOGS, default=list(LOGS))
    running.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    running.add_argument("--seeds", type=int, default=3)
    running.add_argument("--processes", type=int, default=1)
    running.add_argument("--again", action="store_true", help="forget first what is known of these logs and methods")
    running.add_argument("--minutes", type=float, help="begin no cell after so many")
    running.add_argument(
        "--folder", type=Path, default=ROOT / "build" / "leaderboard", help="what cells share lies here"
    )
    running.add_argument("--results", type=Path, default=results.FILE)
    drawing = commands.add_parser("page", help="draw docs/leaderboard.md from the results")
    drawing.add_argument("--results", type=Path, default=results.FILE)
    drawing.add_argument("--output", type=Path, default=page.PAGE)
    given = parser.parse_args(arguments)
    if given.command == "page":
        given.output.write_text(page.draw(results.read(given.results)), encoding="utf-8")
        return
    if given.again:
        forget(given.results, given.folder, given.logs, given.methods)
    logs = {name: LOGS[name] for name in given.logs}
    place = (given.data, given.folder, given.processes, given.minutes)
    ran = fill(given.results, logs, given.methods, given.seeds, *place)
    print(f"{ran} cells run, {len(missing(given.results, logs, given.methods, given.seeds))} missing")


if __name__ == "__main__":
    main()
