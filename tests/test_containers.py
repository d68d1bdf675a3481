"""The audit in real containers: the same artifacts as on the bare machine, by nobody, without network, within its memory."""

import os
import subprocess
import sys
from pathlib import Path

import docker
import pytest
import yaml
from kfp.local import docker_task_handler

ROOT = Path(__file__).parents[1]
RECIPE = {
    "ingest": {
        "source": "planted:rows=4000,seed=0",
        "split": {"by": "random", "train": 0.6, "gate": 0.1, "valid": 0.1, "test": 0.2},
    },
    "sample": {"fraction": 0.5},
    "pretrain": {
        "method": "random",
        "model": {"backbone": "widedeep", "options": {"hidden": [8]}, "embedding_dim": 4},
        "train": {"epochs": 1, "batch_size": 256, "threads": 1, "device": "cpu"},
    },
    "prune": {"budget": {"keep": 0.75}},
    "finetune": {"train": {"epochs": 1, "batch_size": 256, "threads": 1, "device": "cpu"}},
    "evaluate": {"allowed_auc_loss": 0.4, "latency_repeats": 2},
    "register": {"name": "small"},
}


def run(folder: Path, recipe: dict, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """`python -m pipelines run` of a recipe in a folder, into the folder `small` there."""
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    return subprocess.run(
        [sys.executable, "-m", "pipelines", "run", "small.yaml", "--output", "runs/small", *words],
        cwd=folder, env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=600, check=False,
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
