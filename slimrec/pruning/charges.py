"""What each field is charged under a budget of costs: columns, bytes of the served model, or microseconds of a row."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from slimrec.model import Model
from slimrec.probes import is_probe
from slimrec.schema import Field
from slimrec.selection import Budget, Decision, Selection
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
    held = dict.fromkeys(model.schema.names, 0) if model.gate is None else model.gate.field_bytes()
    whole, found = _parameters(model.backbone), {}
    for field in model.schema.fields:
        rest = [name for name in model.schema.names if name != field.name]
        network = whole - _parameters(model.backbone.narrow(_only(model, rest), _nothing(model))) if rest else 0
        found[field.name] = float(held[field.name] + 4 * network + 2 * 4 * field.dense_width)
    return found


def _parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _network_microseconds(model: Model) -> float:
    """What the network takes longer a row for one more column; at least nothing."""
    names = [name for name in model.schema.names if not is_probe(name)]
    half = model.backbone.narrow(_only(model, names[: len(names) // 2] or names), _nothing(model)).eval()
    whole = model.backbone.narrow(_only(model, names), _nothing(model)).eval()
    more = whole.width - half.width
    if not more:
        return 0.0
    like = next(model.backbone.parameters())
    inputs = [like.new_zeros(_ROWS, network.width) for network in (whole, half)]
    seconds = timed(lambda: whole(inputs[0]), lambda: half(inputs[1]), repeats=_REPEATS)
    return max(0.0, seconds[0] - seconds[1]) / more * 1e6 / _ROWS


def _reading_microseconds(model: Model, name: str) -> float:
    """What it takes to read one field's values of a row into columns."""
    arena = model.arena.narrow(_only(model, [name]))
    generator, field = torch.Generator().manual_seed(0), model.schema[name]
    ids, dense = _values(field, generator)
    (seconds,) = timed(lambda: arena(ids, dense), repeats=_REPEATS)
    return seconds * 1e6 / _ROWS


def _values(field: Field, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    slots = (_ROWS, field.slots)
    ids = torch.randint(1, max(2, field.rows if field.embedded else 2), slots, generator=generator, dtype=torch.int32)
    return ids, torch.zeros(_ROWS, field.dense_width)


def _nothing(model: Model) -> Tensor:
    return next(model.backbone.parameters()).new_zeros(model.backbone.width)


def _only(model: Model, names: Collection[str]) -> Selection:
    """The cut that leaves these fields whole."""
    fields = {
        block.name: Decision(
            columns=block.columns if block.name in names else (), width=max(block.columns) + 1, score=0.0, bytes=0
        )
        for block in model.blocks
    }
    return Selection(method="none", seed=0, budget=Budget(), fields=fields)
