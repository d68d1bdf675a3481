"""Looks, counted: which one at a certification slice, or against a champion, an audit takes. MLflow's runs remember them.

A dataset is content and cannot count; a run of `evaluate` says in tags at what it looked, with which models. The same
models once more are the same look. A run that was deleted was a look all the same.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slimrec.artifacts import read_manifest
from slimrec.data.dataset import Split
from slimrec.track import Tracker, client, experiment, reaching

if TYPE_CHECKING:
    from mlflow.entities import Run

SLICE, CHAMPION = "slimrec.slice", "slimrec.challenged"  # tags: what was looked at


def slice_of(dataset: Path, test: Split) -> str:
    """What a certification slice is known by: its rows in the source, however the rest of the log was ingested."""
    found = hashlib.sha256(read_manifest(dataset)["source"]["sha256"].encode())
    found.update(np.sort(test.row).astype("<i8").tobytes())
    return found.hexdigest()


def number(tracker: Tracker, kind: str, at: str, models: str) -> int | None:
    """Which look at `at` (a slice or a champion, by digest) this one with `models` is, from 1; None without tracking."""
    if not tracker.run_id:
        return None
    tracker.tag(kind, at)
    tracker.tag(f"{kind}.models", models)
    looks = [each.data.tags.get(f"{kind}.models", "") for each in _runs(f"tags.`{kind}` = '{at}'")]
    return list(dict.fromkeys(looks)).index(models) + 1


def _runs(wanted: str, token: str | None = None) -> list[Run]:
    """All runs of the experiment with a tag, the first one first; those from a page on that MLflow named."""
    from mlflow.entities import ViewType

    server = client()
    with reaching():
        order = ["start_time", "run_id"]
        page = server.search_runs([experiment(server)], wanted, ViewType.ALL, order_by=order, page_token=token)
    return [*page, *(_runs(wanted, page.token) if page.token else ())]
