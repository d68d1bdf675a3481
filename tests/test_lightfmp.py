"""Light-FMP against its paper (METHODS T1 to T8), on draws, on hand-made masks and on 2,000 planted rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from recovery import NOISE, STRONG, make_dataset, search

from slimrec.artifacts import read_json
from slimrec.config import FinetuneConfig, ModelConfig, PruneConfig, SampleConfig, TrainConfig, read_recipe
from slimrec.data.dataset import Dataset, read_subset
from slimrec.gates.lightfmp import LightFmpGate, expected_l0, hard_concrete
from slimrec.metrics import log_loss
from slimrec.model import build, with_gate
from slimrec.model.files import load_model
from slimrec.model.scoring import score
from slimrec.plugins import BACKBONES
from slimrec.probes import with_probes
from slimrec.schema import Field, Schema, Statistics
from slimrec.selection import Budget
from slimrec.stages import finetune, prune, sample
from slimrec.track import Tracker


def category_schema(fields, rows=20):
    statistics = Statistics(rows=rows)
    return Schema(
        label="y", fields=[Field(name=f"f{i}", kind="category", statistics=statistics) for i in range(fields)]
    )


def gate_of(fields=8, **options):
    return LightFmpGate(category_schema(fields), 4, **options)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("log"))


@pytest.mark.parametrize(
    ("location", "zero", "one", "mean"), [(0.0, 0.1202, 0.1202, 0.5), (-0.6931, 0.2147, 0.064, 0.3606)]
)
def test_t1_draws_are_exactly_zero_and_exactly_one_as_often_as_the_closed_form_says(location, zero, one, mean):
    torch.manual_seed(0)
    z = hard_concrete(torch.full((1_000_000,), location))
    assert float((z == 0).float().mean()) == pytest.approx(zero, abs=0.002)
    assert float((z == 1).float().mean()) == pytest.approx(one, abs=0.002)
    assert float(z.mean()) == pytest.approx(mean, abs=0.002)


def test_t1_one_draw_serves_all_rows_of_a_batch_and_all_columns_of_a_field():
    torch.manual_seed(0)
    gate = gate_of(fields=5)
    z = gate(torch.ones(7, 20), None).detach()
    assert torch.equal(z, z[:1].expand(7, 20))
    assert torch.equal(z[0].view(5, 4), z[0].view(5, 4)[:, :1].expand(5, 4))
    assert len(z[0, ::4].unique()) > 1


def test_t2_the_expected_l0_is_the_share_of_draws_above_zero_and_rises_with_the_location():
    torch.manual_seed(0)
    locations = torch.arange(-3.0, 4.0)
    drawn = (hard_concrete(locations.repeat(1_000_000, 1)) > 0).float().mean(0)
    assert torch.allclose(expected_l0(locations), drawn, atol=0.002)
    assert (expected_l0(locations).diff() > 0).all()


def test_t2_the_penalty_has_a_gradient_where_the_draw_itself_is_clipped():
    gate = gate_of(fields=2, start=-6.0, deviation=0.0)
    torch.manual_seed(0)
    z = gate(torch.ones(4, 8), None)
    assert (z == 0).all()
    z.sum().backward()
    assert (gate.location.grad == 0).all()
    gate.penalty().backward()
    assert (gate.location.grad != 0).all()


@pytest.mark.parametrize(
    ("fields", "ratio", "kept"), [(8, 0.25, 6), (8, 0.5, 4), (9, 0.5, 5), (10, 0.7, 3), (3, 0.99, 1)]
)
def test_t3_the_prune_ratio_is_the_share_that_goes_and_not_the_share_that_stays(fields, ratio, kept):
    selection = gate_of(fields, prune_ratio=ratio).select(Budget(), seed=0)
    assert len(selection.kept) == kept


def test_t3_a_budget_takes_the_place_of_the_prune_ratio():
    assert len(gate_of(8, prune_ratio=0.25).select(Budget(fields=3), seed=0).kept) == 3


def test_t3_probes_of_the_search_take_none_of_the_places():
    schema = with_probes(category_schema(8), 1.0, seed=0)
    selection = LightFmpGate(schema, 4, prune_ratio=0.25).select(Budget(), seed=0)
    assert len(schema.fields) == 16 and len(selection.kept) == 6


def test_t3_with_probes_in_the_search_as_many_are_to_stay_alive_as_without():
    targets = []
    for schema in (category_schema(8), with_probes(category_schema(8), 1.0, seed=0)):
        gate = LightFmpGate(schema, 4, prune_ratio=0.25)
        gate.step(1.0)
        targets.append(float(gate.target) * len(schema.fields))
    assert targets == pytest.approx([6, 6])


def constrained(multiplier_rate, steps=2000):
    """Only the constraint, no task: the gap after each step."""
    torch.manual_seed(0)
    gate = gate_of(20, prune_ratio=0.6, warmup=0.0, ramp=0.3)
    gate.multiplier_rate = multiplier_rate
    adam, gaps = torch.optim.Adam(gate.parameters(), gate.learning_rate), []
    for step in range(steps):
        adam.zero_grad()
        gate.penalty().backward()
        adam.step()
        gate.step((step + 1) / steps)
        gaps.append(float(gate.gap().detach()))
    return gate, gaps


def test_t4_with_ascending_multipliers_the_expected_share_reaches_the_target():
    gate, gaps = constrained(0.03)
    assert float(gate.target) == pytest.approx(0.4)
    assert max(abs(gap) for gap in gaps[-100:]) < 0.02


def test_t4_multipliers_that_descend_run_away_from_the_target():
    assert abs(constrained(-0.03)[1][-1]) > 0.2


def test_t4_a_share_above_the_target_raises_both_multipliers():
    gate = gate_of(prune_ratio=0.5, warmup=0.0)
    gate.target.fill_(0.5)
    before, gap = gate.multipliers.clone(), float(gate.gap().detach())
    gate.step(1.0)
    assert gap > 0.2
    assert torch.allclose(gate.multipliers - before, 0.03 * torch.tensor([gap, gap**2]))


def test_the_target_comes_down_from_everything_over_the_ramp_that_follows_the_warm_up():
    gate, targets = gate_of(prune_ratio=0.5, warmup=0.2, ramp=0.5), []
    for progress in (0.0, 0.2, 0.4, 0.6, 1.0):
        gate.step(progress)
        targets.append(float(gate.target))
    assert targets == pytest.approx([1.0, 1.0, 0.75, 0.5, 0.5])
    assert gate.settled == pytest.approx(0.6)


@pytest.mark.parametrize("backbone", sorted(BACKBONES.table))
@pytest.mark.parametrize("locations", [[9.0, -9, 9, -9, -9, 9], [0.4, -0.8, 1.1, -9, -0.2, 9]], ids=["hard", "soft"])
def test_t5_the_pruned_model_gives_the_logits_of_the_masked_one(backbone, locations):
    model = build(category_schema(6), ModelConfig(backbone=backbone, embedding_dim=4, embedding_std=0.3), seed=1)
    with_gate(model, "lightfmp", {}, seed=1).double().eval()
    model.gate.location.data = torch.tensor(locations, dtype=torch.double)
    ids = torch.randint(1, 20, (64, 6), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    selection = model.gate.select(Budget(threshold=0.08), seed=0)  # sigmoid(L) there where the frozen z ends to be 0
    dropped = [i for i, location in enumerate(locations) if location == -9]
    assert selection.dropped == tuple(f"f{i}" for i in dropped)
    with torch.no_grad():
        slim = model.narrow(selection).double()(ids[:, [i for i in range(6) if i not in dropped]], torch.zeros(64, 0))
        assert torch.allclose(slim, model(ids, torch.zeros(64, 0)), atol=1e-6)


def test_the_selection_reports_frozen_masks_and_the_chance_to_be_alive():
    gate = gate_of(3)
    gate.location.data = torch.tensor([0.0, -9.0, 9.0])
    evidence = gate.select(Budget(), seed=0).evidence
    assert [evidence[f"mask/f{i}"] for i in range(3)] == pytest.approx([0.5, 0.0, 1.0])
    assert evidence["alive/f0"] == pytest.approx(0.8798, abs=1e-4)


def slimmed(folder, dataset, start):
    """Prune what `search` left in `folder`, and train the rest for one epoch."""
    prune.run(PruneConfig(), Tracker(), gated=folder / "gated", selection=folder / "selection", slim=folder / "slim")
    train = TrainConfig(epochs=1, batch_size=512, device="cpu")
    paths = {name: folder / name for name in ("gated", "selection", "slim", "subset")}
    config = FinetuneConfig(start=start, rows="rest", train=train)
    return finetune.run(config, Tracker(), dataset=dataset, tuned=folder / start, **paths)


def test_t6_no_row_of_the_subset_is_trained_on_again_and_the_seed_fixes_the_subset(dataset, tmp_path, monkeypatch):
    search(tmp_path, dataset, "lightfmp", epochs=1)
    seen, watched = [], Dataset.split

    def split(self, name, rows=None):
        found = watched(self, name, rows)
        seen.append((name, found))
        return found

    monkeypatch.setattr(Dataset, "split", split)
    slimmed(tmp_path, dataset, "warm")
    monkeypatch.undo()
    data = Dataset.open(dataset)
    chosen = data.split("train", read_subset(tmp_path / "subset")).row
    trained_on = [found for name, found in seen if name == "train"][-1].row
    assert len(chosen) == 2000 and not np.isin(chosen, trained_on).any()
    assert len(trained_on) + len(chosen) == len(data.split("train"))
    train = data.split("train")
    for seed, same in ((0, True), (1, False)):
        again = sample.choose(SampleConfig(rows=2000, seed=seed), train)
        assert np.array_equal(again, read_subset(tmp_path / "subset")) == same


@pytest.mark.battery
def test_t7_three_strong_fields_are_recovered_from_2000_rows_in_nine_of_ten_seeds(dataset, tmp_path):
    kept = []
    for seed in range(10):
        (tmp_path / str(seed)).mkdir()
        gate = search(tmp_path / str(seed), dataset, "lightfmp", seed=seed)
        selection = gate.select(Budget(), seed)
        assert len(selection.kept) == 5
        kept.append(set(selection.kept))
    assert sum(names.issuperset(STRONG) for names in kept) >= 9
    pairs = [(a, b) for i, a in enumerate(kept) for b in kept[:i]]
    stability = np.mean([len(a & b) / len(a | b) for a, b in pairs])  # the two places left over fall to any noise
    assert stability > 3 / 7


@pytest.mark.parametrize("backbone", ["mlp", "deepfm"])
def test_noise_fields_end_below_useful_ones(dataset, tmp_path, backbone):
    scores = search(tmp_path, dataset, "lightfmp", {"prune_ratio": 0.7}, backbone=backbone).scores()
    assert min(scores[name] for name in STRONG) > 0.5 > max(scores[name] for name in NOISE)


def test_t8_transferred_weights_start_with_a_lower_loss_than_fresh_ones(dataset, tmp_path):
    search(tmp_path, dataset, "lightfmp")
    prune.run(
        PruneConfig(), Tracker(), gated=tmp_path / "gated", selection=tmp_path / "selection", slim=tmp_path / "slim"
    )
    warm = load_model(tmp_path / "slim")
    fresh = build(warm.schema, warm.config, 0, warm.blocks)
    test = Dataset.open(dataset, fields=warm.schema.names).split("test")
    losses = [log_loss(test.label, score(model.eval(), test), test.weight) for model in (warm, fresh)]
    assert losses[0] < 0.9 * losses[1]
    assert len(read_json(tmp_path / "selection" / "selection.json")["fields"]) == 10


@pytest.mark.parametrize(
    "options", [{"prune_ratio": 1.0}, {"warmup": 1.0}, {"deviation": -1.0}, {"every": 0}, {"stream": "valid"}]
)
def test_an_option_outside_its_range_is_refused(options):
    with pytest.raises(ValueError, match="got"):
        gate_of(**options)


def test_the_paper_trains_mask_and_weights_together_from_the_first_step():
    ours, paper = (gate_of(**options) for options in ({}, {"reference": "paper"}))
    assert (ours.stream, ours.warmup, ours.learning_rate) == ("gate", 0.1, 0.05)
    assert (paper.stream, paper.every, paper.warmup, paper.settled) == ("train", 1, 0.0, 0.5)
    with pytest.raises(ValueError, match="`reference`"):
        gate_of(reference="code")


def test_the_published_mask_and_weights_learn_at_one_of_the_published_rates():
    recipe = read_recipe(Path(__file__).parents[1] / "pipelines" / "recipes" / "lightfmp.yaml")
    mask = gate_of(**recipe.pretrain.options).optimizers()["gate"].param_groups[0]["lr"]
    searched, continued = recipe.pretrain.train, recipe.finetune.train
    rates = {each.learning_rate for each in (searched, continued)}
    assert {mask, *rates, *(each.embedding_learning_rate for each in (searched, continued))} == {mask}
    assert mask in (1e-5, 1e-4, 3e-4)
