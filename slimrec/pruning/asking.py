"""What the loss of each row rises by when fields hold something else: asked of as many rows as it takes to be sure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from slimrec.batch import Batch, total
from slimrec.model import Model
from slimrec.pruning.change import change

PIECE = 2**14  # rows at once, and shuffled among each other
FIRST = 2**12  # rows that every question is asked of
_CLEAR = 6  # errors above zero from which nothing more is asked
_ADDED = 0.05  # of the variance, at most, by not asking all rows
_STEPS = 8  # of Newton; five reach the precision of a float

Instead = Callable[[Tensor, int], Tensor]  # blocks (B, W) of a piece and its number -> what is to stand in their place
_Part = tuple[int, Tensor, Tensor, Tensor | None]  # first row, blocks, what is to stand there, and weights of pairs


def ask(
    model: Model,
    batch: Batch,
    groups: Sequence[tuple[str, ...]],
    instead: Instead,
    cluster: Tensor | None,
    device: torch.device,
    whole: Collection[str],
    refit: bool = False,
) -> list[Tensor]:
    """By group of fields, what the log-loss of each row (n,) rises by when the blocks of all of the group are others.

    Rows come in random order. The first `FIRST` are sent through the network with the other blocks, all are moved along
    the slope of their logits. The mean over all rows is that of the moved ones plus what these miss on the first: the
    difference estimator of two-phase sampling (Cochran, Sampling Techniques, 1977, chapter 12), without bias however
    bad the slope is. A row's figure is its part in that, so that the error of their mean, clusters and all, is the
    estimate's.

    How many rows more it takes until what the slope misses adds no more than `_ADDED` to the variance, an error 2.5 %
    wider, is told by the first ones (Stein, 1945): the mean has no say in it, so that it stays without bias. Where that
    is more than half of all rows, or the first are more than a quarter, all are asked, and so are fields of `whole`: what
    is seldom there may not have shown itself. A group that costs something by `_CLEAR` errors, twice what makes a cost
    certain, is asked no more: that chance alone brings it there has a probability of 1e-9, which the 1.3e-3 of three
    errors on all rows has room for (an early look is free where its bound is far beyond the last one's: Haybittle, 1971;
    Peto et al., 1976).

    `refit` adds the best constant to the logits before and after, of each task its own.
    """
    rows, place = len(batch.label), _places(model)
    short = rows < 4 * FIRST or not batch.row_weight[:FIRST].any()
    ends = [rows if short or set(group) & set(whole) else FIRST for group in groups]
    seen: list[tuple[Tensor, Tensor]] = []
    exact: list[list[Tensor]] = [[] for _ in groups]
    for first, x, other, pairs in _parts(model, batch, instead, device):
        seen.append(_seen(model, x, other, pairs, sloping=not short))
        _answer(model, x, other, pairs, [(groups[i], exact[i]) for i, end in enumerate(ends) if first < end])
    logits, slopes = torch.cat([each for each, _ in seen]), torch.cat([each for _, each in seen], 1)
    before = losses(logits + _intercept(logits, batch) if refit else logits, batch)

    def told(group: tuple[str, ...], parts: list[Tensor]) -> tuple[Tensor, Tensor]:
        answer = torch.cat(parts)
        if len(answer) == rows:
            shift = _intercept(answer, batch) if refit else 0
            return losses(answer + shift, batch) - before, torch.zeros_like(before)
        moved = logits + torch.stack([slopes[place[name][0]] for name in group]).sum(0)
        return _estimated(moved, answer, before, batch, refit)

    wanted = [
        end if end == rows else _enough(*told(group, parts), batch, cluster)
        for group, parts, end in zip(groups, exact, ends)
    ]
    for first, x, other, pairs in _parts(model, batch, instead, device) if wanted != ends else ():
        open_ = [i for i in range(len(groups)) if ends[i] <= first < wanted[i]]
        _answer(model, x, other, pairs, [(groups[i], exact[i]) for i in open_])
    return [torch.add(*told(group, parts)) for group, parts in zip(groups, exact)]


def _enough(rise: Tensor, missed: Tensor, batch: Batch, cluster: Tensor | None) -> int:
    """How many rows it takes, by what the first ones say: `FIRST`, a few times as many, or all."""
    everywhere, rows = torch.ones(len(rise), dtype=torch.bool), len(rise)
    found, added = (change(part, everywhere, batch.row_weight, cluster) for part in (rise + missed, missed))
    if found.mean > _CLEAR * found.error:
        return FIRST
    rest = max(found.error**2 - added.error**2, 0)
    times = added.error**2 / (_ADDED * rest) if rest else float(added.error > 0) * rows
    needed = FIRST * max(1, -(-min(times, rows) // 1))
    return int(needed) if needed <= rows / 2 else rows


def _estimated(moved: Tensor, exact: Tensor, before: Tensor, batch: Batch, refit: bool) -> tuple[Tensor, Tensor]:
    """Each row's part (n,) in the mean rise, and in what asking only len(`exact`) of them leaves open; that sums to 0."""
    asked, weight = len(exact), batch.row_weight.double()
    first = Batch(*(part[:asked] for part in batch))
    worth = float(weight[:asked].sum())
    times = float(weight.sum()) / worth
    shift = _intercept(moved, batch, (moved[:asked], first, -times), (exact, first, times)) if refit else 0
    rise = losses(moved + shift, batch) - before
    apart = losses(exact + shift, first) - (rise + before)[:asked]
    mean = float(apart.sum()) / worth
    missed = torch.zeros_like(rise)
    missed[:asked] = times * (apart - mean * weight[:asked])
    return rise + mean * weight, missed


def _seen(model: Model, x: Tensor, other: Tensor, pairs: Tensor | None, sloping: bool) -> tuple[Tensor, Tensor]:
    """Logits (B,), or (B, T) of T tasks, and what they rise by along their slope, by block; 0 blocks where not `sloping`."""
    widths, moves = [block.width for block in model.blocks], []
    with torch.set_grad_enabled(sloping):
        leaf = x.detach().requires_grad_(sloping)
        found = model.backbone(leaf, pairs)
        tasks = [task.sum() for task in found.reshape(len(x), -1).unbind(1)] if sloping else []
    logits = found.detach().double().cpu()
    for task in tasks:
        (slope,) = torch.autograd.grad(task, leaf, retain_graph=True)
        moves.append(torch.stack([block.sum(1) for block in ((other - x) * slope).split(widths, 1)]))
    if not moves:
        return logits, logits.new_zeros(0, *logits.shape)
    return logits, torch.stack(moves, -1).reshape(len(widths), *logits.shape).double().cpu()


@torch.no_grad()
def _answer(
    model: Model,
    x: Tensor,
    other: Tensor,
    pairs: Tensor | None,
    asked: Sequence[tuple[tuple[str, ...], list[Tensor]]],
) -> None:
    """Adds, for each group of fields, the logits of the rows `x` (B, W) with its blocks from `other`."""
    place = _places(model)
    replaced = model.backbone.replacing(x) if pairs is None and asked else None
    for group, found in asked:
        if replaced is not None and len(group) == 1:
            (alone,) = group
            _, columns = place[alone]
            found.append(replaced(columns.start, other[:, columns]).double().cpu())
            continue
        changed = x.clone()
        for name in group:
            _, columns = place[name]
            changed[:, columns] = other[:, columns]
        found.append(model.backbone(changed, pairs).double().cpu())


def _places(model: Model) -> dict[str, tuple[int, slice]]:
    """By field, which of the blocks is its own, and its columns."""
    place, start = {}, 0
    for i, block in enumerate(model.blocks):
        place[block.name], start = (i, slice(start, start + block.width)), start + block.width
    return place


def _parts(model: Model, batch: Batch, instead: Instead, device: torch.device) -> Iterator[_Part]:
    for number, (x, pairs, _) in enumerate(blocks(model, batch, device)):
        other = instead(x, number)
        for at in range(0, len(x), FIRST):
            here = slice(at, at + FIRST)
            weights = pairs if pairs is None or pairs.dim() == 1 else pairs[here]
            yield number * PIECE + at, x[here], other[here], weights


@torch.no_grad()
def blocks(model: Model, batch: Batch, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Gated blocks, weights of pairs where a gate has such, and weights of rows, piece by piece."""
    for piece in zip(*(part.split(PIECE) for part in (batch.ids, batch.dense, batch.row_weight))):
        ids, dense, weight = (part.to(device) for part in piece)
        yield *model.gated(ids, dense), weight


def losses(logits: Tensor, batch: Batch) -> Tensor:
    """Weighted log-loss (n,), over all tasks."""
    label, weight = batch.label.double(), batch.weight.double()
    return total(weight * F.binary_cross_entropy_with_logits(logits, label, reduction="none"))


def _intercept(logits: Tensor, batch: Batch, *more: tuple[Tensor, Batch, float]) -> Tensor:
    """What added to the logits makes their log-loss least, that of `more` times its factor beside it; of each task its own.

    By Newton's method with the curvature of the last part, which is that of all. A step goes no further than 2, where
    labels of one class alone know no bound; and nowhere where nothing weighs.
    """
    rows = [(logits, batch.label.double(), batch.weight.double())]
    rows += [(other, its.label.double(), factor * its.weight.double()) for other, its, factor in more]
    shift = torch.zeros(())
    for _ in range(_STEPS):
        slope = torch.zeros_like(shift)
        for part, label, weight in rows:
            chance = torch.sigmoid(part + shift)
            slope = slope + (weight * (label - chance)).sum(0)
        room = (weight * chance * (1 - chance)).sum(0)
        shift = shift + (slope / room).nan_to_num().clamp(-2, 2)
    return shift
