"""The MLflow server as manifests/ deploys it, started here: its command, arguments and settings, on a real PostgreSQL."""

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import services
from mlflow import MlflowClient
from test_manifests import MANIFESTS, kustomize, of, pods

pytest.importorskip("flask_wtf", reason="MLflow's log-in needs Flask-WTF: the extra `server` brings it")

USER, PASSWORD = "slimrec", "canary-password-of-a-test"
NAMES = {"Host": "slimrec-mlflow.slimrec:5000"}  # how steps call the server


@pytest.fixture(scope="module")
def database():
    """An empty PostgreSQL: what tells a client where it is."""
    with services.postgresql(USER, PASSWORD) as where:
        yield where


def until(holds, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come up"
        time.sleep(0.2)


@contextmanager
def started(objects: list[dict], database: dict, folder: Path):
    """The Deployment's container as a process: yields its address."""
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
        found = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        for each in container["env"]:
            source = each.get("valueFrom", {})
            if "secretKeyRef" in source:
                found[each["name"]] = secrets[source["secretKeyRef"]["key"]]
            elif "configMapKeyRef" in source:
                found[each["name"]] = settings[source["configMapKeyRef"]["key"]]
            else:
                found[each["name"]] = each["value"]
        return found | {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "HOME": str(folder)}

    (folder / "auth.ini").write_text(here(settings["auth.ini"]), encoding="utf-8")
    log = (folder / "log.txt").open("w")
    shared = {"cwd": folder, "stdout": log, "stderr": log}
    for first in spec["initContainers"]:
        subprocess.run([here(word) for word in first["command"]], env=variables(first), check=True, **shared)
    container, port = spec["containers"][0], services.free_port()
    known = variables(container)
    words = [re.sub(r"\$\((\w+)\)", lambda name: known[name[1]], here(word)) for word in container["args"]]
    words += [f"--port={port}", "--host=127.0.0.1", "--workers=1"]  # of two values the last one counts
    server = subprocess.Popen([*container["command"], *words], env=known, **shared)
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: server.poll() is not None or answers(f"{address}/health"))
        assert server.poll() is None, (folder / "log.txt").read_text(encoding="utf-8")[-2000:]
        yield address
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).ok
    except requests.ConnectionError:
        return False


def test_the_deployed_server_lets_in_who_it_knows_and_survives_the_loss_of_its_database(
    database, tmp_path, monkeypatch
):
    objects = kustomize(MANIFESTS / "overlays" / "local")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    with started(objects, database, tmp_path) as address:
        search, known = f"{address}/api/2.0/mlflow/experiments/search?max_results=1", (USER, PASSWORD)
        assert requests.get(f"{address}/health", headers={"Host": "10.0.0.7:5000"}, timeout=30).ok  # the probes
        assert requests.get(search, headers=NAMES, auth=known, timeout=30).ok
        assert requests.get(search, headers=NAMES, timeout=30).status_code == 401
        assert requests.get(search, headers=NAMES, auth=(USER, "another-password"), timeout=30).status_code == 401
        assert requests.get(search, headers={"Host": "evil.example"}, auth=known, timeout=30).status_code == 403
        client = MlflowClient(address)
        experiment = client.get_experiment(client.create_experiment("audits"))
        assert experiment.artifact_location.startswith("s3://slimrec/mlflow/")
        client.create_registered_model("ctr")
        client.create_model_version("ctr", "s3://slimrec/mlflow/models/x")
        client.set_registered_model_alias("ctr", "champion", "1")

    # The backup and the restore of docs/operations.md.
    dump = subprocess.run(["pg_dump", "--format=custom"], env=database, stdout=subprocess.PIPE, check=True).stdout
    elsewhere = {**database, "PGDATABASE": "postgres"}
    subprocess.run(["dropdb", "mlflow"], env=elsewhere, check=True)
    subprocess.run(["createdb", "mlflow"], env=elsewhere, check=True)
    words = ["pg_restore", "--dbname=mlflow", "--exit-on-error"]
    subprocess.run(words, input=dump, env=database, check=True)
    with started(objects, database, tmp_path) as address:
        version = MlflowClient(address).get_model_version_by_alias("ctr", "champion")
        assert (str(version.version), version.source) == ("1", "s3://slimrec/mlflow/models/x")
    left = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert PASSWORD.encode() not in left, "a secret lies in a log or a file of the server"
