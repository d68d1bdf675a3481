"""LeAP against its paper, written out by hand (METHODS T1 to T7) and on planted fields."""

import math

import pytest
import torch

from slimrec.config import FinetuneConfig, ModelConfig, SampleConfig, TrainConfig
from slimrec.data.dataset import Dataset
from slimrec.errors import ConfigError
from slimrec.gates.leap import LeapGate
from slimrec.model import build, with_gate
from slimrec.probes import with_probes
from slimrec.schema import Field, Schema, Statistics
from slimrec.selection import Budget
from slimrec.stages import finetune, sample
from slimrec.track import Tracker
from tests.small import ingest_rows

WIDTHS = {"a_strong": 1, "b_weak": 1, "c_noise": 16, "d_sparse": 1, "e_constant": 1, "f_noise": 1, "g_signal": 16}


def dense_schema(widths):
    fields = [Field(name=name, kind="vector", width=width, statistics=Statistics()) for name, width in widths.items()]
    return Schema(label="click", fields=fields)


def paper(schema, embedding_dim, reference="paper", **options):
    """A gate that learns within the training, with the distance as published."""
    return LeapGate(schema, embedding_dim, reference=reference, **options)


def no_ids(rows):
    return torch.zeros(rows, 0, dtype=torch.int32)


def planted_rows(rows, generator):
    normal = lambda width: torch.randn(rows, width, generator=generator)
    sparse = (torch.rand(rows, 1, generator=generator) < 0.01).float()
    strong, weak, signal = normal(1), normal(1), normal(16)
    direction = torch.ones(16) / 4
    logit = 1.2 * strong[:, 0] + 0.35 * weak[:, 0] + 4.0 * sparse[:, 0] + 0.8 * signal @ direction
    label = (torch.rand(rows, generator=generator) < torch.sigmoid(logit)).float()
    return torch.cat([strong, weak, normal(16), sparse, torch.ones(rows, 1), normal(1), signal], 1), label


def search(steps=2500, **options):
    """Train a logistic head through the gate; gates step on fresh rows of their own."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    gate = paper(dense_schema(WIDTHS), 8, learning_rate=0.01, **options)
    head = torch.nn.Linear(sum(WIDTHS.values()), 1)
    head_adam, gate_adam = torch.optim.Adam(head.parameters(), 0.01), torch.optim.Adam(gate.parameters(), 0.01)
    for step in range(steps):
        for adam, train_gate in ((head_adam, False), (gate_adam, True)):
            x, label = planted_rows(512, generator)
            gate.requires_grad_(train_gate)
            logit = head(gate(x, no_ids(512)))[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, label)
            head.zero_grad()
            gate.zero_grad()
            (loss + gate.penalty()).backward() if train_gate else loss.backward()
            adam.step()
    return gate


@pytest.fixture(scope="module")
def floored():
    return search(alpha=0.005, floor=0.05)


def test_t1_a_constant_field_stays_at_its_start_without_a_floor_and_falls_with_one(floored):
    unfloored = search(steps=300, alpha=0.005, floor=0.0)
    assert unfloored.scores()["e_constant"] == pytest.approx(1 / (1 + math.exp(-5)), abs=1e-4)
    assert floored.scores()["e_constant"] < 0.05


def test_t2_a_sparse_signal_survives_and_noise_of_any_width_does_not(floored):
    scores = floored.scores()
    assert scores["d_sparse"] > 0.95
    assert scores["a_strong"] > 0.95
    assert scores["g_signal"] > 0.5 and scores["b_weak"] > 0.5
    assert scores["c_noise"] < 0.05 and scores["f_noise"] < 0.05


@pytest.mark.battery
def test_t2_the_uniform_penalty_of_the_released_code_drops_the_sparse_signal():
    scores = search(reference="code", fs_weight=0.02 * len(WIDTHS)).scores()
    assert scores["d_sparse"] < 0.05
    assert scores["a_strong"] > 0.9 and scores["g_signal"] > 0.5
    assert scores["c_noise"] < 0.05 and scores["e_constant"] < 0.05


def test_the_released_code_penalises_the_mean_of_the_gates_whatever_their_divergence():
    gate = paper(dense_schema({"p": 1, "q": 1, "r": 1}), 8, reference="code", fs_weight=0.3)
    gate.theta.data = torch.tensor([1.0, 0.1, -0.2])
    gate(torch.randn(64, 3) * torch.tensor([1.0, 100.0, 0.0]), no_ids(64))
    g = [1 / (1 + math.exp(-5 * theta)) for theta in (1.0, 0.1, -0.2)]
    assert float(gate.penalty().detach()) == pytest.approx(0.3 * sum(g) / 3)
    gate.penalty().backward()
    assert gate.theta.grad.tolist() == pytest.approx([0.1 * 5 * each * (1 - each) for each in g], rel=1e-5)


def test_probes_in_the_search_take_no_pressure_off_the_fields_of_the_released_code():
    slopes = []
    for schema in (dense_schema({"p": 1, "q": 2}), with_probes(dense_schema({"p": 1, "q": 2}), 1.0, seed=0)):
        gate = paper(schema, 8, reference="code", fs_weight=0.3)
        gate.penalty().backward()
        slopes.append(gate.theta.grad[0].item())
    assert slopes[0] == pytest.approx(slopes[1]) and slopes[0] > 0


def test_the_released_code_steps_gates_slowly_at_every_step_and_yields_to_what_is_given():
    code = paper(dense_schema({"p": 1}), 8, reference="code")
    assert (code.learning_rate, code.every, code.stream) == (0.001, 1, "gate")
    given = paper(dense_schema({"p": 1}), 8, reference="code", learning_rate=0.05, every=3)
    assert (given.learning_rate, given.every) == (0.05, 3)


@pytest.mark.parametrize("width", [1, 8, 16, 64, 256])
def test_t3_divergence_of_normal_blocks_is_the_mean_distance_of_two_normal_vectors(width):
    torch.manual_seed(0)
    gate = paper(dense_schema({"x": width}), 8)
    for _ in range(40):
        gate(torch.randn(2048, width), no_ids(2048))
    expected = 2 * math.gamma((width + 1) / 2) / math.gamma(width / 2) if width < 100 else 22.61
    assert float(gate.divergence()) == pytest.approx(expected, rel=0.01)


def test_t3_divergence_of_a_rare_indicator_is_twice_p_times_one_minus_p():
    torch.manual_seed(0)
    gate = paper(dense_schema({"x": 1}), 8)
    for _ in range(400):
        gate((torch.rand(2048, 1) < 0.01).float(), no_ids(2048))
    assert float(gate.divergence()) == pytest.approx(2 * 0.01 * 0.99, rel=0.05)


def test_the_first_observation_is_not_shrunk_by_the_moving_average():
    torch.manual_seed(0)
    gate = paper(dense_schema({"x": 1}), 8)
    gate(torch.randn(20_000, 1), no_ids(20_000))
    assert float(gate.divergence()) == pytest.approx(1.128, rel=0.03)


def gradient_case():
    """A batch of two fields, the gate's own permutation replayed from the same random state, a fixed backbone."""
    torch.manual_seed(3)
    gate = paper(dense_schema({"p": 2, "q": 3}), 8, alpha=0.7).double()
    gate.theta.data = torch.tensor([0.1, -0.2], dtype=torch.double)
    x = torch.randn(32, 5, dtype=torch.double, requires_grad=True)
    weights = torch.randn(5, dtype=torch.double)
    torch.manual_seed(4)
    rows = gate.permutations(32, 32)
    noise = x.detach().gather(0, rows[:, gate.owner])
    torch.manual_seed(4)
    mixed = gate(x, no_ids(32))
    mixed.retain_grad()
    return gate, x, noise, mixed, (mixed @ weights).tanh().sum()


def test_t4_the_gate_gradient_is_sensitivity_times_divergence_plus_the_fields_weight():
    gate, x, noise, mixed, loss = gradient_case()
    (loss + gate.penalty()).backward()
    by_column = (mixed.grad * (x.detach() - noise)).sum(0)
    task = torch.stack([by_column[:2].sum(), by_column[2:].sum()])
    g = gate.gates().detach()
    expected = (task + 0.7 * gate.divergence().clamp(min=0.05)) * g * (1 - g) / 0.2
    assert torch.allclose(gate.theta.grad, expected, atol=1e-6)


def test_t4_no_gradient_flows_through_the_shuffled_copy_nor_through_the_penalty():
    gate, x, _, mixed, loss = gradient_case()
    loss.backward()
    assert torch.allclose(x.grad, mixed.grad * gate.gates().detach()[gate.owner], atol=1e-12)
    before = x.grad.clone()
    gate.penalty().backward()
    assert torch.equal(x.grad, before)


def test_t5_each_field_keeps_its_rows_whole_and_only_reorders_them():
    torch.manual_seed(0)
    gate = paper(dense_schema({"p": 2, "q": 3}), 8)
    gate.theta.data.fill_(-1e9)
    x = torch.randn(64, 5)
    out = gate(x, no_ids(64)).detach()
    for columns in (slice(0, 2), slice(2, 5)):
        assert sorted(map(tuple, out[:, columns].tolist())) == sorted(map(tuple, x[:, columns].tolist()))


def test_t5_two_equal_fields_become_uncorrelated_because_no_two_share_a_permutation():
    torch.manual_seed(0)
    gate = paper(dense_schema({"p": 1, "q": 1}), 8)
    gate.theta.data.fill_(-1e9)
    column = torch.randn(4096, 1)
    out = gate(column.repeat(1, 2), no_ids(4096)).detach()
    correlation = torch.corrcoef(out.T)[0, 1]
    assert abs(correlation) < 3 / math.sqrt(4096)


def test_t5_every_fields_permutation_is_uniform_over_the_rows():
    torch.manual_seed(0)
    gate = paper(dense_schema({"p": 1, "q": 1, "r": 1}), 8)
    counts = torch.zeros(3, 4, 4)
    for _ in range(4000):
        rows = gate.permutations(4, 4)
        for field in range(3):
            counts[field, torch.arange(4), rows[:, field]] += 1
    assert ((counts / 4000 - 0.25).abs() < 0.035).all()


def test_t6_an_open_gate_passes_bits_unchanged_and_a_closed_one_is_a_permutation():
    torch.manual_seed(0)
    gate = paper(dense_schema({"p": 2, "q": 3}), 8)
    x = torch.randn(64, 5)
    gate.theta.data.fill_(1e9)
    assert torch.equal(gate(x, no_ids(64)), x)
    gate.theta.data.fill_(-1e9)
    assert torch.equal(gate(x, no_ids(64)).sort(0).values, x.sort(0).values)


def test_t7_the_cut_model_is_the_gated_one_with_noise_at_its_batch_mean_before_a_linear_layer():
    torch.manual_seed(0)
    schema = dense_schema({"p": 2, "q": 3, "r": 1})
    model = build(schema, ModelConfig(backbone="widedeep", embedding_dim=8, options={"hidden": []}), seed=1)
    with_gate(model, "leap", {"reference": "paper"}, seed=1).train()
    model.gate.theta.data = torch.tensor([1e9, -1e9, 1e9])
    rows = torch.randn(512, 6) + torch.arange(6.0)
    with torch.no_grad():
        model.gate.theta.requires_grad_(True)
        gated = model(no_ids(512), rows)  # observes the batch, whose mean is the average of one
        slim = model.narrow(model.gate.select(Budget(), seed=0)).eval()(no_ids(512), rows[:, [0, 1, 5]])
        by_hand = rows.clone()
        by_hand[:, 2:5] = rows[:, 2:5].mean(0)
        assert torch.allclose(slim, model.backbone(by_hand), atol=1e-5)
    assert float(gated.mean()) == pytest.approx(float(slim.mean()), abs=1e-5)  # as no permutation moves a sum
    assert not torch.allclose(gated, slim, atol=0.01)


def test_a_selection_drops_what_scores_below_one_half_and_carries_the_mean_of_the_noise():
    torch.manual_seed(0)
    gate = paper(dense_schema({"p": 2, "q": 1}), 8)
    gate.theta.data = torch.tensor([1.0, -1.0])
    for _ in range(50):
        gate(torch.randn(4096, 3) + torch.tensor([1.0, 2.0, 3.0]), no_ids(4096))
    selection = gate.select(Budget(), seed=0)
    assert selection.kept == ("p",)
    assert selection.fields["q"].scale == (0.0,)
    assert selection.fields["q"].shift[0] == pytest.approx(3.0, abs=0.02)
    g = selection.fields["p"].score
    assert selection.fields["p"].scale == pytest.approx((g, g))
    assert selection.fields["p"].shift == pytest.approx(((1 - g) * 1.0, (1 - g) * 2.0), abs=1e-3)


def category_schema(rows):
    statistics = Statistics(rows=rows)
    return Schema(label="click", fields=[Field(name="user", kind="category", statistics=statistics)])


def grouped_batches(gate, table, count, users_per_batch):
    for batch in range(count):
        first = 3 + batch * users_per_batch
        ids = torch.randint(first, first + users_per_batch, (256, 1), dtype=torch.int32)
        gate(table[ids[:, 0].long()], ids)


def test_batches_of_few_users_are_noticed_because_shuffling_within_them_changes_little():
    torch.manual_seed(0)
    table = torch.randn(1000, 8)
    gate = paper(category_schema(1000), 8)
    grouped_batches(gate, table, 40, users_per_batch=2)
    assert float(gate.effective_shuffle_rates()) == pytest.approx(0.5, abs=0.06)
    with pytest.raises(ConfigError, match="reservoir"):
        gate.step(0.1)


@pytest.mark.parametrize("share", [0.002, 0.01, 0.05])
def test_a_field_that_is_seldom_active_raises_no_alarm_about_shuffling(share):
    for seed in range(20):
        torch.manual_seed(seed)
        gate = paper(category_schema(5), 8)
        for _ in range(40):
            ids = (torch.rand(512, 1) < share).int() + 3
            gate(torch.eye(8)[ids[:, 0].long()], ids)
            gate.step(0.1)


def test_a_reservoir_of_earlier_batches_restores_the_effective_shuffle_rate():
    torch.manual_seed(0)
    table = torch.randn(1000, 8)
    gate = paper(category_schema(1000), 8, reservoir=8192)
    grouped_batches(gate, table, 120, users_per_batch=2)
    assert float(gate.effective_shuffle_rates()) > 0.9
    gate.step(0.5)


@pytest.mark.parametrize(
    "options",
    [{"stream": "valid"}, {"temperature": 0.0}, {"every": 0}, {"alpha": -1.0}, {"reference": "blog"}],
)
def test_an_option_outside_its_range_is_refused(options):
    with pytest.raises(ValueError, match="got"):
        paper(dense_schema({"p": 1}), 8, **options)


def test_a_cut_model_is_tuned_on_a_fraction_of_the_rows_the_same_for_the_same_seed(tmp_path):
    ingest_rows(tmp_path, rows=3000, gate=0.15)
    data = Dataset.open(tmp_path / "dataset")
    sample.run(SampleConfig(fraction=0.3), Tracker(), dataset=tmp_path / "dataset", subset=tmp_path / "subset")

    def numbers(rows, fraction, seed=0):
        config = FinetuneConfig(rows=rows, fraction=fraction, train=TrainConfig(seed=seed))
        return finetune.rows_of(config, data, tmp_path / "subset").row.tolist()

    for rows in ("all", "rest", "subset"):
        whole, drawn = numbers(rows, 1.0), numbers(rows, 0.1)
        assert set(drawn) < set(whole) and len(drawn) == round(0.1 * len(whole))
        assert drawn == numbers(rows, 0.1) != numbers(rows, 0.1, seed=1)
    assert not set(numbers("rest", 0.5)) & set(numbers("subset", 0.5))
