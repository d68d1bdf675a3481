"""The fingerprint of a source: cheap, the same for the same files, another one as soon as any of them changes."""

import os

import pytest

from slimrec.config import IngestConfig
from slimrec.errors import ConfigError, InputError
from slimrec.stages import fingerprint
from slimrec.track import Tracker


def of(source) -> str:
    return fingerprint.run(IngestConfig(source=str(source)), Tracker())["fingerprint"]


@pytest.fixture
def log(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.csv").write_text("y,a\n1,b\n", encoding="utf-8")
        os.utime(tmp_path / f"{number}.csv", (1_000_000, 1_000_000))
    return tmp_path


def test_the_same_files_give_the_same_fingerprint_and_figures(log):
    assert of(log) == of(log)
    found = fingerprint.run(IngestConfig(source=str(log)), Tracker())
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
