"""Images: what they are built from is locked, nobody runs in them as root, and a cluster runs what is named by content."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from slimrec.pipelines.images import require_digest

from slimrec.errors import ConfigError

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "images").glob("*.Dockerfile"))
DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize("name", ["slimrec", "registry.example:5000/team/slimrec", "registry.example/slimrec:0.1.0"])
def test_an_image_named_by_digest_is_taken(name):
    assert require_digest(f"{name}@{DIGEST}", allow_tag=False) == f"{name}@{DIGEST}"


@pytest.mark.parametrize(
    "image",
    ["slimrec:0.1.0", "slimrec", "slimrec:latest", "slimrec@sha256:1", f"@{DIGEST}", f"a b@{DIGEST}", DIGEST, ""],
)
def test_an_image_without_digest_is_refused_with_what_to_do(image):
    with pytest.raises(ConfigError, match="NAME@sha256:DIGEST.*images/digests.json.*SLIMREC_IMAGE.*--allow-tag"):
        require_digest(image, allow_tag=False)


@pytest.mark.parametrize("image", ["slimrec:0.1.0", "localhost:5000/slimrec:dev-1", f"slimrec:1@{DIGEST}"])
def test_a_tag_is_taken_where_it_is_asked_for(image):
    assert require_digest(image, allow_tag=True) == image


@pytest.mark.parametrize("image", ["slimrec", "slimrec:latest", "localhost:5000/slimrec", "slimrec@sha256:1", ""])
def test_a_name_alone_and_latest_are_never_taken(image):
    with pytest.raises(ConfigError, match="NAME:TAG other than latest"):
        require_digest(image, allow_tag=True)


def test_the_gpu_image_is_the_cpu_image_but_for_torch_a_word_and_the_driver():
    cpu, gpu = (
        set((ROOT / "images" / f"{kind}.Dockerfile").read_text(encoding="utf-8").splitlines())
        for kind in ("cpu", "gpu")
    )
    differ = " ".join(sorted(cpu ^ gpu))
    assert len(cpu - gpu) == 4 and len(gpu - cpu) == 5
    for cpu_says, gpu_says in (("ARG TORCH=cpu", "ARG TORCH=gpu"), ("on CPU", "on GPUs"), ("the CPU", "the CUDA")):
        assert cpu_says in differ and gpu_says in differ
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in differ


def stages(kind: str) -> dict[str, str]:
    """Name -> text of each stage but for comments, the last one as ""."""
    text = re.sub(
        r"^#.*\n", "", (ROOT / "images" / f"{kind}.Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    found = {}
    for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]:
        first, _, rest = stage.partition("\n")
        base, _, name = first.partition(" AS ")
        found[name] = f"{base}\n{rest}"
    return found


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_torch_is_a_layer_that_changes_with_its_lock_alone_and_nothing_large_is_copied(kind):
    """A lock is copied and not mounted: of what is mounted, podman's cache of layers does not see that it changed."""
    found = stages(kind)
    assert found["torch"].startswith("${BASE}\n") and found["packages"].startswith("torch\n")
    copied = {name: re.findall(r"^COPY (.*) \S+$", stage, re.MULTILINE) for name, stage in found.items()}
    assert copied["torch"] == ["requirements-cpu.lock requirements-gpu.lock"]
    assert copied["packages"] == ["images/requirements.lock"]
    assert found[""].startswith("packages\n") and copied[""] == ["--from=library /library"]
    for name in ("torch", "packages"):
        assert len(re.findall(r"^RUN\b", found[name], re.MULTILINE)) == 1
    assert set(re.findall(r"from=(\w+),", "".join(found.values()))) == {"wheels"}


ENGINE = """#!{python}
import sys
open({log!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
said = {{"cat": '{{"components": []}}', "inspect": "[]"}}
print(next((text for word, text in said.items() if word in sys.argv), ""), end="")
"""


@pytest.fixture
def make_images(tmp_path):
    """`images/build.py cpu` where pip reaches nothing and an engine writes down what it is asked: what it said, and that."""
    source = tmp_path / "checkout"
    for name in ("images", "pyproject.toml", "requirements-cpu.lock"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (source).mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    engine, log = tmp_path / "bin" / "docker", tmp_path / "log.txt"
    engine.parent.mkdir()
    engine.write_text(ENGINE.format(python=sys.executable, log=str(log)), encoding="utf-8")
    engine.chmod(0o755)
    bare = {"PATH": f"{engine.parent}:/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "HOME": str(tmp_path)}

    def made(*words: str) -> tuple[subprocess.CompletedProcess, list[str]]:
        command = [sys.executable, "images/build.py", "cpu", *words]
        done = subprocess.run(command, cwd=source, env=bare, capture_output=True, text=True, check=False)
        return done, log.read_text(encoding="utf-8").splitlines()

    return made


def test_where_no_cpu_build_of_torch_is_in_reach_one_learns_it_before_anything_is_built(make_images):
    done, asked = make_images()
    assert done.returncode == 1 and not [line for line in asked if "build" in line and "version" not in line]
    assert "torch==2.13.0+cpu" in done.stderr.splitlines()[1]
    for remedy in ("PIP_EXTRA_INDEX_URL", "WHEELS=", "TORCH=default"):
        assert remedy in done.stderr


def test_the_default_build_of_torch_is_taken_where_it_is_asked_for(make_images):
    done, asked = make_images("--torch", "default")
    assert done.returncode == 0, done.stderr
    (build,) = (line for line in asked if line.startswith("buildx build"))
    assert "--build-arg TORCH=gpu" in build and "images/cpu.Dockerfile" in build


def test_what_the_build_of_an_image_takes_from_the_checkout_is_let_in():
    """What .dockerignore keeps out, an image is not built from: its own license, too."""
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"], "slimrec", "components", "pipelines"} <= let_in


def pinned(lock: str) -> dict[str, set[str]]:
    """Name -> versions (by Python, there may be two) in a lock file."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)===?(\S+)", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE):
        versions.setdefault(name, set()).add(version)
    return versions


def last_stage(path: Path) -> str:
    return re.split(r"^FROM ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[-1]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_ends_with_a_user_by_number_no_entry_point_and_nothing_to_build_with(path):
    stage = last_stage(path)
    assert stage.startswith("packages\n")
    assert re.findall(r"^USER (.*)$", stage, re.MULTILINE) == ["65532:65532"]
    assert not re.search(r"^(ENTRYPOINT|RUN|ADD)\b", stage, re.MULTILINE)
    assert "PIP_" not in stage


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_installs_nothing_that_is_not_locked_by_hash(path):
    installs = re.findall(r"pip install (.*?)(?=&&|\n\n|\Z)", path.read_text(encoding="utf-8"), re.DOTALL)
    assert installs
    for words in installs:
        assert "--no-deps" in words
        assert "--require-hashes" in words or words.rstrip().removesuffix("\\").rstrip().endswith("/source")


def test_the_mlflow_server_is_of_the_version_that_the_steps_speak_to():
    server, step = pinned("images/mlflow.lock"), pinned("images/requirements.lock")
    assert {"mlflow", "flask-wtf", "psycopg2-binary", "boto3"} <= set(server)
    shared = server.keys() & step.keys()
    assert {name: server[name] for name in shared} == {name: step[name] for name in shared}
    assert not {"torch", "kfp"} & set(server)


def test_a_step_gets_what_the_library_needs_and_kfp_in_the_versions_that_are_tested():
    step, tested = pinned("images/requirements.lock"), pinned("requirements.lock")
    assert step.items() <= tested.items()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*extras["dependencies"], *extras["optional-dependencies"]["train"], "kfp"]
    names = {re.match(r"[a-z0-9-]+", each)[0] for each in needed}
    assert names - set(step) == {"torch"}
    assert not {"pytest", "ruff", "moto", "kfp-kubernetes"} & set(step)
