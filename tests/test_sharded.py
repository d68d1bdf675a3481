"""Tables shared out between two processes by TorchRec train as whole ones do, gate steps and checkpoints included."""

import importlib.util

import pytest
import safetensors.torch
import small
import torch
import two_ranks
import two_shards

from slimrec.config import ModelConfig, TrainConfig, parse
from slimrec.data.dataset import Dataset
from slimrec.errors import ConfigError
from slimrec.model import build
from slimrec.training.ranks import Ranks
from slimrec.training.sharded import shard

pytestmark = pytest.mark.battery
CLOSE = 1e-5
HERE = importlib.util.find_spec("torchrec") is not None and importlib.util.find_spec("fbgemm_gpu") is not None
needs_torchrec = pytest.mark.skipif(not HERE, reason="torchrec and fbgemm-gpu are not installed")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    small.ingest_rows(folder, gate=0.1)
    return folder / "dataset"


@pytest.fixture(scope="module")
def left(dataset, tmp_path_factory):
    """What two processes left, one training of theirs begun by one process with whole tables."""
    folder = tmp_path_factory.mktemp("left")
    two_ranks.begin(two_shards.trainer(dataset, folder / "one.checkpoint"))
    two_ranks.run_by_two(two_shards.__file__, dataset, folder)
    return folder


@pytest.fixture(scope="module")
def alone(dataset):
    """The weights of undisturbed trainings by one process with whole tables, and before them, by method."""
    ends = {}
    for method in ("none", "lpfs"):
        one = two_shards.trainer(dataset, method=method)
        ends["fresh", method] = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
        one.fit()
        ends[method] = one.model.state_dict()
    return ends


def furthest(one, other):
    assert set(one) == set(other)
    return max(float((one[name].double() - tensor.double()).abs().max()) for name, tensor in other.items())


@needs_torchrec
@pytest.mark.parametrize(
    ("name", "method"), [("sharded", "none"), ("gated", "lpfs"), ("resumed", "none"), ("again", "none")]
)
def test_tables_shared_out_train_as_whole_ones_do(left, alone, name, method):
    trained = safetensors.torch.load_file(left / f"{name}.safetensors")
    assert furthest(trained, alone[method]) < CLOSE
    assert furthest(trained, alone["fresh", method]) > 100 * CLOSE


@needs_torchrec
def test_one_process_with_whole_tables_ends_what_two_with_parts_of_them_began(left, dataset, alone):
    one = two_shards.trainer(dataset, left / "two.checkpoint")
    one.fit()
    assert furthest(one.model.state_dict(), alone["none"]) < CLOSE


def refused(dataset, dim=4, world=2, **settings):
    config = TrainConfig(**{"tables": "sharded", "embedding_optimizer": "rowwise_adagrad", **settings})
    model = build(Dataset.open(dataset).schema, ModelConfig(embedding_dim=dim), seed=0)
    with pytest.raises(ConfigError) as error:
        shard(model, config, Ranks(0, world, torch.device("cpu")))
    return str(error.value)


def test_what_cannot_be_shared_out_is_refused_with_the_way_out(dataset):
    assert "multiples of 4, got 6" in refused(dataset, dim=6)
    assert "fewer rows" in refused(dataset, world=10**6)
    with pytest.raises(ConfigError, match="rowwise_adagrad only"):
        parse(TrainConfig, {"tables": "sharded"})
    with pytest.raises(ConfigError, match="auto becomes .* rowwise_adagrad only"):
        TrainConfig().sharded()
    assert TrainConfig(embedding_optimizer="rowwise_adagrad", epochs=3).sharded().epochs == 3


@pytest.mark.skipif(HERE, reason="torchrec is installed")
def test_without_torchrec_the_refusal_says_what_to_install(dataset):
    assert "add torchrec and fbgemm-gpu" in refused(dataset)


@pytest.mark.parametrize(("world", "tables"), [(1, "sharded"), (2, "replicated"), (2, "auto")])
def test_one_process_replicas_and_tables_that_fit_keep_whole_tables(dataset, world, tables):
    config = TrainConfig(tables=tables, embedding_optimizer="rowwise_adagrad")
    model = build(Dataset.open(dataset).schema, ModelConfig(), seed=0)
    assert shard(model, config, Ranks(0, world, torch.device("cpu"))) is None
    assert model.arena.shards is None and model.arena.tables
