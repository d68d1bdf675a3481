"""A terminal whose encoding lacks what a summary holds, and a folder in which an audit is running."""

import fcntl
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from slimrec.pipelines import local, summary

from slimrec.data import planted
from slimrec.errors import ConfigError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "utf-8"])
def test_a_table_is_written_in_what_the_terminal_has(encoding):
    raw = io.BytesIO()
    console = summary._plain(Console(file=io.TextIOWrapper(raw, encoding), highlight=False, width=60))
    table = Table("field", "change")
    table.add_row("Straße 日", "−0.25\u202f%")
    console.print(table)
    console.file.flush()
    said = raw.getvalue().decode(encoding)
    assert ("−0.25" if encoding == "utf-8" else "-0.25 %") in said
    assert ("│" in said) == (encoding == "utf-8") and ("ß" in said) == (encoding != "ascii")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_a_step_that_ended_is_marked_on_any_terminal(encoding):
    raw, log = io.BytesIO(), io.StringIO()
    screen = local.Screen(Console(file=io.TextIOWrapper(raw, encoding), highlight=False), log, {})
    screen.write("Executing task 'ingest'\nTask 'ingest' finished with status SUCCESS\n")
    screen.console.file.flush()
    assert ("✓ ingest" if encoding == "utf-8" else "ok ingest") in raw.getvalue().decode(encoding)


def test_a_folder_takes_one_audit_at_a_time_and_a_dead_ones_lock_is_none(tmp_path):
    (tmp_path / "steps").mkdir()
    with (tmp_path / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="an audit is running in"), local._alone(tmp_path):
            pass
    assert (tmp_path / ".lock").exists()  # as a process that was killed leaves it
    with local._alone(tmp_path), pytest.raises(ConfigError), local._alone(tmp_path):
        pass
    with local._alone(tmp_path / "new" / "folder"):
        assert (tmp_path / "new" / "folder").is_dir()


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from slimrec.cli import main
main(["planted", sys.argv[1], "--rows", "60000"])
"""


def test_a_planted_log_that_finds_no_room_leaves_nothing_and_names_the_path(tmp_path):
    path = tmp_path / "log.parquet"
    path.write_bytes(b"of before")
    words = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(words, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode in (20, 30) and str(path) in done.stderr and "Traceback" not in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["log.parquet"] and path.read_bytes() == b"of before"


def test_a_planted_log_is_written_through_a_link(tmp_path):
    (tmp_path / "link.parquet").symlink_to(tmp_path / "target.parquet")
    planted.write(tmp_path / "link.parquet", rows=50)
    assert (tmp_path / "link.parquet").is_symlink() and (tmp_path / "target.parquet").stat().st_size > 1000
