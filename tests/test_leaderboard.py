"""The leaderboard: a sliver of it from log to page, resumed where it was, killed in the middle; its ranks by an oracle."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, ttest_1samp
from test_contract import gated, mixed_schema

from benchmarks.intervals import half
from benchmarks.leaderboard import page, results, worlds
from benchmarks.leaderboard.cells import ALL, SETTINGS, SHARES, selected
from benchmarks.leaderboard.filling import fill, forget, missing
from benchmarks.leaderboard.logs import LOGS, MADE, about
from slimrec.errors import InputError
from slimrec.pruning.findings import Change, Findings, Twins
from slimrec.selection import Budget

ROOT = Path(__file__).parents[1]


def small_twins(data):
    return worlds.twins(3000)


def tiny(data):
    return worlds.sparse_strong(2500)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Two methods on one log, then one method more: results and how many cells each call ran."""
    folder = tmp_path_factory.mktemp("board")
    place = (folder / "results.parquet", {"twins": small_twins})
    first = fill(*place, [ALL, "random"], 2, folder, folder / "shared")
    before = results.read(place[0])
    again = fill(*place, [ALL, "random", "mutual_information"], 2, folder, folder / "shared")
    return place[0], before, (first, again)


@pytest.mark.battery
def test_a_cell_once_done_is_not_done_again(filled):
    file, before, ran = filled
    assert ran == (4, 2)
    assert [row for row in results.read(file) if row["method"] != "mutual_information"] == before
    assert missing(file, ["twins"], [ALL, "random", "mutual_information"], 2) == []
    assert missing(file, ["twins"], ["random", "chi2"], 3) == [
        *(("twins", "chi2", 0), ("twins", "chi2", 1), ("twins", "random", 2), ("twins", "chi2", 2)),
    ]


@pytest.mark.battery
def test_each_method_keeps_its_share_and_two_judges_say_what_that_is_worth(filled):
    rows = [row for row in results.read(filled[0]) if row["method"] != ALL]
    assert len(rows) == 2 * 2 * len(SHARES)
    for row in rows:
        assert 0 < len(row["kept"]) <= int(row["share"] * 16) and row["columns"] == 8 * len(row["kept"])
        assert row["own"] == 1 and 0 < row["search_seconds"]
        assert all(0.4 < row[judge] < 0.9 for judge in ("auc", "trees_auc"))
    best = next(row for row in rows if row["method"] == "mutual_information" and row["share"] == 0.5)
    assert sum(name.startswith("noise") for name in best["kept"]) <= 3


def test_a_method_is_judged_by_its_own_scores_but_where_these_say_nothing_of_a_field():
    changes = {name: Change(mean=mean, error=1e-6, rows=100) for mean, name in enumerate(mixed_schema().names, 1)}
    alike = Twins(fields=("item", "user"), together=changes["vector"])
    findings = Findings(importance=changes, removed=changes, twins=(alike,))
    for method in ("random", "permutation", "chi2", "irazor"):
        gate = gated(method).gate
        chosen, own = selected(gate, findings, Budget(keep=0.5), 0)
        assert chosen == gate.select(Budget(keep=0.5), 0) and own == 1
    walked = gated("leap").gate  # twins share a gate: both have the score of both, for one place
    walked.importance.copy_(torch.tensor([float(name in alike.fields) for name in walked.schema.names]) + 0.1)
    assert len({"item", "user"} & set(selected(walked, findings, Budget(fields=2), 0)[0].kept)) == 1
    chosen, own = selected(gated("autofis").gate, findings, Budget(keep=0.5), 0)
    assert chosen.kept == ("price", "user", "vector")  # what shuffling costs most
    assert own == len(set(chosen.kept) & set(gated("autofis").gate.select(Budget(keep=0.5), 0).kept)) / 3


@pytest.mark.battery
def test_the_page_tells_what_was_found(filled):
    text = page.draw(results.read(filled[0]))
    assert "2 methods, 1 logs, 2 seeds" in text and "| `mutual_information` |" in text and "| `random` |" in text
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(lines) == 4 and "†" not in "".join(lines)


def row(method, share, seed, auc, **more):
    empty = dict.fromkeys(results.SCHEMA.names)
    return empty | {
        "log": "made",
        "method": method,
        "seed": seed,
        "settings": SETTINGS,
        "fields_before": 4,
        "kept": ["a"],
        "share": share,
        "auc": auc,
        "trees_auc": auc and 1 - auc,
        "own": 1.0,
        "search_seconds": 2.0,
        "retrain_seconds": 1.0,
        "bytes": 10,
        "columns": 1,
        **more,
    }


def test_ranks_are_means_over_shares_and_seeds_with_ties_shared_and_the_refused_last():
    random = np.random.default_rng(0)
    values = {method: random.integers(0, 4, (3, 2)) / 10 + 0.5 for method in "abcd"}
    rows = [
        row(method, share, seed, values[method][i, seed])
        for method in "abcd"
        for i, share in enumerate(SHARES)
        for seed in range(2)
    ]
    rows.append(row("e", None, 0, None, refused="too many pairs"))
    found, _, _ = page._sorted(rows)
    expected = np.mean([rankdata([-values[m][i, s] for m in "abcd"]) for i in range(3) for s in range(2)], axis=0)
    assert page.ranks(found, list("abcde"), "made") == pytest.approx(dict(zip("abcd", expected)) | {"e": 5.0})


def test_the_page_marks_hybrids_says_who_was_refused_and_counts_only_rows_of_these_settings():
    rows = [
        row(ALL, 1.0, 0, 0.7),
        row("old", 0.5, 0, 0.99, settings="others"),
        row("pairs", None, 0, None, refused="no"),
    ]
    rows += [row(m, share, 0, 0.6, own=own) for m, own in (("mixed", 0.75), ("pure", 1.0)) for share in SHARES]
    rows += [row("random", share, 0, 0.5, search_seconds=4.0) for share in SHARES]
    text = page.draw(rows)
    assert "| `mixed` † 25% |" in text and "| `pure` |" in text and "`old`" not in text
    assert "| 0.1000 / 0.1000 / 0.1000 | 0.5 |  | 100% |" in text


def test_a_log_counts_for_the_ranks_only_once_every_method_has_run_on_it():
    rows = [row(ALL, 1.0, 0, 0.7, log=log) for log in ("whole", "half")]
    rows += [row("a", share, 0, 0.6, log=log) for log in ("whole", "half") for share in SHARES]
    rows += [row("b", share, 0, 0.5, log="whole") for share in SHARES]
    assert "on which every method has been run with every seed: whole." in page.draw(rows)
    assert "with every seed: none yet." in page.draw([*rows, row("a", 0.5, 1, 0.6, log="whole")])


def test_a_method_is_level_with_the_first_where_its_interval_by_student_over_logs_holds_nothing():
    gaps = {"first": [0.0] * 4, "near": [1.0, -2.0, 3.0, 0.5], "far": [5.0, 6.0, 5.5, 7.0], "tied": [0.0] * 4}
    for name in ("near", "far"):
        low, high = ttest_1samp(gaps[name], 0).confidence_interval(0.95)
        assert half(gaps[name]) == pytest.approx((high - low) / 2)
        assert (name in page._not_told(gaps, "first")) == (low <= 0)
    assert "`tied`" in page._not_told(gaps, "first") and page._not_told({"first": [0.0], "a": [1.0]}, "first") == ""


def test_what_is_close_to_the_best_is_counted_and_ranks_of_public_logs_stand_apart_from_those_of_made_ones():
    values = {
        "amazon": {"best": 0.7, "close": 0.6985, "worse": 0.69},
        "twins": {"best": 0.7, "close": 0.8, "worse": 0.69},
    }
    rows = [row(ALL, 1.0, 0, 0.7, log=log) for log in values]
    rows += [
        row(method, share, 0, auc, log=log)
        for log, each in values.items()
        for method, auc in each.items()
        for share in SHARES
    ]
    lines = {
        line.split("`")[1]: line.split("|")
        for line in page.draw(rows).split("## amazon")[0].splitlines()
        if "| `" in line
    }
    assert [lines[name][6].strip() for name in ("close", "best", "worse")] == ["6 of 6", "3 of 6", "0 of 6"]
    assert [lines[name][3].strip() for name in ("close", "best", "worse")] == ["2.0 / 1.0", "1.0 / 2.0", "3.0 / 3.0"]


def test_each_log_says_what_it_is_in_a_sentence():
    told = {name: about(name) for name in LOGS}
    assert all(text.endswith(".") and " " in text for text in told.values()) and len(set(told.values())) == len(told)
    assert about("elsewhere") == "" and set(MADE) < set(LOGS)


def test_figures_that_are_all_the_same_have_no_interval():
    assert page._spread([0.5, 0.5, 0.5]) == page._spread([0.5]) == "0.5000"
    assert page._spread([0.5, 0.6]) == "0.5500 ± 0.6353"


def test_results_of_another_shape_are_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"log": ["a"]}), tmp_path / "results.parquet")
    with pytest.raises(InputError, match="move it away"):
        results.read(tmp_path / "results.parquet")


@pytest.mark.parametrize("name", worlds.WORLDS)
def test_what_a_world_says_of_its_fields_is_so(name):
    """No noise field moves the click by more than chance; and the world is the same each time."""
    table, fields = worlds.WORLDS[name](4000)
    assert table.equals(worlds.WORLDS[name](4000)[0])
    assert [field["name"] for field in fields["fields"]] == table.column_names[:-1]
    click = table["click"].to_numpy()
    for field in table.column_names:
        if field.startswith("noise") and not field.startswith("noise_vector"):
            values = table[field].combine_chunks().dictionary_encode().indices.to_numpy()
            sums, counts = np.bincount(values, click), np.bincount(values)
            spread = (click.mean() * (1 - click.mean()) / counts) ** 0.5
            assert (np.abs(sums / counts - click.mean()) < 5.5 * spread + 1 / counts).mean() > 0.97, field


def test_the_page_is_drawn_from_the_results_in_the_repository():
    assert page.PAGE.read_text(encoding="utf-8") == page.draw(results.read(results.FILE))


def test_a_method_that_was_changed_is_forgotten_on_the_logs_that_are_named(tmp_path):
    file = tmp_path / "results.parquet"
    results.add(file, [row(method, 0.5, 0, 0.6, log=log) for method in ("a", "b") for log in ("one", "two")])
    search = tmp_path / "shared" / SETTINGS / "one" / "0" / "search-a.json"
    search.parent.mkdir(parents=True)
    search.write_text("{}")
    forget(file, tmp_path / "shared", ["one"], ["a"])
    assert [(each["log"], each["method"]) for each in results.read(file)] == [("one", "b"), ("two", "a"), ("two", "b")]
    assert not search.exists()


@pytest.mark.battery
def test_killed_in_the_middle_it_loses_one_cell_at_most_and_ends_as_if_undisturbed(tmp_path):
    place = (tmp_path / "results.parquet", {"tiny": tiny}, [ALL, "chi2", "random", "shark"], 1, tmp_path)
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path\n"
        "from benchmarks.leaderboard.filling import fill\n"
        "import test_leaderboard\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"methods = {place[2]!r}\n"
        "logs = {'tiny': test_leaderboard.tiny}\n"
        "if __name__ == '__main__':\n"
        "    fill(folder / 'results.parquet', logs, methods, 1, folder, folder / 'shared')\n"
    )
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"], cwd=ROOT, env=environment, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while len(results.read(place[0])) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    running.kill()
    running.wait()
    assert ended(running.pid), "a process that was given work has outlived what gave it"
    left = missing(place[0], *place[1:4])
    assert 1 <= len(left) <= 2
    fill(*place, tmp_path / "shared")
    fill(tmp_path / "undisturbed.parquet", *place[1:], tmp_path / "anew")
    ends = [results.read(tmp_path / f"{name}.parquet") for name in ("results", "undisturbed")]
    assert timeless(ends[0]) == timeless(ends[1])


def ended(group, seconds=120):
    """Whether all processes of a group end in that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    return False


def timeless(rows):
    """The rows without what a busy machine changes."""
    return [{k: v for k, v in each.items() if not k.endswith("_seconds")} for each in rows]
