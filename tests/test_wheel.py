"""What others install: an sdist that builds a wheel, a wheel of one import name, metadata that an old pip reads."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.battery  # builds, and installs into empty environments
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*words: str | Path, folder: Path) -> subprocess.CompletedProcess:
    """A command that has to end well, in an environment without what this one was told."""
    known = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(words, cwd=folder, env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Of what git knows and of nothing else: what lies about in a checkout must not help."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("checkout")
    for name in listed.stdout.decode().splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    program = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    run(sys.executable, "-c", program, folder / "dist", folder=folder)
    return next((folder / "dist").glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    words = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", *words, sdist, folder=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def empty(wheel, tmp_path_factory):
    """An environment with the pip that Python brings, and the wheel: no dependency of it. Its python."""
    folder = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", folder, folder=folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, folder=folder)
    return python


def modules(archive: zipfile.ZipFile) -> set[str]:
    return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_brings_every_module_and_file_of_the_house_below_one_name(wheel):
    with zipfile.ZipFile(wheel) as archive:
        brought = modules(archive)
    there = {
        path.relative_to(ROOT).as_posix()
        for top in ("slimrec", "components", "pipelines")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix in (".py", ".jinja", ".yaml", ".typed")
    }
    assert brought == {name if name.startswith("slimrec/") else f"slimrec/{name}" for name in there}


def test_the_sdist_holds_what_the_wheel_is_made_of_and_the_license(sdist):
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("LICENSE", "README.md", "components/ingest.py", "pipelines/recipes/demo.yaml", "slimrec/py.typed"):
        assert name in held


def test_nothing_but_slimrec_can_be_imported_from_the_wheel(empty):
    program = "import slimrec.components, slimrec.pipelines, importlib.util as u; print(slimrec.__version__, slimrec.__file__)"
    said = run(empty, "-I", "-c", program, folder=empty.parents[1]).stdout
    assert said.startswith(PROJECT["version"]) and str(empty.parents[1]) in said
    site = next((empty.parents[1] / "lib").glob("python3*/site-packages"))
    ours = {path.name.partition("-")[0] for path in site.iterdir()} - {"__pycache__", "_distutils_hack"}
    assert ours - {"pip", "setuptools", "pkg_resources", "distutils"} == {"slimrec"}


def test_pip_as_python_brings_it_reads_every_requirement_in_the_wheel(empty, metadata):
    wanted = metadata.get_all("Requires-Dist")
    program = (
        "import sys; from pip._vendor.packaging.requirements import Requirement\n"
        "for line in sys.argv[1:]: print(Requirement(line).name)"
    )
    read = run(empty, "-c", program, *wanted, folder=empty.parents[1]).stdout.split()
    assert {"pydantic", "pyyaml", "kfp", "torch"} <= set(read) and len(read) == len(wanted)


def test_no_requirement_is_written_as_old_pips_cannot_read(metadata):
    """`===` before a marker was read by pip only from 24.1 on, and Python 3.11 brings 23.2 and older."""
    for line in metadata.get_all("Requires-Dist"):
        assert "===" not in line and " @ " not in line


def test_the_cuda_build_is_never_the_one_for_the_cpu():
    from packaging.requirements import Requirement

    (wanted,) = (Requirement(line).specifier for line in PROJECT["optional-dependencies"]["gpu"])
    assert wanted.contains("2.13.0") and wanted.contains("2.13.0+cu130")
    assert not wanted.contains("2.13.0+cpu") and not wanted.contains("2.13.1")


def test_the_wheel_says_its_license_and_that_it_is_typed(wheel, metadata):
    assert metadata["License-Expression"] == "Apache-2.0"
    with zipfile.ZipFile(wheel) as archive:
        (license_,) = (name for name in archive.namelist() if name.endswith("licenses/LICENSE"))
        assert archive.read(license_) == (ROOT / "LICENSE").read_bytes()
        assert "slimrec/py.typed" in archive.namelist()
    assert "Typing :: Typed" in metadata.get_all("Classifier")


@pytest.mark.battery
def test_what_sends_pipelines_installs_as_the_readme_says_and_compiles_one(sdist, tmp_path):
    """`pip install ".[pipelines]"` with the pip that Python brings, from wherever pip finds packages here."""
    assert '`pip install ".[pipelines]"`' in (ROOT / "README.md").read_text(encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    python = tmp_path / "new" / "bin" / "python"
    run(sys.executable, "-m", "venv", tmp_path / "new", folder=tmp_path)
    words = [python, "-m", "pip", "install", "--quiet"]
    reached = subprocess.run([*words, "--no-deps", "pyyaml>=6"], env=environment, capture_output=True, check=False)
    if reached.returncode:
        pytest.skip("pip reaches no package index")
    checkout = sdist.parents[1]
    done = subprocess.run(
        [*words, ".[pipelines]"], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    words = ["compile", "--recipe", "pipelines/recipes/demo.yaml", "--preset", "S", "--allow-tag", "--output", "a.yaml"]
    run(python, "-m", "pipelines", *words, folder=checkout)
    assert (checkout / "a.yaml").stat().st_size > 10_000
    missing = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    assert missing.returncode, "what only sends pipelines brings no torch"
