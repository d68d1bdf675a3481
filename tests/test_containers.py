"""The audit in real containers: the same artifacts as on the bare machine, by nobody, without network, within its memory.

tests/engine.sh makes what most of it needs, and names it: DOCKER_HOST and the image, SLIMREC_TEST_IMAGE.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import docker
import pytest
import small
import yaml
from kfp import dsl, local
from kfp.local import docker_task_handler
from services import HANG
from slimrec.pipelines.containers import NOBODY, containers

from slimrec.artifacts import digest, read_json, verify
from slimrec.config import Recipe, parse

ROOT = Path(__file__).parents[1]
IMAGE = os.environ.get("SLIMREC_TEST_IMAGE", "")
NO_ENGINE = os.environ.get("SLIMREC_NO_ENGINE", "no image given: tests/engine.sh makes one and what runs it")
in_containers = pytest.mark.skipif(not IMAGE, reason=NO_ENGINE)
ARTIFACTS = (
    "ingest/dataset",
    "sample/subset",
    "pretrain/gated",
    "prune/selection",
    "prune/slim",
    "finetune/tuned",
    "finetune/retrained",
    "baseline/gated",
    "baseline/retrained",
)
RECIPE = {**small.RECIPE, "evaluate": {**small.RECIPE["evaluate"], "retrains": 1}}


def run(folder: Path, recipe: dict, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """`python -m pipelines run` of a recipe in a folder, into runs/small there."""
    folder.mkdir(exist_ok=True)
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    return subprocess.run(
        [sys.executable, "-m", "pipelines", "run", "small.yaml", "--output", "runs/small", *words],
        cwd=folder, env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1", "SLIMREC_IMAGE": IMAGE or "slimrec:0.1.0",
             **environment},
        capture_output=True, text=True, timeout=HANG, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--memory", "much"), 20, "--memory is 'much'; give bytes with a unit"),
        ((), 30, "no container engine answers"),
    ],
)
def test_what_stands_in_the_way_of_containers_is_said_before_anything_is_written(tmp_path, words, code, said):
    done = run(tmp_path, RECIPE, "--runner", "docker", *words, DOCKER_HOST=f"unix://{tmp_path}/nobody.sock")
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_kfp_still_takes_a_container_that_is_gone_for_a_success():
    """When this fails, kubeflow pipelines 13332 is repaired: `_exit_codes_kept` in pipelines/containers.py can go."""

    class Gone:
        """A container that failed and was removed at once, as an engine may do with auto_remove."""

        def logs(self, **_):
            raise docker.errors.NotFound("no such container")

        wait = logs

    class Engine:
        containers = images = property(lambda self: self)

        def list(self):
            return []

        def pull(self, image):
            """Is there."""

        def run(self, **options):
            assert options["auto_remove"]
            return Gone()

    assert docker_task_handler.run_docker_container(Engine(), "slimrec:1", ["false"], {}) == 0


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> dict[str, tuple[Path, subprocess.CompletedProcess]]:
    """The folder and the end of one audit, by runner."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        runner: (folder / runner / "runs" / "small", run(folder / runner, RECIPE, "--runner", runner))
        for runner in ("process", "docker")
    }


@in_containers
def test_an_audit_in_containers_ends_as_on_the_bare_machine(both):
    output, done = both["docker"]
    assert done.returncode == 0, done.stdout + done.stderr + (output / "log.txt").read_text(encoding="utf-8")[-2000:]
    assert both["process"][1].returncode == 0
    assert "small version 1" in done.stdout
    assert (output.parent / "mlflow" / "mlflow.db").is_file()


@in_containers
@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_an_artifact_from_a_container_is_bit_for_bit_the_bare_machines(both, artifact):
    folders = [both[runner][0] / artifact for runner in ("process", "docker")]
    for folder in folders:
        verify(folder)
    assert digest(folders[0]) == digest(folders[1])


@in_containers
def test_a_second_audit_in_containers_reuses_all_before_the_cut_that_another_budget_makes(both):
    output, _ = both["docker"]
    before = {artifact: digest(output / artifact) for artifact in ARTIFACTS}
    done = run(output.parents[1], {**RECIPE, "prune": {"budget": {"keep": 0.5}}}, "--runner", "docker")
    assert done.returncode == 0, done.stdout + done.stderr
    reused = {line.split()[1] for line in done.stdout.splitlines() if line.endswith("reused")}
    assert reused == {"ingest", "sample", "pretrain", "baseline"}
    same = {artifact for artifact in ARTIFACTS if digest(output / artifact) == before[artifact]}
    assert same == {"ingest/dataset", "sample/subset", "pretrain/gated", "baseline/gated", "baseline/retrained"}


@in_containers
def test_what_a_container_leaves_belongs_to_nobody_if_root_ran_it_and_no_container_stays(both):
    owner = (both["docker"][0] / "prune" / "selection").stat().st_uid
    assert owner == (os.getuid() or NOBODY)
    client = docker.from_env()
    assert not client.containers.list(all=True, filters={"ancestor": IMAGE})
    client.close()


@dsl.component(base_image=IMAGE or "none", install_kfp_package=False)
def look_around(written: str) -> dict:
    """What a step can see and do."""
    import os
    import socket
    from pathlib import Path

    limits = [Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    may = {}
    for folder in ("/", "/opt/slimrec", "/tmp", written):
        try:
            Path(folder, "mark").write_text("x", encoding="utf-8")
            may[folder] = True
        except OSError:
            may[folder] = False
    return {
        "user": os.getuid(),
        "group": os.getgid(),
        "networks": [name for _, name in socket.if_nameindex()],
        "memory": [int(limit.read_text(encoding="utf-8")) for limit in limits if limit.exists()],
        "may write": may,
        "capabilities": Path("/proc/self/status").read_text(encoding="utf-8").split("CapEff:")[1].split()[0],
        "pip": [path.name for path in Path("/opt/slimrec/bin").glob("pip*")],
    }


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The folder of a run, as it is when its steps begin."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs/mlflow/mlflow.db")
    for folder in ("mlflow", "small/workspace"):
        (tmp_path / "runs" / folder).mkdir(parents=True)
    return tmp_path / "runs" / "small"


@in_containers
def test_a_step_is_nobody_sees_no_network_and_writes_only_where_it_should(here):
    with containers(parse(Recipe, RECIPE), here, "300m") as runner:
        local.init(runner, pipeline_root=str(here / "steps"))
        seen = look_around(written=str(here / "workspace")).output
    user = os.getuid() or NOBODY
    assert (seen["user"], seen["group"]) == (user, os.getgid() or NOBODY)
    assert seen["networks"] == ["lo"]
    assert seen["memory"] == [300 * 2**20]
    assert seen["may write"] == {"/": False, "/opt/slimrec": False, "/tmp": True, str(here / "workspace"): True}
    assert int(seen["capabilities"], 16) == 0
    assert seen["pip"] == []


@in_containers
def test_a_failing_step_in_a_container_fails_the_run_with_its_reason_and_exit_class(tmp_path):
    (tmp_path / "log.csv").write_text("clicked,site\n" + "1,a\n" * 100, encoding="utf-8")
    fields = {"label": "clicked", "fields": [{"name": "site", "kind": "category"}]}
    recipe = {**RECIPE, "ingest": {**RECIPE["ingest"], "source": "log.csv", "fields": fields}}
    done = run(tmp_path, recipe, "--runner", "docker")
    assert done.returncode == 10, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("slimrec: ingest: all ")
    assert not (tmp_path / "runs" / "small" / "ingest" / "dataset").exists()


@dsl.component(base_image=IMAGE or "none", install_kfp_package=False)
def hoard(megabytes: int) -> int:
    """Take memory and fill it."""
    return len(bytearray(b"x") * (megabytes << 20))


@in_containers
def test_a_step_that_takes_more_than_its_memory_fails_and_says_so(here, capsys):
    with containers(parse(Recipe, RECIPE), here, "200m") as runner:
        local.init(runner, pipeline_root=str(here / "steps"))
        with pytest.raises(RuntimeError, match="finished with status"):
            hoard(megabytes=400)
    assert "slimrec: the step was killed, as for more than 200m of memory; see --memory" in capsys.readouterr().out


@in_containers
def test_an_image_that_is_not_there_is_refused_before_anything_is_written(tmp_path):
    done = run(tmp_path, RECIPE, "--runner", "docker", SLIMREC_IMAGE="localhost/nothing:0.0.1")
    assert done.returncode == 20
    assert "has no image 'localhost/nothing:0.0.1'" in done.stderr
    assert not (tmp_path / "runs").exists()


@in_containers
def test_the_build_left_a_digest_and_a_bill_of_materials():
    assert read_json(ROOT / "images" / "digests.json")["cpu"] == IMAGE
    bill = json.loads((ROOT / "images" / "cpu.sbom.json").read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    known = {part["name"]: part["version"] for part in bill["components"]}
    assert {"torch", "mlflow", "kfp", "libc6"} <= set(known)
    assert "pip" not in known and "pytest" not in known
