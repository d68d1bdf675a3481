"""Gates of the meetings of fields: some pairs go, and fields only where a budget asks for fewer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection

from slimrec.gates.base import Gate
from slimrec.selection import Budget, Selection


class MeetingGate(Gate, ABC):
    """What gates share that decide which pairs, of all in `names`, go on meeting."""

    names: list[tuple[str, str]]

    @abstractmethod
    def meets(self) -> list[bool]:
        """Whether each pair stays, as long as both of its fields do."""

    def select(self, budget: Budget, seed: int) -> Selection:
        """All fields, unless a budget asks for fewer."""
        chosen = budget.choose(self.scores(), self.takes(budget), threshold=0.0)
        columns = {b.name: b.columns if b.name in chosen else () for b in self.blocks}
        return self._with_pairs(self._pack(budget, seed, columns))

    def revise(self, selection: Selection, keep: Collection[str] = (), drop: Collection[str] = ()) -> Selection:
        return self._with_pairs(super().revise(selection, keep, drop))

    def _with_pairs(self, selection: Selection) -> Selection:
        """The pairs that stay, of fields that stay; None where that is all of them."""
        kept = set(selection.kept)
        left = [(pair, stays) for pair, stays in zip(self.names, self.meets()) if kept.issuperset(pair)]
        pairs = tuple(pair for pair, stays in left if stays)
        return selection.model_copy(update={"pairs": None if len(pairs) == len(left) else pairs})
