"""A version that brings code, used in a process of its own: neither our path nor the current folder has a say there.

`python -P -m slimrec.registry.apart check MODEL SLIM` loads an MLflow model back and scores with it;
`... score SLIM DATASET FOLDER` writes what a slim model gives the raw rows of a dataset's test split.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import slimrec
from slimrec.artifacts import read_json, write_json
from slimrec.errors import BY_EXIT_CODE, ConfigError, SlimrecError, TransientError

_LOGITS, _STRANGE = "logits.npy", "strange.json"


def run(code: Sequence[Path], *words: str | Path) -> None:
    """Run this module with `code` (files and folders) on a path that holds the library besides, and nothing of ours.

    Raises the error that the process ended with.
    """
    with tempfile.TemporaryDirectory() as place:
        for each in code:
            (shutil.copytree if each.is_dir() else shutil.copyfile)(each, Path(place, each.name))
        path = os.pathsep.join((str(Path(slimrec.__file__).parents[1]), place))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-P", "-m", "slimrec.registry.apart", *map(str, words)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or "nothing was said").splitlines()[-1].removeprefix("slimrec: ")
        raise BY_EXIT_CODE.get(done.returncode, TransientError)(said)


def read_scores(folder: Path) -> tuple[np.ndarray, list[str]]:
    """What `score` left: logits (n,) and sentences on fields that are new to the model."""
    return np.load(folder / _LOGITS, allow_pickle=False), read_json(folder / _STRANGE)


def main(words: list[str]) -> None:
    """Entry point of the process."""
    from slimrec.registry import champion, versions

    try:
        if words[0] == "check":
            versions.check_round_trip(words[1], Path(words[2]))
        else:
            logits, strange = champion.score(Path(words[1]), Path(words[2]))
            np.save(Path(words[3], _LOGITS), logits, allow_pickle=False)
            write_json(Path(words[3], _STRANGE), strange)
    except ImportError as error:
        print(
            f"slimrec: the network's code does not load by itself: {error}; put all of it into one package",
            file=sys.stderr,
        )
        sys.exit(ConfigError.exit_code)
    except SlimrecError as error:
        print(f"slimrec: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1:])
