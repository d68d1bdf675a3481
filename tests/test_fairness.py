"""Full and slim are trained alike, or the report says who trained longer."""

import json

import pytest
import small
import torch
from pydantic import ValidationError

from slimrec.artifacts import read_manifest
from slimrec.config import EvaluateConfig, FinetuneConfig, ModelConfig, PretrainConfig, PruneConfig, TrainConfig
from slimrec.errors import SecurityError
from slimrec.model.files import load_model
from slimrec.stages import evaluate, finetune, pretrain, prune
from slimrec.track import Tracker
from slimrec.verdict.fairness import Phase, passes, recorded, taken, weigh

MODEL = ModelConfig(embedding_dim=4, options={"hidden": [8]})
SEARCH = TrainConfig(epochs=2, batch_size=256, learning_rate=0.01, embedding_learning_rate=0.02, device="cpu")
AFTER = TrainConfig(epochs=1, batch_size=512, learning_rate=0.003, device="cpu", patience=0)


def phase(epochs=4, allowed=4, rows=1000, **changed):
    train = TrainConfig(epochs=allowed, **changed)
    return Phase.of(train, {"epochs": epochs, "steps": epochs * -(-rows // train.batch_size)}, rows)


def train_both(folder, start="warm", after=AFTER, full=None):
    """A search that drops nothing, the slim model, and the full one, trained by `full` or as the slim one is."""
    small.ingest_rows(folder, 2000, gate=0.1)
    paths = {name: folder / name for name in ("gated", "selection", "slim")}
    pretrain.run(PretrainConfig(model=MODEL, train=SEARCH), Tracker(), folder / "dataset", paths["gated"])
    prune.run(PruneConfig(), Tracker(), **paths)
    tuning = FinetuneConfig(start=start, train=after)
    finetune.run(tuning, Tracker(), dataset=folder / "dataset", **paths, tuned=folder / "tuned")
    plain = full or PretrainConfig(model=MODEL, train=SEARCH, after=tuning)
    pretrain.run(plain, Tracker(), folder / "dataset", folder / "full")
    return folder


def judge(folder, report):
    paths = {"dataset": folder / "dataset", "full": folder / "full", "slim": folder / "tuned"}
    config = EvaluateConfig(latency_repeats=1)
    evaluate.run(config, Tracker(), **paths, selection=folder / "selection", report=report)
    return json.loads((report / "report.json").read_text()), (report / "report.md").read_text()


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    return train_both(tmp_path_factory.mktemp("alike"))


def test_a_cut_that_drops_nothing_leaves_the_full_model_to_the_bit(alike, tmp_path):
    full, slim = (load_model(alike / name).state_dict() for name in ("full", "tuned"))
    shared = full.keys() & slim.keys()
    assert len(shared) > 5 and all(torch.equal(full[name], slim[name]) for name in shared)
    facts, page = judge(alike, tmp_path / "report")
    assert facts["auc"]["difference"] == 0 and facts["training"]["longer"] == "" and "longer" not in page
    assert [p["epochs_allowed"] for p in facts["training"]["slim"]] == [2, 1]
    assert "Training of the full model: 2 + 1 epochs, 10 steps." in page


@pytest.mark.parametrize("start", ["fresh", "initial"])
def test_where_the_slim_model_begins_anew_so_does_the_full_one(start, tmp_path):
    folder = train_both(tmp_path, start=start)
    phases = [read_manifest(folder / name)["training"] for name in ("full", "tuned")]
    assert phases[0] == phases[1] and [p["epochs_allowed"] for p in phases[0]] == [1]


def test_a_slim_model_that_trained_longer_is_called_so_beside_the_verdict(tmp_path):
    folder = train_both(tmp_path, full=PretrainConfig(model=MODEL, train=AFTER))
    facts, page = judge(folder, tmp_path / "report")
    assert facts["training"]["longer"] == "slim"
    assert "trained longer" in page and "was allowed 2 + 1 epochs of 1," in page and "trained longer" in facts["reason"]


def test_a_finetuning_that_makes_the_model_worse_keeps_its_start(tmp_path):
    ruinous = TrainConfig(epochs=2, batch_size=64, learning_rate=4.0, embedding_learning_rate=4.0, device="cpu")
    folder = train_both(tmp_path, after=ruinous)
    before, after = (load_model(folder / name, "slim").state_dict() for name in ("slim", "tuned"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    searched, tuned = (read_manifest(folder / name)["figures"]["valid_auc"] for name in ("gated", "tuned"))
    assert tuned == pytest.approx(searched, abs=1e-9)


def test_equal_offers_are_equal_whatever_early_stopping_made_of_them():
    assert weigh([phase(4)], [phase(2)])["longer"] == ""
    assert weigh([phase(4), phase(4)], [phase(4), phase(1)])["said"] == ""


def test_what_else_decides_how_a_training_goes_is_of_its_settings_and_where_it_runs_is_not():
    assert weigh([phase()], [phase(threads=3)])["longer"] == ""
    others = {"batch_size": 99, "embedding_optimizer": "adam", "embedding_learning_rate": 0.3}
    for name, value in {**others, "learning_rate": 0.3, "embedding_l2": 0.3, "weight_decay": 0.3}.items():
        assert phase(**{name: value}).settings[name] == value, name
        assert weigh([phase()], [phase(**{name: value})])["longer"] == "alike", name


def test_more_passes_and_other_settings_are_told_apart():
    assert weigh([phase()], [phase(), phase()])["longer"] == "slim"
    assert weigh([phase(), phase()], [phase()])["longer"] == "full"
    assert weigh([phase()], [phase(learning_rate=0.1)])["longer"] == "alike"
    assert weigh([phase()], [phase(patience=3)])["longer"] == "alike"
    assert weigh(None, [phase()])["longer"] == "unknown"
    said = {longer: weigh(*phases)["said"] for longer, phases in {
        "slim": ([phase()], [phase(), phase()]), "full": ([phase(), phase()], [phase()]),
        "alike": ([phase()], [phase(patience=3)]), "unknown": ([phase()], None),
    }.items()}  # fmt: skip
    allowed = "trained longer: it was allowed 4 + 4 epochs of 1,000 rows, the"
    assert f"The slim model {allowed} full model 4 epochs of 1,000 rows." in said["slim"]
    assert f"The full model {allowed} slim model 4 epochs of 1,000 rows." in said["full"]
    assert "with different settings" in said["alike"] and "is not recorded" in said["unknown"]


@pytest.mark.parametrize(("rows", "longer"), [(1020, "alike"), (1021, "slim"), (980, "alike"), (979, "full")])
def test_up_to_two_in_a_hundred_passes_more_are_none(rows, longer):
    assert weigh([phase(rows=1000)], [phase(rows=rows)])["longer"] == longer


def test_a_training_that_an_artifact_does_not_tell_is_unknown_and_not_none_at_all():
    told = weigh(None, [])
    assert told["full"] is None and told["slim"] == [] and told["longer"] == "unknown"
    assert weigh([phase(3)], [phase(4)])["full"] == [phase(3).model_dump()]
    assert recorded({}) is None and recorded({"training": [phase().model_dump()]}) == [phase()]
    with pytest.raises(SecurityError):
        recorded({"training": [{**phase().model_dump(), "passes": 3}]})
    with pytest.raises(ValidationError, match="frozen"):
        phase().rows = 3


def test_passes_are_written_as_people_say_them():
    assert passes([phase(allowed=1)]) == "1 epoch of 1,000 rows"
    assert passes([phase(), phase(allowed=2, rows=50)]) == "4 epochs of 1,000 rows + 2 epochs of 50 rows"
    assert passes([phase(allowed=1), phase(rows=50)]) == "1 epoch of 1,000 rows + 4 epochs of 50 rows"
    assert passes([phase(), phase(allowed=1)]) == "4 + 1 epochs of 1,000 rows"
    assert taken([phase(3).model_dump(), phase(1, 1).model_dump()]) == "3 + 1 epochs, 4 steps, stopped early"
    assert (
        taken([phase(4).model_dump()]) == "4 epochs, 4 steps"
        and taken([phase(1, 1).model_dump()]) == "1 epoch, 1 steps"
    )
    assert taken([phase(3).model_dump()]) == "3 epochs, 3 steps, stopped early"
