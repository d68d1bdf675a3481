"""The audit's steps in containers: kfp.local drives docker, or podman, with nothing to reach and a limit on memory."""

import codecs
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from docker.types import Mount
from docker.utils import parse_bytes
from kfp import local
from kfp.local import docker_task_handler
from slimrec.components import IMAGE
from slimrec.pipelines.cluster import OPTIONAL, SIGNING

from slimrec.artifacts.codebase import COMPILED, compiled
from slimrec.artifacts.envelope import KEY, KEY_FILE
from slimrec.config import Recipe
from slimrec.errors import ConfigError, TransientError

NOBODY = 65532  # the user of our images
_PASSED_ON = ("AWS_ACCESS_", "AWS_DEFAULT_", "AWS_ENDPOINT_", "AWS_REGION", "AWS_SECRET_", "AWS_SESSION_", "MLFLOW_",
              "OMP_NUM_THREADS", "SLIMREC_")  # fmt: skip


def check_engine(memory: str) -> None:
    """Raise before anything is written, if no engine answers, it has no such image, or `memory` is no amount."""
    try:
        parse_bytes(memory)
    except DockerException:
        raise ConfigError(f"--memory is '{memory}'; give bytes with a unit, such as 512m or 4g") from None
    try:
        client = docker.from_env()
    except DockerException as error:
        raise TransientError(
            f"no container engine answers: {error}; start docker, or `podman system service --time=0 unix://SOCKET`, "
            "and set DOCKER_HOST to unix://SOCKET"
        ) from None
    with contextlib.closing(client):
        try:
            client.images.get(IMAGE)
        except ImageNotFound:
            _pull(client)


def _pull(client: docker.DockerClient) -> None:
    try:
        client.images.pull(IMAGE)
    except APIError as error:
        raise ConfigError(
            f"the container engine has no image '{IMAGE}' and cannot pull it: {error.explanation}; `make images` builds "
            "it, SLIMREC_IMAGE names another"
        ) from None


@contextlib.contextmanager
def containers(recipe: Recipe, output: Path, memory: str) -> Iterator[local.DockerRunner]:
    """How kfp.local runs each step of `recipe`: as nobody, on a read-only root, with `memory` at most.

    A step writes below `output`, into the folder of an SQLite tracking store, and into /tmp, which lies in memory. It
    has a network, this machine's own, only where the recipe or the environment names something that is not a file.
    """
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    passed[COMPILED] = compiled(IMAGE)
    if key := passed.pop(KEY_FILE, ""):  # a file of this machine, and none of the user that steps are
        passed[KEY] = Path(key).read_text(encoding="utf-8")
    scheme, _, database = passed["MLFLOW_TRACKING_URI"].partition(":///")
    writable, source = [output / "workspace"], Path(recipe.ingest.source).absolute()
    if scheme == "sqlite":
        passed["MLFLOW_TRACKING_URI"] = f"sqlite:///{Path(database).absolute()}"
        writable.append(Path(database).absolute().parent)
    far = scheme != "sqlite" or "://" in recipe.ingest.source or bool(passed.get("SLIMREC_WEBHOOK"))
    mounts = [Mount(str(folder), str(folder), type="bind") for folder in writable]
    if source.exists():
        mounts.append(Mount(str(source), str(source), type="bind", read_only=True))
    (output / "steps").mkdir(exist_ok=True)
    for folder in (output / "steps", output / "workspace", output.parent / "mlflow"):
        _hand_over(folder)
    with _exit_codes_kept():
        yield local.DockerRunner(
            user=f"{os.getuid() or NOBODY}:{os.getgid() if os.getuid() else NOBODY}",
            mem_limit=memory,
            network_mode="host" if far else "none",
            read_only=True,
            tmpfs={"/tmp": "rw,nosuid,nodev,mode=1777"},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            mounts=mounts,
            environment=passed,
        )


def _hand_over(folder: Path) -> None:
    """Started by root, the steps are nobody: what they write to becomes theirs. Anyone else's steps are his own."""
    if os.getuid() == 0 and folder.exists():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def told(command: list[str], environment: dict[str, str]) -> dict[str, str]:
    """What the container of a step's command is told: the key that signs only where the step is one that signs."""
    signs = any(OPTIONAL.get(word) == SIGNING for word in command)
    return {name: value for name, value in environment.items() if signs or name != KEY}


@contextlib.contextmanager
def _exit_codes_kept() -> Iterator[None]:
    """Run containers so that a failing one is seen to fail.

    kfp.local has the engine remove a container when it ends, and takes one that is gone for a success (kubeflow
    pipelines 13332). tests/test_containers.py tells when this can go.
    """
    stock = docker_task_handler.run_docker_container
    docker_task_handler.run_docker_container = _run_container
    try:
        yield
    finally:
        docker_task_handler.run_docker_container = stock


def _run_container(client: docker.DockerClient, image: str, command: list[str], volumes: dict, **options) -> int:
    """Run to the end, print what it prints, remove it; returns its exit code."""
    options["environment"] = told(command, options["environment"])
    container = client.containers.run(image, command, detach=True, volumes=volumes, **options)
    try:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for piece in container.logs(stream=True):
            print(decoder.decode(piece), end="")
        code = container.wait()["StatusCode"]
        if code == 128 + signal.SIGKILL:  # podman does not say whether it was for memory
            print(f"\nslimrec: the step was killed, as for more than {options['mem_limit']} of memory; see --memory")
        return code
    finally:
        container.remove(force=True)
