"""A judgement that the champion overtook: the same model, on the same rows, against the one that reigns now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slimrec.artifacts import digest
from slimrec.config import EvaluateConfig
from slimrec.errors import InputError
from slimrec.registry import versions
from slimrec.registry.ledger import Ledger
from slimrec.track import Tracker


def overtaken(name: str, slim: Path, decision: dict[str, Any]) -> bool:
    """Whether another model than `decision` (report.json) judged against is champion of `name`, and not this one itself."""
    server = versions.connect()
    version = versions.version_at(server, name, versions.CHAMPION)
    content = versions.content(server, name, version, Ledger(server, name).registered(version)) if version else ""
    judged = decision["champion"] or {"version": "", "digest": ""}
    same = version == judged["version"] and content == judged.get("digest", content)
    return not same and (not version or content != digest(slim))


def judge_again(name: str, slim: Path, dataset: Path, decision: dict[str, Any], tracker: Tracker) -> dict[str, Any]:
    """The decision with its part about the champion judged anew, under the limits that it was made with.

    The report stays as it was written; what is new is told in the reason. The look counts and pays as those of evaluate
    do. Raises InputError where this is not the dataset that was judged on, or the source no longer is what was ingested.
    """
    from slimrec.data.dataset import Dataset  # late, and with torch: a race is seldom lost
    from slimrec.model.files import load_model
    from slimrec.model.scoring import score
    from slimrec.registry.champion import challenge

    model = load_model(slim, "slim")
    data = Dataset.open(dataset, fields=model.schema.names, check=True)
    if data.fingerprint != decision["dataset"]:
        raise InputError(
            f"the report judges on dataset {decision['dataset'][:16]}, {dataset} is another: evaluate again"
        )
    asked = decision.get("look", {}).get("asked", decision["confidence"])
    limits = decision.get("limits", {"allowed_auc_loss": decision["allowed_auc_loss"]})
    config, test = EvaluateConfig(**limits, confidence=asked, champion=name), data.split("test")
    judged, _ = challenge(config, tracker, dataset, test, score(model, test), digest(slim))
    said = "against " + (
        f"version {judged['version']}, which became champion" if judged else "none, as its champion went"
    )
    return {**decision, "champion": judged, "reason": f"{decision['reason']}; judged again {said} after the report"}
