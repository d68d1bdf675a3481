"""The schema: which fields a log has, of which kind and width; it travels with every dataset and every model."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator, model_validator
from pydantic import Field as Option

PAD, MISSING, UNSEEN = 0, 1, 2  # reserved rows of every vocabulary, in front of the values
RESERVED_ROWS = 3


def repeated(names: Sequence[str]) -> list[str]:
    """The names that stand there more than once, each once, by where it stands again."""
    return list(dict.fromkeys(name for place, name in enumerate(names) if name in names[:place]))


class Frozen(BaseModel):
    """Plain data: never changed, nothing beyond its fields, only finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Statistics(Frozen):
    """What ingest learnt about one field from the training rows; serving encodes with the same numbers."""

    rows: int = 0  # rows of the field's embedding table, the reserved ones included; 0 for dense fields
    distinct: int = 0  # values seen in training, before the minimum count
    missing_share: float = 0.0
    mean: tuple[float, ...] = ()  # one a dense column
    deviation: tuple[float, ...] = ()  # one a dense column, never 0
    boundaries: tuple[float, ...] = ()  # ascending inner edges, for `discretise: quantile`
    low: tuple[float, ...] = ()  # smallest and largest value of a dense column, after `scale: log`; () if not recorded
    high: tuple[float, ...] = ()
    unseen_share: float = 0.0  # of the rows outside train: values that train does not have, or numbers far outside it
    empty_text: bool | None = None  # whether a category held the empty text; None if not recorded
    varies: bool | None = Option(None, exclude_if=lambda told: told is None)  # recorded of hashed ones and bags
    format: int = 1  # of the keys in the vocabulary, see `slimrec.data.spelling`


class Field(Frozen):
    """One raw column, one vocabulary or scaler, one block of the input, one gate value, one line of the bill."""

    name: str = Option(min_length=1)
    kind: Literal["category", "number", "vector", "bag"]
    column: str = ""  # where the value stands in the source; the field's name by default
    cross: tuple[str, str] | None = None  # instead of `column`: two, whose pair of values is this category's value
    discretised: tuple[str, ...] = ()  # those of the two whose numbers are made categories first, by log_square
    min_count: int = Option(1, ge=1)  # rarer values go to the unseen row
    hash_rows: int | None = Option(None, ge=1)  # hash into this many rows and keep no vocabulary
    separator: str | None = None  # splits a bag that comes as one string
    exact: bool = False  # text is told apart letter by letter, see `slimrec.data.spelling`
    max_length: int = Option(10, ge=1, le=10_000)  # of a bag; values beyond are cut and counted
    keep: Literal["first", "last"] = "first"  # which values of a longer bag: the last are the newest in most histories
    width: int | None = Option(None, ge=1)  # of a vector; required there
    scale: Literal["standard", "log", "none"] | None = None  # numbers: standard by default; vectors: none
    discretise: Literal["log_square", "quantile"] | None = None  # a number becomes categories
    bins: int = Option(32, ge=2, le=100_000)  # for quantile
    nonfinite: Literal["refuse", "missing"] = "refuse"  # what to do with NaN and infinities in a number or vector
    embedding_dim: int | None = Option(None, ge=1)  # overrides the model's default for this field
    statistics: Statistics | None = None  # filled by ingest

    @model_validator(mode="before")
    @classmethod
    def _default_column(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("column") and "name" in values:
            return {**values, "column": values["name"]}
        return values

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.kind == "vector") != (self.width is not None):
            raise ValueError(f"field '{self.name}': `width` is required for a vector and for nothing else")
        if self.scale and self.discretise:
            raise ValueError(f"field '{self.name}': choose `scale` or `discretise`, not both")
        if self.cross and (self.kind != "category" or self.cross[0] == self.cross[1]):
            raise ValueError(f"field '{self.name}': `cross` names two columns, and makes a category of them")
        if not set(self.discretised) <= set(self.cross or ()):
            raise ValueError(
                f"field '{self.name}': `discretised` names columns of a `cross`, got {[*self.discretised]}"
            )
        if self.statistics is None:  # fitted fields stand in artifacts, and those of earlier releases are read too
            self._check_effect()
        return self

    def _check_effect(self) -> None:
        """Raise ValueError for an option that would do nothing for a field of this kind."""
        for option, (works, where) in _EFFECT.items():
            if getattr(self, option) != type(self).model_fields[option].default and not works(self):
                raise ValueError(
                    f"field '{self.name}': `{option}` is for {where}, and does nothing for {_described(self)}; remove it"
                )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the source that the field reads: one, or the two of a cross."""
        return self.cross or (self.column,)

    @property
    def taken_exactly(self) -> bool:
        """Whether keys are texts as they stand: by choice, or because an earlier version hashed them so."""
        return self.exact or bool(self.hash_rows and self.learnt_before(2))

    def learnt_before(self, format: int) -> bool:
        """Whether the field was fitted with keys of an earlier format."""
        return self.statistics is not None and self.statistics.format < format

    @property
    def embedded(self) -> bool:
        """Whether values are looked up in an embedding table (category, bag, discretised number)."""
        return self.kind in ("category", "bag") or self.discretise is not None

    @property
    def slots(self) -> int:
        """Columns of the id matrix: 1, or the maximum length of a bag; 0 for dense fields."""
        if not self.embedded:
            return 0
        return self.max_length if self.kind == "bag" else 1

    @property
    def dense_width(self) -> int:
        """Columns of the dense matrix: 1 for a number, the width of a vector; 0 for embedded fields."""
        return 0 if self.embedded else (self.width or 1)

    @property
    def rows(self) -> int:
        """Rows of the embedding table; raises if ingest has not fitted the field."""
        if self.statistics is None:
            raise ValueError(f"field '{self.name}' is not fitted: read schema.json of an ingested dataset")
        return self.statistics.rows

    def block_width(self, embedding_dim: int) -> int:
        """Columns of this field's block in the concatenated input: its native width."""
        return (self.embedding_dim or embedding_dim) if self.embedded else self.dense_width


_EFFECT: dict[
    str, tuple[Callable[[Field], bool], str]
] = {  # option: whether it has an effect on a field, and on which it has
    "min_count": (lambda f: _has_words(f) and not f.hash_rows, "categories and bags without `hash_rows`"),
    "hash_rows": (lambda f: f.kind in ("category", "bag"), "categories and bags"),
    "separator": (lambda f: f.kind == "bag", "bags"),
    "exact": (lambda f: f.kind in ("category", "bag"), "categories and bags"),
    "keep": (lambda f: f.kind == "bag", "bags"),
    "max_length": (lambda f: f.kind == "bag", "bags"),
    "scale": (lambda f: f.kind in ("number", "vector"), "numbers and vectors"),
    "discretise": (lambda f: f.kind == "number", "numbers"),
    "bins": (lambda f: f.discretise == "quantile", "numbers with `discretise: quantile`"),
    "nonfinite": (lambda f: f.kind in ("number", "vector"), "numbers and vectors"),
    "embedding_dim": (lambda f: f.embedded, "categories, bags and numbers with `discretise`"),
}


def _has_words(field: Field) -> bool:
    return field.kind in ("category", "bag") or field.discretise == "log_square"


def _described(field: Field) -> str:
    more = f" with `discretise: {field.discretise}`" if field.discretise else ""
    return f"a {field.kind}{more or (' with `hash_rows`' if field.hash_rows else '')}"


class Label(Frozen):
    """The column to predict: 0/1 (or true/false, yes/no) as it stands, 1 where it is above a number or is one value."""

    column: str
    positive_above: float | None = None
    positive: bool | int | float | str | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.positive is not None and self.positive_above is not None:
            raise ValueError(f"label '{self.column}': choose `positive` or `positive_above`, not both")
        return self

    @property
    def told(self) -> str:
        """What a sentence calls it: its column, and its rule where it has one."""
        rules = (("positive_above", self.positive_above), ("positive", self.positive))
        return f"'{self.column}'" + "".join(f" ({name}: {value})" for name, value in rules if value is not None)


class Task(Label):
    """One of several labels that are learnt together: a tower, a probability and a verdict of its own.

    A row that holds nothing in the column is not observed for this task, and counts for the others only. With `after`
    the model learns the chance that both happen, as a product over all rows (ESMM, Ma et al. 2018, arXiv 1804.07931):
    the label is then 1 where both are, 0 where the other is 0, and not observed where either is not.
    """

    name: str = Option("", max_length=100)  # what its probability is called; by default as the column
    loss_weight: float = Option(1.0, gt=0)  # of its log-loss, in training and search; a verdict knows nothing of it
    after: str | None = None  # an earlier task without whose event this one's cannot happen: a click before a purchase

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: Any) -> Any:
        return {"name": values["column"], **values} if isinstance(values, dict) and "column" in values else values


def _as_label(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


def _first_label(values: Any) -> Any:
    """With `tasks` the schema's `label` is the first one's rule."""
    if not isinstance(values, dict) or not values.get("tasks") or values.get("label"):
        return values
    first = _as_label(values["tasks"][0]) if isinstance(values["tasks"], (list, tuple)) else None
    rule = {name: first[name] for name in Label.model_fields if name in first} if isinstance(first, dict) else first
    return {**values, "label": rule}


class Crosses(Frozen):
    """Fields to build from pairs of fields, named `a*b`, and how; the full grid of i-Razor is `of: all`.

    What can be crossed is a category, and a number with `discretise: log_square`: quantiles are not known yet when
    values are counted.
    """

    of: Literal["all"] | tuple[tuple[str, ...], ...]  # all pairs within each group
    min_count: int = Option(1, ge=1)
    hash_rows: int | None = Option(None, ge=1)
    embedding_dim: int | None = Option(None, ge=1)

    def build(self, fields: Iterable[Field]) -> list[Field]:
        """The crossed fields; ValueError for a name that cannot be crossed."""
        able = {f.name: f for f in fields if (f.kind == "category" or f.discretise == "log_square") and not f.cross}
        columns = {name: field.column for name, field in able.items()}
        groups = [sorted(columns)] if self.of == "all" else self.of
        if not groups or any(len(set(group)) < 2 for group in groups):
            raise ValueError(
                f"`crosses` lists groups of at least 2 fields each, whose pairs are crossed, or is `all`, got {self.of!r} "
                f"where {', '.join(sorted(columns)) or 'no field'} can be crossed"
            )
        unknown = sorted({name for group in groups for name in group} - set(columns))
        if unknown:
            raise ValueError(
                f"`crosses` names '{unknown[0]}', which is neither a category nor a number with `discretise: log_square`: "
                f"{', '.join(sorted(columns))}"
            )
        options, numeric = self.model_dump(exclude={"of"}), {f.column for f in able.values() if f.kind == "number"}
        pairs = sorted({tuple(sorted(pair)) for group in groups for pair in combinations(group, 2)})
        return [
            Field(
                name=f"{a}*{b}",
                kind="category",
                cross=both,
                discretised=sorted(numeric.intersection(both)),
                exact=able[a].exact or able[b].exact,
                **options,
            )
            for a, b in pairs
            if len(set(both := (columns[a], columns[b]))) == 2
        ]


class CsvFormat(Frozen):
    """How the CSV files of a log are written, where it differs from what their endings say."""

    separator: str | None = None  # one character; a comma by default, a tab in .tsv
    quote: str | None = None  # one character, or "" for none; '"' by default, none in .tsv
    encoding: str = "utf-8"
    decimal: Literal[".", ","] = "."
    columns: tuple[str, ...] | None = None  # names, where the files have no header line
    line_breaks: bool = False  # whether a value in quotation marks may go over several lines

    @field_validator("separator", "quote")
    @classmethod
    def _one_character(cls, value: str | None, info: ValidationInfo) -> str | None:
        value = "\t" if value == r"\t" else value  # as YAML without double quotes gives it
        if value is not None and (len(value.encode()) > 1 or not (value or info.field_name == "quote")):
            raise ValueError(f"`{info.field_name}` of a CSV is one ASCII character")
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            codecs.lookup(value)
        except LookupError:
            raise ValueError("is no encoding that Python knows; utf-8, utf-16, cp1252 and latin-1 are usual") from None
        return value


def _as_crosses(value: Any) -> Any:
    return {"of": value} if isinstance(value, (str, list, tuple)) else value


class Schema(Frozen):
    """Fields in canonical (name) order, so that the order of columns in a source or a file decides nothing."""

    label: Annotated[Label, BeforeValidator(_as_label)]
    tasks: tuple[Annotated[Task, BeforeValidator(_as_label)], ...] = Option((), exclude_if=lambda tasks: not tasks)
    weight: str | None = None  # column with a non-negative weight per row
    time: str | None = None  # column that orders rows: numbers, dates or timestamps, or text of one of them
    group: str | None = None  # column naming the user or session a row belongs to
    fields: tuple[Field, ...] = Option(min_length=1)
    crosses: Annotated[Crosses | None, BeforeValidator(_as_crosses)] = None  # None once they stand among the fields
    missing: tuple[str, ...] = ()  # words that stand for nothing in cells of text, besides the empty cell of a CSV
    csv: CsvFormat = CsvFormat()  # read so in training and in scoring

    @model_validator(mode="before")
    @classmethod
    def _label_of_tasks(cls, values: Any) -> Any:
        return _first_label(values)

    @model_validator(mode="after")
    def _tasks_fit(self) -> Self:
        names = [task.name for task in self.tasks]
        if not names:
            return self
        if len(names) == 1:
            raise ValueError(f"`tasks` names several labels; name '{names[0]}' alone as `label`")
        twice = sorted(repeated(names))
        if twice:
            raise ValueError(f"tasks named twice: {', '.join(twice)}; give each a `name` of its own")
        if self.label.model_dump() != Label.model_dump(self.tasks[0], include={*Label.model_fields}):
            raise ValueError("name the labels in `tasks` and leave `label` out, which stands for one label alone")
        for place, task in enumerate(self.tasks):
            if task.after is not None and task.after not in names[:place]:
                raise ValueError(
                    f"task '{task.name}': `after` names an earlier task, one of {names[:place]}, got '{task.after}'"
                )
        return self

    @model_validator(mode="after")
    def _canonical(self) -> Self:
        if self.crosses:
            object.__setattr__(self, "fields", (*self.fields, *self.crosses.build(self.fields)))
            object.__setattr__(self, "crosses", None)
        names = [field.name for field in self.fields]
        twice = sorted(repeated(names))
        if twice:
            raise ValueError(f"fields named twice: {', '.join(twice)}; give each a name of its own")
        for label in self.labels:
            leaking = [field.name for field in self.fields if label.column in field.columns]
            if leaking:
                raise ValueError(f"field '{leaking[0]}' reads the label column '{label.column}'; remove it")
            for role in ("weight", "time", "group"):
                if getattr(self, role) == label.column:
                    raise ValueError(f"`{role}` names the label column '{label.column}'; name another, or leave it out")
        object.__setattr__(self, "fields", tuple(sorted(self.fields, key=lambda field: field.name)))
        return self

    def __getitem__(self, name: str) -> Field:
        return next(field for field in self.fields if field.name == name)

    @property
    def labels(self) -> tuple[Label, ...]:
        """The rules of all labels: of each task, or the one."""
        return self.tasks or (self.label,)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @property
    def embedded(self) -> tuple[Field, ...]:
        return tuple(field for field in self.fields if field.embedded)

    @property
    def dense(self) -> tuple[Field, ...]:
        return tuple(field for field in self.fields if not field.embedded)

    def narrow(self, names: Iterable[str]) -> Schema:
        """The same schema over fewer fields."""
        names = set(names)
        return self.model_copy(update={"fields": tuple(field for field in self.fields if field.name in names)})


@dataclass(frozen=True)
class Block:
    """A field's stretch of the concatenated input: which of its native columns are still there.

    Columns keep their native numbers after a cut, because an inner product pairs column 3 of one field with column 3
    of another however many columns either has lost.
    """

    name: str
    columns: tuple[int, ...]

    @property
    def width(self) -> int:
        return len(self.columns)


def blocks_of(schema: Schema, embedding_dim: int) -> tuple[Block, ...]:
    """The uncut layout: every field at its native width, in schema order."""
    return tuple(Block(field.name, tuple(range(field.block_width(embedding_dim)))) for field in schema.fields)
