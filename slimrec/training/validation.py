"""Figures of a model on its validation rows, the same on every rank."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from slimrec.data.dataset import Split
from slimrec.data.order import batch_count, part_of
from slimrec.errors import InputError
from slimrec.metrics import auc, log_loss
from slimrec.model import Model
from slimrec.model.scoring import score, shape
from slimrec.training.ranks import Ranks


def validate(model: Model, split: Split, ranks: Ranks) -> dict[str, float]:
    """`valid_auc` and `valid_logloss` (nats); of several tasks their means, and each task's own as `valid_auc/name`.

    Raises InputError where the logits are not finite, or the rows hold one class only.
    """
    logits = score(model, split, device=ranks.device) if ranks.world == 1 else score_together(model, split, ranks)
    if not np.isfinite(logits).all():
        raise InputError("training diverged: lower learning_rate, or look for huge values in number fields")
    if not model.schema.tasks:
        return _figures(split, logits)
    found = {}
    for (task, part), scores in zip(split.by_task().items(), logits.T):
        found[task] = _figures(part, scores[~np.isnan(split.label[:, len(found)])])
    names = ("valid_auc", "valid_logloss")
    means = {name: float(np.mean([figures[name] for figures in found.values()])) for name in names}
    return means | {f"{name}/{task}": figures[name] for task, figures in found.items() for name in names}


def _figures(split: Split, logits: np.ndarray) -> dict[str, float]:
    area = auc(split.label, logits, split.weight)
    if area is None:
        raise InputError("the validation rows hold one class only, AUC is undefined: give the split more rows")
    return {"valid_auc": area, "valid_logloss": log_loss(split.label, logits, split.weight)}


def score_together(model: Model, split: Split, ranks: Ranks, batch_size: int = 16_384) -> np.ndarray:
    """Logits float64 in stored order, (n,) or (n, T), the same on every rank; each rank scores its part of every batch."""
    logits, start = torch.zeros(shape(model, split), dtype=torch.double), 0
    model.eval()
    with torch.no_grad():  # TorchRec's exchange works with no inference tensors
        last = batch_count(len(split), batch_size) - 1
        for i, batch in enumerate(split.batches(batch_size, shuffle="none", rank=ranks.rank, world=ranks.world)):
            part = part_of(len(split) - start if i == last else batch_size, ranks.rank, ranks.world)
            found = model(batch.ids.to(ranks.device), batch.dense.to(ranks.device))
            logits[start + part.start : start + part.stop] = found[: part.stop - part.start].double().cpu()
            start += batch_size
    dist.all_reduce(logits)  # every row was filled in by one rank
    return logits.numpy()
