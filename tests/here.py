"""An audit of kfp.local with its steps in this process: what a process of its own imports for each takes most of the time."""

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


def audited(*words: object, cwd: Path, temporary: Path) -> subprocess.CompletedProcess:
    """`python -m pipelines ...` from a folder, its temporary files in another; the environment is afterwards as before."""
    said, warned, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(warned):
        for name in (*(name for name in os.environ if name.startswith("MLFLOW")), "SLIMREC_AUDIT"):
            patch.delenv(name, raising=False)
        patch.setenv("COLUMNS", "200")
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(tempfile, "tempdir", str(temporary))
        patch.setattr(subprocess_task_handler, "run_local_subprocess", _step)
        patch.chdir(cwd)
        before = dict(os.environ)
        try:
            main([str(word) for word in words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            os.environ.clear()
            os.environ.update(before)
    return subprocess.CompletedProcess(words, code, said.getvalue(), warned.getvalue())


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
