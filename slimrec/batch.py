"""A batch: rows as a model takes them. The data makes it; gates, model and training read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Batch(NamedTuple):
    """Rows for a model."""

    ids: (
        Tensor  # int32 (B, S): slots of the embedded fields in schema order, ids local to the field, bags padded with 0
    )
    dense: Tensor  # float32 (B, N): columns of numbers and vectors in schema order, already scaled
    label: Tensor  # float32 (B,)
    weight: Tensor  # float32 (B,): ones when the schema has no weight
