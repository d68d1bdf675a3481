"""Artifact folders: what a killed publisher leaves is swept by the next one, what a living one writes is not touched."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slimrec.artifacts import publish, verify
from slimrec.errors import ConfigError

ROOT = Path(__file__).parents[1]
STUCK = """
import sys, time
from slimrec.artifacts import publish
with publish(sys.argv[1], "thing") as folder:
    (folder / "half.txt").write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def writing(tmp_path):
    """Another process in the middle of publishing tmp_path/thing."""
    words = [sys.executable, "-c", STUCK, str(tmp_path / "thing")]
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        yield process
        process.kill()


def publish_whole(folder: Path, text: str = "whole") -> None:
    with publish(folder, "thing") as scratch:
        (scratch / "file.txt").write_text(text, encoding="utf-8")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_a_killed_process_was_publishing_is_swept_by_the_next(tmp_path, writing):
    writing.send_signal(signal.SIGKILL)
    writing.wait()
    assert len(names(tmp_path)) == 1
    publish_whole(tmp_path / "thing")
    assert names(tmp_path) == {"thing"}
    verify(tmp_path / "thing", "thing")


def test_what_a_living_process_is_publishing_stays(tmp_path, writing):
    publish_whole(tmp_path / "thing")
    (left,) = names(tmp_path) - {"thing"}
    assert (tmp_path / left / "half.txt").read_text(encoding="utf-8") == "half"


def test_what_lies_beside_under_another_name_is_not_swept(tmp_path):
    others = {".thing.else.12.partial", "thing.partial", ".other.12.partial", ".thing.txt"}
    for name in others:
        (tmp_path / name).mkdir()
    publish_whole(tmp_path / "thing")
    assert names(tmp_path) == {"thing", *others}


def test_an_old_version_that_a_killed_process_had_put_aside_is_swept(tmp_path):
    (tmp_path / ".thing.12.replaced").mkdir()
    publish_whole(tmp_path / "thing", "first")
    publish_whole(tmp_path / "thing", "second")
    assert names(tmp_path) == {"thing"}
    assert (tmp_path / "thing" / "file.txt").read_text(encoding="utf-8") == "second"


def test_a_folder_that_holds_what_is_not_ours_is_never_replaced(tmp_path):
    folder = tmp_path / "out"
    for name, text in (("notes.txt", "mine"), ("manifest.json", '{"name": "a web page", "files": ["manifest.json"]}')):
        folder.mkdir()
        (folder / name).write_text(text)
        sentence = f"holds '{name}', which no artifact of ours brought there"
        with pytest.raises(ConfigError, match=sentence), publish(folder, "thing"):
            raise AssertionError("looked after the work and not before")
        assert (folder / name).read_text() == text
        (folder / name).unlink()
        folder.rmdir()
    for text in ("first", "second"):  # an earlier artifact is replaced
        with publish(folder, "thing") as scratch:
            (scratch / "a").write_text(text)
    with pytest.raises(ConfigError, match="holds 'saved.txt'"), publish(folder, "thing"):
        (folder / "saved.txt").write_text("somebody puts this there while we work")
    assert (folder / "a").read_text() == "second" and (folder / "saved.txt").exists()
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(ConfigError, match="is a file, and an artifact is a folder"),
        publish(tmp_path / "file", "thing"),
    ):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]
