"""What stands between embeddings and backbone: the gate that does nothing, and the methods that others fill in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from slimrec.errors import ConfigError
from slimrec.schema import Block, Schema, blocks_of
from slimrec.selection import Budget, Decision, Selection, table_bytes

if TYPE_CHECKING:
    from slimrec.batch import Batch


GATE_OPTIMIZERS = ("gate", "gate_tables")


class Gate(nn.Module):
    """The baseline: passes everything and keeps everything.

    A method overrides what it needs. Its options are the keyword-only arguments of its `__init__`, each with a
    default. Class attributes tell the training loop how to drive it:
    `stream` which rows step its parameters: "gate" (the held-out slice), "first" (training rows of the first epoch, all
    new; the network goes on with the gate as it is then) or "train" (training rows in every epoch, of which only one is
    allowed unless it is `published`),
    `published` whether its flow of data is asked for as a publication has it, rows seen more than once included,
    `every` the number of training steps from one gate step to the next (1 on the train stream),
    `learning_rate` of its Adam,
    `warmup` the share of the training steps before its first,
    `settled` the share before which no epoch may count as the best one: the gate is not where it is going yet,
    `shared` the buffers that hold running averages, which ranks average after a gate step,
    `surveys` whether its scores come from `survey`, which needs a gate slice,
    `surveyed` the rows that `survey` is given: those of the "gate" slice, or of "train" for what fits a model of its own,
    `overruled` whether what a constant in the place of a field costs on held-out rows overrules its scores,
    `tells_noise` whether its own rule tells useless fields from useful ones, so that no budget is filled up with them (a
    test of significance does not: on few rows it finds no field, and no evidence is no noise),
    `weighs_pairs` whether it gates meetings of fields, which only backbones with `meets_pairs` have.
    A gate without parameters that learn leaves the training alone: the network is then that of a plain training.
    """

    method = "none"
    stream = "train"
    published = False
    every = 1
    learning_rate = 1e-3
    warmup = 0.0
    settled = 0.0
    shared: tuple[str, ...] = ()
    surveys = False
    surveyed = "gate"
    overruled = False
    tells_noise = False
    weighs_pairs = False

    def __init__(self, schema: Schema, embedding_dim: int):
        super().__init__()
        self.schema = schema
        self.embedding_dim = embedding_dim
        self.options: dict = {}  # as given by the recipe, so that an artifact can rebuild the gate
        self.frozen = False
        self.row_weight: Tensor | None = None  # (B,) of the batch under way, told by the training loop
        self.charged: Mapping[str, float] | None = None  # what each whole field takes of the budget, where it is known
        self.blocks: tuple[Block, ...] = blocks_of(schema, embedding_dim)
        widths = torch.tensor([block.width for block in self.blocks])
        self.register_buffer("owner", torch.repeat_interleave(torch.arange(len(widths)), widths), persistent=False)

    def drive(self, stream: str, every: int, learning_rate: float, warmup: float) -> None:
        """Take over how the recipe wants the gate driven; ValueError where that cannot be."""
        if stream not in ("gate", "first", "train"):
            raise ValueError(f"`stream` must be 'gate', 'first' or 'train', got {stream!r}")
        if every < 1 or learning_rate < 0 or not 0 <= warmup < 1:
            raise ValueError(
                f"needs every >= 1, learning_rate >= 0 and 0 <= warmup < 1, got {every=}, {learning_rate=}, {warmup=}"
            )
        self.stream, self.every = stream, int(every) if stream == "gate" else 1
        self.learning_rate, self.warmup = learning_rate, warmup

    @property
    def learns(self) -> bool:
        """Whether the training loop has gate steps to make: there are parameters, and they are not frozen."""
        return not self.frozen and any(parameter.requires_grad for parameter in self.parameters())

    def freeze(self) -> Self:
        """Learn no more: no gradients, no survey, and in eval mode whatever mode the model is in."""
        self.frozen, self.surveys = True, False
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """What steps its parameters, by names of `GATE_OPTIMIZERS`: Adam, unless a method says otherwise."""
        return {"gate": torch.optim.Adam(self.parameters(), self.learning_rate)}

    def attach(self, backbone: nn.Module) -> None:
        """Called once, when the gate is put in front of its backbone; for methods that look at its first layer.

        Raises ConfigError where gate and backbone do not fit together.
        """
        if self.weighs_pairs and not backbone.meets_pairs:
            raise ConfigError(
                f"method '{self.method}' selects meetings of fields, and {type(backbone).__name__} has none: "
                f"use the backbone deepfm or pnn"
            )
        if self.weighs_pairs and len(self.blocks) < 2:
            raise ConfigError(f"method '{self.method}' selects meetings of fields, which takes two fields at least")

    def alike(self, groups: Sequence[Sequence[str]]) -> None:
        """Called before the training with groups of fields that say the same; for methods that judge such as one."""

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """Gate the concatenated blocks: `x` (B, W) and the ids (B, S) they came from -> (B, W)."""
        return x

    def pairs(self, ids: Tensor) -> Tensor | None:
        """Weights of the field pairs, (P,) or (B, P), for methods that gate meetings of fields."""
        return None

    def penalty(self) -> Tensor:
        """What a gate step adds to the task loss; a scalar."""
        return torch.zeros((), device=self.owner.device)

    def step(self, progress: float) -> None:
        """Called after every gate step with the share of training done, in 0..1."""

    def survey(self, model: nn.Module, batches: Callable[[], Iterable[Batch]]) -> None:
        """Called once, after training, in eval mode: `batches()` gives the rows of `surveyed`, as often as asked.

        For methods that score the trained model instead of learning while it trains. `model(ids, dense)` gives
        logits, with this gate in it; what is found goes into buffers.
        """

    def narrow(self, selection: Selection) -> Gate | None:
        """What of the gate has to stay, frozen, in the slim model: nothing, once its work is folded into weights."""

    def scores(self) -> dict[str, float]:
        """One figure a field, in 0..1, higher for more useful."""
        return dict.fromkeys(self.schema.names, 1.0)

    def bar(self) -> float | None:
        """The score that the own rule asks for, where scores are nats of log-loss a row; None where they are not."""

    def evidence(self) -> dict[str, float]:
        """Figures of the method's own for logs and reports."""
        return {}

    def affine(self) -> tuple[Tensor, Tensor]:
        """The frozen gate on columns that stay: scale and shift (W,), as the backbone has come to expect them."""
        return torch.ones(len(self.owner)), torch.zeros(len(self.owner))

    def fill(self) -> Tensor:
        """The constant (W,) that the backbone has come to expect in a column that goes."""
        return torch.zeros(len(self.owner))

    def field_bytes(self) -> dict[str, int]:
        """Bytes of each whole field's embedding table in float32, and of what the gate itself holds for it."""
        return table_bytes(self.schema, self.embedding_dim)

    def takes(self, budget: Budget) -> Mapping[str, float]:
        """What each whole field takes of the budget: what it was `charged`, or columns, or else bytes of its table."""
        if self.charged is not None:
            return self.charged
        return {b.name: b.width for b in self.blocks} if budget.dims is not None else self.field_bytes()

    def takes_as_kept(self, selection: Selection) -> dict[str, float]:
        """What each field takes of the selection's budget with the columns that it keeps, or whole where it keeps none."""
        fields, whole = selection.fields, self.takes(selection.budget)
        return {n: cost * len(fields[n].columns) / fields[n].width or cost for n, cost in whole.items()}

    def select(self, budget: Budget, seed: int) -> Selection:
        """The decision: whole fields by score under the budget (a threshold of 0.5 without one)."""
        chosen = budget.choose(self.scores(), self.takes(budget), threshold=0.5)
        return self._pack(budget, seed, {b.name: b.columns if b.name in chosen else () for b in self.blocks})

    def returning(self, block: Block) -> tuple[int, ...]:
        """The columns with which a field comes back that a decision dropped."""
        return block.columns

    def revise(self, selection: Selection, keep: Collection[str] = (), drop: Collection[str] = ()) -> Selection:
        """The same decision with fields put back that it dropped (`keep`), or taken out that it kept (`drop`)."""
        fields = selection.fields
        columns = {b.name: self.returning(b) for b in self.blocks if b.name in keep and not fields[b.name].kept}
        news = self._frozen(columns | {name: () for name in drop if fields[name].kept})
        fields = {name: decision.model_copy(update=news.get(name, {})) for name, decision in fields.items()}
        return selection.model_copy(update={"fields": fields})

    def _pack(self, budget: Budget, seed: int, columns: dict[str, tuple[int, ...]]) -> Selection:
        """The selection that keeps `columns` of each field, with scores, costs and the frozen gate around them."""
        scores, bytes_ = self.scores(), table_bytes(self.schema, self.embedding_dim)
        frozen = self._frozen(columns)
        fields = {
            b.name: Decision(width=b.width, score=scores[b.name], bytes=bytes_[b.name], **frozen[b.name])
            for b in self.blocks
        }
        return Selection(method=self.method, seed=seed, budget=budget, fields=fields, evidence=self.evidence())

    def _frozen(self, columns: Mapping[str, tuple[int, ...]]) -> dict[str, dict]:
        """What decisions say of fields of which `columns` stay: these, and the frozen gate on all native ones."""
        scale, shift, fill = (values.detach().cpu().tolist() for values in (*self.affine(), self.fill()))
        found, start = {}, 0
        for block in self.blocks:
            if block.name in columns:
                kept = columns[block.name]
                native = [(column in kept, start + column) for column in block.columns]
                found[block.name] = {
                    "columns": kept,
                    "scale": tuple(scale[i] if stays else 0.0 for stays, i in native),
                    "shift": tuple(shift[i] if stays else fill[i] for stays, i in native),
                }
            start += block.width
        return found
