"""Which optimizer moves which part of a model in a training."""

from __future__ import annotations

import torch

from slimrec.config import TrainConfig
from slimrec.model import Model
from slimrec.optimizers import LazyAdam, RowwiseAdagrad


def optimizers_for(model: Model, config: TrainConfig) -> dict[str, torch.optim.Optimizer]:
    """One for the `tables`, one for the `dense` network, those of a gate that learns."""
    made: dict[str, torch.optim.Optimizer] = {}
    tables, how = list(model.arena.tables.values()), config.embedding_optimizer
    rate, l2 = config.embedding_learning_rate, config.embedding_l2
    model.arena.sparse = how != "adam"
    if tables and how == "adam":
        made["tables"] = torch.optim.Adam(tables, rate, weight_decay=l2, fused=True)
    elif tables:
        made["tables"] = {"lazy_adam": LazyAdam, "rowwise_adagrad": RowwiseAdagrad}[how](tables, rate, l2)
    network = model.backbone.parameters()
    made["dense"] = torch.optim.Adam(network, config.learning_rate, weight_decay=config.weight_decay, fused=True)
    return made | (model.gate.optimizers() if model.gate is not None and model.gate.learns else {})
