"""What a model's scores are worth: AUC, ROC, log-loss, calibration."""

from __future__ import annotations

import numpy as np


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
