"""The training loop: resumable to the bit, early stop, gates on rows that the network has not memorised."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import small
import torch
import two_ranks
import yaml
from services import HANG
from two_ranks import stop_after

from slimrec.config import ModelConfig, TrainConfig
from slimrec.data.dataset import Dataset
from slimrec.errors import ConfigError, InputError, Preempted, TransientError
from slimrec.model import build, with_gate
from slimrec.plugins import GATES
from slimrec.stages import execute
from slimrec.training import loop
from slimrec.training.loop import Trainer

OPTIMIZERS = ["lazy_adam", "rowwise_adagrad", "adam"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    small.ingest_rows(folder, gate=0.1)
    return Dataset.open(folder / "dataset")


def trainer(data, checkpoint=None, method="leap", options=None, backbone="mlp", **train):
    settings = {
        "epochs": 2,
        "batch_size": 128,
        "seed": 3,
        "checkpoint_every": 5,
        "patience": 0,
        "device": "cpu",
        **train,
    }
    network = ModelConfig(
        backbone=backbone, embedding_dim=4, options={"hidden": [8], "dropout": 0.2, "batch_norm": True}
    )
    options = options or ({"alpha": 0.001} if method == "leap" else {})  # a gate that learns within the training
    model = with_gate(build(data.schema, network, seed=3), method, options, seed=3)
    return Trainer(model, TrainConfig(**settings), *(data.split(n) for n in ("train", "valid", "gate")), checkpoint)


def weights(one):
    return {name: tensor.clone() for name, tensor in one.model.state_dict().items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("steps", [1, 7, 18, 25])
def test_a_stopped_and_resumed_run_ends_with_the_bits_of_an_undisturbed_one(data, tmp_path, optimizer, steps):
    undisturbed = trainer(data, embedding_optimizer=optimizer)
    undisturbed.fit()
    stopped = trainer(data, tmp_path / "c.safetensors", embedding_optimizer=optimizer)
    stop_after(stopped, steps)
    with pytest.raises(Preempted, match="resume"):
        stopped.fit()
    resumed = trainer(data, tmp_path / "c.safetensors", embedding_optimizer=optimizer)
    resumed.fit()
    expected = weights(undisturbed)
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights(resumed).items())
    for name in ("valid_auc", "train_loss"):
        assert [epoch[name] for epoch in resumed.history] == [epoch[name] for epoch in undisturbed.history]


@pytest.mark.parametrize("steps", [5, 9, 14, 20])
def test_a_resumed_run_takes_the_gate_rows_of_an_undisturbed_one_when_the_warm_up_ends_within_an_epoch(
    data, tmp_path, steps
):
    options = {"alpha": 0.001, "warmup": 0.2, "every": 1}
    undisturbed = trainer(data, options=options)
    undisturbed.fit()
    assert 0 < undisturbed._warmup() < undisturbed.steps_per_epoch
    stopped = trainer(data, tmp_path / "c.safetensors", options=options)
    stop_after(stopped, steps)
    with pytest.raises(Preempted):
        stopped.fit()
    resumed = trainer(data, tmp_path / "c.safetensors", options=options)
    resumed.fit()
    expected = weights(undisturbed)
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights(resumed).items())


@pytest.mark.parametrize("method", sorted(GATES.table))
def test_a_search_by_any_method_resumes_to_the_bit(data, tmp_path, method):
    def search(checkpoint=None):
        return trainer(data, checkpoint, method, backbone="pnn", epochs=1)

    undisturbed, stopped = search(), search(tmp_path / "c.safetensors")
    undisturbed.fit()
    stop_after(stopped, 9)
    with pytest.raises(Preempted):
        stopped.fit()
    resumed = search(tmp_path / "c.safetensors")
    resumed.fit()
    expected = weights(undisturbed)
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights(resumed).items())


@pytest.mark.parametrize("method", ["leap", "lpfs"])
@pytest.mark.parametrize("steps", [2, 4, 15, 17])
def test_a_state_kept_by_the_clock_after_every_step_changes_no_bit_wherever_the_run_stops(
    data, tmp_path, method, steps
):
    undisturbed = trainer(data, method=method, backbone="pnn")
    undisturbed.fit()
    stopped, resumed = (
        trainer(data, tmp_path / "c.safetensors", method, backbone="pnn", checkpoint_seconds=1e-9) for _ in range(2)
    )
    saved, save = [], stopped.checkpoint.save
    stopped.checkpoint.save = lambda states, optimizers, values: (
        saved.append(values["step"]) or save(states, optimizers, values)
    )
    stopped.checkpoint.rest = lambda began: None  # however long it took, the next one is due at once
    stop_after(stopped, steps)
    with pytest.raises(Preempted):
        stopped.fit()
    assert saved == list(range(1, steps + 1))
    resumed.fit()
    expected = weights(undisturbed)
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights(resumed).items())


def test_what_a_killed_process_was_writing_is_swept(data, tmp_path):
    left = tmp_path / "c.partial" / ".tmpXYZ"
    left.parent.mkdir()
    left.write_bytes(b"half")
    one = trainer(data, tmp_path / "c.safetensors", epochs=1)
    one.fit()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.safetensors"]
    left.parent.mkdir()
    one.checkpoint.remove()
    assert not list(tmp_path.iterdir())


def test_a_torn_checkpoint_is_not_resumed_from(data, tmp_path):
    (tmp_path / "c.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    one = trainer(data, tmp_path / "c.safetensors", epochs=1)
    one._resume()
    assert one.step == 0


LONG = {"epochs": 12, "patience": 0, "batch_size": 32, "checkpoint_every": 10, "device": "cpu", "threads": 1}
SEARCH = {"method": "leap", "model": {"options": {"hidden": [16]}}, "train": LONG}


def pretrain_process(folder):
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"ingest": {"source": "planted:rows=100"}, "pretrain": SEARCH}))
    paths = [f"--path={name}={folder / name}" for name in ("dataset", "gated")]
    command = [sys.executable, "-m", "slimrec.cli", "stage", "pretrain", str(recipe), *paths]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen([*command, f"--workspace={folder / 'workspace'}"], env=environment, stderr=subprocess.PIPE)


def pretrained(folder) -> bytes:
    """The same in this process: the weights."""
    execute("pretrain", SEARCH, workspace=folder / "workspace", dataset=folder / "dataset", gated=folder / "gated")
    return (folder / "gated" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    small.ingest_rows(folder, gate=0.1)
    return folder / "dataset", pretrained(folder)


def wait_for_checkpoint(process, folder):
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline and process.poll() is None:
        if list((folder / "workspace" / "checkpoints").glob("*.safetensors")):
            return
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint appeared: {process.stderr.read().decode()[-500:]}")


@pytest.mark.battery
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 40)])
def test_pretrain_killed_or_preempted_and_run_again_ends_with_the_same_bytes(tmp_path, undisturbed, number, code):
    (tmp_path / "dataset").symlink_to(undisturbed[0])
    process = pretrain_process(tmp_path)
    wait_for_checkpoint(process, tmp_path)
    process.send_signal(number)
    assert process.wait(HANG) == code
    assert not (tmp_path / "gated").exists()
    assert list((tmp_path / "workspace" / "checkpoints").glob("*.safetensors"))
    assert pretrained(tmp_path) == undisturbed[1]
    assert not list((tmp_path / "workspace" / "checkpoints").glob("*"))


def test_early_stopping_ends_after_stale_epochs_and_leaves_the_best_weights(data):
    one = trainer(data, method="none", epochs=30, patience=2, learning_rate=0.05, embedding_learning_rate=0.05)
    figures = one.fit()
    aucs = [row["valid_auc"] for row in one.history]
    assert len(aucs) < 30 and len(aucs) == aucs.index(max(aucs)) + 3
    assert figures["valid_auc"] == max(aucs)
    one.stale = 0
    one._validate(0, 0.0, one._progress())
    assert one.history[-1]["valid_auc"] == max(aucs) and one.stale == 1  # as good is not better


@pytest.mark.parametrize(("settled", "epochs", "first"), [(0.5, 4, 2), (0.9, 4, 3), (0.5, 1, 0)])
def test_no_epoch_counts_as_the_best_before_the_gate_has_settled_unless_it_is_the_last(data, settled, epochs, first):
    one = trainer(data, epochs=epochs, learning_rate=0.05, embedding_learning_rate=0.05)
    one.model.gate.settled = settled
    figures = one.fit()
    aucs = [row["valid_auc"] for row in one.history]
    assert figures["valid_auc"] == max(aucs[first:])
    one._validate(epochs - 1, 0.0, one._progress())
    assert one.history[-1]["valid_auc"] == figures["valid_auc"]
    for epoch in range(epochs):
        one.best, one.best_auc = None, -math.inf
        one._validate(epoch, 0.0, one._progress())
        assert (one.best is not None) == (epoch >= first)


@pytest.mark.parametrize(
    "method", ["lightfmp", "lpfs", "autofield", "optfeature", "autofis", "adafs", "mvfs", "optembed"]
)
def test_a_gate_with_a_schedule_resumes_where_it_was(data, tmp_path, method):
    undisturbed = trainer(data, method=method, backbone="pnn")
    undisturbed.fit()
    stopped = trainer(data, tmp_path / "c.safetensors", method=method, backbone="pnn")
    stop_after(stopped, 18)
    with pytest.raises(Preempted):
        stopped.fit()
    resumed = trainer(data, tmp_path / "c.safetensors", method=method, backbone="pnn")
    resumed.fit()
    expected = weights(undisturbed)
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights(resumed).items())


@pytest.mark.parametrize("method", [m for m in sorted(GATES.table) if "stream" in GATES.options(m)])
def test_a_gate_on_training_rows_is_refused_a_second_epoch(data, method):
    with pytest.raises(ConfigError, match="memorised"):
        trainer(data, method=method, options={"stream": "train"}, backbone="pnn", epochs=2)
    trainer(data, method=method, options={"stream": "train"}, backbone="pnn", epochs=1)


@pytest.mark.parametrize("method", [m for m in sorted(GATES.table) if "stream" in GATES.options(m)])
def test_a_gate_on_training_rows_does_not_move_before_its_warm_up_is_over(data, method):
    one = trainer(data, method=method, options={"stream": "train", "warmup": 0.5}, backbone="pnn", epochs=1)
    start = {name: tensor.detach().clone() for name, tensor in one.model.gate.named_parameters()}
    batch = next(one.stream.epoch(0))
    first = -(-one.steps_per_epoch // 2)  # at which half of all is over
    for step, still in ((0, True), (first - 1, True), (first, False)):
        one.step = step
        one._train_step(batch)
        assert all(torch.equal(start[name], p) for name, p in one.model.gate.named_parameters()) == still


PUBLISHED = [m for m in sorted(GATES.table) if {"reference", "stream"} <= GATES.options(m).keys()]


@pytest.mark.parametrize("method", PUBLISHED)
def test_a_published_flow_sees_rows_again_when_it_is_asked_for_by_name(data, method):
    reference = "code" if method == "autodim" else "paper"
    options = {"reference": reference, "stream": "train"}
    asked = trainer(data, method=method, options=options, backbone="pnn", epochs=2)
    start = [p.detach().clone() for p in asked.model.gate.parameters()]
    asked.step = asked.steps_per_epoch  # in the second epoch
    asked._train_step(next(asked.stream.epoch(1)))
    assert any(not torch.equal(before, p) for before, p in zip(start, asked.model.gate.parameters()))
    asked.history = [{}, {}]
    assert asked.gate_passes == 2


@pytest.mark.parametrize("method", [m for m in sorted(GATES.table) if "stream" in GATES.options(m)])
def test_a_gate_on_the_first_epoch_learns_there_and_stands_still_in_the_others(data, method):
    one = trainer(data, method=method, options={"stream": "first"}, backbone="pnn", epochs=3)
    for step, moves in ((one.steps_per_epoch - 1, True), (one.steps_per_epoch, False)):
        start = {name: tensor.detach().clone() for name, tensor in one.model.gate.named_parameters()}
        one.step = step
        one._train_step(next(one.stream.epoch(0)))
        assert one.model.gate.training == moves
        assert any(not torch.equal(start[name], p) for name, p in one.model.gate.named_parameters()) == moves
    assert one.gate_passes == 1


@pytest.mark.parametrize(("warmup", "every"), [(0.0, 1), (0.5, 1), (0.0, 3), (0.5, 4)])
def test_a_gate_steps_after_every_so_many_steps_once_its_warm_up_is_over_and_is_told_how_far_the_training_is(
    data, warmup, every
):
    one = trainer(data, options={"alpha": 0.001, "warmup": warmup, "every": every})
    told, step = [], one.model.gate.step
    one.model.gate.step = lambda progress: (told.append(progress), step(progress))
    one.fit()
    total = 2 * one.steps_per_epoch
    after = range(total // 2 if warmup else 0, total)  # the second epoch, or all of it
    assert told == [(i + 1) / total for i in after if i % every == every - 1] != []


@pytest.mark.parametrize(
    ("method", "stream", "passes"),
    [("leap", "gate", 0), ("optembed", "gate", 0), ("optembed", "first", 1), ("optembed", "train", 3), ("none", "", 0)],
)
def test_rows_are_seen_with_a_gate_once_an_epoch_once_at_all_or_never(data, method, stream, passes):
    options = {"stream": stream} if stream else None
    one = trainer(data, method=method, options=options, backbone="pnn", epochs=1)
    one.history = [{}, {}, {}]
    assert one.gate_passes == passes


def test_a_gate_on_an_empty_gate_slice_is_refused(data):
    empty = data.split("gate", rows=torch.zeros(0, dtype=torch.long).numpy())
    with pytest.raises(ConfigError, match="gate slice"):
        Trainer(trainer(data).model, TrainConfig(), data.split("train"), data.split("valid"), empty)


def test_gate_rows_never_move_the_network(data):
    one = trainer(data)
    one.model.train()
    before = {name: t.clone() for name, t in one.model.named_parameters() if not name.startswith("gate.")}
    theta = one.model.gate.theta.detach().clone()
    averages = {name: t.clone() for name, t in one.model.backbone.named_buffers()}
    assert any("running_mean" in name for name in averages)
    for batch in one.gate_stream.epoch(0):
        one._gate_step(batch)
    assert all(torch.equal(before[name], t) for name, t in one.model.named_parameters() if name in before)
    assert all(torch.equal(averages[name], t) for name, t in one.model.backbone.named_buffers())
    assert all(t.requires_grad and t.grad is None for t in one.model.parameters())
    assert not torch.equal(theta, one.model.gate.theta)


def test_an_exploding_loss_is_an_input_error_and_not_a_model(data):
    one = trainer(data, method="none", learning_rate=1e30, epochs=3)
    with pytest.raises(InputError, match="lower learning_rate"):
        one.fit()


def test_the_loss_is_the_weighted_mean_of_the_rows_losses(data):
    one = trainer(data, method="none")
    one.model.eval()
    batch = next(iter(one.stream.epoch(0)))
    logits = one.model(batch.ids, batch.dense).detach().double()
    by_hand = -(
        batch.label * torch.log(torch.sigmoid(logits)) + (1 - batch.label) * torch.log(1 - torch.sigmoid(logits))
    )
    expected = float((by_hand * batch.weight).sum() / batch.weight.sum())
    assert float(one._loss(batch).detach()) == pytest.approx(expected, rel=1e-5)


def recorded(owner, name: str, what) -> list:
    """What a method is called with from now on, as `what` sees it; the method does its work all the same."""
    seen, method = [], getattr(owner, name)

    def wrapped(*values):
        found = method(*values)
        seen.append(what(found, *values))
        return found

    setattr(owner, name, wrapped)
    return seen


def test_an_epochs_loss_is_the_mean_over_its_own_steps_and_the_figures_are_those_of_the_run(data):
    one = trainer(data, method="none")
    losses = recorded(one, "_loss", lambda loss, batch: float(loss.detach()))
    figures, n = one.fit(), one.steps_per_epoch
    assert len(losses) == 2 * n == figures["steps"] and figures["epochs"] == 2
    assert [row["train_loss"] for row in one.history] == [sum(losses[:n]) / n, sum(losses[n:]) / n]


def test_the_seconds_of_a_run_are_those_between_its_first_step_and_its_last_and_rows_are_told_by_the_second(
    data, tmp_path, monkeypatch
):
    one = trainer(data, method="none")
    monkeypatch.setattr(time, "monotonic", lambda: 1000 + 0.1234567 * one.step)  # a clock that goes on with each step
    figures, n = one.fit(), one.steps_per_epoch
    assert figures["seconds"] == round(0.1234567 * 2 * n, 3)
    assert figures["rows_per_second"] == round(128 / 0.1234567, 1)
    assert [row["epoch_seconds"] for row in one.history] == pytest.approx([0.1234567 * n] * 2)
    monkeypatch.setattr(time, "monotonic", lambda: 1000)
    assert trainer(data, method="none", epochs=1).fit()["rows_per_second"] == 0


def test_a_resumed_run_counts_only_the_rows_that_it_trained_itself(data, tmp_path):
    stopped = trainer(data, tmp_path / "c.safetensors", method="none")
    stop_after(stopped, stopped.steps_per_epoch)
    with pytest.raises(Preempted):
        stopped.fit()
    resumed = trainer(data, tmp_path / "c.safetensors", method="none")
    figures = resumed.fit()
    assert figures["rows_per_second"] == pytest.approx(resumed.steps_per_epoch * 128 / figures["seconds"], rel=0.02)
    assert (figures["steps"], figures["epochs"]) == (2 * resumed.steps_per_epoch, 2)


def test_checkpoints_are_left_every_so_many_steps_and_after_each_epoch(data, tmp_path):
    one = trainer(data, tmp_path / "c.safetensors", method="none", checkpoint_every=4)
    saved = recorded(one.checkpoint, "save", lambda _, states, optimizers, values: values["step"])
    one.fit()
    total = 2 * one.steps_per_epoch
    assert saved == sorted({*range(4, total, 4), one.steps_per_epoch, total})


@pytest.mark.parametrize("method", ["none", "leap"])
def test_each_epoch_is_logged_at_its_last_step_with_the_scores_of_a_gate_that_learns(data, method):
    one = trainer(data, method=method)
    logged = recorded(one, "log", lambda _, values, step: (step, values))
    one.fit()
    assert [step for step, _ in logged] == [one.steps_per_epoch, 2 * one.steps_per_epoch]
    for (_, values), row in zip(logged, one.history, strict=True):
        scores = {name.removeprefix("gate/") for name in values if name.startswith("gate/")}
        assert scores == (set(data.schema.names) if method == "leap" else set())
        assert {name: values[name] for name in row} == row and 0 < row["epoch_seconds"] < HANG


def test_a_person_who_watches_sees_the_steps_and_how_good_the_model_is_after_each_epoch(data, capsys):
    one = trainer(data, method="none")
    one.fit()
    seen = capsys.readouterr().err
    for row in one.history:
        assert f"auc={row['valid_auc']:.4f}, loss={row['train_loss']:.4f}" in seen
    assert f"{one.step}/{one.step}" in seen


@pytest.mark.parametrize("warm", [True, False])
def test_a_warm_start_that_no_epoch_makes_better_stays_and_any_other_start_does_not_count(data, warm):
    before = trainer(data, method="none", learning_rate=0.02, embedding_learning_rate=0.02)
    before.fit()
    start = weights(before)
    one = trainer(data, method="none", learning_rate=5.0, embedding_learning_rate=5.0)
    one.model.load_state_dict(start)
    one.warm |= warm  # which nobody gets who does not ask for it
    figures = one.fit()
    reached = max(row["valid_auc"] for row in one.history)
    assert all(torch.equal(start[name], tensor) for name, tensor in weights(one).items()) == warm
    assert figures["valid_auc"] == (before.best_auc if warm else reached) and reached < before.best_auc


def test_a_state_is_resumed_as_it_was_kept_before_and_after_the_first_validation(data, tmp_path):
    for stop, after in ((3, 0), (20, 1)):
        one, other = (trainer(data, tmp_path / "c.safetensors", method="none", patience=3) for _ in range(2))
        assert (one.step, one.stale, one.best, one.best_auc) == (0, 0, None, -math.inf) and not one._exhausted()
        stop_after(one, stop)
        with pytest.raises(Preempted, match=f"stopped at step {stop}"):
            one.fit()
        other._resume()
        assert (other.step, other.stale, other.best_auc, other.history) == (stop, 0, one.best_auc, one.history)
        assert len(one.history) == after and torch.equal(one.loss_sum, other.loss_sum) and one.loss_sum > 0
        assert (other.best is None) == (one.best is None) == (after == 0)
        assert all(torch.equal(tensor, other.best[name]) for name, tensor in (one.best or {}).items())


def test_the_first_rank_keeps_the_state_and_goes_on_with_the_loss_of_all(data, tmp_path):
    one, first, second = (trainer(data, tmp_path / "c.safetensors", method="none") for _ in range(3))
    one.ranks = second.ranks = replace(one.ranks, rank=1)
    one.loss_sum += 3
    one._save()
    assert not list(tmp_path.iterdir())
    one.ranks = first.ranks
    one._save()
    for each, loss in ((first, 3), (second, 0)):
        each._resume()
        assert each.loss_sum == loss


def test_a_state_that_only_some_ranks_see_is_no_state(data, tmp_path, one_of_two, monkeypatch):
    one = trainer(data, tmp_path / "c.safetensors", method="none")
    one._resume()
    one._save()
    one._resume()
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda told: told.add_(1)
    )  # the other one says that it sees none
    with pytest.raises(TransientError, match="only some ranks see the checkpoint"):
        one._resume()


def test_a_training_shows_its_name_its_steps_and_where_it_stands_on_the_first_rank_alone(data):
    one = trainer(data)
    one.step = 3
    with one._progress() as bar:
        assert (bar.desc, bar.unit, bar.n, bar.total) == ("leap", "step", 3, 2 * one.steps_per_epoch)
        assert bar.mininterval == 0.5 and bar.dynamic_ncols and not bar.disable
    one.ranks = replace(one.ranks, rank=1, world=2)
    assert one._progress().disable
    with two_ranks.trainer(data.path)._progress() as bar:  # which has no gate at all
        assert bar.desc == "train"


def test_a_batch_without_weight_costs_nothing_and_one_of_hardly_any_counts_by_its_rows(data):
    one = trainer(data, method="none")
    one.model.eval()
    batch = next(one.stream.epoch(0))
    share = batch.weight / batch.weight.sum()
    whole, most, none = (one._loss(batch._replace(weight=share * total)).item() for total in (1.5e-12, 0.75e-12, 0))
    assert whole == pytest.approx(one._loss(batch).item(), rel=1e-4)
    assert (most, none) == (pytest.approx(0.75 * whole, rel=1e-4), 0)


def test_the_seeds_of_steps_are_those_of_every_release_so_that_old_runs_can_be_repeated(data):
    """Seed, step and part in one number, times the odd 64-bit fraction of the golden ratio, as splitmix64 takes it."""
    one = trainer(data)
    golden = int(Decimal(2**64) / ((1 + Decimal(5).sqrt()) / 2)) | 1
    for one.step, part, rank in ((0, 0, 0), (7, 0, 0), (7, 1, 0), (7, 1, 3)):
        one.ranks = replace(one.ranks, rank=rank)
        assert one._seed(part) == ((3_000_009 + 2 * one.step + part) * golden + rank) % 9_223_372_036_854_775_808
    one.step, one.ranks = 5, replace(one.ranks, rank=0)
    for part, step, stream in ((0, one._train_step, one.stream), (1, one._gate_step, one.gate_stream)):
        step(next(stream.epoch(0)))
        assert torch.initial_seed() == one._seed(part)


@pytest.fixture
def one_of_two(monkeypatch):
    """This process is the first of two ranks, of which the other never says anything: all sums are its own."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    yield
    torch.distributed.destroy_process_group()


def test_every_rank_has_two_rows_of_a_batch(data, one_of_two):
    trainer(data, method="none", batch_size=4)
    with pytest.raises(ConfigError, match="3 gives 2 ranks less than two rows each"):
        trainer(data, method="none", batch_size=3)


def test_all_ranks_begin_with_the_weights_of_the_first(data, one_of_two, monkeypatch):
    sent, broadcast = [], torch.distributed.broadcast
    monkeypatch.setattr(
        torch.distributed, "broadcast", lambda tensor, source: (sent.append(source), broadcast(tensor, source))
    )
    assert sent == [0] * len(trainer(data).model.state_dict()) != []
    sent.clear()
    monkeypatch.setattr(loop, "shard", with_rows_of_its_own)
    model = trainer(data).model
    assert len(sent) == len(model.state_dict()) - 1 and "arena.shards.rows" in model.state_dict()


def with_rows_of_its_own(model, config, ranks) -> None:
    """As where TorchRec has shared out the tables: these rows are those of this rank alone."""
    model.arena.shards = torch.nn.Module()
    model.arena.shards.register_buffer("rows", torch.zeros(3))


class Shares:
    """What the loop asks of tables that are shared out, told by the sign of whatever is put together."""

    def whole(self, state):
        return {name: -tensor for name, tensor in state.items()}

    share = whole

    def whole_optimizer(self):
        return {"sums": torch.full((2,), 7.0)}

    def restore_optimizer(self, tensors):
        self.restored = tensors["sums"].tolist()


@pytest.mark.parametrize("steps", [3, 20], ids=["before the first validation", "after it"])
def test_tables_that_are_shared_out_are_kept_whole_shared_out_again_and_whole_at_the_end(
    data, tmp_path, monkeypatch, steps
):
    one, other = (trainer(data, tmp_path / "c.safetensors", method="none") for _ in range(2))
    for each in (one, other):
        each.shards = Shares()
        each.optimizers.pop("tables")  # which TorchRec moves
    stop_after(one, steps)
    with pytest.raises(Preempted):
        one.fit()
    parts, _ = one.checkpoint.load()
    assert parts["tables"]["sums"].tolist() == [7, 7]
    state = one.model.state_dict()
    assert all(torch.equal(-tensor, parts["model"][name]) for name, tensor in state.items())
    assert all(torch.equal(-tensor, parts["best"][name]) for name, tensor in (one.best or {}).items())
    other._resume()
    assert all(torch.equal(tensor, other.model.state_dict()[name]) for name, tensor in state.items())
    assert all(torch.equal(tensor, other.best[name]) for name, tensor in (one.best or {}).items())
    assert other.shards.restored == [7, 7] and (one.best is None) == (other.best is None) == (steps < 15)
    ended = []
    monkeypatch.setattr(loop, "unshard", ended.append)
    other.fit()
    assert ended == [other.model] and other.device == torch.device("cpu")


@pytest.mark.parametrize("stream", ["train", "gate"])
def test_a_gates_penalty_is_shared_out_among_ranks(data, one_of_two, stream):
    """Gradients are summed over ranks: each has its part of the penalty, and all of its own loss."""
    one = trainer(data, method="optembed", options={"stream": stream, "warmup": 0.0}, backbone="pnn", epochs=1)
    one.model.gate.penalty = lambda: 10 * sum(p.sum() for p in one.model.gate.parameters())
    seen = {}
    one._update = lambda *names: seen.setdefault(
        world, [p.grad.to_dense().clone() for p in one.model.gate.parameters()]
    )
    batch = next((one.stream if stream == "train" else one.gate_stream).epoch(0))
    for world in (1, 2, 4):
        one.ranks = replace(one.ranks, world=world)
        one.model.zero_grad()
        (one._train_step if stream == "train" else one._gate_step)(batch)
    for alone, two, four in zip(seen[1], seen[2], seen[4], strict=True):
        assert torch.allclose(alone - two, torch.full_like(two, 5.0), atol=1e-3)
        assert torch.allclose(alone - four, torch.full_like(four, 7.5), atol=1e-3)


def test_running_averages_of_network_and_gate_are_those_of_all_ranks_and_counts_stay(data, one_of_two):
    two_ranks.trainer(data.path)._alike()  # which has neither
    for method in ("leap", "none"):
        one = trainer(data, method=method)
        running = [buffer for name, buffer in one.model.backbone.named_buffers() if "running" in name]
        counted = [buffer for name, buffer in one.model.backbone.named_buffers() if "batches" in name]
        shared = [one.model.gate.distance_sum, one.model.gate.compared] if method == "leap" else []
        for buffer in (*running, *counted, *shared):
            buffer.fill_(8)
        one._alike()
        assert running and all((buffer == 4).all() for buffer in (*running, *shared))  # the other rank brought nothing
        assert counted and all(buffer == 8 for buffer in counted)
        one.ranks = replace(one.ranks, world=1)
        one._alike()
        assert all((buffer == 4).all() for buffer in running)


def test_every_draw_of_every_step_has_a_seed_of_its_own(data):
    one, seeds = trainer(data, method="none"), []
    for one.step in range(3000):
        seeds += [int(one._seed(part)) for part in (0, 1)]  # as torch takes them
    assert len(set(seeds)) == 6000 and 0 <= min(seeds) and max(seeds) < 2**63
    other = trainer(data, method="none", seed=4)
    assert other._seed(0) not in seeds


def test_a_gate_slice_of_two_rows_is_enough_and_one_row_is_not(data):
    model, others = trainer(data).model, (data.split("train"), data.split("valid"))
    one, two = (data.split("gate", rows=torch.arange(count).numpy()) for count in (1, 2))
    Trainer(model, TrainConfig(device="cpu"), *others, two)
    with pytest.raises(ConfigError, match="gate slice"):
        Trainer(model, TrainConfig(device="cpu"), *others, one)


@pytest.mark.parametrize(("precision", "products"), [("tf32", "high"), ("float32", "highest")])
def test_matrix_products_are_as_precise_as_was_asked_and_threads_as_many(data, precision, products):
    threads = torch.get_num_threads()
    try:
        trainer(data, method="none", precision=precision, threads=threads + 1)
        assert torch.get_float32_matmul_precision() == products and torch.get_num_threads() == threads + 1
        trainer(data, method="none")
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
