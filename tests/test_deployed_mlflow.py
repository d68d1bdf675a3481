"""The MLflow server as manifests/ deploys it, started here: its command, arguments and settings, on a real PostgreSQL.

Its containers are processes of this machine, or, where SLIMREC_TEST_MLFLOW_IMAGE names what `make images KINDS=mlflow`
made, containers of the engine at DOCKER_HOST.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import docker
import pytest
import requests
import services
from docker.types import Mount
from mlflow import MlflowClient
from test_manifests import MANIFESTS, kustomize, of, pods

pytest.importorskip("flask_wtf", reason="MLflow's log-in needs Flask-WTF: the extra `server` brings it")

pytestmark = pytest.mark.battery
IMAGE = os.environ.get("SLIMREC_TEST_MLFLOW_IMAGE", "")
USER, PASSWORD = "slimrec", "canary-password-of-a-test"
NAMES = {"Host": "slimrec-mlflow.slimrec:5000"}  # how steps call the server


@pytest.fixture(scope="module")
def database():
    """An empty PostgreSQL: what tells a client where it is."""
    with services.postgresql(USER, PASSWORD) as where:
        yield where


def until(holds, seconds: float = services.HANG) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come up"
        time.sleep(0.2)


@contextmanager
def running(words: list[str], environment: dict[str, str], folder: Path) -> Iterator[Callable[[], int | None]]:
    """A command in the image, held as the Deployment holds it, or here as a process; yields what tells its exit code."""
    log = folder / "log.txt"
    if not IMAGE:
        here = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder)}
        here["MLFLOW_AUTH_CONFIG_PATH"] = str(folder / "auth.ini")
        with log.open("a") as stream:
            process = subprocess.Popen(words, env={**environment, **here}, cwd=folder, stdout=stream, stderr=stream)
            try:
                yield process.poll
            finally:
                process.terminate()
                process.wait(services.HANG)
        return
    with closing(docker.from_env()) as engine:
        container = engine.containers.run(
            IMAGE, words, environment=environment, detach=True, network_mode="host", mem_limit="2g", read_only=True,
            tmpfs={"/tmp": "rw,nosuid,nodev,mode=1777"}, cap_drop=["ALL"], security_opt=["no-new-privileges"],
            mounts=[Mount("/etc/mlflow/auth.ini", str(folder / "auth.ini"), type="bind", read_only=True)],
        )  # fmt: skip

        def code() -> int | None:
            container.reload()
            return None if container.status in ("created", "running") else container.attrs["State"]["ExitCode"]

        try:
            yield code
        finally:
            container.stop(timeout=30)
            log.write_bytes(container.logs())
            container.remove(force=True)


@contextmanager
def started(objects: list[dict], database: dict, folder: Path):
    """The Deployment's containers, first those that end and then the server: yields its address."""
    spec = pods(objects)["slimrec-mlflow"]["spec"]
    settings = next(each["data"] for each in of(objects, "ConfigMap"))
    secrets = {
        **database,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "0" * 64,
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": PASSWORD,
    }

    def here(text: str) -> str:
        return text.replace("slimrec-postgresql:5432", f"127.0.0.1:{database['PGPORT']}")

    def variables(container: dict) -> dict[str, str]:
        found = {}
        for each in container["env"]:
            source = each.get("valueFrom", {})
            if "secretKeyRef" in source:
                found[each["name"]] = secrets[source["secretKeyRef"]["key"]]
            elif "configMapKeyRef" in source:
                found[each["name"]] = settings[source["configMapKeyRef"]["key"]]
            else:
                found[each["name"]] = each["value"]
        return found

    (folder / "auth.ini").write_text(here(settings["auth.ini"]), encoding="utf-8")
    for first in spec["initContainers"]:
        with running([here(word) for word in first["command"]], variables(first), folder) as code:
            until(lambda code=code: code() is not None)
            assert code() == 0, f"{first['name']} failed: {folder / 'log.txt'} says why"
    container, port = spec["containers"][0], services.free_port()
    known = variables(container)
    words = [re.sub(r"\$\((\w+)\)", lambda name: known[name[1]], here(word)) for word in container["args"]]
    words += [f"--port={port}", "--host=127.0.0.1", "--workers=1"]  # of two values the last one counts
    address = f"http://127.0.0.1:{port}"
    with running([*container["command"], *words], known, folder) as code:
        until(lambda: code() is not None or answers(f"{address}/health"))
        assert code() is None, f"the server ended: {folder / 'log.txt'} says why"
        yield address


def in_postgresql() -> list[list[str]]:
    """What docs/operations.md runs in the pod of PostgreSQL, in order; without where it reads and writes."""
    page = (MANIFESTS.parent / "docs" / "operations.md").read_text(encoding="utf-8")
    said = re.findall(r"^kubectl -n slimrec exec (?:-i )?slimrec-postgresql-0 -- ([^<>\n]+)", page, re.MULTILINE)
    return [line.split() for line in said]


def answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=30).ok
    except requests.RequestException:
        return False


def test_the_deployed_server_lets_in_who_it_knows_and_survives_the_loss_of_its_database(
    database, tmp_path, monkeypatch
):
    objects = kustomize(MANIFESTS / "overlays" / "local")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    with started(objects, database, tmp_path) as address:
        search, known = f"{address}/api/2.0/mlflow/experiments/search?max_results=1", (USER, PASSWORD)
        assert requests.get(
            f"{address}/health", headers={"Host": "10.0.0.7:5000"}, timeout=services.HANG
        ).ok  # the probes
        assert requests.get(search, headers=NAMES, auth=known, timeout=services.HANG).ok
        assert requests.get(search, headers=NAMES, timeout=services.HANG).status_code == 401
        assert (
            requests.get(search, headers=NAMES, auth=(USER, "another-password"), timeout=services.HANG).status_code
            == 401
        )
        assert (
            requests.get(search, headers={"Host": "evil.example"}, auth=known, timeout=services.HANG).status_code == 403
        )
        client = MlflowClient(address)
        experiment = client.get_experiment(client.create_experiment("audits"))
        assert experiment.artifact_location.startswith("s3://slimrec/mlflow/")
        client.create_registered_model("ctr")
        client.create_model_version("ctr", "s3://slimrec/mlflow/models/x")
        client.set_registered_model_alias("ctr", "champion", "1")

    # The backup and the restore of docs/operations.md, word by word.
    dump, *restore = in_postgresql()
    saved = subprocess.run(dump, env=database, stdout=subprocess.PIPE, check=True).stdout
    assert [words[0] for words in restore] == ["dropdb", "createdb", "pg_restore"]
    for words in restore:
        subprocess.run(words, env=database, input=saved, check=True)
    with started(objects, database, tmp_path) as address:
        version = MlflowClient(address).get_model_version_by_alias("ctr", "champion")
        assert (str(version.version), version.source) == ("1", "s3://slimrec/mlflow/models/x")
    left = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert PASSWORD.encode() not in left, "a secret lies in a log or a file of the server"


def test_a_probe_of_postgresql_as_deployed_leaves_no_complaint_in_its_log(database):
    """As in its image, who comes from within is trusted: so the server looks at the name that a probe comes with."""
    log = Path(database["POSTGRESQL_LOG"])
    access = log.parent / "data" / "pg_hba.conf"
    access.write_text("host all all 127.0.0.1/32 trust\n", encoding="utf-8")
    subprocess.run(
        ["psql", "--quiet", "--command=select pg_reload_conf()"], env=database, check=True, capture_output=True
    )
    (container,) = pods(kustomize(MANIFESTS / "overlays" / "local"))["slimrec-postgresql"]["spec"]["containers"]
    given = {each["name"]: each.get("value", USER) for each in container["env"] if each["name"].startswith("PG")}

    def complaints(environment: dict[str, str]) -> int:
        before = log.read_text(encoding="utf-8").count('role "nobody-of-ours" does not exist')
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            subprocess.run(container[probe]["exec"]["command"], env=environment, check=True)
        return log.read_text(encoding="utf-8").count('role "nobody-of-ours" does not exist') - before

    told = {"PATH": database["PATH"], "PGPORT": database["PGPORT"], "PGUSER": "nobody-of-ours"}
    until(lambda: complaints(told) == 3)
    assert complaints(told | given) == 0
