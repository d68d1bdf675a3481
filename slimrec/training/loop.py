"""The one training loop: gated or plain, resumable to the bit on CPU, on one device or under torchrun."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from slimrec.batch import Batch, total
from slimrec.config import TrainConfig
from slimrec.data.dataset import Split
from slimrec.errors import ConfigError, InputError, Preempted, TransientError
from slimrec.gates.base import GATE_OPTIMIZERS
from slimrec.model import Model
from slimrec.preempt import StopRequest
from slimrec.training.checkpoint import Checkpoint, restore_optimizer
from slimrec.training.optimizers import optimizers_for
from slimrec.training.ranks import Ranks
from slimrec.training.sharded import shard, unshard
from slimrec.training.streams import Stream
from slimrec.training.validation import validate

Log = Callable[[dict[str, float], int], None]
_MIX = 0x9E3779B97F4A7C15  # odd constant of splitmix64: neighbouring steps get unrelated seeds


class Trainer:
    """Trains a model on `train`, steps its gate on `gate` where the gate asks for it, keeps the best by `valid` AUC.

    A `warm` start counts: where no epoch makes it better, the model stays what it was.
    Every random draw of a step comes from (seed, step, rank), so a resumed run repeats an undisturbed one.
    """

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        train: Split,
        valid: Split,
        gate: Split | None = None,
        checkpoint: Path | None = None,
        log: Log = lambda values, step: None,
        warm: bool = False,
    ):
        self.ranks = Ranks.join(config.device)
        self.device = self.ranks.device
        self.model, self.config, self.log, self.valid, self.warm = model, config, log, valid, warm
        self.gate_learns = model.gate is not None and model.gate.learns
        self._check(gate)
        self.shards = shard(model, config, self.ranks)
        model.to(self.device)
        self.ranks.alike(tensor for name, tensor in model.state_dict().items() if not name.startswith("arena.shards"))
        self.optimizers = optimizers_for(model, config)
        where = self.device if self.shards is None else torch.device("cpu")
        self.checkpoint = Checkpoint(checkpoint, where, config.checkpoint_seconds, config.checkpoint_every)
        self.stream = Stream(train, config, self.ranks)
        self.gate_stream = None if gate is None else Stream(gate, config, self.ranks)
        self.steps_per_epoch = self.stream.steps
        self.step, self.best, self.best_auc, self.stale, self.history = 0, None, -math.inf, 0, []
        self.loss_sum, self.stop = torch.zeros((), device=self.device, dtype=torch.double), StopRequest()
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")

    def _check(self, gate: Split | None) -> None:
        if self.config.batch_size < 2 * self.ranks.world:
            raise ConfigError(
                f"train.batch_size is for all ranks together: {self.config.batch_size} gives {self.ranks.world} ranks "
                f"less than two rows each"
            )
        if self.model.gate is None:
            return
        method, stream = self.model.gate.method, self.model.gate.stream if self.gate_learns else None
        if (self.model.gate.surveys or stream == "gate") and (gate is None or len(gate) < 2):
            raise ConfigError(
                f"method '{method}' works on the held-out gate slice, which is empty: set ingest.split.gate"
            )
        if stream == "train" and self.config.epochs > 1 and not self.model.gate.published:
            raise ConfigError(
                f"method '{method}' with stream: train sees rows twice in {self.config.epochs} epochs and would keep "
                f"memorised noise: set train.epochs to 1, or stream: gate, or ask for a published flow by `reference`"
            )

    def fit(self) -> dict[str, float]:
        """Train to the end (or to early stopping), leave the best weights in the model; returns figures."""
        self._resume()
        if self.warm and not self.step:
            self._keep(validate(self.model, self.valid, self.ranks)["valid_auc"])
        started, first = time.monotonic(), self.step
        with self.stop, self._progress() as bar:
            while self.step < self.config.epochs * self.steps_per_epoch and not self._exhausted():
                self._epoch(bar)
        self.model.load_state_dict(self.best)
        if self.shards is not None:
            unshard(self.model)
            self.device = torch.device("cpu")
        seconds = time.monotonic() - started
        rows = (self.step - first) * self.config.batch_size
        return {
            "valid_auc": self.best_auc,
            "epochs": len(self.history),
            "steps": self.step,
            "seconds": round(seconds, 3),
            "rows_per_second": round(rows / seconds, 1) if seconds else 0.0,
        }

    @property
    def gate_passes(self) -> int:
        """How often training rows were seen with a gate on them that learns."""
        if not self.gate_learns or self.model.gate.stream == "gate":
            return 0
        return 1 if self.model.gate.stream == "first" else len(self.history)

    def _exhausted(self) -> bool:
        return bool(self.config.patience) and self.stale >= self.config.patience

    def _progress(self) -> tqdm:
        total = self.config.epochs * self.steps_per_epoch
        label = self.model.gate.method if self.model.gate is not None else "train"
        return tqdm(
            total=total,
            initial=self.step,
            desc=label,
            unit="step",
            disable=self.ranks.rank > 0,
            mininterval=0.5,
            dynamic_ncols=True,
        )

    def _epoch(self, bar: tqdm) -> None:
        """The rest of the current epoch, then validation, log, checkpoint."""
        began, epoch = time.monotonic(), self.step // self.steps_per_epoch
        gate_batches = None
        self.model.train()
        for batch in self.stream.epoch(epoch, start=self.step % self.steps_per_epoch):
            self._train_step(batch)
            if self._gate_is_due():
                # from where the steps say, now: where a warm-up ends within an epoch, a resumed run sees the same rows
                gate_batches = gate_batches or self.gate_stream.endless(self.step // self.model.gate.every)
                self._gate_step(next(gate_batches))
            self.step += 1
            bar.update()
            due = self.stop.asked or self.checkpoint.due(self.step)
            if self.step % self.steps_per_epoch and self.ranks.any(due):  # each rank has a clock of its own
                self._save()
        self._validate(epoch, time.monotonic() - began, bar)
        self._save()

    def _save(self) -> None:
        """Checkpoint; leave if asked to. At the end of an epoch this comes after its validation, never between."""
        began = time.monotonic()
        states = {"model": self.model.state_dict(), **({"best": self.best} if self.best else {})}
        if self.shards is not None:
            states = {name: self.shards.whole(state) for name, state in states.items()}
            states["tables"] = self.shards.whole_optimizer()
        states["loss"] = {"sum": self.ranks.sum(self.loss_sum)}
        if self.ranks.rank == 0:
            best_auc = self.best_auc if self.best else None
            values = {"step": self.step, "best_auc": best_auc, "stale": self.stale, "history": self.history}
            self.checkpoint.save(states, self.optimizers, values)
        self.checkpoint.rest(began)
        if self.ranks.any(self.stop.asked):  # which no rank passes before the checkpoint is there
            raise Preempted(f"stopped at step {self.step} with a checkpoint: run the step again to resume")

    def _gate_is_due(self) -> bool:
        gate, step = self.model.gate, self.step
        return self.gate_learns and gate.stream == "gate" and step >= self._warmup() and (step + 1) % gate.every == 0

    def _span(self) -> int:
        """The steps of the training in which the gate may learn, from the first on."""
        return self.steps_per_epoch * (1 if self.model.gate.stream == "first" else self.config.epochs)

    def _warmup(self) -> float:
        return self.model.gate.warmup * self._span()

    def _settled(self) -> float:
        return max(self.model.gate.warmup, self.model.gate.settled) * self._span()

    def _loss(self, batch: Batch) -> Tensor:
        """Weighted mean log-loss over all labels that are observed, whatever their task.

        A rank's share of it under torchrun (gradients are summed over ranks).
        """
        ids, dense, label, weight = (part.to(self.device, non_blocking=True) for part in batch)
        if self.model.gate is not None:
            self.model.gate.row_weight = total(weight)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            logits = self.model(ids, dense)
        losses = F.binary_cross_entropy_with_logits(logits.float(), label, reduction="none")
        return (losses * weight).sum() / self.ranks.sum(weight.sum()).clamp(min=1e-12)

    def _train_step(self, batch: Batch) -> None:
        torch.manual_seed(self._seed(0))
        joint = self.gate_learns and self.model.gate.stream != "gate" and self._warmup() <= self.step < self._span()
        if self.gate_learns:
            self.model.gate.train(self.step < self._span()).requires_grad_(joint)
        loss = self._loss(batch)
        self.loss_sum += loss.detach()
        (loss + self.model.gate.penalty() / self.ranks.world if joint else loss).backward()
        self._update("tables", "dense", *(GATE_OPTIMIZERS if joint else ()))
        if joint:
            self._after_gate_step()
        else:
            self._alike()

    def _gate_step(self, batch: Batch) -> None:
        """Step only the gate, on rows that the network never trains on; nothing of the network moves, averages included."""
        torch.manual_seed(self._seed(1))
        averages = [(buffer, buffer.clone()) for buffer in self.model.backbone.buffers()]
        self.model.gate.requires_grad_(True)
        others = [*self.model.arena.parameters(), *self.model.backbone.parameters()]
        for parameter in others:
            parameter.requires_grad_(False)
        (self._loss(batch) + self.model.gate.penalty() / self.ranks.world).backward()
        for parameter in others:
            parameter.requires_grad_(True)
        for buffer, before in averages:
            buffer.copy_(before)
        self._update(*GATE_OPTIMIZERS)
        self._after_gate_step()

    def _after_gate_step(self) -> None:
        self._alike()
        self.model.gate.step((self.step + 1) / self._span())

    def _alike(self) -> None:
        """The running averages of the network and of the gate, which each rank updates by its own rows."""
        if self.ranks.world == 1:
            return
        buffers = [buffer for buffer in self.model.backbone.buffers() if buffer.is_floating_point()]
        if self.gate_learns:
            buffers += [getattr(self.model.gate, name) for name in self.model.gate.shared]
        self.ranks.average(buffers)

    def _update(self, *names: str) -> None:
        for name in names:
            optimizer = self.optimizers.get(name)
            if optimizer is not None:
                self.ranks.sum_gradients(p for group in optimizer.param_groups for p in group["params"])
                optimizer.step()
                optimizer.zero_grad()

    def _seed(self, part: int) -> int:
        return ((self.config.seed * 1_000_003 + self.step * 2 + part) * _MIX + self.ranks.rank) % 2**63

    def _validate(self, epoch: int, seconds: float, bar: tqdm) -> None:
        loss = float(self.ranks.sum(self.loss_sum)) / self.steps_per_epoch
        if not math.isfinite(loss):
            raise InputError(
                f"training diverged in epoch {epoch + 1} (mean loss {loss:g}): lower learning_rate, or look for huge "
                f"values in number fields"
            )
        figures = validate(self.model, self.valid, self.ranks)
        row = {"train_loss": loss, **figures, "epoch_seconds": seconds}
        self.loss_sum.zero_()
        self.history.append(row)
        scores = self.model.gate.scores() if self.gate_learns else {}
        self.log(row | {f"gate/{name}": value for name, value in scores.items()}, self.step)
        bar.set_postfix(auc=f"{row['valid_auc']:.4f}", loss=f"{row['train_loss']:.4f}")
        if self.gate_learns and epoch + 1 < self.config.epochs and epoch * self.steps_per_epoch < self._settled():
            return  # the gate is still on its way: what is best so far says nothing about it
        if row["valid_auc"] > self.best_auc:
            self._keep(row["valid_auc"])
        else:
            self.stale += 1

    def _keep(self, valid_auc: float) -> None:
        self.best_auc, self.stale = valid_auc, 0
        self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _resume(self) -> None:
        found = self.checkpoint.load()
        if self.ranks.any(found is None) != (found is None):
            raise TransientError("only some ranks see the checkpoint: is the workspace one volume for all of them?")
        if found is None:
            return
        parts, values = found
        if self.shards is not None:
            self.shards.restore_optimizer(parts["tables"])
            parts |= {name: self.shards.share(parts[name]) for name in ("model", "best") if name in parts}
        self.model.load_state_dict(parts["model"])
        for name, optimizer in self.optimizers.items():
            restore_optimizer(optimizer, parts.get(name, {}))
        self.best = parts.get("best")
        if self.ranks.rank == 0:  # the first rank goes on with everybody's
            self.loss_sum.copy_(parts["loss"]["sum"])
        self.step, self.stale, self.history = values["step"], values["stale"], values["history"]
        self.best_auc = -math.inf if values["best_auc"] is None else values["best_auc"]
