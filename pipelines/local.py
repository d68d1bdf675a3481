"""The audit on this machine: kfp.local runs each step as a process or a container; the screen shows what matters."""

import contextlib
import fcntl
import io
import locale
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TextIO

from kfp import local
from rich.console import Console
from slimrec.pipelines import stop
from slimrec.pipelines.audit import arguments, audit, build
from slimrec.pipelines.summary import Heard, near, show, writable

from slimrec import track
from slimrec.artifacts import busy, failures, kept
from slimrec.artifacts.envelope import own_key
from slimrec.artifacts.spare import spare
from slimrec.config import Recipe, read_recipe
from slimrec.errors import BY_EXIT_CODE, ConfigError, InputError, SlimrecError
from slimrec.registry.store import RUNS, STORE

INTERRUPTED = 130  # exit code, as of every program that Ctrl-C ended
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_BEGINS = re.compile(r"Executing task '(.+)'")
_ENDS = re.compile(r"Task '(.+)' finished with status (\w+)")


def folder_of(recipe: Path) -> Path:
    """Where the run of a recipe lies when nobody says where."""
    return RUNS / recipe.stem


def run(path: Path, output: Path, runner: str = "process", memory: str = "4g", fresh: bool = False) -> None:
    """Run a recipe's whole audit, with everything it makes under `output`.

    Steps are processes, or with the runner `docker` containers that may use `memory` each. What an earlier run into
    `output` made of the same inputs is reused, unless `fresh`, which begins without its checkpoints too. Raises the
    first failing step's error, with the exit class that the step had.
    """
    recipe = read_recipe(path)
    _check_source(recipe, output)
    own_key()  # one that cannot sign shows before anything is trained
    output = output.absolute()
    _check_store(output)
    steps = _processes()
    if runner == "docker":
        from slimrec.pipelines.containers import check_engine, containers

        check_engine(memory)
        steps = containers(recipe, output, memory)
    labels = _labels()
    _refuse_strangers(output, labels)
    with _alone(output):
        _run(path, recipe, output, steps, labels, fresh)


def _run(
    path: Path, recipe: Recipe, output: Path, steps: AbstractContextManager, labels: dict[str, str], fresh: bool
) -> None:
    began = time.time()
    _prepare(output, labels, fresh)
    if not track.enabled():
        database = output.parent / STORE
        database.parent.mkdir(exist_ok=True)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{database}"
    os.environ["SLIMREC_AUDIT"] = f"a{uuid.uuid4().hex[:8]}-{_UNSAFE.sub('_', output.name)[:80]}"
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # what a terminal's encoding lacks must not end an audit
    heard = Heard(sys.stdout)
    console = Console(file=heard, highlight=False)  # not the screen's redirected one
    console.print(f"slimrec audit of [bold]{recipe.ingest.source}[/], recipe {path}")
    try:
        with _temporary(), stop.passed_on(), (output / "log.txt").open("w", encoding="utf-8") as log:
            _execute(recipe, output, steps, Screen(console, log, labels))
    except (KeyboardInterrupt, SystemExit) as asked:
        with contextlib.suppress(SlimrecError):  # that nobody noted it matters less than what to do
            track.end_audit(failed="interrupted")
        print("slimrec: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(asked.code if isinstance(asked, SystemExit) else INTERRUPTED)
    finally:
        _link(output, labels)
    if (output / "evaluate").exists():  # else this window was audited before
        kept.sweep(output / "workspace", before=began)
        show(console, output, recipe.register.name)
    if heard.lost:
        raise heard.lost


def _execute(recipe: Recipe, output: Path, steps: AbstractContextManager, screen: "Screen") -> None:
    workspace, source = output / "workspace", Path(recipe.ingest.source)
    here = build(workspace=str(workspace))
    values = arguments(recipe)
    if source.exists():  # a container starts in a folder of its own
        values["override_source"] = str(source.absolute())
    with steps as runner, warnings.catch_warnings(), contextlib.redirect_stdout(screen):
        warnings.simplefilter("ignore")  # kfp warns of images without 'python' in their names and of display names
        local.init(runner, pipeline_root=str(output / "steps"))
        try:
            here(**values)
        except RuntimeError as error:
            raise _failure(workspace, output / "log.txt", str(error)) from None


def _failure(workspace: Path, log: Path, said: str) -> SlimrecError:
    """What the failing step left as its reason, else where to look."""
    if left := failures.newest(workspace):
        return BY_EXIT_CODE[left["exit_code"]](f"{left['stage']}: {left['reason']}")
    return SlimrecError(f"{_COLOUR.sub('', said)} It left no reason; the end of {near(log)} shows what happened")


def _check_source(recipe: Recipe, output: Path) -> None:
    source = recipe.ingest.source
    if "://" in source or source.startswith("planted:"):
        return
    if not Path(source).exists():
        raise InputError(f"no such file or folder: {source}; the recipe's ingest.source names the log to audit")
    spare(source, output, ())


def _check_store(output: Path) -> None:
    if not track.enabled() and (odd := {"%", "?"} & set(str(output.parent))):
        raise ConfigError(
            f"MLflow's store would lie beside {output}, and its address cannot hold '{min(odd)}': give another --output, or "
            "set MLFLOW_TRACKING_URI"
        )


def _labels() -> dict[str, str]:
    """Name of the folder that kfp.local gives a step -> name of the step in the pipeline."""
    spec = audit.pipeline_spec
    graphs = [spec.root.dag, *(component.dag for component in spec.components.values())]
    tasks = [task for graph in graphs for task in graph.tasks.values()]
    names = {task.component_ref.name.removeprefix("comp-"): task.task_info.name for task in tasks}
    return {
        step: name
        for step, name in names.items()
        if f"comp-{step}" in spec.components and spec.components[f"comp-{step}"].executor_label
    }


def _refuse_strangers(output: Path, labels: dict[str, str]) -> None:
    """Look before clearing: what a run would remove or write over has to be of an earlier run.

    A folder that an audit ran in holds its lock, one of 0.1.0 the folders of its steps and checkpoints.
    """
    earlier = (output / ".lock").exists() or ((output / "steps").is_dir() and (output / "workspace").is_dir())
    whole = () if earlier else ("log.txt", "steps", "workspace")
    links = (output / label for label in labels.values())
    strange = [link for link in links if os.path.lexists(link) and not _is_our_link(link)]
    strange += [output / name for name in whole if os.path.lexists(output / name)]
    if strange:
        raise ConfigError(
            f"{near(strange[0])} is there, and no audit of ours brought it: it would be lost; give a new --output"
        )


def _is_our_link(path: Path) -> bool:
    return path.is_symlink() and Path(os.readlink(path)).parts[:1] == ("steps",)


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Two audits must not share a folder: each clears what an earlier one left. The lock ends with its process.

    A step has one of its own: it outlives an audit that is killed.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / ".lock").open("a")
    except OSError as error:
        raise ConfigError(f"cannot use {output} for a run: {error}; give another --output") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"an audit is running in {near(output)}: wait for its end, or give another --output"
            ) from None
        if busy.is_busy(output / "workspace"):
            raise ConfigError(
                f"a step of an audit that was killed still runs in {near(output)}: wait for its end, or give another --output"
            )
        yield


def _prepare(output: Path, labels: dict[str, str], fresh: bool) -> None:
    """An output folder without the traces of an earlier run, but, unless `fresh`, with its checkpoints and what it made."""
    try:
        if fresh and (output / "workspace").exists():
            shutil.rmtree(output / "workspace")
        (output / "workspace" / kept.KEPT).mkdir(parents=True, exist_ok=True)
        shutil.rmtree(failures.folder(output / "workspace").parent, ignore_errors=True)
        for label in labels.values():
            (output / label).unlink(missing_ok=True)
        for earlier in (output / "steps").glob(f"{audit.name}-*"):
            shutil.rmtree(earlier)
    except OSError as error:
        raise ConfigError(
            f"cannot use {output} for a run: {error.strerror}: {error.filename}; give another --output"
        ) from None


def _link(output: Path, labels: dict[str, str]) -> None:
    """output/<step> -> the folder where kfp.local put what the step made."""
    for folder in sorted((output / "steps").glob(f"{audit.name}-*/*")):
        link = output / labels.get(folder.name, folder.name)
        link.unlink(missing_ok=True)
        link.symlink_to(folder.relative_to(output))


@contextlib.contextmanager
def _processes() -> Iterator[local.SubprocessRunner]:
    """Steps are processes that run with this interpreter and this slimrec, wherever they start.

    kfp.local replaces the text `python3` by sys.executable in the whole command, paths of data included (kubeflow
    pipelines 14459). So the executable is called just that, and the search path says which one is meant.
    """
    executable, before = sys.executable, dict(os.environ)
    library = str(Path(track.__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [library, before.get("PYTHONPATH")]))
    os.environ["PYTHONUNBUFFERED"] = "1"
    os.environ["PYTHONIOENCODING"] = f"{locale.getpreferredencoding(False)}:backslashreplace"  # as kfp.local reads it
    if (Path(executable).parent / "python3").exists():
        os.environ["PATH"] = os.pathsep.join([str(Path(executable).parent), before.get("PATH", os.defpath)])
        sys.executable = "python3"
    try:
        yield local.SubprocessRunner(use_venv=False)
    finally:
        sys.executable = executable
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _temporary() -> Iterator[None]:
    """Temporary files of this process and of all steps, which kfp.local and MLflow leave behind, go when the audit ends."""
    with tempfile.TemporaryDirectory(prefix="slimrec-", ignore_cleanup_errors=True) as folder:
        before, tempfile.tempdir = (tempfile.tempdir, os.environ.get("TMPDIR")), folder
        os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            tempfile.tempdir = before[0]
            os.environ.pop("TMPDIR") if before[1] is None else os.environ.update(TMPDIR=before[1])


class Screen(io.TextIOBase):
    """Takes all that kfp.local and the steps print: everything goes to the log, a line a step to the console."""

    def __init__(self, console: Console, log: TextIO, labels: dict[str, str]):
        self.console, self.log, self.labels = console, log, labels
        self.rest, self.label, self.began, self.reused = "", "", time.monotonic(), False

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self._line(_COLOUR.sub("", line).strip())
        return len(text)

    def flush(self) -> None:
        self.log.flush()

    def _line(self, line: str) -> None:
        if "%|" in line and "[" in line:  # a progress bar's state, of which only the last one counts
            self._transient(f"{self.label}: {line.partition(':')[2].strip()}")
            return
        print(line, file=self.log)
        if begins := _BEGINS.search(line):
            self.label, self.began, self.reused = self.labels.get(begins[1], begins[1]), time.monotonic(), False
            self._transient(self.label)
        elif ends := _ENDS.search(line):
            self._transient("")
            good = ends[2] == "SUCCESS"
            mark = "[green]✓[/]" if good else "[red]✗[/]"
            if not writable("✓✗", self.console):
                mark = "ok" if good else "[red]failed[/]"
            took, reused = time.monotonic() - self.began, "  reused" * self.reused
            self.console.print(f" {mark} {self.label:<10} {took:6.1f} s{reused}")
        elif line == "slimrec: reused":
            self.reused = True
        elif line.startswith("slimrec: "):
            self._transient("")
            self.console.print(f"   {line.removeprefix('slimrec: ')}", markup=False)

    def _transient(self, text: str) -> None:
        if self.console.is_terminal:
            self.console.file.write(f"\r\x1b[2K   {text[: self.console.width - 4]}" if text else "\r\x1b[2K")
            self.console.file.flush()
