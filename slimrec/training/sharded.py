"""Embedding tables shared out among ranks by rows with TorchRec, for tables that outgrow one device.

Each rank holds a run of rows of every table, with their optimizer state. A look-up asks the owners for the distinct
rows of a rank's batch; the backward pass takes the gradients there, where TorchRec's fused kernel makes the step.
Only row-wise Adagrad has such a kernel on CPU and GPU alike, and its equation is that of
`slimrec.optimizers.RowwiseAdagrad`. Checkpoints and artifacts hold whole tables, so that they serve any number of
ranks: the first rank puts them together in the memory of its machine. At the start every process holds whole tables
in the memory of its machine, until it has cut out its own rows.
"""

from __future__ import annotations

import importlib.util
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn

from slimrec.config import TrainConfig
from slimrec.errors import ConfigError
from slimrec.model import Model
from slimrec.training.ranks import Ranks

_SHARE_OF_GPU = 0.6  # of the free memory; the rest is for the network, its activations and the exchange


class ShardedTables(nn.Module):
    """The rows of this rank, as buffers by width; look-ups reach the rows of all ranks.

    All ranks look up in step with each other, in training and in scoring. While `learning` takes no gradient the rows
    do not move: the network's parameters are switched off like that during a gate step.
    """

    def __init__(self, tables: nn.ParameterDict, ranks: Ranks, config: TrainConfig):
        super().__init__()
        self.ranks, self.learning = ranks, nn.Parameter(torch.empty(0))
        self.engines = {width: _engine(width, table, ranks, config) for width, table in tables.items()}
        self.edges: dict[str, list[int]] = {}
        for width, table in tables.items():
            stored = self.engines[width].state_dict()[f"embeddings.{width}.weight"]
            starts = sorted(shard.shard_offsets[0] for shard in stored.metadata().shards_metadata)
            self.edges[width] = [*starts, len(table)]
            self.register_buffer(width, _own(stored))
            self._cut(table, width, getattr(self, width))

    def forward(self, rows: Tensor, width: int) -> Tensor:
        """The rows (...,) of the table of a width -> (..., width)."""
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        distinct, place = torch.unique(rows, return_inverse=True)
        lengths = torch.tensor([len(distinct)], dtype=torch.int32, device=rows.device)
        asked = KeyedJaggedTensor(keys=[f"rows_{width}"], values=distinct, lengths=lengths)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learning.requires_grad):
            found = self.engines[str(width)](asked).wait()[f"rows_{width}"].values()
        return found[place]

    def whole(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A model's state with whole tables, on the CPU of the first rank; others get it without tables."""
        plain = {name: tensor for name, tensor in state.items() if not name.startswith("arena.shards.")}
        for width in self.engines:
            table = self._gather(state[f"arena.shards.{width}"], self.edges[width])
            plain |= {} if table is None else {f"arena.tables.{width}": table}
        return plain

    def whole_optimizer(self) -> dict[str, Tensor]:
        """The rows' optimizer state as that of RowwiseAdagrad over whole tables, on the first rank."""
        sums = [self._gather(self._sum(width), self.edges[width]) for width in self.engines]
        return {f"{i}/sum": total for i, total in enumerate(sums) if total is not None}

    def share(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """This rank's part of a model's state with whole tables."""
        own = {name: tensor for name, tensor in state.items() if not name.startswith("arena.tables.")}
        for width in self.engines:
            own[f"arena.shards.{width}"] = state[f"arena.tables.{width}"][self._rows(width)]
        return own | {"arena.shards.learning": self.learning.detach()}

    def restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """Put back this rank's part of what `whole_optimizer` gave."""
        for i, width in enumerate(self.engines):
            self._cut(tensors[f"{i}/sum"], width, self._sum(width))

    def _rows(self, width: str) -> slice:
        edges = self.edges[width]
        return slice(edges[self.ranks.rank], edges[self.ranks.rank + 1])

    @torch.no_grad()
    def _cut(self, whole: Tensor, width: str, into: Tensor) -> None:
        into.copy_(whole[self._rows(width)])

    def _sum(self, width: str) -> Tensor:
        """The accumulators (rows,) of this rank, where the engine keeps them."""
        state = self.engines[width].fused_optimizer.state_dict()["state"]
        return _own(state[f"embeddings.{width}.weight"][f"{width}.momentum1"])

    def _gather(self, part: Tensor, edges: list[int]) -> Tensor | None:
        part = part.detach().cpu().contiguous()
        if self.ranks.rank:
            dist.send(part, 0)
            return None
        whole = part.new_empty(edges[-1], *part.shape[1:])
        for rank, (start, stop) in enumerate(pairwise(edges)):
            if rank == 0:
                whole[start:stop] = part
            else:
                dist.recv(whole[start:stop], rank)
        return whole


def shard(model: Model, config: TrainConfig, ranks: Ranks) -> ShardedTables | None:
    """Share the model's tables out among the ranks where the config asks for it, or, by itself, where it has to be.

    Raises ConfigError where tables must be shared out and cannot be.
    """
    tables = model.arena.tables
    if ranks.world == 1 or not tables or config.tables == "replicated":
        return None
    if config.tables == "auto":
        if not _outgrown(tables, ranks):
            return None
        config = config.sharded()
    _check(tables, ranks)
    model.arena.shards = ShardedTables(tables, ranks, config)
    model.arena.tables = nn.ParameterDict()
    return model.arena.shards


def unshard(model: Model) -> None:
    """Whole tables again, on the CPU of the first rank; the models of other ranks are left without."""
    shards = model.arena.shards
    state = shards.whole(model.state_dict())
    model.cpu()
    model.arena.shards = None
    for width in shards.engines if shards.ranks.rank == 0 else ():
        model.arena.tables[width] = nn.Parameter(state[f"arena.tables.{width}"])


def _outgrown(tables: nn.ParameterDict, ranks: Ranks) -> bool:
    """Whether tables, gradients and optimizer state are too much for this rank's GPU; the same answer on all ranks."""
    if ranks.device.type != "cuda":
        return False
    wanted = sum(table.numel() * table.element_size() for table in tables.values())
    return ranks.any(wanted > _SHARE_OF_GPU * torch.cuda.mem_get_info(ranks.device)[0])


def _check(tables: nn.ParameterDict, ranks: Ranks) -> None:
    why = "tables are to be shared out among ranks"
    uneven = [width for width in tables if int(width) % 4]
    if uneven:
        raise ConfigError(
            f"{why}, which takes widths that are multiples of 4, got {', '.join(uneven)}: choose another embedding_dim, "
            f"or train.tables: replicated"
        )
    if any(len(table) < ranks.world for table in tables.values()):
        raise ConfigError(f"{why}, and a table has fewer rows than there are ranks: use train.tables: replicated")
    if importlib.util.find_spec("torchrec") is None or importlib.util.find_spec("fbgemm_gpu") is None:
        raise ConfigError(
            f"{why} by TorchRec, which is not installed: add torchrec and fbgemm-gpu (on CPU fbgemm-gpu-cpu), or use "
            f"train.tables: replicated"
        )


def _engine(width: str, table: Tensor, ranks: Ranks, config: TrainConfig) -> nn.Module:
    """TorchRec's table of one width, its rows shared out in runs of equal length."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
    from torchrec.distributed import comm_ops
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
    from torchrec.distributed.types import ShardingEnv
    from torchrec.modules.embedding_configs import EmbeddingConfig
    from torchrec.modules.embedding_modules import EmbeddingCollection

    comm_ops.set_gradient_division(False)  # a rank's loss is its share of the mean: gradients are summed
    plan = EmbeddingConfig(
        name=width, embedding_dim=int(width), num_embeddings=len(table), feature_names=[f"rows_{width}"]
    )
    whole = EmbeddingCollection(tables=[plan], device=torch.device("meta"))
    sharder = EmbeddingCollectionSharder(
        fused_params={
            "optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            "learning_rate": config.embedding_learning_rate,
            "eps": 1e-10,
            "weight_decay": config.embedding_l2,
            "weight_decay_mode": WeightDecayMode.L2,
        }
    )
    where = construct_module_sharding_plan(
        whole,
        {width: row_wise(compute_kernel="fused")},
        sharder,
        local_size=ranks.world,
        world_size=ranks.world,
        device_type=ranks.device.type,
    )
    return sharder.shard(whole, where, ShardingEnv.from_process_group(dist.group.WORLD), ranks.device)


def _own(stored) -> Tensor:
    """The rows of this rank of a ShardedTensor, as the engine holds them."""
    return stored.local_shards()[0].tensor.detach()
