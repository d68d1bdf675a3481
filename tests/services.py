"""Servers for tests: threads of this process, and real processes for MLflow over HTTP, an S3 endpoint and PostgreSQL."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import HTTPServer
from pathlib import Path

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_DEFAULT_REGION": "us-east-1"}
if os.environ.get("SLIMREC_TEST_S3"):
    KEYS = {name: os.environ.get(name, value) for name, value in KEYS.items()}

HANG = 1800  # seconds: limits in tests are for what hangs, not for what is slow on a busy machine


@cache
def _store() -> Path:
    """An MLflow database with all its tables and no rows: to make them takes a second."""
    from mlflow import MlflowClient

    file = Path(tempfile.mkdtemp(), "mlflow.db")
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


def empty_store(folder: Path) -> str:
    """The address of a new store in `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{shutil.copy(_store(), folder / 'mlflow.db')}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def answering(server: HTTPServer) -> Iterator[None]:
    """A server in a thread until the block ends, of which it hears at once and not in half a second, as usual."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving(command: list[str], log: Path, health: str, environment: dict[str, str] | None = None) -> Iterator[None]:
    """A server process from the moment it answers at `health` until the block ends."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env={**os.environ, **(environment or {})}, start_new_session=True
        )
        try:
            _await(process, health, log)
            yield
        finally:
            os.killpg(process.pid, 15)
            process.wait(HANG)


def _await(process: subprocess.Popen, health: str, log: Path, seconds: float = HANG) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(health, timeout=30).close()
        except urllib.error.HTTPError:
            return  # it answers, which is enough
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"no answer from {health}: {log.read_text()[-2000:]}")


@contextmanager
def mlflow_server(
    folder: Path, store: str, artifacts: str = "", environment: dict[str, str] | None = None
) -> Iterator[str]:
    """`mlflow server` on a store; clients put artifacts straight to `artifacts`, else to `folder`. Yields its address."""
    folder.mkdir(parents=True, exist_ok=True)
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--workers", "2", "--no-serve-artifacts"]
    command += ["--default-artifact-root", artifacts or (folder / "artifacts").as_uri()]
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes of MLflow's for work that we never give it
        "MLFLOW_TRACKING_URI": "",
    }
    with serving(command, folder / "mlflow.log", f"{address}/health", {**quiet, **(environment or {})}):
        yield address


@contextmanager
def mlflow_on_sqlite(folder: Path, **environment: str) -> Iterator[Path]:
    """MLflow without a server, its artifacts beside its database; `environment` is set with its address."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MLFLOW_TRACKING_URI": empty_store(folder), **environment}.items():
            patch.setenv(name, value)
        yield folder


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """An S3 endpoint that keeps everything in memory; yields its address.

    SLIMREC_TEST_S3 names another one to test against, with the credentials that AWS_... give.
    """
    if elsewhere := os.environ.get("SLIMREC_TEST_S3"):
        yield elsewhere
        return
    address = f"http://127.0.0.1:{(port := free_port())}"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with serving(command, folder / "s3.log", address):
        yield address


@contextmanager
def postgresql(user: str, password: str) -> Iterator[dict[str, str]]:
    """An empty database `mlflow`: yields the environment that leads a client there. Skips where it is not installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    initdb = installed[0] if installed else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed (initdb): apt-get install postgresql")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own are closed to other users
        yield from _postgresql(Path(initdb).resolve().parent, Path(folder), user, password)


def _postgresql(binaries: Path, folder: Path, user: str, password: str) -> Iterator[dict[str, str]]:
    port, owner = free_port(), None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        owner = "postgres"
        shutil.chown(folder, owner)
    where = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": user, "PGPASSWORD": password, "PGDATABASE": "mlflow"}
    secret = folder / "password"
    secret.write_text(password, encoding="utf-8")
    secret.chmod(0o644)
    words = [binaries / "initdb", "-D", folder / "data", "-U", user, "-A", "scram-sha-256", f"--pwfile={secret}"]
    subprocess.run(words, user=owner, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    words = [binaries / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
    with (folder / "log.txt").open("wb") as log:
        server = subprocess.Popen(words, user=owner, cwd=folder, stderr=log)
    try:
        end = time.monotonic() + HANG
        while subprocess.run([binaries / "pg_isready", "-q"], env=where, check=False).returncode:
            assert server.poll() is None and time.monotonic() < end, "PostgreSQL did not come up"
            time.sleep(0.2)
        subprocess.run([binaries / "createdb", "mlflow"], env={**where, "PGDATABASE": "postgres"}, check=True)
        yield {**where, "PATH": f"{binaries}:{os.environ['PATH']}", "POSTGRESQL_LOG": str(folder / "log.txt")}
    finally:
        server.terminate()
        server.wait(HANG)
