"""Every knob of the project on one page: one frozen class a stage, and the recipe that holds them all."""

from __future__ import annotations

import warnings
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, field_validator, model_validator
from pydantic import Field as Option

from slimrec.errors import ConfigError, did_you_mean
from slimrec.plugins import BACKBONES, GATES
from slimrec.probes import with_probes
from slimrec.schema import Schema, repeated
from slimrec.selection import Budget
from slimrec.written import parse, read_schema, read_yaml


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


Seed = Annotated[int, Option(ge=0, lt=2**62)]  # what all random generators take, and room to add to it


class SplitConfig(_Config):
    """Shares of the rows. `gate` is held out for gates, `test` is the certification slice that no search ever sees."""

    by: Literal["auto", "time", "group", "random"] = "auto"  # auto: time if the schema has it, else random
    train: float = Option(0.75, gt=0, lt=1)
    gate: float = Option(0.05, ge=0, lt=1)
    valid: float = Option(0.1, gt=0, lt=1)
    test: float = Option(0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = self.train + self.gate + self.valid + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + gate + valid + test must be 1, got {total:g}")
        return self


AUTO = "auto"  # audit_date: the day on which the audit begins


class IngestConfig(_Config):
    source: str = Option(min_length=1)  # file, folder or s3:// of Parquet or CSV; or planted:rows=60000,seed=0
    fields: str | dict[str, Any] | None = None  # schema: a YAML file or its content; None only for planted:
    split: SplitConfig = SplitConfig()
    seed: Seed = 0
    shard_rows: int = Option(262_144, ge=1)
    batch_rows: int = Option(65_536, ge=1)  # rows held at once while reading
    max_vocabulary: int = Option(20_000_000, ge=1)  # distinct values a field may have before `hash_rows` is demanded
    max_rows: int | None = Option(None, ge=1)  # read no further
    trusted: tuple[str, ...] = ()  # fields that look like a leak and are none (see `slimrec.verdict.leaks`)
    audit_date: str | None = None  # day the audit stands for, as YYYY-MM-DD; auto: the day (UTC) on which it begins
    parts: int = Option(1, ge=1)  # of the files, each read by a pod of its own on a cluster; the dataset is the same

    @field_validator("audit_date")
    @classmethod
    def _is_a_day(cls, value: str | None) -> str | None:
        if value and value.startswith("[["):
            raise ValueError("Kubeflow Pipelines does not replace macros in it: give auto, or the day as YYYY-MM-DD")
        if value and value != AUTO and not _is_iso_day(value):
            raise ValueError("give auto, or the day as YYYY-MM-DD")
        return value


def _is_iso_day(value: str) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


class PlannedConfig(_Config):
    """Steps of an ingest in parts: all their settings stand in the plan."""


class PartConfig(PlannedConfig):
    part: int = Option(ge=0)  # which of the plan's


class SampleConfig(_Config):
    fraction: float | None = Option(None, gt=0, le=1)  # of the training rows; 1 when neither is given
    rows: int | None = Option(None, ge=1)
    how: Literal["stratified", "uniform", "earliest"] = "stratified"
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.fraction is not None and self.rows is not None:
            raise ValueError("give `fraction` or `rows`, not both")
        return self


class ModelConfig(_Config):
    backbone: str = "mlp"
    options: dict[str, Any] = {}  # keyword arguments of the backbone
    embedding_dim: int = Option(8, ge=1)
    embedding_std: float = Option(0.01, gt=0)  # of the normal start of the tables

    @model_validator(mode="after")
    def _known_backbone(self) -> Self:
        BACKBONES.check(self.backbone, self.options)
        return self


class TrainConfig(_Config):
    epochs: int = Option(10, ge=1)
    batch_size: int = Option(1024, ge=2)  # over all ranks
    learning_rate: float = Option(1e-3, gt=0)
    embedding_optimizer: Literal["lazy_adam", "rowwise_adagrad", "adam"] = "lazy_adam"
    embedding_learning_rate: float = Option(1e-3, gt=0)
    embedding_l2: float = Option(0.0, ge=0)  # on the rows of a batch
    weight_decay: float = Option(0.0, ge=0)  # of the dense part
    patience: int = Option(1, ge=0)  # epochs without a better validation AUC before the end; 0: never stop early
    shuffle: Literal["window", "none"] = "window"
    window_rows: int = Option(1_048_576, ge=1)  # rows shuffled and held at once
    checkpoint_seconds: float = Option(60.0, gt=0)  # of work that a lost machine costs; more where writing takes long
    checkpoint_every: int | None = Option(None, ge=1)  # steps, at most; None: by time only
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    threads: int | None = Option(None, ge=1)
    tables: Literal["auto", "replicated", "sharded"] = "auto"  # auto: shared out among GPUs where one has no room
    processes: int | None = Option(None, ge=1)  # of this machine, or of each node; None: one a visible GPU, else one
    nodes: int = Option(1, ge=1)  # machines; several: a Kubeflow TrainJob

    @model_validator(mode="after")
    def _step_of_shards(self) -> Self:
        if self.tables == "sharded" and self.embedding_optimizer != "rowwise_adagrad":
            raise ValueError(
                "tables: sharded, which auto becomes where a GPU has no room, has the step of rowwise_adagrad only: "
                "set it as embedding_optimizer, or tables: replicated"
            )
        return self

    def sharded(self) -> TrainConfig:
        """The same training with tables shared out; a ConfigError where it cannot be."""
        return parse(TrainConfig, {**self.model_dump(), "tables": "sharded"})


class FinetuneConfig(_Config):
    start: Literal["warm", "fresh", "initial"] = "warm"  # pruned weights | new ones | the search's first ones
    rows: Literal["all", "rest", "subset"] = "all"  # rest: training rows that the subset left out
    fraction: float = Option(1.0, gt=0, le=1)  # of those rows
    model: ModelConfig | None = None  # another network than the search's for what was kept, and for the full model
    train: TrainConfig = TrainConfig()
    retrains: int = Option(0, ge=0)  # the step is told those of `evaluate`
    before: TrainConfig | None = None  # and the search's training, whose passes a warm start has behind it

    @model_validator(mode="after")
    def _another_network_starts_anew(self) -> Self:
        if self.model is not None and self.start != "fresh":
            raise ValueError(f"another network has none of the search's weights: start must be fresh, not {self.start}")
        return self


class PretrainConfig(_Config):
    """Gated training. A gate sees fresh rows only: the held-out gate slice, or training rows in a single pass."""

    method: str = "none"
    options: dict[str, Any] = {}  # keyword arguments of the gate
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    probes: float = Option(0.0, ge=0, le=100)  # shuffled copies a field beside the fields; below 1: of a share of them
    repeats: int = Option(1, ge=1)  # searches with seeds of their own, whose scores are averaged
    after: FinetuneConfig | None = None  # without a method: how the full model trains on, as the slim one after its cut
    retrains: int = Option(0, ge=0)  # of the full model; the step is told those of `evaluate`

    @property
    def searches(self) -> bool:
        """Whether a gate may look at the gate slice; else those rows train the model like any others."""
        return self.method != "none"

    @model_validator(mode="after")
    def _known_gate(self) -> Self:
        GATES.check(self.method, self.options)
        if self.after is not None and self.searches:
            raise ValueError("`after` is for the full model, which has no method: `finetune` trains on after a search")
        if GATES.says(self.method, "weighs_pairs") and self.model.backbone in BACKBONES.table:
            fitting = [name for name in BACKBONES.table if BACKBONES.says(name, "meets_pairs")]
            if self.model.backbone not in fitting:
                raise ValueError(
                    f"method '{self.method}' selects meetings of fields, and the backbone '{self.model.backbone}' has "
                    f"none: use {' or '.join(fitting)}"
                )
        return self


class PruneConfig(_Config):
    budget: Budget = Budget()
    twins_once: bool = True  # fields that say the same take one place where fields compete; false: one each
    guard: bool = False  # keep fields that are seldom present but matter there; else only note them
    hidden_keep: float | None = Option(None, gt=0, le=1)  # share of the hidden units that stays; None: all
    tolerance: float | None = Option(1e-4, gt=0)  # by which cut logits may differ, relative beyond 1; None: only told


GROUP_SIZE = "group size"  # what a slice is of, beside the fields


class SliceConfig(_Config):
    """Rows that are protected: some values of a field, or ranges of a number; a name alone stands for its `of`."""

    of: str = Option(min_length=1)  # field of the log, whether it is dropped or not; or group size: rows of it in train
    values: tuple[
        bool | int | float | str, ...
    ] = ()  # of a category or bag; none: the most frequent ones, and the rest
    parts: int = Option(4, ge=1, le=100)  # so many most frequent values, or ranges of as many rows each
    allowed_auc_loss: float | None = Option(None, ge=0, lt=1)  # of each of them; None: what all are allowed


Loss = Literal["log_loss", "calibration", "slice_calibration", "grouped_auc", "ndcg"]


def _as_slice(value: Any) -> Any:
    return {"of": value} if isinstance(value, str) else value


class EvaluateConfig(_Config):
    allowed_auc_loss: float = Option(0.001, ge=0, lt=0.5)
    confidence: float = Option(0.95, gt=0.5, lt=1)
    allowed_task_loss: dict[str, Annotated[float, Option(ge=0, lt=0.5)]] = {}  # of one of several tasks, by its name
    slices: tuple[Annotated[SliceConfig, BeforeValidator(_as_slice)], ...] = ()  # see `slimrec.verdict.slices`
    allowed_slice_loss: float = Option(0.01, ge=0, lt=1)  # AUC that each slice may lose
    unproven_slices: Literal["veto", "remark"] = "veto"  # those with too few rows to tell such a loss
    binding: dict[
        Loss, Annotated[float, Option(ge=0)]
    ] = {}  # by how much which other loss may be worse, see `verdict.losses`
    ndcg_at: int = Option(10, ge=1)  # places of the list that a group is shown
    retrains: int = Option(0, ge=0, le=100)  # of both models from other seeds, see `slimrec.verdict.seeds`
    latency_repeats: int = Option(50, ge=1)  # turns, at most: after a second eleven are enough
    champion: str = ""  # registered model whose champion the slim model is compared with too; "" for none

    def allowed(self, of: SliceConfig) -> float:
        """AUC that a slice may lose."""
        return self.allowed_slice_loss if of.allowed_auc_loss is None else of.allowed_auc_loss

    @model_validator(mode="after")
    def _names_each_slice_once(self) -> Self:
        """All bounds hold together, so that one slice more makes each of them wider."""
        named = [name for each in self.slices for name in ([f"{each.of} = {v}" for v in each.values] or [each.of])]
        if twice := repeated(named):
            raise ValueError(f"`slices` names '{twice[0]}' twice; once is enough")
        return self

    @model_validator(mode="after")
    def _calibrates_what_there_is(self) -> Self:
        if "slice_calibration" in self.binding and not self.slices:
            raise ValueError("binding.slice_calibration is of `slices`, and there are none: name them")
        return self


class RegisterConfig(_Config):
    name: str = Option("slimrec", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    approval: Literal["automatic", "manual"] = "automatic"  # who moves `champion`: the verdict, or `slimrec promote`
    window: str = ""  # of the audit, from the pipeline's first step; "" when the audit stands for no day


class AuditConfig(_Config):
    """What a person asks for: a recipe, whole or not, and what is chosen beside it (slimrec.stages.settle)."""

    recipe: dict[str, Any]
    choices: dict[str, str] = {}


class WindowConfig(_Config):
    """What an audit stands for; no section of a recipe, it is made of all of them."""

    fingerprint: str
    audit_date: str = ""
    recipe: dict[str, Any]  # settled


warnings.filterwarnings("ignore", message='Field name "register" in "Recipe" shadows')  # of ABCMeta: harmless


class Recipe(_Config):
    """One section a stage: all that a user edits."""

    ingest: IngestConfig
    sample: SampleConfig = SampleConfig()
    pretrain: PretrainConfig = PretrainConfig()
    baseline: TrainConfig | None = None  # training of the full model to compare with; as the slim one's when not given
    prune: PruneConfig = PruneConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    register: RegisterConfig = RegisterConfig()

    @model_validator(mode="after")
    def _search_has_what_the_cut_asks_for(self) -> Self:
        budget, rate = self.prune.budget.model_dump(exclude_none=True), self.prune.budget.false_discovery
        if rate is not None and not self.pretrain.probes:
            raise ValueError("the budget false_discovery is judged by probes: set pretrain.probes, 1.0 for one a field")
        asked = [f"prune.budget.{name}" for name in budget]
        asked += [] if self.prune.hidden_keep is None else ["prune.hidden_keep"]
        if asked and not self.pretrain.searches:
            raise ValueError(f"{asked[0]} needs scores, and pretrain.method 'none' gives none: name a method")
        if self.pretrain.retrains or self.finetune.retrains or self.finetune.before:
            raise ValueError("both models are retrained alike: set evaluate.retrains, and nothing of it elsewhere")
        if self.prune.hidden_keep is not None and not self.ingest.split.gate:
            raise ValueError("prune.hidden_keep scores units on the held-out gate slice: set ingest.split.gate")
        return self


def read_recipe(path: str | Path) -> Recipe:
    """A recipe with its schema file inlined (relative to the recipe), so that it travels as one value."""
    values = read_yaml(path)
    ingest = values.get("ingest")
    if isinstance(ingest, dict) and isinstance(ingest.get("fields"), str):
        beside = Path(path).parent / ingest["fields"]
        content = read_yaml(beside if beside.is_file() else ingest["fields"])
        values = {**values, "ingest": {**ingest, "fields": content}}
    recipe = parse(Recipe, values)
    check_schema(recipe)
    return recipe


def check_schema(recipe: Recipe) -> None:
    """Raises ConfigError for a log without a schema, one that is none, and a budget that its fields cannot meet."""
    if recipe.ingest.fields is not None:
        schema, per_field = read_schema(recipe.ingest.fields), recipe.pretrain.probes
        searched = with_probes(schema, per_field, seed=0) if per_field else schema
        recipe.prune.budget.check(len(schema.fields), len(searched.fields) - len(schema.fields))
        check_slices(recipe.evaluate.slices, schema)
        check_limits(recipe.evaluate, schema)
        if schema.tasks and recipe.prune.hidden_keep is not None:
            raise ConfigError(
                "prune.hidden_keep cuts the hidden units of one label's network; leave it out with `tasks`, which have a "
                "network each: pretrain.model.options.hidden makes those smaller"
            )
    elif not recipe.ingest.source.startswith("planted:"):
        raise ConfigError("IngestConfig needs 'fields': a schema YAML; `slimrec schema PATH` drafts one from the data")


def check_limits(config: EvaluateConfig, schema: Schema) -> None:
    """Raises ConfigError for a limit of a task that the schema does not name, or within groups where it names none."""
    names = [task.name for task in schema.tasks]
    for name in config.allowed_task_loss:
        if name not in names:
            known = did_you_mean(name, names) if names else "the schema names one `label`"
            raise ConfigError(f"evaluate.allowed_task_loss: there is no task '{name}'; {known}")
    by_group = sorted({"grouped_auc", "ndcg"} & set(config.binding))
    if by_group and not schema.group:
        raise ConfigError(f"evaluate.binding: {by_group[0]} needs a `group` in the schema: the column of the user")


def check_slices(slices: tuple[SliceConfig, ...], schema: Schema) -> None:
    """Raises ConfigError for a slice of something that the log has not, or that cannot be sliced so."""
    fields = {field.name: field for field in schema.fields if field.kind != "vector"}
    for each in slices:
        if each.of == GROUP_SIZE and not schema.group:
            raise ConfigError(f"evaluate.slices: '{GROUP_SIZE}' needs a `group` in the schema: the column of the user")
        if each.of != GROUP_SIZE and each.of not in fields:
            allowed = (*fields, GROUP_SIZE)
            raise ConfigError(
                f"evaluate.slices: no category, bag or number is named '{each.of}'; {did_you_mean(each.of, allowed)}"
            )
        field = fields.get(each.of)
        if each.values and (field is None or field.kind == "number" or field.cross):
            raise ConfigError(f"evaluate.slices: '{each.of}' has no `values` to name; say in how many `parts`")
        if field and field.hash_rows and not each.values:
            raise ConfigError(f"evaluate.slices: the values of '{each.of}' are hashed and have no names; give `values`")
