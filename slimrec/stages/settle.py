"""Settle: a recipe and the choices made beside it become one recipe, whole and checked; and its sections, one a step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from slimrec.config import Recipe, check_schema
from slimrec.errors import ConfigError, did_you_mean
from slimrec.written import parse

CHOICES = {  # name of a choice -> what it overrides in the recipe
    "allowed_auc_loss": "evaluate.allowed_auc_loss",
    "approval": "register.approval",
    "audit_date": "ingest.audit_date",
    "backbone": "pretrain.model.backbone",
    "keep_share": "prune.budget.keep",
    "method": "pretrain.method",
    "registered_model": "register.name",
    "score_threshold": "prune.budget.threshold",
    "source": "ingest.source",
    "subset_share": "sample.fraction",
}


def settle(recipe: Mapping[str, Any], choices: Mapping[str, str]) -> Recipe:
    """The recipe with the choices put in; "" is no choice, and a number may be text.

    Another method or backbone than the recipe's starts without the options that were meant for that one, and keeps
    them where it is the recipe's own. A chosen budget takes the place of the recipe's, whatever that is. Raises
    ConfigError for what is wrong with either, InputError for a schema that is not there.
    """
    settled = whole(copy.deepcopy(dict(recipe)))
    chosen = {_overridden(name): value.strip() for name, value in choices.items() if value.strip()}
    if nothing := [name for name, value in choices.items() if value.strip() in ("None", "null")]:
        raise ConfigError(
            f"the choice '{nothing[0]}' is the word {choices[nothing[0]].strip()}; leave it empty for what the recipe says"
        )
    if any(key.startswith("prune.budget.") for key in chosen):
        _section(settled, "prune")["budget"] = {}
    if "sample.fraction" in chosen:
        _section(settled, "sample").pop("rows", None)
    for key, value in chosen.items():
        *parents, last = key.split(".")
        owner = _section(settled, *parents)
        if last in ("method", "backbone") and owner.get(last) != value:
            owner.pop("options", None)
        owner[last] = value
    parsed = parse(Recipe, settled)
    check_schema(parsed)
    return parsed


def sections(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What each step is told of a recipe, as it was written; none is told more, so that its cache holds.

    The baseline is the section pretrain for the full model, its method left out. The day is in none of them.
    """
    names = ("ingest", "sample", "pretrain", "prune", "finetune", "evaluate", "register")
    written = as_written(recipe)
    told = {name: written.get(name) or {} for name in names}
    full = {key: value for key, value in told["pretrain"].items() if key not in ("method", "options")}
    again = {"retrains": recipe.evaluate.retrains} if recipe.evaluate.retrains else {}
    before = {"before": told["pretrain"].get("train", {})} if again and recipe.finetune.start == "warm" else {}
    if "model" in told["finetune"]:
        full["model"] = told["finetune"]["model"]
    return {
        **told,
        "ingest": {key: value for key, value in told["ingest"].items() if key != "audit_date"},
        "finetune": {**told["finetune"], **again, **before},
        "baseline": {**full, **_training_of_full(recipe, written.get("baseline"), told["finetune"]), **again},
        "evaluate": {**told["evaluate"], "champion": recipe.register.name},
    }


def as_written(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON, without the defaults that nobody wrote."""
    return recipe.model_dump(mode="json", exclude_unset=True)


def whole(value: Any) -> Any:
    """The value with whole numbers as integers: those in JSON parameters of a pipeline come as floats."""
    if isinstance(value, dict):
        return {key: whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _training_of_full(recipe: Recipe, own: dict[str, Any] | None, after: dict[str, Any]) -> dict[str, Any]:
    """The full model's training in the section `pretrain`: what `baseline` says, else all that the slim model gets.

    That is the search's passes and those after the cut where the slim model starts warm, else the latter alone.
    """
    if own is not None:
        return {"train": own, "after": {"start": "fresh", "train": own}}
    if recipe.finetune.start == "warm":
        return {"after": after}
    # it runs in as many processes as the phase that there is; `initial` weights are those of the search's seed
    return {"train": {**after.get("train", {}), "seed": recipe.pretrain.train.seed}, "after": after}


def _overridden(name: str) -> str:
    if name not in CHOICES:
        raise ConfigError(f"there is no choice '{name}'; {did_you_mean(name, CHOICES)}")
    return CHOICES[name]


def _section(recipe: dict[str, Any], *names: str) -> dict[str, Any]:
    """The section of a section ..., made where it is not there."""
    owner: Any = recipe
    for name in names:
        owner = owner.setdefault(name, {})
        if not isinstance(owner, dict):
            raise ConfigError(f"the recipe's '{'.'.join(names)}' is {owner!r:.80}, where a section is needed")
    return owner
