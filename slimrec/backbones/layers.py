"""The parts that networks share: the tower of hidden layers, the grid of fields, and the meetings of its rows."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate, combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimrec.backbones.base import initialise, narrow_linear
from slimrec.errors import did_you_mean
from slimrec.schema import Block
from slimrec.selection import Selection


def sizes(name: str, values: Sequence[float]) -> list[int]:
    """Layer sizes as integers, also where JSON made them floats; ValueError on anything that is not a size."""
    given = list(values) if isinstance(values, (list, tuple)) else [None]
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and v >= 1 and v == int(v) for v in given):
        raise ValueError(f"`{name}` must be a list of whole numbers of at least 1, got {values!r}")
    return [int(value) for value in given]


class Tower(nn.Module):
    """Hidden layers, each Linear -> (BatchNorm) -> ReLU -> Dropout, then Linear to one logit: (B, width) -> (B,).

    The input itself is not normalised, so that cutting its columns is exact.
    """

    def __init__(self, width: int, hidden: Sequence[int], dropout: float, batch_norm: bool):
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be at least 0 and below 1, got {dropout!r}")
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), *([nn.BatchNorm1d(size)] if batch_norm else []), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout else []
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))
        initialise(self)

    @property
    def first(self) -> nn.Linear:
        """The layer that reads the input."""
        return self.layers[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(1)

    def replacing(self, x: Tensor) -> Callable[[int, Tensor], Tensor]:
        """As of a network: the sums of the first layer are kept, and change by W_i (columns - x_i)."""
        total, rest = partial_sums(self.first, x), self.layers[1:]
        return lambda start, columns: rest(total(start, columns)).squeeze(1)

    def narrow(self, kept: Tensor, fill: Tensor) -> Tower:
        """The tower over the input columns `kept`; constants `fill` in the others move into the first bias. Exact."""
        tower = copy.deepcopy(self)
        tower.layers[0] = narrow_linear(self.first, kept, fill)
        return tower


def partial_sums(layer: nn.Linear, x: Tensor) -> Callable[[int, Tensor], Tensor]:
    """A function (start, columns (B, w)) -> layer(x) (B, K) with the columns of x from `start` on replaced."""
    total = layer(x)

    def sums(start: int, columns: Tensor) -> Tensor:
        part = slice(start, start + columns.shape[1])
        return torch.addmm(total, columns - x[:, part], layer.weight[:, part].T)

    return sums


class Grid(nn.Module):
    """Blocks of unequal width as fields by native columns, (B, W) -> (B, F, D), zeros where a field lacks a column.

    `fields` are positions in `blocks`, `columns` native column numbers, ascending. A column number has one place for
    all fields, so that column c still meets column c after a cut.
    """

    def __init__(self, blocks: Sequence[Block], fields: Sequence[int], columns: Sequence[int]):
        super().__init__()
        *starts, width = accumulate((block.width for block in blocks), initial=0)  # zeros are put behind x, at `width`
        place = {(i, column): starts[i] + at for i in fields for at, column in enumerate(blocks[i].columns)}
        cells = [place.get((i, column), width) for i in fields for column in columns]
        self.shape = (len(fields), len(columns))
        self.padded, self.plain = width in cells, cells == list(range(width))
        self.register_buffer("fields", torch.tensor(fields, dtype=torch.long), persistent=False)
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.long), persistent=False)
        self.register_buffer("cells", torch.tensor(cells, dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.plain:
            return x.reshape(len(x), *self.shape)
        padded = F.pad(x, (0, 1)) if self.padded else x
        return padded.index_select(1, self.cells).reshape(len(x), *self.shape)


class Projection(nn.Module):
    """Every field mapped to the same width by a matrix of its own, (B, W) -> (B, F width); 0 leaves x as it is.

    What i-Razor's paper does to fields of unequal width before they meet. There is no bias, so that zeros stay zeros.
    """

    def __init__(self, blocks: Sequence[Block], width: int):
        super().__init__()
        if not isinstance(width, (int, float)) or isinstance(width, bool) or width < 0 or width != int(width):
            raise ValueError(f"`projection` must be a width, or 0 for none, got {width!r}")
        self.width = int(width)
        self._lay(blocks)
        self.weight = nn.Parameter(torch.empty(sum(block.width for block in blocks), self.width)) if width else None
        for matrix in self.weight.data.split([block.width for block in blocks]) if width else ():
            nn.init.xavier_uniform_(matrix)

    def _lay(self, blocks: Sequence[Block]) -> None:
        """Learn the layout: `blocks` after the map; fields of one width go together, so that a wide one pads none."""
        self.blocks = tuple(Block(block.name, tuple(range(self.width))) for block in blocks) if self.width else blocks
        starts = list(accumulate((block.width for block in blocks), initial=0))
        order = sorted(range(len(blocks)), key=lambda i: blocks[i].width)
        counts = Counter(block.width for block in blocks)
        self.shapes = [(counts[width], width) for width in sorted(counts)]
        columns = [column for i in order for column in range(starts[i], starts[i + 1])]
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.register_buffer("fields", torch.tensor(order).argsort(), persistent=False)  # where in `order` each stands

    def forward(self, x: Tensor) -> Tensor:
        if not self.width:
            return x
        sizes = [count * width for count, width in self.shapes]
        parts = x.index_select(1, self.columns).split(sizes, 1), self.weight.index_select(0, self.columns).split(sizes)
        mapped = [
            torch.einsum("bfc,fcd->bfd", columns.unflatten(1, shape), maps.unflatten(0, shape))
            for columns, maps, shape in zip(*parts, self.shapes)
        ]
        return torch.cat(mapped, 1).index_select(1, self.fields).flatten(1)

    def narrow(self, blocks: Sequence[Block], kept: Tensor) -> Projection:
        """The maps of the columns `kept`, which are laid out as `blocks`. Exact."""
        slim = copy.deepcopy(self)
        slim._lay(blocks)
        if self.width:
            slim.weight = nn.Parameter(self.weight.detach()[kept].clone())
        return slim.to(kept.device)


def holders(blocks: Sequence[Block], fields: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Which of the fields have a native column, for every column number that any has, ascending."""
    held: dict[int, tuple[int, ...]] = {}
    for i in fields:
        for column in blocks[i].columns:
            held[column] = (*held.get(column, ()), i)
    return dict(sorted(held.items()))


class Meetings(nn.Module):
    """Which pairs of fields meet (all, or those named), and the inner products they meet by: (B, W) -> (B, P')."""

    def __init__(self, blocks: Sequence[Block], pairs: Sequence[Sequence[str]] | None = None):
        super().__init__()
        names = [block.name for block in blocks]
        met = None if pairs is None else _named(names, pairs)
        everyone = list(combinations(range(len(names)), 2))
        chosen = [p for p, (i, j) in enumerate(everyone) if met is None or frozenset((names[i], names[j])) in met]
        fields = sorted({i for p in chosen for i in everyone[p]})
        row = {i: at for at, i in enumerate(fields)}
        self.total, self.all = len(everyone), len(chosen) == len(everyone)
        self.names = [(names[i], names[j]) for i, j in (everyone[p] for p in chosen)]
        shared = [column for column, held in holders(blocks, fields).items() if len(held) > 1]  # others meet zeros only
        self.grid = Grid(blocks, fields, shared)
        cells = [row[i] * len(fields) + row[j] for i, j in (everyone[p] for p in chosen)]
        self.register_buffer("cells", torch.tensor(cells, dtype=torch.long), persistent=False)
        self.register_buffer("chosen", torch.tensor(chosen, dtype=torch.long), persistent=False)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Inner products (B, P') of the P' pairs that meet, times `weights` (P,) or (B, P) of all P = F(F-1)/2."""
        grid = self.grid(x)
        products = torch.bmm(grid, grid.transpose(1, 2)).flatten(1).index_select(1, self.cells)
        if weights is None:
            return products
        if weights.shape[-1] != self.total:
            raise ValueError(f"{self.total} pairs of fields need {self.total} weights, got {weights.shape[-1]}")
        return products * (weights if self.all else weights.index_select(-1, self.chosen))

    def sum(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The same, summed over pairs (B,); all pairs unweighted cost F instead of F^2 (Rendle 2010)."""
        if weights is None and self.all:
            grid = self.grid(x)
            return 0.5 * (grid.sum(1).square().sum(1) - grid.square().sum((1, 2)))
        return self(x, weights).sum(1)

    def replacing(self, x: Tensor) -> Callable[[int, Tensor], Tensor]:
        """The sum (B,) over all pairs unweighted, of `x` with its columns from some start on replaced."""
        grid, size = self.grid(x), self.grid.shape[1]
        total, squares = grid.sum(1), grid.square().sum((1, 2))
        place = self.grid.cells.new_full((x.shape[1] + 1,), size)  # of a column of x among those of the grid
        place[self.grid.cells] = torch.arange(len(self.grid.cells), device=x.device) % size
        total = F.pad(total, (0, 1))  # the place of columns that meet none: it is not summed

        def logits(start: int, columns: Tensor) -> Tensor:
            part = slice(start, start + columns.shape[1])
            met = (place[part] < size).to(x.dtype)
            now = total.index_add(1, place[part], columns - x[:, part])[:, :size]
            return 0.5 * (now.square().sum(1) - squares - (columns.square() - x[:, part].square()) @ met)

        return logits

    def narrow(self, selection: Selection, blocks: Sequence[Block]) -> tuple[list[list[str]] | None, Tensor]:
        """The pairs that go on meeting over `blocks` (None: all), and their positions among the P' of now."""
        left = {block.name for block in blocks}
        met = _sets(self.names if selection.pairs is None else selection.pairs)
        stays = [i for i, pair in enumerate(self.names) if left.issuperset(pair) and frozenset(pair) in met]
        everyone = self.all and selection.pairs is None
        return None if everyone else [list(self.names[i]) for i in stays], self.cells.new_tensor(stays)


def pair_mask(names: Sequence[str], selection: Selection, like: Tensor) -> Tensor | None:
    """1 for every pair of `names` (upper triangle) that the selection lets meet, else 0; None where it says nothing."""
    if selection.pairs is None:
        return None
    met = _sets(selection.pairs)
    return like.new_tensor([float(frozenset(pair) in met) for pair in combinations(names, 2)])


def _sets(pairs: Sequence[Sequence[str]]) -> set[frozenset[str]]:
    return {frozenset(pair) for pair in pairs}


def _named(names: Sequence[str], pairs: Sequence[Sequence[str]]) -> set[frozenset[str]]:
    """The pairs as sets, after checking that each names two fields there are."""
    known = set(names)
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or pair[0] == pair[1]:
            raise ValueError(f"`pairs` must list pairs of two different fields, got {pair!r}")
        for name in pair:
            if name not in known:
                raise ValueError(f"`pairs` names '{name}', which is not a field; {did_you_mean(str(name), names)}")
    return _sets(pairs)
