"""The command line: what was typed wrong is said in one sentence with its exit class, and nothing is left behind."""

import sys
from pathlib import Path

import pytest
from slimrec.pipelines.__main__ import main as pipelines

from slimrec.cli import main as slimrec

DEMO = str(Path(__file__).parents[1] / "pipelines" / "recipes" / "demo.yaml")


def said(words, capfd, monkeypatch) -> tuple[int, str]:
    """The exit code, and what went to standard error."""
    monkeypatch.setattr(sys, "argv", ["slimrec", *words])
    with pytest.raises(SystemExit) as ended:
        slimrec()
    return ended.value.code, capfd.readouterr().err


def test_a_folder_that_a_stage_does_not_know_is_refused_with_those_it_has(capfd, monkeypatch, tmp_path):
    words = ["stage", "ingest", DEMO, "--path", f"datset={tmp_path / 'made'}"]
    code, error = said(words, capfd, monkeypatch)
    assert (code, error) == (20, "slimrec: stage 'ingest' has no folder 'datset'; did you mean 'dataset'?\n")
    assert not any(tmp_path.iterdir())


def test_a_folder_that_was_forgotten_is_named(capfd, monkeypatch, tmp_path):
    code, error = said(["stage", "prune", DEMO, "--path", f"gated={tmp_path}"], capfd, monkeypatch)
    assert code == 20 and "needs the folders gated, selection, slim: selection, slim not given" in error


def test_a_file_that_cannot_be_written_is_named_without_a_traceback(capfd, monkeypatch, tmp_path):
    code, error = said(["planted", str(tmp_path / "no" / "log.parquet"), "--rows", "5"], capfd, monkeypatch)
    assert code == 30 and error.startswith("slimrec: ") and "no/log.parquet" in error and error.count("\n") == 1


def test_a_planted_log_is_not_written_under_a_name_of_another_format(capfd, monkeypatch, tmp_path):
    code, error = said(["planted", str(tmp_path / "log.csv"), "--rows", "5"], capfd, monkeypatch)
    assert code == 20 and ".parquet or .pq" in error and not any(tmp_path.iterdir())


def test_an_empty_recipe_says_what_was_expected(capfd, monkeypatch, tmp_path):
    (tmp_path / "empty.yaml").touch()
    code, error = said(["stage", "prune", str(tmp_path / "empty.yaml"), "--path", "a=b"], capfd, monkeypatch)
    assert code == 20 and "empty.yaml: expected sections (name: ...), found nothing" in error


def test_pipelines_without_a_command_shows_its_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        pipelines([])
    assert ended.value.code == 0 and "take a schedule off" in capsys.readouterr().out
