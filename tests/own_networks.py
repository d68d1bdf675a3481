"""Networks as a user would bring them, knowing nothing of slimrec, and a method of selection."""

import torch
from torch import nn

from slimrec.backbones.base import Backbone, narrow_linear
from slimrec.gates.base import Gate


class TwoHeads(nn.Module):
    """Names the layers that read the input, which are then cut."""

    reads = ("wide", "deep.0")

    def __init__(self, width, *, size=16):
        super().__init__()
        self.wide = nn.Linear(width, 1)
        self.deep = nn.Sequential(nn.Linear(width, size), nn.Tanh(), nn.Linear(size, 1))

    def forward(self, x):
        return self.wide(x) + self.deep(x)


class Attentive(nn.Module):
    """Multiplies its input with itself and says nothing about who reads it: it stays whole."""

    def __init__(self, width, *, size=8):
        super().__init__()
        self.query, self.value = nn.Linear(width, size, bias=False), nn.Linear(width, size)
        self.scale = nn.Parameter(torch.rand(width))

    def forward(self, x):
        return (torch.softmax(self.query(x.square() * self.scale), dim=1) * self.value(x.sin())).sum(1)


class WithoutBias(nn.Module):
    """Names its first layer, which has no bias to take constants."""

    reads = ("first",)

    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(width, 8, bias=False), nn.Linear(8, 1)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


class Forgetful(Backbone):
    """Knows slimrec, and cuts itself as if all that goes had been zero."""

    def __init__(self, blocks, *, size=8):
        super().__init__(blocks, size=size)
        self.first, self.last = nn.Linear(self.width, size), nn.Linear(size, 1)

    def forward(self, x, pairs=None):
        return self.last(torch.relu(self.first(x))).squeeze(1)

    def narrow(self, selection, fill):
        slim, kept = self.start_cut(selection)
        slim.first = narrow_linear(self.first, kept, torch.zeros_like(fill))
        return slim


class ByName(Gate):
    """Takes the fields that come first in the alphabet for the best."""

    def scores(self):
        return {name: 1 / (1 + i) for i, name in enumerate(sorted(self.schema.names))}
