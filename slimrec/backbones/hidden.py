"""Hidden units of a network's tower: how much each matters, silenced in place, or cut out exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from slimrec.backbones.base import Backbone, narrow_linear
from slimrec.backbones.layers import Tower
from slimrec.errors import ConfigError

Units = Mapping[int, Sequence[int]]  # hidden layer, from 0 -> units that stay, ascending


def has_hidden(backbone: nn.Module) -> bool:
    """Whether the network has a tower with hidden layers."""
    return isinstance(getattr(backbone, "tower", None), Tower) and len(_linears(backbone.tower)) > 1


def widths(backbone: nn.Module) -> list[int]:
    """Units by hidden layer of the network's tower; none where there is no such tower."""
    return [linear.out_features for linear in _linears(backbone.tower)[:-1]] if has_hidden(backbone) else []


def score_hidden(backbone: Backbone, losses: Iterable[Callable[[], Tensor]]) -> list[list[float]]:
    """By hidden layer, what the loss of a row changes to first order, in absolute value, when a unit is silenced.

    Mean over rows of |activation * gradient| (Molchanov et al. 2017, arXiv 1611.06440, eq. 8, not normalised by
    layer: the figures are changes of one loss). `losses` are functions that run the network and give the losses (B,)
    of a batch, whose rows do not depend on each other (eval mode).
    """
    tower, seen = _tower(backbone), []
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output: seen.append(output))
        for layer in tower.layers
        if isinstance(layer, nn.ReLU)
    ]
    total, rows = [0.0] * len(hooks), 0
    try:
        for loss_of in losses:
            seen.clear()
            loss = loss_of()
            for i, gradient in enumerate(torch.autograd.grad(loss.sum(), seen)):
                total[i] = total[i] + (gradient * seen[i]).abs().sum(0).detach().double().cpu()
            rows += len(loss)
    finally:
        for hook in hooks:
            hook.remove()
    return [(layer / max(rows, 1)).tolist() for layer in total]


def best_units(scores: Sequence[Sequence[float]], keep: float) -> dict[int, tuple[int, ...]]:
    """The share `keep` of all units with the highest scores, at least one a layer; equals fall to the first."""
    ranked = sorted(((-s, layer, unit) for layer, part in enumerate(scores) for unit, s in enumerate(part)))
    first = {layer: min((-s, unit) for unit, s in enumerate(part))[1] for layer, part in enumerate(scores)}
    chosen = {(layer, unit) for layer, unit in first.items()}
    for _, layer, unit in ranked:
        if len(chosen) >= max(len(scores), int(keep * len(ranked) + 1e-9)):
            break
        chosen.add((layer, unit))
    return {layer: tuple(sorted(unit for at, unit in chosen if at == layer)) for layer in range(len(scores))}


@torch.no_grad()
def silence(backbone: Backbone, units: Units) -> Backbone:
    """A copy of the network in which all other units reach nothing: what a cut has to reproduce."""
    copied = copy.deepcopy(backbone)
    linears = _checked(copied.tower, units)
    for layer, stay in units.items():
        gone = torch.ones(linears[layer].out_features, dtype=torch.bool)
        gone[list(stay)] = False
        linears[layer + 1].weight[:, gone.to(linears[layer + 1].weight.device)] = 0
    return copied


@torch.no_grad()
def narrow_hidden(backbone: Backbone, units: Units) -> Backbone:
    """A copy of the network with these units alone; logits equal those with the others silenced. Exact."""
    slim = copy.deepcopy(backbone)
    tower = slim.tower
    _checked(tower, units)
    for layer, stay in units.items():
        at = [i for i, part in enumerate(tower.layers) if isinstance(part, nn.Linear)]
        before, after = tower.layers[at[layer]], tower.layers[at[layer + 1]]
        kept = torch.tensor(stay, device=before.weight.device)
        everything = torch.arange(before.in_features, device=kept.device)
        tower.layers[at[layer]] = narrow_linear(before, everything, before.weight.new_zeros(before.in_features), kept)
        if isinstance(tower.layers[at[layer] + 1], nn.BatchNorm1d):
            tower.layers[at[layer] + 1] = _narrow_norm(tower.layers[at[layer] + 1], kept)
        tower.layers[at[layer + 1]] = narrow_linear(after, kept, after.weight.new_zeros(after.in_features))
    slim.options = {**slim.options, "hidden": [linear.out_features for linear in _linears(tower)[:-1]]}
    return slim


def _narrow_norm(norm: nn.BatchNorm1d, kept: Tensor) -> nn.BatchNorm1d:
    narrow = nn.BatchNorm1d(len(kept), norm.eps, norm.momentum).to(kept.device).train(norm.training)
    narrow.load_state_dict({n: t if t.dim() == 0 else t[kept] for n, t in norm.state_dict().items()})
    return narrow


def _tower(backbone: nn.Module) -> Tower:
    if not has_hidden(backbone):
        raise ConfigError(f"{type(backbone).__name__} has no hidden layers that can be cut: leave `hidden_keep` out")
    return backbone.tower


def _linears(tower: Tower) -> list[nn.Linear]:
    return [layer for layer in tower.layers if isinstance(layer, nn.Linear)]


def _checked(tower: Tower, units: Units) -> list[nn.Linear]:
    linears = _linears(tower)
    for layer, stay in units.items():
        fits = 0 <= layer < len(linears) - 1 and stay and 0 <= min(stay) <= max(stay) < linears[layer].out_features
        if not fits:
            raise ValueError(f"hidden layer {layer} keeps units {list(stay)}, which the tower does not have")
    return linears
