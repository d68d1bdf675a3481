"""One of our functions in a process of its own, with code that a version brings: our path and the current folder have no say.

`python -P -m slimrec.registry.apart MODULE FUNCTION WORD ...` calls the function with the words.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import slimrec
from slimrec.errors import BY_EXIT_CODE, ConfigError, SlimrecError, TransientError


def run(code: Sequence[Path], what: Callable[..., None], *words: str | Path) -> None:
    """Call `what(*words)`, each word as text, with `code` (files and folders) on a path that holds the library besides.

    `what` is a function of the library at the top of its module. Raises the error that the process ended with.
    """
    with tempfile.TemporaryDirectory() as place:
        for each in code:
            (shutil.copytree if each.is_dir() else shutil.copyfile)(each, Path(place, each.name))
        path = os.pathsep.join((str(Path(slimrec.__file__).parents[1]), place))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        told = (what.__module__, what.__name__, *map(str, words))
        command = [sys.executable, "-P", "-m", "slimrec.registry.apart", *told]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or "nothing was said").splitlines()[-1].removeprefix("slimrec: ")
        raise BY_EXIT_CODE.get(done.returncode, TransientError)(said)


def main(words: list[str]) -> None:
    """Entry point of the process."""
    module, name, *rest = words
    what = getattr(import_module(module), name)
    try:
        what(*rest)
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
