"""What others raise: sorted by whether trying again can help, as met by running them, and tried again inside the step."""

import errno
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import services
import torch
from mlflow import MlflowClient

from slimrec import faults, track
from slimrec.artifacts import remote, write_text
from slimrec.data.storage import reading_error
from slimrec.errors import ConfigError, InputError, SlimrecError, TransientError
from slimrec.registry import versions

ROOT = Path(__file__).parents[1]


@contextmanager
def answering(status: int, body: bytes = b"<html>hello</html>"):
    """A server that gives every request the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *words):
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with services.answering(server):
        yield f"127.0.0.1:{server.server_port}"


def asked(monkeypatch, address: str) -> SlimrecError:
    """What asking a registry at this address ends with."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SlimrecError) as raised:
        versions.connect("shop")
    return raised.value


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("mlruns", "give sqlite:///PATH"),
        ("file:///tmp/mlruns", "give sqlite:///PATH"),
        ("sqlite:////tmp", "give sqlite:///PATH"),
        ("sqlite:////proc/nowhere/mlflow.db", "give a path that is there"),
        (f"sqlite:////tmp/{'x' * 300}.db", "give a shorter name"),
        ("postgresql://user:secret@127.0.0.1:1/db", "install it"),
        ("ftp://127.0.0.1/mlflow", "give sqlite:///PATH"),
        ("http://", "check the address"),
        ("http://127.0.0.1:port", "check the address"),
        ("http://no-such-host.invalid:5000", "there is no such host"),
        ("databricks", "check the address"),
        ("http://[::1", "check that address"),
        ("sqlite:mlflow.db", "give sqlite:///PATH"),
        ("sqlite://", "give sqlite:///PATH"),
        ("sqlite:///:memory:", "give sqlite:///PATH"),
        ("http://user:my@secret@no-such-host.invalid", "there is no such host"),
    ],
)
def test_an_address_that_can_never_answer_is_the_recipes_fault(monkeypatch, address, remedy):
    error = asked(monkeypatch, address)
    assert isinstance(error, ConfigError) and remedy in str(error) and "secret" not in str(error)


@pytest.mark.parametrize(
    ("status", "kind", "remedy"),
    [
        (200, ConfigError, "no MLflow server"),
        (302, ConfigError, "no MLflow server"),
        (307, ConfigError, "no MLflow server"),
        (400, ConfigError, "change"),
        (401, ConfigError, "MLFLOW_TRACKING_USERNAME"),
        (403, ConfigError, "MLFLOW_TRACKING_USERNAME"),
        (404, ConfigError, "no MLflow server"),
        (405, ConfigError, "no MLflow server"),
        (429, TransientError, "run again"),
        (500, TransientError, "run again"),
        (503, TransientError, "run again"),
    ],
)
@pytest.mark.battery
def test_an_answer_of_a_server_is_sorted_by_its_code(monkeypatch, status, kind, remedy):
    with answering(status) as where:
        error = asked(monkeypatch, f"http://{where}")
    assert type(error) is kind and remedy in str(error)


@pytest.mark.parametrize("body", [b"{}", b'{"message": "forbidden"}', b'{"error_code": "WAF", "message": "x"}'])
def test_json_of_a_gateway_before_the_server_is_no_outage(monkeypatch, body):
    with answering(403, body) as where:
        error = asked(monkeypatch, f"http://{where}")
    assert isinstance(error, ConfigError) and "what stands before it" in str(error)


def test_an_error_of_the_server_itself_in_json_may_heal(monkeypatch):
    with answering(501, b'{"error_code": "INTERNAL_ERROR", "message": "x"}') as where:
        assert isinstance(asked(monkeypatch, f"http://{where}"), TransientError)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("MLFLOW_TRACKING_TOKEN", "very\nsecret", "check the address"),
        ("MLFLOW_TRACKING_SERVER_CERT_PATH", "/no/such/secretless.pem", "certificate"),
        ("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem", "certificate"),
        ("MLFLOW_TRACKING_INSECURE_TLS", "perhaps", "setting"),
    ],
)
def test_a_setting_that_no_client_takes_is_no_outage_and_no_traceback(monkeypatch, name, value, remedy):
    monkeypatch.setenv(name, value)
    error = asked(monkeypatch, "https://127.0.0.1:9")
    assert isinstance(error, ConfigError) and remedy in str(error) and "very" not in str(error)


def test_a_value_that_our_own_code_refuses_stays_our_own_fault():
    with pytest.raises(ValueError) as raised:
        int("many")
    assert faults.sort(raised.value) is None


def test_https_to_a_server_that_speaks_http_is_a_wrong_address_and_no_answer_an_outage(monkeypatch):
    with answering(200) as where:
        error = asked(monkeypatch, f"https://{where}")
    assert isinstance(error, ConfigError) and "http or https" in str(error)
    assert isinstance(asked(monkeypatch, "http://127.0.0.1:9"), TransientError)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An embedded store with an experiment, and its file."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    track.client().create_registered_model("shop")
    return tmp_path / "mlflow.db"


def test_an_old_database_is_named_with_the_command_that_mends_it(store, monkeypatch):
    with sqlite3.connect(store) as database:
        database.execute("update alembic_version set version_num = 'cc1f77228345'")
    code = "from slimrec.cli import main\nmain()"
    words = [sys.executable, "-c", code, "history", "shop"]  # another process: MLflow keeps a store that it opened
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 20 and "mlflow db upgrade" in done.stderr and "Traceback" not in done.stderr


def test_what_was_deleted_is_named_and_a_lock_is_waited_for(store, monkeypatch):
    server = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run = server.create_run("0").info.run_id
    server.delete_run(run)
    with pytest.raises(InputError, match="restore it in MLflow"):
        track.MlflowTracker(run).tag("a", "b")
    with pytest.raises(InputError, match="deleted or never there"):
        track.MlflowTracker("0" * 32).tag("a", "b")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "gone")
    server.delete_experiment(server.create_experiment("gone"))
    monkeypatch.setenv("SLIMREC_AUDIT", "run-1")
    with pytest.raises(InputError, match="restore it in MLflow"):
        track.start_audit({})
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "x" * 600)
    with pytest.raises(ConfigError, match="shorter name"):
        track.start_audit({})


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("(sqlite3.OperationalError) database is locked", TransientError),
        ("(psycopg2.OperationalError) FATAL: the database system is starting up", TransientError),
        ('(psycopg2.OperationalError) FATAL: password authentication failed for user "a"', ConfigError),
        ("(psycopg2.errors.UndefinedColumn) column runs.x does not exist", ConfigError),
        ("(psycopg2.errors.StringDataRightTruncation) value too long for type character varying(256)", ConfigError),
    ],
)
def test_a_database_behind_a_server_is_understood_by_its_words(monkeypatch, said, kind):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

    with pytest.raises(kind), track.reaching():
        raise MlflowException(said, TEMPORARILY_UNAVAILABLE)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((number, 20) for number in (errno.ENAMETOOLONG, errno.EACCES, errno.ENOENT, errno.EISDIR, errno.EROFS)),
        *((number, 20) for number in (errno.ENOTDIR, errno.EPERM, errno.ELOOP, errno.EINVAL, errno.EXDEV)),
        *((number, 30) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.EAGAIN)),
        *((number, 30) for number in (errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH)),
    ],
)
def test_the_systems_errors_are_sorted_by_their_number(number, code, tmp_path):
    error = OSError(number, os.strerror(number), str(tmp_path / "file"))
    sorted_ = faults.of_system(error)
    assert sorted_.exit_code == code and str(tmp_path / "file") in str(sorted_) and ";" in str(sorted_)
    assert (reading_error("log.csv", error).exit_code == 30) == (code == 30)


def test_names_of_hosts_timeouts_and_certificates_are_sorted_too():
    assert faults.of_system(socket.gaierror(socket.EAI_NONAME, "Name or service not known")).exit_code == 20
    assert faults.of_system(socket.gaierror(socket.EAI_AGAIN, "Temporary failure")).exit_code == 30
    assert faults.of_system(TimeoutError("timed out")).exit_code == 30
    assert faults.of_system(ssl.SSLCertVerificationError(1, "certificate verify failed")).exit_code == 20
    assert faults.sort(ValueError("ours")) is None


def test_a_full_disk_tells_the_path_and_how_many_bytes_are_free(tmp_path):
    error = faults.sort(OSError(errno.ENOSPC, "No space left on device"), places=[tmp_path / "not" / "there"])
    assert isinstance(error, TransientError) and "bytes are free at /" in str(error)
    with pytest.raises(OSError) as full, Path("/dev/full").open("w") as stream:  # written to in place, never replaced
        stream.write("a")
    assert "no space left" in str(faults.sort(full.value, places=[tmp_path])) and faults.is_full(full.value)


def test_a_name_that_is_not_utf_8_is_told_in_letters_that_every_terminal_has():
    with pytest.raises(UnicodeEncodeError) as raised:
        os.fsdecode(b"log\xff.csv").encode()
    error = faults.sort(raised.value)
    assert isinstance(error, InputError) and str(error).isascii() and "udcff" in str(error)


def test_text_that_an_encoding_lacks_is_no_traceback_and_the_locale_is_to_blame():
    with pytest.raises(UnicodeEncodeError) as met:
        "prix €".encode("latin-1")
    told = faults.sort(met.value)
    assert (
        isinstance(told, ConfigError)
        and "'\\u20ac' has no place in latin-1" in str(told)
        and "PYTHONUTF8=1" in str(told)
    )
    words = [sys.executable, "-c", "from slimrec.cli import main; main()", "schema", "größe.csv"]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 20 and "has no place in ascii" in done.stderr and "rename" not in done.stderr


def test_a_text_that_finds_no_room_leaves_what_was_there_and_names_its_path(tmp_path):
    code = """
import resource, signal, sys
from pathlib import Path
from slimrec.artifacts import write_text
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
write_text(Path(sys.argv[1]), "new " * 100)
"""
    (tmp_path / "there.yaml").write_text("old", encoding="utf-8")
    words = [sys.executable, "-c", code, str(tmp_path / "there.yaml")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode and str(tmp_path / "there.yaml") in done.stderr
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_text_goes_through_a_link_to_the_file_behind_it(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "a\n")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "a\n"


@pytest.mark.parametrize("told", ["many", "0", "-1", "1.5"])
def test_how_often_a_store_is_asked_is_a_whole_number(monkeypatch, told):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", told)
    with pytest.raises(ConfigError, match="1 or more"):
        faults.attempts()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("AWS_PROFILE", "nobody"), ("AWS_ENDPOINT_URL", "minio:9000"), ("AWS_DEFAULT_REGION", "not a region")],
)
def test_a_setting_that_no_object_store_takes_is_no_outage(monkeypatch, setting, value):
    monkeypatch.setenv(setting, value)
    with pytest.raises(ConfigError, match="setting"):
        remote.Address("s3://bucket/model")


def test_what_safetensors_says_of_the_system_is_understood(tmp_path):
    with pytest.raises(safetensors.SafetensorError) as raised:
        safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "no" / "such" / "folder")
    assert faults.sort(raised.value).exit_code == 20
    full = safetensors.SafetensorError(str(raised.value).replace("os error 2", "os error 28"))
    assert faults.sort(full).exit_code == 30 and faults.is_full(full)


STAGE = """
import sys
from slimrec import stages
from slimrec.stages import execute_or_exit
stages.FIRST_PAUSE = 0.2
execute_or_exit("ingest", {"source": "planted:rows=400,seed=0"}, dataset=sys.argv[1], workspace=sys.argv[2])
"""


def step(tmp_path, **environment) -> subprocess.Popen:
    words = [sys.executable, "-c", STAGE, str(tmp_path / "dataset"), str(tmp_path / "workspace")]
    told = {**os.environ, "SLIMREC_AUDIT": "run-1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", **environment}
    return subprocess.Popen(words, cwd=ROOT, env=told, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def ended(running: subprocess.Popen) -> tuple[int, list[str]]:
    said = running.communicate()[1].strip().splitlines()
    return running.returncode, said


def test_a_step_tries_a_transient_fault_again_and_ends_with_the_reason_in_a_box(tmp_path):
    code, lines = ended(step(tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9", SLIMREC_TRIES="3"))
    assert code == 30
    assert sum(line.startswith("slimrec: try ") for line in lines) == 2
    assert set(lines[-1]) == set(lines[-3]) == {"-"}
    assert lines[-2].startswith("slimrec: MLflow at http://127.0.0.1:9 failed") and lines[-2].endswith("(exit 30)")


@pytest.mark.battery
def test_a_step_outlives_a_database_that_is_locked_for_a_while(tmp_path):
    """As a backup or another audit locks it: the lock is given back when the step has said that it tries again."""
    address = f"sqlite:///{tmp_path}/mlflow.db"
    MlflowClient(address).create_registered_model("shop")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("begin exclusive")
        with step(tmp_path, MLFLOW_TRACKING_URI=address) as running:
            said = next(line for line in running.stderr if "slimrec: try 1 of 8 failed" in line)
            database.rollback()
            rest = running.stderr.read()
        assert running.returncode == 0, rest
    assert "is locked" in said


def test_what_no_second_try_can_mend_is_tried_once(tmp_path):
    code, lines = ended(step(tmp_path, MLFLOW_TRACKING_URI=str(tmp_path / "mlruns")))
    assert code == 20 and "(exit 20)" in lines[-2] and not any(line.startswith("slimrec: try") for line in lines)
    assert ended(step(tmp_path, SLIMREC_TRIES="often"))[0] == 20
