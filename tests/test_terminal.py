"""A terminal whose encoding lacks what a summary holds, a folder in which an audit is running, and its early end."""

import contextlib
import fcntl
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from slimrec.pipelines import local, summary

from slimrec.artifacts import busy, kept
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


def test_a_step_writes_what_the_audit_can_read_in_any_locale(monkeypatch):
    monkeypatch.setattr("locale.getpreferredencoding", lambda _=True: "latin-1")
    with local._processes():
        done = subprocess.run(["python3", "-c", "print(chr(0xF6), chr(0x20AC))"], capture_output=True, check=True)
    assert done.stdout == b"\xf6 \\u20ac\n"


@pytest.mark.parametrize("odd", ["%", "?"])
def test_an_audit_is_not_begun_where_no_store_can_lie(tmp_path, monkeypatch, odd):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("ingest: {source: 'planted:rows=400,seed=0'}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"cannot hold '\\{odd}'"):
        local.run(recipe, tmp_path / f"my{odd}20runs" / "one")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_step_that_was_reused_says_so_and_the_next_one_that_was_not_does_not():
    said = io.StringIO()
    screen = local.Screen(Console(file=said, highlight=False), io.StringIO(), {"sample": "sample-again"})
    for name, printed in (("ingest", "slimrec: reused\n"), ("sample", "")):
        screen.write(f"Executing task '{name}'\n{printed}Task '{name}' finished with status SUCCESS\n")
    first, second = said.getvalue().splitlines()
    assert first.split()[1::3] == ["ingest", "reused"] and "sample-again" in second and "reused" not in second


@pytest.mark.parametrize("fresh", [True, False])
def test_only_a_fresh_run_begins_without_checkpoints_and_what_an_earlier_one_made(tmp_path, fresh):
    for name in ("kept/ingest-0", "checkpoints"):
        (tmp_path / "workspace" / name).mkdir(parents=True)
    local._prepare(tmp_path, {}, fresh)
    left = {each.relative_to(tmp_path / "workspace").as_posix() for each in (tmp_path / "workspace").rglob("*")}
    assert left == ({"kept"} if fresh else {"kept", "kept/ingest-0", "checkpoints"})


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


def test_a_step_that_outlives_its_audit_keeps_the_folder(tmp_path):
    workspace, recipe = tmp_path / "workspace", tmp_path / "recipe.yaml"
    (workspace / kept.KEPT).mkdir(parents=True)
    recipe.write_text("ingest: {source: 'planted:rows=400000,seed=0'}\n", encoding="utf-8")
    command = [sys.executable, "-m", "slimrec.cli", "stage", "ingest", str(recipe)]
    command += ["--path", f"dataset={tmp_path / 'dataset'}", "--workspace", str(workspace)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as step:
        while not busy.is_busy(workspace):
            assert step.poll() is None
            time.sleep(0.02)
        step.send_signal(signal.SIGSTOP)  # as long as it takes to look
        with (
            pytest.raises(ConfigError, match="a step of an audit that was killed still runs in"),
            local._alone(tmp_path),
        ):
            pass
        step.kill()
    with local._alone(tmp_path):
        assert not busy.is_busy(workspace)


STEP = "import pathlib, signal, sys; signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path('checkpoint').touch(), sys.exit(40)))"
AUDIT = """
import subprocess, sys
from slimrec.pipelines import stop
with stop.passed_on(), subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True) as step:
    print(step.stdout.readline(), end="", flush=True)
    step.wait()
"""


@pytest.mark.parametrize("command", ['$0 -c "$1"', '$0 -c "$1"; exit $?'])
def test_an_audit_that_is_asked_to_stop_ends_when_its_step_has_left_a_checkpoint(tmp_path, command):
    step = f"{STEP}; print('at work', flush=True); signal.pause()"
    words = [sys.executable, "-c", AUDIT, "sh", "-ec", command, sys.executable, step]
    with subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as run:
        assert run.stdout.readline() == b"at work\n"
        run.terminate()
        assert run.wait() == 40
    assert (tmp_path / "checkpoint").exists()


@pytest.mark.battery
def test_a_run_that_is_asked_to_stop_is_preempted_and_its_step_ends_with_it(tmp_path):
    shutil.copy(ROOT / "pipelines/recipes/demo.yaml", tmp_path)
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "SLIMREC"))}
    words = [sys.executable, "-m", "slimrec.cli", "run", "demo.yaml", "--output", "demo"]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=ours) as run:
        while not busy.is_busy(tmp_path / "demo/workspace"):
            assert run.poll() is None
            time.sleep(0.05)
        run.terminate()
        said = run.stderr.read().decode()
        assert run.wait() == 40
    assert said.splitlines()[-1] == "slimrec: interrupted; the same command goes on from the last checkpoint"
    assert not busy.is_busy(tmp_path / "demo/workspace")


@pytest.mark.parametrize("name", ["log.txt", "ingest", "prune", "workspace", "steps"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_run_removes_nothing_that_no_run_of_ours_brought(tmp_path, name, kind):
    output, recipe = tmp_path / "mine", tmp_path / "recipe.yaml"
    recipe.write_text("ingest: {source: 'planted:rows=400,seed=0'}\n", encoding="utf-8")
    output.mkdir()
    (tmp_path / "kept").mkdir()
    match kind:
        case "file":
            (output / name).write_text("mine", encoding="utf-8")
        case "folder":
            (output / name).mkdir()
        case "link":
            (output / name).symlink_to(tmp_path / "kept")
    with pytest.raises(ConfigError, match=rf"{name} is there, and no audit of ours brought it"):
        local.run(recipe, output)
    assert [path.name for path in output.iterdir()] == [name]


def test_what_an_earlier_run_left_is_no_stranger(tmp_path):
    (tmp_path / "steps").mkdir()
    for name in (".lock", "log.txt", "notes.md"):
        (tmp_path / name).touch()
    (tmp_path / "ingest").symlink_to(Path("steps", "slimrec-audit-1", "ingest"))
    local._refuse_strangers(tmp_path, {"ingest": "ingest"})
    local._refuse_strangers(tmp_path / "new", {"ingest": "ingest"})


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


def test_an_audit_goes_on_without_a_reader_and_knows_it():
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(BrokenPipeError), open(writer, "w", encoding="utf-8") as nobody:
        heard, log = summary.Heard(nobody), io.StringIO()
        screen = local.Screen(Console(file=heard, highlight=False), log, {})
        screen.write("slimrec: audit succeeded\nTask 'ingest' finished with status SUCCESS\n")
    assert isinstance(heard.lost, BrokenPipeError) and log.getvalue().count("\n") == 2
