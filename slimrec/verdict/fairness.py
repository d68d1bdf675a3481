"""Were both models trained alike? The passes of each, as their artifacts recorded them, in words for a person."""

from __future__ import annotations

from typing import Any, Literal

from slimrec.config import TrainConfig
from slimrec.errors import SecurityError
from slimrec.schema import Frozen
from slimrec.written import parse

SAME = 0.02  # by which share passes may differ and still count as equal: the last batch, a rounded subset


class Phase(Frozen):
    """One uninterrupted training: what it was allowed, and what it took of that."""

    rows: int  # of one epoch
    epochs: int  # trained
    epochs_allowed: int
    patience: int  # epochs without a better validation AUC before the end; 0: never
    steps: int  # trained
    settings: dict[str, Any]  # what else decides how it trains

    @classmethod
    def of(cls, config: TrainConfig, figures: dict[str, float], rows: int) -> Phase:
        """The record of a training by `config` over `rows` rows an epoch that returned these figures."""
        kinds = ("batch_size", "learning_rate", "embedding_optimizer", "embedding_learning_rate")
        return cls(
            rows=rows,
            epochs=int(figures["epochs"]),
            epochs_allowed=config.epochs,
            patience=config.patience,
            steps=int(figures["steps"]),
            settings=config.model_dump(include={*kinds, "embedding_l2", "weight_decay"}),
        )

    @property
    def offered(self) -> dict[str, Any]:
        """All but what the training made of it."""
        return self.model_dump(exclude={"epochs", "steps"})


def recorded(manifest: dict[str, Any]) -> list[Phase] | None:
    """The phases of an artifact's whole training, from its manifest; None where it does not tell."""
    found = manifest.get("training")
    return None if found is None else [parse(Phase, each, SecurityError) for each in found]


def weigh(full: list[Phase] | None, slim: list[Phase] | None) -> dict[str, Any]:
    """What report.json holds of both trainings.

    `longer` is `slim` or `full` where that one was allowed more passes, `alike` where they differ in other settings,
    `unknown` where an artifact does not tell, else "". `said` is for a person, "" where all is equal.
    """
    told = {
        name: None if phases is None else [phase.model_dump() for phase in phases]
        for name, phases in (("full", full), ("slim", slim))
    }
    longer = _longer(full, slim)
    return {**told, "longer": longer, "said": _said(longer, full or [], slim or [])}


def _longer(full: list[Phase] | None, slim: list[Phase] | None) -> Literal["", "slim", "full", "alike", "unknown"]:
    if full is None or slim is None:
        return "unknown"
    if [phase.offered for phase in full] == [phase.offered for phase in slim]:
        return ""
    passes, those = _visits(full), _visits(slim)
    if abs(passes - those) <= SAME * max(passes, those):
        return "alike"
    return "slim" if those > passes else "full"


def _visits(phases: list[Phase]) -> int:
    """Rows that a training may see, each as often as it may see it."""
    return sum(phase.rows * phase.epochs_allowed for phase in phases)


def _said(longer: str, full: list[Phase], slim: list[Phase]) -> str:
    if longer == "slim":
        return (
            f"The slim model trained longer: it was allowed {passes(slim)}, the full model {passes(full)}. "
            "What it gains may come from that, and the full model might have kept its lead with as much training"
        )
    if longer == "full":
        return (
            f"The full model trained longer: it was allowed {passes(full)}, the slim model {passes(slim)}. "
            "What the slim model loses may come from that"
        )
    if longer == "alike":
        return "The two models saw as many rows, but were trained with different settings; part of the change may be theirs"
    if longer == "unknown":
        return "Whether both models were trained alike is not recorded"
    return ""


def passes(phases: list[Phase]) -> str:
    """The epochs of a training as people say them: `4 + 2 epochs of 80,000 rows`."""
    rows = list(dict.fromkeys(phase.rows for phase in phases))
    if len(rows) == 1:
        epochs = " + ".join(str(phase.epochs_allowed) for phase in phases)
        return f"{epochs} epoch{'s' * (epochs != '1')} of {rows[0]:,} rows"
    return " + ".join(f"{p.epochs_allowed} epoch{'s' * (p.epochs_allowed > 1)} of {p.rows:,} rows" for p in phases)


def taken(phases: list[dict[str, Any]]) -> str:
    """What a training in report.json came to: `4 + 1 epochs, 2,345 steps, stopped early`."""
    epochs = " + ".join(str(phase["epochs"]) for phase in phases)
    steps = sum(phase["steps"] for phase in phases)
    early = any(phase["epochs"] < phase["epochs_allowed"] for phase in phases)
    return f"{epochs} epoch{'s' * (epochs != '1')}, {steps:,} steps{', stopped early' * early}"
