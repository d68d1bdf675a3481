"""What is read is not written over."""

from __future__ import annotations

import os

from slimrec.errors import ConfigError


def spare(source: str, output: str | os.PathLike[str], suffixes: tuple[str, ...]) -> None:
    """Raise ConfigError where writing `output` would destroy what is read from `source`, links followed, or where it would
    lie in that folder with a name that ends as those of data do.
    """
    read, written = os.path.realpath(source), os.path.realpath(output)
    inside = written.startswith(os.path.join(read, "")) and written.lower().endswith(suffixes)
    if read == written or inside:
        where = "is what is read" if read == written else f"lies among the files of the log {source}"
        raise ConfigError(f"'{output}' {where}: it would be lost, or taken for rows of it; write elsewhere")
