"""Methods that score the trained model, or the data: held to brute force, finite differences, scikit-learn and SciPy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chi2_contingency
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectFromModel
from sklearn.inspection import permutation_importance
from sklearn.metrics import mutual_info_score, roc_auc_score
from torch.utils.flop_counter import FlopCounterMode

from slimrec.backbones.base import Backbone
from slimrec.batch import Batch
from slimrec.config import ModelConfig, PretrainConfig, TrainConfig
from slimrec.errors import ConfigError
from slimrec.gates.permutation import shuffled_logits
from slimrec.model import build, with_gate
from slimrec.plugins import BACKBONES
from slimrec.schema import Block, Field, Schema, Statistics
from slimrec.selection import Budget
from slimrec.stages import pretrain
from slimrec.track import Tracker
from tests import recovery, small

SURVEYS = ("chi2", "mutual_information", "permutation", "sfs", "shark")
NUMBER = Statistics(mean=(0.0,), deviation=(1.0,))
FIELDS = [
    Field(name="bag", kind="bag", max_length=3, statistics=Statistics(rows=12)),
    Field(name="category", kind="category", statistics=Statistics(rows=30)),
    Field(name="number", kind="number", statistics=NUMBER),
    Field(name="other", kind="category", statistics=Statistics(rows=9)),
    Field(name="vector", kind="vector", width=6, statistics=Statistics()),
]
SCHEMA = Schema(label="click", fields=FIELDS)
FLAT = Schema(label="click", fields=[field for field in FIELDS if field.kind in ("category", "number")])


def surveyed(method, batches, schema=SCHEMA, backbone="mlp", **options):
    """An untrained model whose fields matter at random, with its gate, after the survey of some batches."""
    config = ModelConfig(backbone=backbone, embedding_dim=4, embedding_std=0.5)
    model = with_gate(build(schema, config, seed=3), method, options, seed=3).eval()
    model.gate.survey(model, lambda: iter(batches))
    return model


def rows(count, schema=SCHEMA, seed=0):
    """A batch in which every field says something of the label; a third of the bags are empty, weights unequal."""
    random = np.random.default_rng(seed)
    ids = [random.integers(3, f.rows, (count, f.slots)) for f in schema.embedded]
    for field, part in zip(schema.embedded, ids):
        if field.kind == "bag":
            part[random.random(part.shape) < 0.5] = 0
            part[::3] = 0
    ids = np.concatenate(ids, axis=1)
    dense = random.normal(size=(count, sum(f.dense_width for f in schema.dense)))
    logit = 0.2 * (ids - ids.mean(0)).sum(1) + dense.sum(1)
    label = random.random(count) < 1 / (1 + np.exp(-logit))
    weight = random.uniform(0.5, 2, count)
    return Batch(torch.tensor(ids, dtype=torch.int32), *(torch.tensor(v).float() for v in (dense, label, weight)))


def pieces(batch, size):
    return [Batch(*parts) for parts in zip(*(part.split(size) for part in batch))]


def shuffled_inputs(schema, name, batch, order):
    """The raw inputs with one field taken from other rows."""
    ids, dense = batch.ids.clone(), batch.dense.clone()
    slots = torch.tensor([f.name == name for f in schema.embedded for _ in range(f.slots)])
    columns = torch.tensor([f.name == name for f in schema.dense for _ in range(f.dense_width)])
    ids[:, slots], dense[:, columns] = ids[order][:, slots], dense[order][:, columns]
    return ids, dense


@pytest.mark.parametrize("backbone", sorted(BACKBONES.table))
@pytest.mark.parametrize("hidden", [[8, 4], []])
def test_renewing_part_of_the_first_layer_gives_the_logits_of_a_whole_pass_over_shuffled_inputs(backbone, hidden):
    config = ModelConfig(backbone=backbone, embedding_dim=4, embedding_std=0.5, options={"hidden": hidden})
    model, batch = build(SCHEMA, config, seed=1).eval(), rows(50)
    orders = [torch.randperm(50, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    with torch.no_grad():
        found = shuffled_logits(model.backbone, model.arena(batch.ids, batch.dense), orders)
        for i, name in enumerate(SCHEMA.names):
            for r, order in enumerate(orders):
                whole = model(*shuffled_inputs(SCHEMA, name, batch, order))
                assert torch.allclose(found[i, r], whole, atol=1e-5), name


@pytest.mark.parametrize("backbone", ["mlp", "widedeep", "deepfm"])
@pytest.mark.parametrize(("fields", "times"), [(39, 6), (300, 50)])
def test_renewing_part_of_the_first_layer_takes_a_fraction_of_the_multiply_adds(backbone, fields, times):
    blocks = [Block(f"f{i}", tuple(range(8))) for i in range(fields)]
    network, x, order = BACKBONES.create(backbone, blocks).eval(), torch.randn(16, 8 * fields), torch.randperm(16)
    spent = []
    for replacing in (network.replacing, lambda x: Backbone.replacing(network, x)):
        replaced = replacing(x)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            replaced(8, x[order, 8:16])
        spent.append(counter.get_total_flops())
    assert times * spent[0] < spent[1]


def test_fields_that_share_no_column_meet_nowhere_and_are_still_replaced():
    network = BACKBONES.create("deepfm", [Block("a", (0,)), Block("b", (1, 2))]).eval()
    x, new = torch.randn(5, 3), torch.randn(5, 2)
    assert torch.allclose(network.replacing(x)(1, new), network(torch.cat([x[:, :1], new], 1)), atol=1e-5)


class Estimator(BaseEstimator):
    """The model as scikit-learn sees one: a column a field, ids as numbers."""

    def __init__(self, model=None):
        self.model = model

    def fit(self, X, y):
        return self

    def score(self, X, y, sample_weight=None):
        places = {name: i for i, name in enumerate(FLAT.names)}
        ids, dense = ([places[f.name] for f in part] for part in (FLAT.embedded, FLAT.dense))
        with torch.no_grad():
            logits = self.model(torch.tensor(X[:, ids]).int(), torch.tensor(X[:, dense]).float())
        return roc_auc_score(y, logits.numpy(), sample_weight=sample_weight)


def test_permutation_importance_is_that_of_scikit_learn():
    batch = rows(3000, FLAT)
    model = surveyed("permutation", pieces(batch, 700), FLAT, repeats=40)
    order = [[f.name for f in (*FLAT.embedded, *FLAT.dense)].index(name) for name in FLAT.names]
    X = torch.cat([batch.ids.double(), batch.dense.double()], 1)[:, order].numpy()
    oracle = permutation_importance(
        Estimator(model), X, batch.label.numpy(), n_repeats=40, random_state=0, sample_weight=batch.weight.numpy()
    )
    error = np.hypot(oracle.importances_std, model.gate.spread.numpy()) / np.sqrt(40)
    assert (np.abs(oracle.importances_mean - model.gate.importance.numpy()) < 4 * error + 1e-6).all()
    assert oracle.importances_std == pytest.approx(model.gate.spread.numpy(), rel=0.5)


@pytest.mark.battery
@pytest.mark.parametrize("metric", ["auc", "log_loss"])
def test_a_meaningless_field_seldom_passes_for_needed_however_few_the_rows(metric):
    batches = [pieces(rows(300, seed=seed), 128) for seed in range(60)]
    for parts in batches:  # labels that no field knows of
        for part in parts:
            part.label.copy_(part.label[torch.randperm(len(part.label))])
    needed = [surveyed("permutation", parts, metric=metric, level=0.05).gate.needed() for parts in batches]
    share = float(torch.stack(needed).double().mean())  # of 300 decisions; those of one slice hang together
    assert share < 0.1


def test_shark_is_the_mean_over_rows_of_what_a_loop_row_by_row_gives():
    batch = rows(60)
    model = surveyed("shark", pieces(batch, 25), backbone="pnn")
    x = model.arena(batch.ids, batch.dense).detach()
    mean = (batch.weight @ x) / batch.weight.sum()
    total = torch.zeros(len(SCHEMA.fields))
    for row in range(60):
        one = x[row : row + 1].clone().requires_grad_()
        loss = F.binary_cross_entropy_with_logits(model.backbone(one), batch.label[row : row + 1])
        (gradient,) = torch.autograd.grad(loss, one)
        products = (gradient * (mean - one.detach()))[0].split([block.width for block in model.blocks])
        total += batch.weight[row] * torch.stack([part.sum().abs() for part in products])
    assert torch.allclose(model.gate.importance.float(), total / batch.weight.sum(), atol=1e-6)


def test_sfs_is_the_slope_of_the_loss_along_each_mask_by_finite_differences():
    batch = rows(100)
    model = surveyed("sfs", pieces(batch, 70), backbone="deepfm", batch_size=35).double()
    total = np.zeros(len(SCHEMA.fields))
    drawn = Batch(*model.gate.draw(lambda: iter(pieces(batch, 70)), 100 * 35))
    for piece in pieces(drawn, 35):
        x = model.arena(piece.ids, piece.dense.double())
        for i in range(len(total)):
            losses = []
            for mask in (1 + 1e-5, 1 - 1e-5):
                scale = torch.where(model.gate.owner == i, mask, 1.0)
                logits = model.backbone(x * scale)
                losses.append(
                    F.binary_cross_entropy_with_logits(logits, piece.label.double(), piece.weight.double())
                    * len(logits)
                )
            total[i] += abs((losses[0] - losses[1]).item()) / 2e-5
    assert model.gate.importance.numpy() == pytest.approx(total / total.sum(), rel=1e-3)


def test_sfs_looks_at_no_more_batches_than_asked_for(monkeypatch):
    seen = []
    backward = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda loss, of: (seen.append(loss), backward(loss, of))[1])
    surveyed("sfs", pieces(rows(100), 50), batch_size=10, most=2)
    assert len(seen) == 2


def test_sfs_draws_its_rows_and_takes_them_not_as_they_are_stored():
    """Where rows of one user stand together, the first ones would be a few users."""
    batch = rows(400)
    batch.dense[:200, 0] = 0  # says nothing in the first half
    gate = surveyed("sfs", pieces(batch, 100), batch_size=20, most=10).gate
    assert gate.importance[list(SCHEMA.names).index("number")] > 0


def unweighted(count, schema=SCHEMA):
    batch = rows(count, schema)
    return batch._replace(weight=torch.ones_like(batch.weight))


def test_mutual_information_and_chi_squared_are_those_of_scikit_learn_and_scipy():
    batch = unweighted(2000, FLAT)
    values = dict(zip((f.name for f in FLAT.embedded), batch.ids.numpy().T))
    values["number"] = np.searchsorted(
        np.quantile(batch.dense.numpy(), [0.25, 0.5, 0.75]), batch.dense[:, 0].numpy(), "right"
    )
    for method in ("mutual_information", "chi2"):
        gate = surveyed(method, pieces(batch, 300), FLAT, bins=4).gate
        for name, importance, chance in zip(FLAT.names, gate.importance.tolist(), gate.chance.tolist()):
            _, cells = np.unique(values[name], return_inverse=True)
            table = np.zeros((cells.max() + 1, 2))
            np.add.at(table, (cells, batch.label.numpy().astype(int)), 1)
            pearson = chi2_contingency(table, correction=False)
            mutual = mutual_info_score(values[name], batch.label.numpy())
            assert importance == pytest.approx(mutual if method != "chi2" else pearson.statistic / 2000, rel=1e-6)
            assert chance == pytest.approx(pearson.pvalue, rel=1e-6, abs=1e-12)


def test_a_bag_counts_as_one_of_its_values_and_a_vector_as_its_best_column():
    ids = torch.tensor([[3, 4, 0], [4, 0, 0], [0, 0, 0], [3, 3, 0]], dtype=torch.int32)
    ids = torch.cat([ids, torch.full((4, 2), 3, dtype=torch.int32)], 1)
    label = torch.tensor([1.0, 0.0, 0.0, 1.0])
    dense = torch.zeros(4, 7)
    dense[:, 4] = label  # the number's column comes first, then the vector's
    gate = surveyed("mutual_information", [Batch(ids, dense, label, torch.ones(4))], bins=2).gate
    found = dict(zip(SCHEMA.names, gate.importance.tolist()))
    by_hand = sum(
        p * np.log(p / (q * 0.5)) for p, q in ((1.5 / 4, 1.5 / 4), (0.5 / 4, 1.5 / 4), (1 / 4, 1.5 / 4), (1 / 4, 1 / 4))
    )
    assert found["bag"] == pytest.approx(by_hand)
    assert found["vector"] == pytest.approx(np.log(2))
    assert found["number"] == found["category"] == 0


def test_the_best_of_many_columns_has_to_be_as_many_times_less_likely_by_chance():
    """Bonferroni, over the columns of a vector that says nothing; by hand from SciPy's p of each."""
    random = np.random.default_rng(2)
    schema = Schema(label="click", fields=[Field(name="vector", kind="vector", width=6, statistics=Statistics())])
    dense, label = random.integers(0, 2, (500, 6)), random.integers(0, 2, 500)
    batch = Batch(torch.zeros(500, 0).int(), torch.tensor(dense).float(), torch.tensor(label).float(), torch.ones(500))
    tables = [np.histogram2d(column, label, bins=2)[0] for column in dense.T]
    least = min(chi2_contingency(table, correction=False).pvalue for table in tables)
    assert 0.01 < 6 * least < 1
    for method in ("mutual_information", "chi2"):
        assert surveyed(method, [batch], schema, bins=2).gate.chance.tolist() == pytest.approx([6 * least], rel=1e-5)


def test_a_value_on_a_quantile_boundary_counts_above_it():
    """The median of 0 1 1 1 is 1: told apart, the field tells the label; thrown together, nothing."""
    schema = Schema(label="click", fields=[Field(name="number", kind="number", statistics=NUMBER)])
    label = torch.tensor([0.0, 1.0, 1.0, 1.0])
    gate = surveyed(
        "mutual_information", [Batch(torch.zeros(4, 0).int(), label[:, None], label, torch.ones(4))], schema, bins=2
    ).gate
    assert gate.importance.tolist() == pytest.approx([-(0.25 * np.log(0.25) + 0.75 * np.log(0.75))])


def test_a_value_unique_to_each_row_tops_mutual_information_yet_is_not_needed():
    random = np.random.default_rng(0)
    fields = [
        Field(name="unique", kind="category", statistics=Statistics(rows=3 + 2000)),
        Field(name="useful", kind="category", statistics=Statistics(rows=3 + 4)),
    ]
    useful = random.integers(0, 4, 2000)
    label = random.random(2000) < np.array([0.2, 0.3, 0.4, 0.5])[useful]
    ids = 3 + np.stack([np.arange(2000), useful], axis=1)
    batch = Batch(torch.tensor(ids).int(), torch.zeros(2000, 0), torch.tensor(label).float(), torch.ones(2000))
    schema = Schema(label="click", fields=fields)
    for method in ("mutual_information", "chi2"):
        gate = surveyed(method, [batch], schema).gate
        assert gate.select(Budget(fields=1), seed=0).kept == ("unique",)
        assert gate.select(Budget(), seed=0).kept == ("useful",)
    entropy = -(label.mean() * np.log(label.mean()) + (1 - label.mean()) * np.log(1 - label.mean()))
    gate = surveyed("mutual_information", [batch], schema).gate
    assert gate.evidence()["importance/unique"] == pytest.approx(entropy)


@pytest.mark.parametrize("method", ["chi2", "mutual_information", "sfs", "shark"])
def test_a_row_of_weight_two_counts_like_two_rows(method):
    once = unweighted(200)
    twice = once._replace(weight=1 + (torch.arange(200) < 50).float())
    options = {"batch_size": 1000} if method == "sfs" else {}
    options |= {"bins": 2} if method in ("chi2", "mutual_information") else {}
    doubled = Batch(*(torch.cat([part[:50], part]) for part in once))
    schema = Schema(label="click", fields=[field for field in FIELDS if field.kind in ("category", "bag")])
    weighed, counted = (
        surveyed(method, [batch._replace(dense=torch.zeros(len(batch.label), 0))], schema, **options).gate
        for batch in (twice, doubled)
    )
    assert torch.allclose(weighed.importance, counted.importance, rtol=1e-5)
    assert torch.allclose(weighed.mean, counted.mean, atol=1e-6)


@pytest.mark.parametrize("method", SURVEYS)
def test_rows_without_weight_say_nothing(method):
    batch = unweighted(400)
    batch.weight[::2] = 0
    flipped = batch._replace(label=torch.where(batch.weight > 0, batch.label, 1 - batch.label))
    first, second = (surveyed(method, pieces(each, 150)).gate.importance for each in (batch, flipped))
    assert torch.equal(first, second)


@pytest.mark.parametrize("method", SURVEYS)
def test_scores_are_shares_of_the_largest_importance_and_the_evidence_says_how_many_rows_they_rest_on(method):
    gate = surveyed(method, pieces(rows(300), 128)).gate
    importance = gate.importance.clamp(min=0)
    assert list(gate.scores().values()) == pytest.approx((importance / importance.max()).tolist())
    assert max(gate.scores().values()) == 1
    assert gate.evidence()["rows"] == 300


def test_permutation_looks_at_no_more_rows_than_asked_for_and_says_so():
    gate = surveyed("permutation", pieces(rows(300), 128), rows=100).gate
    assert gate.evidence()["rows"] == 100


@pytest.mark.parametrize("method", ["shark", "sfs"])
def test_without_a_budget_the_fields_of_more_than_mean_importance_stay(method):
    gate = surveyed(method, pieces(rows(300), 128)).gate
    estimator = Estimator()
    estimator.feature_importances_ = gate.importance.numpy()
    oracle = SelectFromModel(estimator, prefit=True, threshold="mean")._get_support_mask()
    assert gate.needed().tolist() == oracle.tolist()
    assert gate.select(Budget(), seed=0).kept == tuple(np.array(SCHEMA.names)[oracle])


def test_a_dropped_field_leaves_its_mean_behind():
    batch = rows(300)
    model = surveyed("shark", pieces(batch, 128))
    selection = model.gate.select(Budget(fields=4), seed=0)
    (gone,) = selection.dropped
    x = model.arena(batch.ids, batch.dense).detach()
    columns = torch.tensor([model.blocks[i].name == gone for i in model.gate.owner.tolist()])
    by_hand = torch.where(columns, batch.weight @ x / batch.weight.sum(), x)
    assert torch.allclose(model.masked_logits(batch.ids, batch.dense, selection), model.backbone(by_hand), atol=1e-5)


@pytest.mark.parametrize("method", SURVEYS)
def test_an_empty_gate_slice_is_refused_before_training(method, tmp_path):
    small.ingest_rows(tmp_path, rows=500, gate=0.0)
    config = PretrainConfig(method=method, train=TrainConfig(epochs=1, batch_size=64, device="cpu"))
    with pytest.raises(ConfigError, match="which is empty: set ingest.split.gate"):  # not by its survey
        pretrain.run(config, Tracker(), dataset=tmp_path / "dataset", gated=tmp_path / "gated")
    assert not (tmp_path / "gated").exists()


@pytest.mark.parametrize("method", SURVEYS)
def test_a_survey_of_nothing_is_refused(method):
    with pytest.raises(ConfigError, match="gate slice"):
        surveyed(method, [])
    with pytest.raises(ConfigError, match="weight 0"):
        surveyed(method, [rows(10)._replace(weight=torch.zeros(10))])


def test_what_chance_may_do_in_a_few_repeats_is_read_from_the_table_of_students_t():
    """One more draw beside 5 whose deviation is s lies above their mean by 3.747 s sqrt(6/5) once in a hundred times."""
    gate = surveyed("permutation", pieces(rows(300), 128), repeats=5, level=0.01).gate
    assert gate.spread.min() > 0
    assert (gate.margin() / gate.spread).tolist() == pytest.approx([3.747 * np.sqrt(6 / 5)] * 5, rel=1e-4)


def test_permutation_needs_both_classes_only_for_auc():
    batch = rows(50)._replace(label=torch.ones(50))
    with pytest.raises(ConfigError, match="metric: log_loss"):
        surveyed("permutation", [batch])
    assert surveyed("permutation", [batch], metric="log_loss").gate.importance.abs().max() > 0


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return recovery.make_dataset(tmp_path_factory.mktemp("planted"))


@pytest.mark.parametrize("method", ["chi2", "permutation", "sfs", "shark"])
def test_useful_fields_come_before_noise_after_a_real_search(method, planted, tmp_path):
    options = {"batch_size": 64} if method == "sfs" else {}  # of 4,000 rows 256 make too few batches to tell
    gate = recovery.search(tmp_path, planted, method, options, epochs=12)
    few = {name: score for name, score in gate.scores().items() if name != "noise_500"}  # the trap above
    assert set(sorted(few, key=few.get)[-3:]) == set(recovery.STRONG)
    assert method == "sfs" or gate.select(Budget(), seed=0).kept == recovery.STRONG
    assert gate.evidence()["rows"] > 3500
