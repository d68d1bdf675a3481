"""Commands, and the steps of kfp.local, in this process: what one of its own imports for each takes most of the time."""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from kfp.dsl import executor_main
from kfp.local import subprocess_task_handler
from slimrec.pipelines.__main__ import main


def typed(*words: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    """`python -m pipelines ...` as a person types it, without the settings of whoever runs the tests, which come back."""
    said, warned, code, before = io.StringIO(), io.StringIO(), 0, dict(os.environ)
    strange = [name for name in before if name.startswith(("KFP", "MLFLOW", "SLIMREC"))]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(warned):
        for name in strange:
            patch.delenv(name)
        for name, value in {"COLUMNS": "200", **environment}.items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        try:
            main([str(word) for word in words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            os.environ.clear()
            os.environ.update(before)
    return subprocess.CompletedProcess(words, code, said.getvalue(), warned.getvalue())


def audited(*words: object, cwd: Path, temporary: Path) -> subprocess.CompletedProcess:
    """`typed` for a command that runs steps, its temporary files in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        patch.setattr(subprocess_task_handler, "run_local_subprocess", _step)
        return typed(*words, cwd=cwd, TMPDIR=str(temporary))


def _step(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
    """The exit code of a step: its program, and what it is told, stand behind the script that would start it."""
    script = next(i for i, word in enumerate(full_command) if "kfp.dsl.executor_main" in word)
    program, *told = full_command[script + 1 :]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "ephemeral_component.py")
        file.write_text(program, encoding="utf-8")
        for name, value in (env_vars or {}).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["executor_main", "--component_module_path", str(file), *told])
        try:
            with contextlib.redirect_stderr(sys.stdout):
                executor_main.executor_main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0
