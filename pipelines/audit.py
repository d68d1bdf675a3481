"""The audit: is there anything new, seven stages, a baseline beside them, a decision, and a word to whoever waits."""

from collections.abc import Callable
from typing import Any

from kfp import dsl
from slimrec.components.baseline import baseline
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


def build(step: Step = named, in_parts: bool = False, workspace: str = ""):
    """The pipeline. `step` gets every task with its name, and settles what a place asks of it beyond that.

    `in_parts` lets ingest fan out over the files of the source, to the same dataset. `workspace` is a folder that
    outlives the steps, for checkpoints and reasons of failures; "" for none.
    """

    @dsl.pipeline(
        name="slimrec-audit",
        display_name="Feature audit",
        description="Which input fields of a CTR model earn their cost",
    )
    def audit(
        recipe: dict,
        audit_date: str = "",
        override_allowed_auc_loss: str = "",
        override_approval: str = "",
        override_backbone: str = "",
        override_keep_share: str = "",
        override_method: str = "",
        override_registered_model: str = "",
        override_score_threshold: str = "",
        override_source: str = "",
        override_subset_share: str = "",
    ):
        """Audit, prune, prove, register.

        Args:
            recipe: All settings, a section a stage, as in a recipe's YAML file.
            audit_date: Day the audit stands for: auto for the day it begins (UTC), or YYYY-MM-DD to catch up.
            override_allowed_auc_loss: AUC that the slim model may lose and still be accepted, 0 to 0.5.
            override_approval: Who makes an accepted model champion: automatic, or manual by `slimrec promote`.
            override_backbone: Network behind the gate.
            override_keep_share: Budget, in place of the recipe's: share of the fields that may stay, above 0, to 1.
            override_method: Selection method that scores the fields; another than the recipe's begins without options.
            override_registered_model: Name in the model registry.
            override_score_threshold: Budget, in place of the recipe's: score from which a field stays, 0 to 1.
            override_source: Log to audit: s3:// of Parquet or CSV, or planted:rows=60000,seed=0.
            override_subset_share: Share of the training rows that the search sees, above 0, to 1.
        """
        shared = {"workspace": workspace}
        with dsl.ExitHandler(step("notify", notify(**shared)), name="audit"):
            found = step(
                "fingerprint",
                fingerprint(
                    recipe=recipe,
                    audit_date=audit_date,
                    override_allowed_auc_loss=override_allowed_auc_loss,
                    override_approval=override_approval,
                    override_backbone=override_backbone,
                    override_keep_share=override_keep_share,
                    override_method=override_method,
                    override_registered_model=override_registered_model,
                    override_score_threshold=override_score_threshold,
                    override_source=override_source,
                    override_subset_share=override_subset_share,
                    **shared,
                ),
            )
            told = found.outputs
            about = {"fingerprint": told["fingerprint"], **shared}
            seen = step("window", window(day=told["day"], recipe=told["settled"], **about))
            with dsl.If(seen.output != "audited", name="new-window"):
                _stages(step, in_parts, told, seen.output, shared)

    return audit


def _stages(step: Step, in_parts: bool, told: dict[str, Any], seen: Any, shared: dict[str, str]) -> None:
    """Put the tasks of a window that is new into the pipeline; `told` is what fingerprint gave out."""
    log = {"config": told["ingest"], "fingerprint": told["fingerprint"]}
    data = ingest_in_parts(step, log, shared) if in_parts else step("ingest", ingest(**log, **shared))
    given = {"dataset": data.outputs["dataset"], **shared}  # the dataset is all that the rest knows of the log
    subset = step("sample", sample(config=told["sample"], **given)).outputs["subset"]
    search = step("pretrain", pretrain(config=told["pretrain"], subset=subset, **given))
    gated = search.outputs["gated"]
    cut = step("prune", prune(config=told["prune"], gated=gated, **shared))
    selection = cut.outputs["selection"]
    before = {"subset": subset, "gated": gated, "selection": selection, "slim": cut.outputs["slim"]}
    trained = step("finetune", finetune(config=told["finetune"], **before, **given)).outputs
    full = step("baseline", baseline(config=told["baseline"], subset=subset, search=gated, **given)).outputs
    tuned = trained["tuned"]
    judging = {"slim": tuned, "full": full["gated"], "selection": selection}
    judging |= {"slim_retrained": trained["retrained"], "full_retrained": full["retrained"]}
    verdict = step("evaluate", evaluate(config=told["evaluate"], **judging, **given))
    report, decision = verdict.outputs["report"], verdict.outputs["Output"]
    judged = {"slim": tuned, "report": report, "selection": selection, "window": seen, **shared}
    # two groups side by side: those of an If with its Else lie in a group that nobody can name
    with dsl.If(decision == "accept", name="accepted"):
        step("register", register(config=told["register"], dataset=data.outputs["dataset"], **judged))
    with dsl.If(decision != "accept", name="refused"):
        step("refuse", refuse(config=told["register"], **judged))


audit = build()


def arguments(recipe: Recipe) -> dict[str, Any]:
    """The pipeline's arguments that say what a recipe says."""
    return {"recipe": recipe.model_dump(mode="json", exclude_unset=True)}


def describe(experiment: str, service_account: str) -> str:
    """What a person who starts the audit from a form should know, in Markdown: forms show no more than names."""
    told = {name: one.description for name, one in audit.component_spec.inputs.items()}
    choices = "\n".join(f"- `{name}`: {about}" for name, about in sorted(told.items()))
    return f"""**Feature audit**: which input fields of a CTR model earn their cost, and a slim model that lost nothing.

To start it, choose the experiment `{experiment}`, enter the service account `{service_account}`, and leave the
parameters as they are: an empty one means *as the recipe says*, and what is entered goes before the recipe.

{choices}

An audit of a day looks whether the same data were audited under the same recipe that day, and then ends at once."""
