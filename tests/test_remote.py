"""Artifacts on S3: multipart, one winner an address, every digest checked, and what a bad store or line does to it."""

import http.client
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
import services
from typer.testing import CliRunner

from slimrec.artifacts import digest, publish, remote
from slimrec.cli import app
from slimrec.errors import ConfigError, ConflictError, InputError, SecurityError, TransientError

LARGE = 6 << 20  # bytes; S3 takes parts from 5 MiB


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The address of an S3 server process with a bucket, and the environment that leads to it."""
    with services.s3_server(tmp_path_factory.mktemp("s3")) as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {**services.KEYS, "AWS_ENDPOINT_URL": address, "AWS_MAX_ATTEMPTS": "2"}.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="models")
        boto3.resource("s3").Bucket("models").objects.all().delete()
        yield address


def artifact(folder: Path, text: str = "weights", size: int = 100) -> Path:
    with publish(folder, "slim", note=text) as scratch:
        (scratch / "model.bin").write_bytes((text.encode() * size)[:size])
        (scratch / "vocab").mkdir()
        (scratch / "vocab" / "a.txt").write_text(text)
        (scratch / "empty").touch()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_pulled_is_byte_for_byte_what_was_pushed(store, tmp_path):
    made = artifact(tmp_path / "made")
    assert remote.push(made, "s3://models/plain/") is True
    remote.pull("s3://models/plain", tmp_path / "deep" / "copy")
    assert contents(tmp_path / "deep" / "copy") == contents(made)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


def test_large_files_go_in_parts_and_come_back_whole(store, tmp_path):
    made = artifact(tmp_path / "made", size=LARGE * 2 + 1)
    remote.push(made, "s3://models/large", part=LARGE)
    key = f"large/{digest(made)}/model.bin"
    assert boto3.client("s3").head_object(Bucket="models", Key=key)["ETag"].strip('"').endswith("-3")
    remote.pull("s3://models/large", tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(made)


@pytest.mark.parametrize("size", [LARGE - 1, LARGE, LARGE + 1])
def test_the_checksum_is_the_stores_own_at_the_edges_of_a_part(store, tmp_path, size):
    made = artifact(tmp_path / "made", size=size)
    remote.push(made, f"s3://models/edge{size}", part=LARGE)
    key = f"edge{size}/{digest(made)}/model.bin"
    held = boto3.client("s3").head_object(Bucket="models", Key=key, ChecksumMode="ENABLED")
    if "ChecksumSHA256" not in held:
        pytest.skip("this store keeps no checksums: what was pushed is read back instead")
    assert held["ChecksumSHA256"].partition("-")[0] == remote._checksum(made / "model.bin", LARGE)


def test_pushing_again_changes_nothing_and_another_content_is_a_conflict(store, tmp_path):
    first, other = artifact(tmp_path / "first"), artifact(tmp_path / "other", "other")
    assert remote.push(first, "s3://models/once") and not remote.push(first, "s3://models/once")
    with pytest.raises(ConflictError, match="holds another artifact") as refused:
        remote.push(other, "s3://models/once")
    assert refused.value.exit_code == 50
    remote.pull("s3://models/once", tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(first)


@pytest.mark.battery
def test_of_many_that_push_at_once_one_has_the_address(store, tmp_path):
    made = [artifact(tmp_path / f"made{i}", f"text{i}") for i in range(4)]
    for round_ in range(5):
        outcomes, barrier = [], threading.Barrier(len(made))

        def go(folder, barrier=barrier, outcomes=outcomes, address=f"s3://models/race{round_}"):
            barrier.wait()
            try:
                outcomes.append((remote.push(folder, address), folder))
            except ConflictError:
                outcomes.append((False, folder))

        threads = [threading.Thread(target=go, args=(folder,)) for folder in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [folder for won, folder in outcomes if won]
        remote.pull(f"s3://models/race{round_}", tmp_path / f"copy{round_}")
        assert contents(tmp_path / f"copy{round_}") == contents(winner) and len(outcomes) == 4


def test_a_push_that_was_killed_is_seen_by_nobody_and_finished_by_the_next(store, tmp_path, monkeypatch):
    made = artifact(tmp_path / "made")

    def die(*rest):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(remote, "_upload", die)
        with pytest.raises(KeyboardInterrupt):
            remote.push(made, "s3://models/killed")
    with pytest.raises(InputError, match="no artifact at s3://models/killed"):
        remote.pull("s3://models/killed", tmp_path / "copy")
    assert remote.push(made, "s3://models/killed")
    remote.pull("s3://models/killed", tmp_path / "copy")


def test_an_object_that_was_changed_on_the_store_is_refused(store, tmp_path):
    made = artifact(tmp_path / "made")
    remote.push(made, "s3://models/changed")
    key = f"changed/{digest(made)}/model.bin"
    boto3.client("s3").put_object(Bucket="models", Key=key, Body=b"x" * 100)
    with pytest.raises(SecurityError, match=r"model\.bin is not the file its manifest describes"):
        remote.pull("s3://models/changed", tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_manifest_that_points_outside_its_folder_is_refused_before_anything_is_fetched(store, tmp_path):
    text = '{"kind": "slim", "files": {"../../evil": {"sha256": "", "bytes": 0}}}'
    boto3.client("s3").put_object(Bucket="models", Key="evil/manifest.json", Body=text.encode())
    with pytest.raises(SecurityError, match="not a plain path"):
        remote.pull("s3://models/evil", tmp_path / "copy")
    assert not list(tmp_path.iterdir())


class Line(BaseHTTPRequestHandler):
    """The way to the store, with a fault of its own: what `spoil` does to (request headers, status, body)."""

    protocol_version = "HTTP/1.1"

    def _pass(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = dict(self.headers.items())
        early = self.server.spoil("request", headers, self.path)
        if early:
            return self._answer(early, {}, b"<Error><Code>SlowDown</Code></Error>")
        onward = http.client.HTTPConnection(self.server.target)
        onward.request(self.command, self.path, body, headers)
        answer = onward.getresponse()
        content, told = answer.read(), dict(answer.getheaders())
        if self.command == "HEAD":
            return self._answer(answer.status, told, b"", told.get("Content-Length", "0"))
        sent = self.server.spoil("answer", content, self.path) if self.command == "GET" else content
        return self._answer(answer.status, told, sent, str(len(content)))

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass

    def _answer(self, status, headers, body, length=None):
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "date", "server", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *rest):
        """Tests need no access log."""


@pytest.fixture
def line(store, monkeypatch):
    """A line to the store; set `spoil` on it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Line)
    server.target, server.spoil = (
        store.removeprefix("http://"),
        lambda when, what, path: None if when == "request" else what,
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    with services.answering(server):
        yield server


def test_a_store_that_ignores_conditions_is_refused_before_anything_is_uploaded(line, tmp_path):
    if os.environ.get("SLIMREC_TEST_S3"):
        pytest.skip("a store that checks signatures refuses a request that was changed on the way")

    def strip(when, what, path):
        if when == "request":
            what.pop("If-None-Match", None)
            return None
        return what

    line.spoil = strip
    with pytest.raises(ConfigError, match="overwrites in spite of If-None-Match"):
        remote.push(artifact(tmp_path / "made"), "s3://models/unconditional")
    names = boto3.client("s3").list_objects_v2(Bucket="models", Prefix="unconditional/")["Contents"]
    assert [Path(each["Key"]).name for each in names] == ["claim"]


def test_a_body_that_breaks_off_or_is_spoilt_once_is_fetched_again(line, tmp_path):
    made = artifact(tmp_path / "made")
    remote.push(made, "s3://models/line")
    for i, spoilt in enumerate((lambda content: content[:-7], lambda content: b"?" + content[1:])):
        faults = [spoilt]

        def once(when, what, path, faults=faults):
            if when == "request":
                return None
            return faults.pop()(what) if path.endswith("model.bin") and faults else what

        line.spoil = once
        remote.pull("s3://models/line", tmp_path / f"copy{i}")
        assert contents(tmp_path / f"copy{i}") == contents(made) and not faults


def test_a_body_that_keeps_breaking_off_may_be_tried_again_later(line, tmp_path):
    remote.push(artifact(tmp_path / "made"), "s3://models/short")
    line.spoil = lambda when, what, path: None if when == "request" else what[:-7]
    with pytest.raises(TransientError, match="s3://models/short failed"):
        remote.pull("s3://models/short", tmp_path / "copy")


def test_a_store_that_is_busy_is_asked_again_and_after_that_it_is_a_transient_error(line, tmp_path):
    made, asked = artifact(tmp_path / "made"), []

    def busy(times):
        def spoil(when, what, path):
            if when == "answer":
                return what
            asked.append(path)
            return 503 if len(asked) <= times else None

        return spoil

    line.spoil = busy(1)
    assert remote.push(made, "s3://models/busy")
    asked.clear()
    line.spoil = busy(1_000)
    with pytest.raises(TransientError, match="SlowDown"):
        remote.push(made, "s3://models/busy")
    assert len(asked) == int(os.environ["AWS_MAX_ATTEMPTS"])


def test_errors_of_a_person_say_what_to_do(store, tmp_path, monkeypatch):
    made = artifact(tmp_path / "made")
    for address in ("models/x", "s3://", "s3://models", "https://models/x"):
        with pytest.raises(InputError, match="give s3://BUCKET/FOLDER"):
            remote.push(made, address)
    with pytest.raises(InputError, match="NoSuchBucket"):
        remote.push(made, "s3://nowhere/x")
    with pytest.raises(InputError, match="exists already"):
        remote.pull("s3://models/x", made)
    with monkeypatch.context() as patch:
        for name in services.KEYS:
            patch.delenv(name)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with pytest.raises(InputError, match="no permission for s3://models/x .no credentials."):
            remote.push(made, "s3://models/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="s3://models/x failed"):
        remote.push(made, "s3://models/x")


def test_the_command_line_pushes_and_pulls(store, tmp_path):
    made = str(artifact(tmp_path / "made"))
    said = [CliRunner().invoke(app, ["push", made, "s3://models/cli"]).output.strip() for _ in range(2)]
    assert said == ["pushed", "the same content was there already"]
    assert CliRunner().invoke(app, ["pull", "s3://models/cli", str(tmp_path / "copy")]).exit_code == 0
    assert contents(tmp_path / "copy") == contents(Path(made))
