"""The selection: which columns of which field stay, as plain data. Gates write it, pruning reads it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Self

from pydantic import Field as Option
from pydantic import model_validator

from slimrec.errors import ConfigError
from slimrec.probes import check_rate, discoveries, is_probe
from slimrec.schema import Block, Frozen, Schema


class Decision(Frozen):
    """What becomes of one field: kept columns, the score behind it, and how the gate left each native column.

    `scale` and `shift` are the frozen gate as an affine map of the native columns, x -> scale * x + shift, before the
    cut: pruning folds them into tables and biases. Empty means 1 and 0. A dropped column has scale 0, and its shift
    is the constant that the rest of the network got used to.
    """

    columns: tuple[int, ...]
    width: int = Option(ge=1)  # native width
    score: float
    bytes: int = Option(ge=0)  # of the field's embedding table at native width, float32
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    spread: float | None = None  # deviation of the score over repeats of the search
    p_value: float | None = None  # how likely a meaningless field scores as high, where probes were in the search
    q_value: float | None = None  # share of meaningless fields to expect among those that score as high
    note: str = ""  # what a person should know before believing the decision

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        ascending = list(self.columns) == sorted(set(self.columns))
        if not ascending or (self.columns and not 0 <= self.columns[0] <= self.columns[-1] < self.width):
            raise ValueError(f"columns {self.columns} must ascend within 0..{self.width - 1}")
        for name in ("scale", "shift"):
            if len(getattr(self, name)) not in (0, self.width):
                raise ValueError(f"`{name}` has {len(getattr(self, name))} values for {self.width} columns")
        return self

    @property
    def kept(self) -> bool:
        return bool(self.columns)


class Budget(Frozen):
    """How much may stay. At most one is given; with none, the method's own decision rule holds."""

    threshold: float | None = Option(None, ge=0, le=1)  # keep fields whose score reaches it
    keep: float | None = Option(None, gt=0, le=1)  # share of the fields, rounded down
    fields: int | None = Option(None, ge=1)  # number of fields
    dims: int | None = Option(None, ge=1)  # columns that the network reads: of embeddings, vectors and numbers
    max_bytes: int | None = Option(None, ge=1)  # that fields bring: tables, and the weights that read their columns
    max_microseconds: float | None = Option(None, gt=0)  # a row that fields take: look-ups, and reading their columns
    false_discovery: float | None = Option(None, gt=0, lt=1)  # keep what beats the probes of the search at this rate

    @property
    def limit(self) -> tuple[str, float] | None:
        """What the fields that stay may cost in all, and the name of that budget; None where only their number counts."""
        costs = {"dims": self.dims, "max_bytes": self.max_bytes, "max_microseconds": self.max_microseconds}
        return next(((name, limit) for name, limit in costs.items() if limit is not None), None)

    @property
    def ranks(self) -> bool:
        """Whether fields compete for places, so that one in the place of another is a loss."""
        return self.keep is not None or self.fields is not None or self.limit is not None

    @model_validator(mode="after")
    def _one_at_most(self) -> Self:
        given = self.model_dump(exclude_none=True)
        if len(given) > 1:
            raise ValueError(f"one budget at most, got {' and '.join(sorted(given))}")
        return self

    def check(self, fields: int, probes: int) -> None:
        """ConfigError where no search over so many fields with so many probes can meet the budget."""
        if self.fields is not None and self.fields > fields:
            raise ConfigError(f"budget fields={self.fields} exceeds the {fields} fields there are")
        if self.false_discovery is not None:
            check_rate(self.false_discovery, probes, fields)

    def places(self, fields: int) -> int | None:
        """How many of so many fields may stay, at least one; None where fields are not counted."""
        return self.fields if self.keep is None else max(1, math.floor(self.keep * fields + 1e-9))

    def choose(
        self,
        scores: Mapping[str, float],
        costs: Mapping[str, float],
        threshold: float = 0.0,
        among: Collection[str] | None = None,
    ) -> set[str]:
        """The names that stay under this budget; `threshold` holds where no budget was given. Never empty.

        Probes among the scores are what a false discovery rate is judged by; they never stay and count for nothing.
        Only those `among` compete for places, as long as there are any.
        """
        everything, scores = scores, {name: score for name, score in scores.items() if not is_probe(name)}
        self.check(len(scores), len(everything) - len(scores))
        total = len(scores)
        if among is not None and self.ranks:
            scores = {name: scores[name] for name in scores if name in among} or scores
        if self.false_discovery is not None:
            return discoveries(everything, self.false_discovery) or top_fields(scores, 1)
        if self.limit is not None:
            return within_budget(scores, costs, *self.limit)
        if (places := self.places(total)) is not None:
            return top_fields(scores, places)
        floor = threshold if self.threshold is None else self.threshold
        return {name for name in scores if scores[name] >= floor} or top_fields(scores, 1)


class Selection(Frozen):
    """The narrow waist: what a method decided, complete enough to cut the model without knowing the method."""

    method: str
    seed: int
    budget: Budget
    fields: dict[str, Decision]  # canonical (name) order
    pairs: tuple[tuple[str, str], ...] | None = None  # field pairs that still meet; None: all
    hidden: dict[int, tuple[int, ...]] | None = None  # units that stay, by hidden layer from 0; None: all
    evidence: dict[str, float] = Option({})  # the method's own figures, for people
    note: str = ""  # what a person should know of the search before believing any of it

    @model_validator(mode="after")
    def _canonical(self) -> Self:
        if not any(decision.kept for decision in self.fields.values()):
            raise ValueError("a selection must keep at least one field")
        object.__setattr__(self, "fields", dict(sorted(self.fields.items())))
        return self

    @classmethod
    def whole(cls, blocks: Sequence[Block], names: Collection[str]) -> Selection:
        """The cut that leaves these fields whole and no others, by no method."""
        fields = {
            b.name: Decision(columns=b.columns if b.name in names else (), width=b.width, score=0.0, bytes=0)
            for b in blocks
        }
        return cls(method="none", seed=0, budget=Budget(), fields=fields)

    @property
    def kept(self) -> tuple[str, ...]:
        return tuple(name for name, decision in self.fields.items() if decision.kept)

    @property
    def dropped(self) -> tuple[str, ...]:
        return tuple(name for name, decision in self.fields.items() if not decision.kept)

    def without_probes(self) -> Selection:
        """The same decision about real fields only."""
        real = {name: decision for name, decision in self.fields.items() if not is_probe(name)}
        pairs = None if self.pairs is None else tuple(pair for pair in self.pairs if not any(map(is_probe, pair)))
        probes = set(self.fields) - set(real)
        evidence = {n: v for n, v in self.evidence.items() if not any(probe in n for probe in probes)}
        return self.model_copy(update={"fields": real, "pairs": pairs, "evidence": evidence})

    def noted(self, names: Iterable[str], note: str) -> Selection:
        """This selection with a word on each of these fields, after what was said before."""
        fields = dict(self.fields)
        for name in names:
            notes = [text for text in (fields[name].note, note) if text]
            fields[name] = fields[name].model_copy(update={"note": "; ".join(notes)})
        return self.model_copy(update={"fields": fields})

    def over(self, blocks: Sequence[Block]) -> Selection:
        """The same decision about a layout with more fields, which are dropped without a trace."""
        new = {
            b.name: Decision(columns=(), width=b.width, score=0.0, bytes=0) for b in blocks if b.name not in self.fields
        }
        return self.model_copy(update={"fields": dict(sorted((self.fields | new).items()))})

    def plain(self) -> Selection:
        """The same cut without the frozen gate: kept columns untouched, dropped ones simply gone."""
        fields = {name: d.model_copy(update={"scale": (), "shift": ()}) for name, d in self.fields.items()}
        return self.model_copy(update={"fields": fields})

    def blocks(self, blocks: Sequence[Block]) -> tuple[Block, ...]:
        """The layout after the cut; fields without a column left vanish."""
        cut = (Block(b.name, tuple(c for c in b.columns if c in self.fields[b.name].columns)) for b in blocks)
        return tuple(block for block in cut if block.columns)

    def indices(self, blocks: Sequence[Block]) -> list[int]:
        """Positions in the concatenated input (layout `blocks`) that survive, ascending."""
        layout = [(b.name, c) for b in blocks for c in b.columns]
        return [i for i, (name, column) in enumerate(layout) if column in self.fields[name].columns]

    def affine(self, blocks: Sequence[Block]) -> tuple[list[float], list[float]]:
        """The frozen gate over the concatenated input: scale and shift a column, dropped columns included."""
        scale, shift = [], []
        for block in blocks:
            decision = self.fields[block.name]
            for column in block.columns:
                untouched = 1.0 if column in decision.columns else 0.0
                scale.append(decision.scale[column] if decision.scale else untouched)
                shift.append(decision.shift[column] if decision.shift else 0.0)
        return scale, shift


def top_fields(scores: Mapping[str, float], count: int) -> set[str]:
    """The `count` best-scored names; equal scores fall to the name that sorts first."""
    return set(sorted(scores, key=lambda name: (-scores[name], name))[:count])


def within_budget(scores: Mapping[str, float], costs: Mapping[str, float], budget: str, limit: float) -> set[str]:
    """Names in order of score, each taken when it still fits under the sum of costs `limit` of the `budget` named.

    Raises ConfigError when not even the cheapest fits: a budget is kept or refused, never quietly exceeded.
    """
    chosen, left = set(), limit
    for name in sorted(scores, key=lambda name: (-scores[name], name)):
        if costs[name] <= left:
            chosen.add(name)
            left -= costs[name]
    if not chosen:
        cheapest = min(scores, key=lambda name: (costs[name], name))
        unit = {"dims": "columns", "max_bytes": "bytes"}.get(budget, "microseconds a row")
        raise ConfigError(
            f"budget {budget}={limit:g} keeps no field: the cheapest, '{cheapest}', takes {costs[cheapest]:g} {unit}"
        )
    return chosen


def table_bytes(schema: Schema, embedding_dim: int) -> dict[str, int]:
    """Bytes of each field's embedding table at native width in float32; dense fields own no table."""
    return {
        field.name: 4 * field.rows * field.block_width(embedding_dim) if field.embedded else 0
        for field in schema.fields
    }
