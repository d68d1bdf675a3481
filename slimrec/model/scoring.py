"""The logits of a split, row by row in stored order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from slimrec.model.model import Model

if TYPE_CHECKING:
    from slimrec.data.dataset import Split


def score(model: Model, split: Split, batch_size: int = 16_384, device: str | torch.device = "cpu") -> np.ndarray:
    """Logits (n,) float64 of all rows of a split, in stored order."""
    model = model.to(device).eval()
    logits = np.empty(len(split), dtype=np.float64)
    start = 0
    with torch.inference_mode():
        for batch in split.batches(batch_size, shuffle="none"):
            part = model(batch.ids.to(device), batch.dense.to(device))
            logits[start : start + len(part)] = part.double().cpu().numpy()
            start += len(part)
    return logits
