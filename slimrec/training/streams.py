"""The rows of each step: the training rows epoch by epoch, the gate slice round and round."""

from __future__ import annotations

from collections.abc import Iterator

from slimrec.batch import Batch
from slimrec.config import TrainConfig
from slimrec.data.dataset import Split
from slimrec.data.order import batch_count
from slimrec.training.ranks import Ranks


class Stream:
    """A split as a training sees it: in the order that its config says, this rank's part of every batch."""

    def __init__(self, split: Split, config: TrainConfig, ranks: Ranks):
        self.split, self.config, self.ranks = split, config, ranks
        self.steps = batch_count(len(split), config.batch_size)  # of one epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one pass from number `start` on."""
        return self.split.batches(
            self.config.batch_size,
            seed=self.config.seed,
            epoch=epoch,
            shuffle=self.config.shuffle,
            window_rows=self.config.window_rows,
            rank=self.ranks.rank,
            world=self.ranks.world,
            start=start,
        )

    def endless(self, start: int) -> Iterator[Batch]:
        """Pass after pass, from batch `start` of all of them on."""
        epoch, start = divmod(start, self.steps)
        while True:
            yield from self.epoch(epoch, start)
            epoch, start = epoch + 1, 0
