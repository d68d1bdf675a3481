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
    label: Tensor  # float32 (B,); of T tasks (B, T), 0 where a row is not observed for one
    weight: Tensor  # float32 (B,): ones when the schema has no weight; of T tasks (B, T), times the task's, 0 where not observed

    @property
    def row_weight(self) -> Tensor:
        """float32 (B,): over all tasks."""
        return total(self.weight)

    def of_task(self, task: int) -> Batch:
        """The same rows with the label and weight of one of several tasks."""
        return self._replace(label=self.label[:, task], weight=self.weight[:, task])


def total(values: Tensor) -> Tensor:
    """Losses or weights of rows (B,), from one a row or one a row and task (B, T)."""
    return values if values.dim() == 1 else values.sum(1)
