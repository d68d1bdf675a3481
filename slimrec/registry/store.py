"""Which store the registry's commands mean: MLFLOW_TRACKING_URI, else the one that audits of this folder have made."""

from __future__ import annotations

import os
from pathlib import Path

from slimrec.errors import ConfigError
from slimrec.track import enabled

RUNS = Path("runs")  # where audits on this machine lie unless they are told otherwise
STORE = Path("mlflow", "mlflow.db")  # beside their folders


def find() -> None:
    """Set MLFLOW_TRACKING_URI where it is not set; to look into a store makes no folder for one.

    Raises ConfigError where there is none to look into.
    """
    if not enabled():
        found = (RUNS / STORE).absolute()
        if not found.is_file():
            raise ConfigError(
                f"no registry is named and {RUNS / STORE}, which `slimrec run` makes, is not here: set "
                "MLFLOW_TRACKING_URI, or go to the folder where you ran the audit"
            )
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{found}"
    scheme, _, file = os.environ["MLFLOW_TRACKING_URI"].partition(":///")
    if scheme == "sqlite" and not Path(file).parent.is_dir():
        raise ConfigError(f"MLFLOW_TRACKING_URI names {file}, and there is no such folder; check the path")
