"""What each field is charged under a budget of costs: columns, bytes of the served model, or microseconds of a row."""

from __future__ import annotations

import torch
from torch import Tensor

from slimrec.backbones.base import Backbone
from slimrec.model import Model
from slimrec.probes import is_probe
from slimrec.schema import Field
from slimrec.selection import Budget, Selection
from slimrec.verdict.cost import timed

_ROWS = 1024  # of the batch that is timed
_REPEATS = 15  # the median of them counts


def charges(model: Model, budget: Budget) -> dict[str, float] | None:
    """By field, whole, what it takes of the budget; None where the budget counts fields or scores only.

    `dims`: the columns that the network reads of it: those of an embedding, of a vector, one of a number.
    `max_bytes`: what the served model in float32 is smaller by without it: its table, the scaling of its dense columns,
    what a gate that stays holds for it, and the weights of the network that read its columns or what they meet.
    `max_microseconds`: a row's share of the time, measured here in batches of 1,024: reading the field into columns,
    and the network's time by column, from the whole network and one of half of its fields.
    What a network needs whatever it reads is charged to no field.
    """
    if budget.limit is None:
        return None
    width = {block.name: float(block.width) for block in model.blocks}
    if budget.dims is not None:
        return width
    if budget.max_bytes is not None:
        return _bytes(model)
    column = _network_microseconds(model)
    return {name: _reading_microseconds(model, name) + column * columns for name, columns in width.items()}


def _bytes(model: Model) -> dict[str, float]:
    assert model.gate is not None  # as a search leaves a model
    held, whole, found = model.gate.field_bytes(), _parameters(model.backbone), {}
    for field in model.schema.fields:
        rest = [name for name in model.schema.names if name != field.name]
        network = whole - _parameters(_network(model, rest)) if rest else 0
        found[field.name] = float(held[field.name] + 4 * network + 2 * 4 * field.dense_width)
    return found


def _parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _network_microseconds(model: Model) -> float:
    """What the network takes longer a row for one more column; at least nothing."""
    names = [name for name in model.schema.names if not is_probe(name)]
    whole, half = _network(model, names).eval(), _network(model, names[: len(names) // 2] or names).eval()
    more = whole.width - half.width
    if not more:
        return 0
    like = next(model.backbone.parameters())
    all_columns, some_columns = (like.new_zeros(_ROWS, network.width) for network in (whole, half))
    longer, shorter = timed(lambda: whole(all_columns), lambda: half(some_columns), repeats=_REPEATS)
    return max(0, longer - shorter) / more * 1e6 / _ROWS


def _reading_microseconds(model: Model, name: str) -> float:
    """What it takes to read one field's values of a row into columns."""
    arena = model.arena.narrow(Selection.whole(model.blocks, [name]))
    ids, dense = _values(model.schema[name])
    (seconds,) = timed(lambda: arena(ids, dense), repeats=_REPEATS)
    return seconds * 1e6 / _ROWS


def _values(field: Field) -> tuple[Tensor, Tensor]:
    """Rows of a batch that hold nothing but the field: any of its values."""
    shape, generator = (_ROWS, field.slots), torch.Generator().manual_seed(0)
    ids = torch.randint(field.rows or 1, shape, generator=generator, dtype=torch.int32)
    return ids, torch.zeros(_ROWS, field.dense_width)


def _network(model: Model, names: list[str]) -> Backbone:
    """The network over these fields, zeros in the place of the others."""
    nothing = next(model.backbone.parameters()).new_zeros(model.backbone.width)
    return model.backbone.narrow(Selection.whole(model.blocks, names), nothing)
