"""What a model is worth and what it costs: AUC, log-loss, calibration, size, multiply-adds, latency."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from slimrec.data.dataset import Split
    from slimrec.model import Model


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


def probability(logits: np.ndarray) -> np.ndarray:
    """The logistic function, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64)))


def auc(label: np.ndarray, score: np.ndarray, weight: np.ndarray | None = None) -> float | None:
    """Weighted area under the ROC curve; None where only one class carries weight."""
    from sklearn.metrics import roc_auc_score  # takes a second, and who serves or sizes a model needs none of it

    carrying = np.ones(len(label), bool) if weight is None else np.asarray(weight) > 0
    if len(np.unique(np.asarray(label)[carrying])) < 2:
        return None
    return float(roc_auc_score(label, score, sample_weight=weight))


def roc(label: np.ndarray, logits: np.ndarray, weight: np.ndarray, points: int = 101) -> dict[str, list[float]]:
    """The ROC curve to look at: `fpr`, `tpr` and the probability `threshold` (falling), at evenly spaced fpr.

    All empty where only one class carries weight.
    """
    from sklearn.metrics import roc_curve

    if auc(label, logits, weight) is None:
        return {"fpr": [], "tpr": [], "threshold": []}
    fpr, tpr, threshold = roc_curve(label, probability(logits), sample_weight=weight)
    threshold[0] = 1.0  # infinite in scikit-learn: nothing is called positive
    at = np.linspace(0, 1, points)
    curve = {"fpr": at, "tpr": np.interp(at, fpr, tpr), "threshold": np.interp(at, fpr, threshold)}
    return {name: values.tolist() for name, values in curve.items()}


def log_loss(label: np.ndarray, logits: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Weighted mean of -log p(label), in nats."""
    from sklearn import metrics

    return float(metrics.log_loss(label, probability(logits), sample_weight=weight, labels=[0, 1]))


def calibration(
    label: np.ndarray, logits: np.ndarray, weight: np.ndarray | None = None, bins: int = 20
) -> dict[str, float | None]:
    """`ratio`: mean predicted over mean observed (1 is best); `error`: expected calibration error (ECE, 0 is best).

    The bins hold equal numbers of rows (Nixon et al. 2019), because clicks crowd near 0. `ratio` is None where
    nothing positive was observed.
    """
    predicted = probability(logits)
    weight = np.ones(len(predicted)) if weight is None else np.asarray(weight, np.float64)
    observed = float(np.average(label, weights=weight))
    order = np.argsort(predicted, kind="stable")
    excess = [
        abs(float((weight[part] * (predicted[part] - label[part])).sum())) for part in np.array_split(order, bins)
    ]
    return {
        "ratio": float(np.average(predicted, weights=weight)) / observed if observed > 0 else None,
        "error": sum(excess) / float(weight.sum()),
    }


def size(model: Model) -> dict[str, int]:
    """Parameters, rows and bytes as served: tables, everything else (a gate included), and the sum."""
    tables = list(model.arena.tables.values())
    owned = {id(table) for table in tables}
    dense = [p for p in model.parameters() if id(p) not in owned] + [model.arena.dense_scale, model.arena.dense_shift]
    embedding_bytes, dense_bytes = (sum(t.numel() * t.element_size() for t in part) for part in (tables, dense))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "embedding_rows": sum(len(table) for table in tables),
        "embedding_bytes": embedding_bytes,
        "dense_bytes": dense_bytes,
        "bytes": embedding_bytes + dense_bytes,
    }


def multiply_adds(model: Model, batch: tuple[Tensor, Tensor]) -> int:
    """Multiply-adds of one row, by PyTorch's counter (matrix products only)."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(*batch)
    return round(counter.get_total_flops() / 2 / len(batch[0]))


def compare_latency(
    full: Model, full_batch: tuple[Tensor, Tensor], slim: Model, slim_batch: tuple[Tensor, Tensor], repeats: int
) -> tuple[float, float]:
    """Median milliseconds of one forward pass of each model, timed in turns so that a busy machine slows both."""
    pairs = ((full.eval(), full_batch), (slim.eval(), slim_batch))
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for repeat in range(repeats + 3):  # the first three warm up
            for (model, batch), seconds in zip(pairs, times):
                start = time.perf_counter()
                model(*batch)
                if repeat >= 3:
                    seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[0]), 1000 * statistics.median(times[1])
