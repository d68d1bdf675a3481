"""The logits of a split, row by row in stored order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from slimrec.batch import Batch
from slimrec.model.model import Model

if TYPE_CHECKING:
    from slimrec.data.dataset import Split


def score(
    model: Model, split: Split, batch_size: int = 16_384, device: str | torch.device = "cpu", shuffled: str = ""
) -> np.ndarray:
    """Logits float64 of all rows of a split, in stored order, (n,), or (n, T) of T tasks.

    One field is `shuffled` among the rows of each batch.
    """
    model = model.to(device).eval()
    logits = np.empty(shape(model, split), dtype=np.float64)
    start = 0
    with torch.inference_mode():
        for batch in split.batches(batch_size, shuffle="none"):
            ids, dense = _shuffle(model, shuffled, batch) if shuffled else (batch.ids, batch.dense)
            part = model(ids.to(device), dense.to(device))
            logits[start : start + len(part)] = part.double().cpu().numpy()
            start += len(part)
    return logits


def shape(model: Model, split: Split) -> tuple[int, ...]:
    """Of the logits of a split: (n,), or (n, T) of T tasks."""
    return (len(split), len(model.schema.tasks)) if model.schema.tasks else (len(split),)


def _shuffle(model: Model, name: str, batch: Batch) -> tuple[Tensor, Tensor]:
    """Ids and dense columns of a batch with a field's in the wrong rows."""
    field = model.schema[name]
    source, owners = (batch.ids, model.schema.embedded) if field.embedded else (batch.dense, model.schema.dense)
    sizes = [owner.slots or owner.dense_width for owner in owners]
    place = [owner.name for owner in owners].index(name)
    start, stop = sum(sizes[:place]), sum(sizes[: place + 1])
    wrong = source.clone()
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))
    wrong[:, start:stop] = source[order, start:stop]
    return (wrong, batch.dense) if field.embedded else (batch.ids, wrong)
