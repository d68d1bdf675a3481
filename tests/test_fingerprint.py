"""The fingerprint of a source: cheap, the same for the same files, another one as soon as any of them changes."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slimrec.artifacts import failures
from slimrec.config import IngestConfig, Recipe
from slimrec.errors import ConfigError, InputError
from slimrec.stages import execute, fingerprint
from slimrec.track import Tracker


def listed(source) -> dict:
    return fingerprint.run(Recipe(ingest=IngestConfig(source=str(source))), Tracker())


def of(source) -> str:
    return listed(source)["fingerprint"]


@pytest.fixture
def log(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.csv").write_text("y,a\n1,b\n", encoding="utf-8")
        os.utime(tmp_path / f"{number}.csv", (1_000_000, 1_000_000))
    return tmp_path


def test_the_same_files_give_the_same_fingerprint_and_figures(log):
    assert of(log) == of(log)
    found = listed(log)
    assert (found["files"], found["bytes"]) == (3, 3 * len("y,a\n1,b\n"))


@pytest.mark.parametrize("change", ["touch", "grow", "add", "remove", "rename"])
def test_any_change_of_a_file_changes_it(log, change):
    before = of(log)
    one = log / "1.csv"
    if change == "touch":
        os.utime(one, (1_000_001, 1_000_000.5))
    elif change == "grow":
        one.write_text("y,a\n1,b\n0,c\n", encoding="utf-8")
        os.utime(one, (1_000_000, 1_000_000))
    elif change == "add":
        (log / "3.csv").write_text("y,a\n1,b\n", encoding="utf-8")
    elif change == "remove":
        one.unlink()
    else:
        one.rename(log / "4.csv")
    assert of(log) != before


def test_files_that_are_no_data_do_not_count(log):
    before = of(log)
    (log / "_SUCCESS").touch()
    (log / "notes.txt").touch()
    assert of(log) == before


def test_a_generated_log_is_known_by_its_name():
    assert of("planted:rows=10,seed=0") == of("planted:rows=10,seed=0") != of("planted:rows=10,seed=1")


def test_a_source_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such path"):
        of(tmp_path / "nowhere")


def test_a_planted_log_that_cannot_be_is_refused_by_the_first_step():
    with pytest.raises(ConfigError, match="no 'row'; did you mean 'rows'"):
        of("planted:row=3")


def settled(workspace: str, **choices: str) -> tuple[str, dict]:
    """The day that the first step gives out, and all it gives out."""
    told = execute(
        "fingerprint",
        {"recipe": {"ingest": {"source": "planted:rows=10,seed=0"}}, "choices": choices},
        workspace=workspace,
    )
    return told["audit_date"], told


@pytest.fixture
def audit(tmp_path, monkeypatch) -> str:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SLIMREC_AUDIT", "first.run")
    return str(tmp_path / "workspace")


def test_an_audit_of_auto_stands_for_the_day_on_which_it_begins_wherever_its_pod_is(audit, capsys, monkeypatch):
    days = {datetime.now(UTC).date().isoformat()}
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):  # 25 hours apart: never the same day in both
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        day, _ = settled("", audit_date="auto")
        days.add(day)
        assert f"this audit stands for {day}, the day on which it began (UTC)" in capsys.readouterr().out
    monkeypatch.undo()
    time.tzset()
    assert max(days) <= datetime.now(UTC).date().isoformat() and len(days) <= 2


def test_a_try_after_midnight_is_the_same_audit_and_another_run_is_one_of_its_own_day(audit, monkeypatch):
    today, _ = settled(audit, audit_date="auto")
    (note,) = Path(audit, "days").iterdir()
    assert note.read_text(encoding="utf-8") == today
    note.write_text("2026-01-31", encoding="utf-8")  # as if the first try had been then
    day, told = settled(audit, audit_date="auto")
    assert day == told["recipe"]["ingest"]["audit_date"] == "2026-01-31"
    monkeypatch.setenv("SLIMREC_AUDIT", "first.clone")
    assert settled(audit, audit_date="auto")[0] >= today


def test_a_day_that_is_given_is_the_day_and_none_is_none(audit):
    assert settled(audit, audit_date="2026-01-31")[0] == "2026-01-31"
    assert settled(audit)[0] == ""
    assert not Path(audit, "days").exists()


def test_two_days_of_the_same_data_are_told_apart_by_window_alone(audit):
    days = [settled(audit, audit_date=day)[1] for day in ("2026-01-30", "2026-01-31")]
    assert days[0]["sections"] == days[1]["sections"] and days[0]["fingerprint"] == days[1]["fingerprint"]
    keys = [
        execute("window", {name: told[name] for name in ("fingerprint", "audit_date", "recipe")})["window"]
        for told in days
    ]
    assert keys[0] != keys[1] and all(keys)


def test_a_recipe_that_cannot_be_leaves_its_reason_for_the_last_word(audit):
    with pytest.raises(ConfigError, match="no method 'laep'"):
        settled(audit, method="laep")
    assert failures.newest(audit)["exit_code"] == 20 and "laep" in failures.newest(audit)["reason"]
