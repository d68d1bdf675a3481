"""The targets of the Makefile, in folders and for recipes whose names a shell or make would read, and the order of tests."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def called(folder: Path, program: str, *words: str) -> list[str]:
    """The words that `make` gives a program of the environment of a checkout in `folder`."""
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-cpu.lock", "requirements-gpu.lock"):
        shutil.copy2(ROOT / name, folder)
    stand_in = folder / ".venv" / "bin" / program
    stand_in.parent.mkdir(parents=True)
    stand_in.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n", encoding="utf-8")
    stand_in.chmod(0o755)
    (folder / ".venv" / "ready").touch()
    done = subprocess.run(["make", "-s", *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["a b", 'q"x', "it's", "ü ö", "d$x", "d$(x)", "h#y", "p%z", "c:d", "back`t", "am&p"])
def test_mlflow_keeps_its_files_in_the_folder_whatever_that_is_called(tmp_path, name):
    words = called(tmp_path / name, "mlflow", "mlflow")
    assert words[words.index("--default-artifact-root") + 1] == f"{tmp_path / name}/runs/mlflow/artifacts"


@pytest.mark.parametrize("recipe", ["my recipe.yaml", 'q"x.yaml', "back`t.yaml", "ü.yaml"])
def test_a_recipe_may_be_called_anything(tmp_path, recipe):
    assert called(tmp_path / "here", "slimrec", "run", f"RECIPE={recipe}") == ["run", recipe]
    assert called(tmp_path / "there", "slimrec", "run") == ["run", "pipelines/recipes/demo.yaml"]


def test_files_with_a_battery_are_run_first_and_go_to_processes_in_that_order(tmp_path):
    assert "--no-loadscope-reorder" in called(tmp_path / "here", "python", "test")
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_a.py").write_text("def test_one(): ...\ndef test_two(): ...\n", encoding="utf-8")
    long = "import pytest\n\ndef test_short(): ...\n\n@pytest.mark.battery\ndef test_long(): ...\n"
    (tmp_path / "test_b.py").write_text(long, encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", "not battery"]
    said = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert [line for line in said.splitlines() if "::" in line] == [
        "test_b.py::test_short", "test_a.py::test_one", "test_a.py::test_two",
    ]  # fmt: skip
