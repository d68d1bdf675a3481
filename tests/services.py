"""Servers for tests, as real processes on this machine: MLflow over HTTP, and an S3 endpoint."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_DEFAULT_REGION": "us-east-1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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
            process.wait(timeout=30)


def _await(process: subprocess.Popen, health: str, log: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(health, timeout=2).close()
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
    """`mlflow server` on a store; artifacts go through it to `artifacts`, else straight to `folder`. Yields its address."""
    folder.mkdir(parents=True, exist_ok=True)
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--workers", "2"]
    command += ["--artifacts-destination", artifacts] if artifacts else ["--no-serve-artifacts"]
    command += [] if artifacts else ["--default-artifact-root", (folder / "artifacts").as_uri()]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": ""}
    with serving(command, folder / "mlflow.log", f"{address}/health", {**quiet, **(environment or {})}):
        yield address


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """An S3 endpoint that keeps everything in memory; yields its address."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with serving(command, folder / "s3.log", address):
        yield address
