"""Two processes train one model: alike on both, like a single one, stopped together, resumed by any number."""

import pytest
import safetensors.torch
import small
import torch
import two_ranks

from slimrec.data.dataset import Dataset
from slimrec.errors import ConfigError

CLOSE = 1e-4  # after 32 steps: sums over ranks are rounded in another order than sums over rows


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    small.ingest_rows(folder, gate=0.1)
    return folder / "dataset"


@pytest.fixture(scope="module")
def alone(dataset):
    """The weights of an undisturbed training by one process."""
    one = two_ranks.trainer(dataset)
    one.fit()
    return one.model.state_dict()


@pytest.fixture(scope="module")
def left(dataset, tmp_path_factory):
    """What two processes left, the second training of theirs begun by one."""
    folder = tmp_path_factory.mktemp("left")
    two_ranks.begin(two_ranks.trainer(dataset, folder / "one.safetensors"))
    two_ranks.run_by_two(two_ranks.__file__, dataset, folder)
    return folder


def both(folder, name):
    return [safetensors.torch.load_file(folder / f"{name}-{rank}.safetensors") for rank in range(2)]


def equal(one, other):
    return all(torch.equal(one[name], tensor) for name, tensor in other.items())


def furthest(one, other):
    return max(float((one[name].double() - tensor.double()).abs().max()) for name, tensor in other.items())


@pytest.mark.parametrize("name", ["plain", "noisy", "stopped", "resumed"])
def test_both_ranks_end_with_the_same_bits_running_averages_included(left, name):
    first, second = both(left, name)
    if name == "noisy":  # a rank's memory of past rows is its own
        first, second = ({n: t for n, t in end.items() if "past" not in n} for end in (first, second))
        assert any("running_var" in n for n in first) and "gate.distance_sum" in first
    assert equal(first, second)


def test_a_last_batch_that_leaves_a_rank_without_rows_spoils_nothing(left):
    assert all(torch.isfinite(tensor).all() for tensor in both(left, "noisy")[0].values())


def test_two_processes_train_the_model_of_one(left, alone):
    assert furthest(both(left, "plain")[0], alone) < CLOSE


def test_a_stop_that_one_rank_hears_of_stops_both_after_the_same_step_and_one_process_goes_on_from_there(
    left, dataset, alone
):
    one = two_ranks.trainer(dataset, left / "two.safetensors")
    one._resume()
    assert one.step == 21
    one.fit()
    assert furthest(one.model.state_dict(), alone) < CLOSE
    assert one.history[1]["train_loss"] == pytest.approx(two_losses(dataset), rel=1e-4)


def two_losses(dataset):
    one = two_ranks.trainer(dataset)
    one.fit()
    return one.history[1]["train_loss"]


def test_what_one_process_began_two_end(left, alone):
    assert furthest(both(left, "resumed")[0], alone) < CLOSE


def test_a_batch_without_two_rows_for_each_rank_is_refused(dataset):
    one = two_ranks.trainer(dataset, batch_size=2)
    one.ranks = type(one.ranks)(0, 2, one.device)
    with pytest.raises(ConfigError, match="less than two rows"):
        one._check(Dataset.open(dataset).split("gate"))
