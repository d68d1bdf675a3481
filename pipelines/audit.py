"""The audit: is there anything new, seven stages, a baseline beside them, a decision, and a word to whoever waits."""

from collections.abc import Callable
from typing import Any

from kfp import dsl
from slimrec.components.evaluate import evaluate
from slimrec.components.finetune import finetune
from slimrec.components.fingerprint import fingerprint
from slimrec.components.ingest import ingest
from slimrec.components.notify import notify
from slimrec.components.pretrain import pretrain
from slimrec.components.prune import prune
from slimrec.components.register import refuse, register
from slimrec.components.sample import sample
from slimrec.components.window import window
from slimrec.pipelines.fanout import ingest_in_parts

from slimrec.config import Recipe

Step = Callable[[str, dsl.PipelineTask], dsl.PipelineTask]


# These look at what no parameter and no artifact tells: the source, the registry, who waits for word.
ALWAYS_RUN = {"fingerprint", "window", "evaluate", "register", "refuse", "notify"}


def named(name: str, task: dsl.PipelineTask) -> dsl.PipelineTask:
    """A task under the name that its step has on every floor; cached, unless it has to see for itself."""
    return task.set_display_name(name).set_caching_options(name not in ALWAYS_RUN)


def build(step: Step = named, in_parts: bool = False):
    """The pipeline. `step` gets every task with its name, and settles what a place asks of it beyond that.

    `in_parts` lets ingest fan out over the files of the source, to the same dataset.
    """

    @dsl.pipeline(
        name="slimrec-audit",
        display_name="Feature audit",
        description="Which input fields of a CTR model earn their cost",
    )
    def audit(
        source: str,
        fields: dict = {},  # noqa: B006  KFP reads the default, nobody changes it
        method: str = "none",
        backbone: str = "mlp",
        keep: float = 0.0,
        threshold: float = 0.0,
        subset_fraction: float = 0.0,
        allowed_auc_loss: float = 0.001,
        registered_model: str = "slimrec",
        approval: str = "automatic",
        audit_date: str = "",
        workspace: str = "",
        ingest_config: dict = {},  # noqa: B006
        sample_config: dict = {},  # noqa: B006
        pretrain_config: dict = {},  # noqa: B006
        baseline_config: dict = {"after": {}},  # noqa: B006
        prune_config: dict = {},  # noqa: B006
        finetune_config: dict = {},  # noqa: B006
        evaluate_config: dict = {},  # noqa: B006
        register_config: dict = {},  # noqa: B006
    ):
        """Audit, prune, prove, register.

        Args:
            source: Log to audit: file, folder or s3:// of Parquet or CSV, or planted:rows=60000,seed=0.
            fields: The log's schema as JSON; `slimrec schema` drafts one. Empty only for planted logs.
            method: Selection method that scores the fields.
            backbone: Network behind the gate.
            keep: Budget: share of the fields that may stay, in 0..1; 0 for no such budget.
            threshold: Budget: score from which a field stays, in 0..1; 0 for no such budget.
            subset_fraction: Share of the training rows that the search sees, in 0..1; 0 for what sample_config says.
            allowed_auc_loss: AUC that the slim model may lose and still be accepted.
            registered_model: Name in the model registry.
            approval: Who makes an accepted model champion: automatic, or manual by `slimrec promote`.
            audit_date: Day this audit stands for, YYYY-MM-DD; in a schedule [[ScheduledTime.2006-01-02]].
            workspace: Folder that outlives the steps, for checkpoints and reasons of failures; "" for none.
            ingest_config: Everything else about reading the log, as in a recipe.
            sample_config: Everything else about the subset, as in a recipe.
            pretrain_config: Everything else about the gated training, as in a recipe.
            baseline_config: The section pretrain for the full model, its method left out; `after` as finetune_config.
            prune_config: Everything else about the budget, as in a recipe.
            finetune_config: Everything about the slim model's training, as in a recipe.
            evaluate_config: Everything else about the comparison, as in a recipe.
            register_config: Everything else about the registry, as in a recipe.
        """
        shared = {"workspace": workspace}
        with dsl.ExitHandler(step("notify", notify(**shared)), name="audit"):
            found = step(
                "fingerprint", fingerprint(config=ingest_config, source=source, audit_date=audit_date, **shared)
            )
            seen = step(
                "window",
                window(
                    fingerprint=found.output,
                    audit_date=audit_date,
                    name=registered_model,
                    source=source,
                    fields=fields,
                    method=method,
                    backbone=backbone,
                    keep=keep,
                    threshold=threshold,
                    subset_fraction=subset_fraction,
                    allowed_auc_loss=allowed_auc_loss,
                    approval=approval,
                    ingest_config=ingest_config,
                    sample_config=sample_config,
                    pretrain_config=pretrain_config,
                    baseline_config=baseline_config,
                    prune_config=prune_config,
                    finetune_config=finetune_config,
                    evaluate_config=evaluate_config,
                    register_config=register_config,
                    **shared,
                ),
            )
            with dsl.If(seen.output != "audited", name="new"):
                log = {"config": ingest_config, "source": source, "fields": fields, "fingerprint": found.output}
                data = ingest_in_parts(step, log, shared) if in_parts else step("ingest", ingest(**log, **shared))
                dataset = data.outputs["dataset"]  # all that the rest of the audit knows of the log

                chosen = step(
                    "sample", sample(config=sample_config, fraction=subset_fraction, dataset=dataset, **shared)
                )
                subset = chosen.outputs["subset"]
                search = step(
                    "pretrain",
                    pretrain(
                        config=pretrain_config,
                        method=method,
                        backbone=backbone,
                        dataset=dataset,
                        subset=subset,
                        **shared,
                    ),
                )
                gated = search.outputs["gated"]
                cut = step("prune", prune(config=prune_config, keep=keep, threshold=threshold, gated=gated, **shared))
                selection = cut.outputs["selection"]
                final = step(
                    "finetune",
                    finetune(
                        config=finetune_config,
                        dataset=dataset,
                        subset=subset,
                        gated=gated,
                        selection=selection,
                        slim=cut.outputs["slim"],
                        **shared,
                    ),
                )
                baseline = step(
                    "baseline",
                    pretrain(
                        config=baseline_config,
                        method="none",
                        backbone=backbone,
                        dataset=dataset,
                        subset=subset,
                        **shared,
                    ),
                )

                verdict = step(
                    "evaluate",
                    evaluate(
                        config=evaluate_config,
                        allowed_auc_loss=allowed_auc_loss,
                        champion=registered_model,
                        dataset=dataset,
                        slim=final.outputs["tuned"],
                        full=baseline.outputs["gated"],
                        selection=selection,
                        **shared,
                    ),
                )
                judged = {
                    "config": register_config,
                    "slim": final.outputs["tuned"],
                    "report": verdict.outputs["report"],
                    "selection": selection,
                    "window": seen.output,
                }
                with dsl.If(verdict.outputs["Output"] == "accept", name="accepted"):
                    step("register", register(name=registered_model, approval=approval, **judged, **shared))
                with dsl.Else(name="refused"):
                    step("refuse", refuse(**judged, **shared))

    return audit


audit = build()


def arguments(recipe: Recipe) -> dict[str, Any]:
    """The pipeline's arguments that say what a recipe says."""
    section = {name: value or {} for name, value in recipe.model_dump(mode="json", exclude_unset=True).items()}
    ingest_, pretrain_ = section["ingest"], section.get("pretrain", {})
    full = {key: value for key, value in pretrain_.items() if key not in ("method", "options")}
    full |= _training_of_full(recipe, section)
    budget = recipe.prune.budget
    return {
        "source": recipe.ingest.source,
        "fields": ingest_.pop("fields", None) or {},
        "method": recipe.pretrain.method,
        "backbone": recipe.pretrain.model.backbone,
        "keep": budget.keep or 0.0,
        "threshold": budget.threshold or 0.0,
        "subset_fraction": recipe.sample.fraction or 0.0,
        "allowed_auc_loss": recipe.evaluate.allowed_auc_loss,
        "registered_model": recipe.register.name,
        "approval": recipe.register.approval,
        "audit_date": recipe.ingest.audit_date or "",
        "baseline_config": full,
        **{f"{name}_config": values for name, values in section.items()},
    }


def _training_of_full(recipe: Recipe, section: dict[str, Any]) -> dict[str, Any]:
    """The full model's training in the section `pretrain`: what `baseline` says, else all that the slim model gets.

    That is the search's passes and those after the cut where the slim model starts warm, else the latter alone.
    """
    own, after = section.pop("baseline", None), section.get("finetune", {})
    if own is not None:
        return {"train": own, "after": {"start": "fresh", "train": own}}
    if recipe.finetune.start == "warm":
        return {"after": after}
    # it runs in as many processes as the phase that there is; `initial` weights are those of the search's seed
    return {"train": {**after.get("train", {}), "seed": recipe.pretrain.train.seed}, "after": after}
