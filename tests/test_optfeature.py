"""OptFeature against its paper and code (METHODS T1 to T7), planted interactions, and the road of a selector that stays."""

from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import small
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder
from test_contract import gated, inputs, mixed_schema

from slimrec.batch import Batch
from slimrec.config import FinetuneConfig, IngestConfig, ModelConfig, PretrainConfig, PruneConfig, TrainConfig
from slimrec.data.dataset import Dataset
from slimrec.gates.optfeature import OptFeatureGate, straight_through
from slimrec.metrics import auc
from slimrec.model import build, with_gate
from slimrec.model.files import load_model
from slimrec.model.scoring import score
from slimrec.pruning.decide import decide
from slimrec.pruning.findings import Change, Findings, Presence
from slimrec.schema import Field, Schema, Statistics
from slimrec.selection import Budget
from slimrec.serving.predictor import Predictor
from slimrec.stages import finetune, ingest, pretrain, prune
from slimrec.track import Tracker
from slimrec.training.loop import Trainer

KEEPS_SELECTOR = {"fall_back": False}


def random_gate(**options):
    torch.manual_seed(2)
    gate = OptFeatureGate(mixed_schema(), 4, **options)
    for parameter in gate.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.3
    return gate


def auxiliary_rows(gate, ids):
    """Each field's auxiliary vector (16,) of one row of ids, by looking values up one by one."""
    vectors, slot = [], 0
    start = 0
    for field in gate.schema.fields:
        table = gate.raw.values[start : start + (field.rows if field.embedded else 1)]
        start += len(table)
        if not field.embedded:
            vectors.append(table[0])
        elif field.kind == "bag":
            present = [table[i] for i in ids[slot : slot + field.slots].tolist() if i != 0]
            vectors.append(sum(present) / len(present) if present else torch.zeros(16))
        else:
            vectors.append(table[ids[slot]])
        slot += field.slots
    return vectors


def meet(gate, first, second):
    """Sum over k of sigma_k u_k v_k, term by term."""
    u, v = ((gate.raw.project.weight @ row + gate.raw.project.bias).detach() for row in (first, second))
    return sum(float(gate.raw.sigma.detach()[k] * u[k] * v[k]) for k in range(128))


def test_t1_raw_logits_are_the_upper_triangle_of_u_sigma_u_transposed():
    gate = random_gate()
    ids, _ = inputs(gate.schema, rows=5)
    ids[0, :3] = torch.tensor([3, 4, 0])  # the bag's slots come first: fields are in order of name
    ids[1, :3] = 0
    raw = gate.raw.of_values(ids).detach()
    for row in range(5):
        vectors = auxiliary_rows(gate, ids[row])
        loops = [meet(gate, vectors[i], vectors[j]) for i, j in combinations(range(6), 2)]
        mirrored = [meet(gate, vectors[j], vectors[i]) for i, j in combinations(range(6), 2)]
        assert raw[row].tolist() == pytest.approx(loops, abs=1e-4)
        assert loops == pytest.approx(mirrored, abs=1e-5)


def test_t1_permuting_the_fields_permutes_the_logits():
    gate = random_gate(grain="field")
    before = dict(zip(gate.names, gate.raw.of_fields().tolist()))
    order = [3, 0, 5, 1, 4, 2]
    gate.raw.fields.data = gate.raw.fields.data[order]
    names = gate.schema.names
    after = dict(zip(gate.names, gate.raw.of_fields().tolist()))
    for i, j in combinations(range(6), 2):
        moved = tuple(sorted((names[order[i]], names[order[j]])))
        assert after[names[i], names[j]] == pytest.approx(before[moved], abs=1e-5)


def test_t2_the_step_gives_exact_zeros_and_ones_and_passes_the_gradient_unchanged():
    logits = torch.tensor([-3.0, -1e-30, 0.0, 1e-30, 0.3, 1e9], requires_grad=True)
    upstream = torch.tensor([0.1, -2.0, 3.0, 4.0, -5.0, 6.0])
    step = straight_through(logits)
    step.backward(upstream)
    assert step.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(logits.grad, upstream)


@pytest.mark.parametrize("rows", [300, 10_000])
@pytest.mark.parametrize("grain", ["value", "field", "hybrid"])
def test_t3_all_pairs_are_on_at_the_start_near_the_squared_biases(rows, grain):
    torch.manual_seed(0)
    fields = [Field(name=f"f{i}", kind="category", statistics=Statistics(rows=rows // 6)) for i in range(6)]
    gate = OptFeatureGate(Schema(label="click", fields=fields), 8, grain=grain)
    ids = torch.randint(0, rows // 6, (500, 6))
    assert (gate.pairs(ids) == 1).all()
    if rows == 10_000 and grain == "value":  # a Linear from 16 has biases uniform in -1/4..1/4: 128 / 16 / 3
        assert float(gate.logits(ids).detach().mean()) == pytest.approx(128 / 48, rel=0.15)
    gate.raw.project.bias.data.zero_()
    if grain == "value":  # what a Linear without bias would make of the method
        assert 0.4 < float(gate.pairs(ids).detach().mean()) < 0.6


def test_t4_hybrid_is_value_grain_at_one_end_of_alpha_and_field_grain_at_the_other():
    gate = random_gate(grain="hybrid")
    ids, _ = inputs(gate.schema, rows=40)
    by_value, by_field = gate.raw.of_values(ids), gate.raw.of_fields().expand(40, -1)
    for far, expected in ((100.0, by_value), (-100.0, by_field)):
        gate.alpha.data.fill_(far)
        for mode in (True, False):
            assert torch.equal(gate.train(mode).pairs(ids), (expected > 0).float())
    gate.alpha.data.zero_()
    gate.alpha.data[::2] = 0.01
    assert torch.allclose(gate.train().logits(ids), (by_value + by_field) / 2, atol=0.02)
    hard = gate.eval().logits(ids)
    assert torch.equal(hard[:, ::2], by_value[:, ::2]) and torch.equal(hard[:, 1::2], by_field[:, 1::2])


@pytest.mark.parametrize("grain", ["value", "hybrid"])
@pytest.mark.parametrize("backbone", ["pnn", "deepfm"])
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_a_slim_model_with_its_selector_gives_the_logits_of_the_masked_one(grain, backbone, keep):
    model = gated("optfeature", backbone, options={"grain": grain, "min_share": 0.4, **KEEPS_SELECTOR}).eval()
    selection = model.gate.select(Budget(keep=keep), seed=0)
    slim = model.narrow(selection)
    ids, dense = inputs(model.schema, rows=300)
    slots = [f.name in selection.kept for f in model.schema.embedded for _ in range(f.slots)]
    columns = [f.name in selection.kept for f in model.schema.dense for _ in range(f.dense_width)]
    masked = model.masked_logits(ids, dense, selection)
    assert slim.gate is not None
    assert keep < 1 or 0 < len(selection.pairs) < 15
    assert torch.allclose(masked, slim(ids[:, slots], dense[:, columns]), atol=1e-5)
    if keep == 1.0:
        assert torch.allclose(masked, model(ids, dense), atol=1e-5)
        assert not torch.allclose(masked, model.backbone(model.arena(ids, dense)), atol=1e-3)


def test_a_gate_that_stays_is_in_eval_mode_for_ever_and_learns_nothing():
    model = gated("optfeature", options={"grain": "hybrid", **KEEPS_SELECTOR})
    slim = model.narrow(model.gate.select(Budget(), seed=0)).train()
    assert model.gate.training and model.gate.learns
    assert not slim.gate.training and not slim.gate.learns


def write_log(folder, columns, label, widths):
    texts = {name: [f"{name}{value}" for value in values] for name, values in columns.items()}
    pq.write_table(pa.table({"y": label, **texts}), folder / "raw.parquet")
    fields = [{"name": name, "kind": "category", "embedding_dim": width} for name, width in widths.items()]
    split = {"by": "random", "train": 0.4, "gate": 0.2, "valid": 0.1, "test": 0.3}
    source = str(folder / "raw.parquet")
    config = IngestConfig(source=source, fields={"label": "y", "fields": fields}, split=split)
    ingest.run(config, Tracker(), dataset=folder / "dataset")
    return Dataset.open(folder / "dataset")


@pytest.fixture(scope="module")
def interactions(tmp_path_factory):
    """XOR of a and b; c meets d at its value 0 only, and its other values have strong effects of their own.

    c and d have one column each: what is first-order of c is bound to meet d, where the pair is on.
    """
    random = np.random.default_rng(1)
    rows = 40_000
    a, b = random.integers(0, 2, (2, rows))
    c, d = np.where(random.random(rows) < 0.5, 0, random.integers(1, 4, rows)), random.integers(0, 20, rows)
    side = random.choice([-1.5, 1.5], 20)
    logit = np.where(a == b, 1.0, -1.0) + np.array([0.0, -1.0, 1.0, -1.0])[c] + np.where(c == 0, side[d], 0)
    label = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    folder = tmp_path_factory.mktemp("interactions")
    return write_log(folder, {"a": a, "b": b, "c": c, "d": d}, label, {"a": 4, "b": 4, "c": 1, "d": 1})


def network(schema, pairs=None):
    """Logistic regression on embeddings and their products: without products, first order and nothing else."""
    options = {"hidden": [], "pairs": pairs}
    return build(schema, ModelConfig(backbone="pnn", embedding_dim=1, embedding_std=0.5, options=options), seed=1)


def trained(model, data):
    config = TrainConfig(
        epochs=2,
        batch_size=32,
        learning_rate=0.01,
        embedding_learning_rate=0.01,
        patience=0,
        seed=1,
        device="cpu",
        threads=1,
    )
    Trainer(model, config, *(data.split(name) for name in ("train", "valid", "gate"))).fit()
    return model.eval()


def searched_and_retrained(data, grain):
    """Search, survey, decide; then train from the initial weights with the selection frozen."""
    model = with_gate(network(data.schema), "optfeature", {"grain": grain, **KEEPS_SELECTOR}, seed=1)
    trained(model, data).gate.survey(model, lambda: data.split("gate").batches(1024, shuffle="none"))
    selection = model.gate.select(Budget(), seed=1)
    again = network(data.schema).narrow(selection.plain())
    again.gate = model.gate.narrow(selection)
    return model.gate, selection, test_auc(trained(again, data), data)


def test_auc(model, data):
    return auc(data.split("test").label, score(model, data.split("test")))


test_auc.__test__ = False


def first_order_auc(data):
    parts = {}
    for name in ("train", "test"):
        split = data.split(name)
        (batch,) = split.batches(len(split), shuffle="none")
        parts[name] = batch.ids.numpy(), split.label
    encoder = OneHotEncoder(handle_unknown="ignore").fit(parts["train"][0])
    judge = LogisticRegression(max_iter=1000).fit(encoder.transform(parts["train"][0]), parts["train"][1])
    return roc_auc_score(parts["test"][1], judge.decision_function(encoder.transform(parts["test"][0])))


def test_a_gate_step_moves_no_row_of_a_value_that_its_batch_lacks(interactions):
    """A table of values as long as the embeddings must not be read and written as a whole at every step."""
    model = with_gate(network(interactions.schema), "optfeature", {"grain": "hybrid"}, seed=1)
    trainer = Trainer(model, TrainConfig(), *(interactions.split(name) for name in ("train", "valid", "gate")))
    before = {name: parameter.detach().clone() for name, parameter in model.gate.named_parameters()}
    batch = next(interactions.split("gate").batches(8, shuffle="none"))
    trainer._gate_step(batch)
    seen = {start + i for row in batch.ids.tolist() for start, i in zip(model.gate.raw.places.starts, row)}
    moved = (model.gate.raw.values != before["raw.values"]).any(1).nonzero()[:, 0].tolist()
    assert set(moved) == seen and len(seen) < len(before["raw.values"])
    assert all((parameter != before[name]).any() for name, parameter in model.gate.named_parameters())


def test_alpha_keeps_its_rate_without_decay_and_the_rest_decays():
    optimizers = OptFeatureGate(mixed_schema(), 4, grain="hybrid", learning_rate=0.5, l2=0.1).optimizers()
    rest, alpha = optimizers["gate"].param_groups
    assert (alpha["lr"], alpha["weight_decay"]) == (0.001, 0) and (rest["lr"], rest["weight_decay"]) == (0.5, 0.1)
    assert optimizers["gate_tables"].defaults == {"lr": 0.5, "l2": 0.1}


def test_the_released_code_steps_pairs_on_training_rows_at_its_own_rate():
    code = OptFeatureGate(mixed_schema(), 4, reference="code", every=3)
    assert (code.stream, code.every, code.learning_rate, code.warmup) == ("train", 1, 3e-5, 0.0)
    held_out = OptFeatureGate(mixed_schema(), 4, reference="code", stream="gate", warmup=0.1)
    assert (held_out.stream, held_out.learning_rate, held_out.warmup) == ("gate", 3e-5, 0.1)
    paper = OptFeatureGate(mixed_schema(), 4, reference="paper")
    assert (paper.stream, paper.learning_rate, paper.warmup) == ("train", 1e-3, 0.0)


@pytest.mark.parametrize(("grain", "stream"), [("value", "first"), ("hybrid", "first"), ("field", "gate")])
def test_values_step_on_training_rows_while_they_are_new_and_fields_on_held_out_ones(grain, stream):
    assert OptFeatureGate(mixed_schema(), 4, grain=grain).stream == stream


@pytest.mark.battery
def test_t6_value_grain_finds_the_value_that_interacts_and_beats_field_grain(interactions):
    gate, selection, by_value = searched_and_retrained(interactions, "value")
    _, fields, by_field = searched_and_retrained(interactions, "field")
    assert {("a", "b"), ("c", "d")} <= set(fields.pairs or gate.names)
    assert {("a", "b"), ("c", "d")} <= set(selection.pairs or gate.names)
    split = interactions.split("test")
    (batch,) = split.batches(len(split), shuffle="none")
    on = gate.pairs(batch.ids)[:, gate.names.index(("c", "d"))]
    zero = batch.ids[:, 2] == batch.ids[:, 2].mode().values  # half of the rows have c at 0
    assert (on[zero] == 1).all()
    assert on[~zero].mean() < 0.8
    nothing_meets = test_auc(trained(network(interactions.schema, pairs=[]), interactions), interactions)
    assert nothing_meets <= first_order_auc(interactions) + 0.003
    assert by_field > nothing_meets + 0.03
    assert by_value > by_field + 0.01


@pytest.mark.battery
def test_the_planted_xor_is_the_strongest_of_all_pairs(tmp_path):
    split = {"by": "random", "train": 0.6, "gate": 0.15, "valid": 0.1, "test": 0.15}
    ingest.run(IngestConfig(source="planted:rows=40000", split=split), Tracker(), dataset=tmp_path / "dataset")
    config = PretrainConfig(
        method="optfeature",
        options={"grain": "field", "max_pairs": 5},
        model=ModelConfig(backbone="pnn", options={"hidden": [16]}, embedding_std=0.05),
        train=TrainConfig(
            epochs=3,
            batch_size=256,
            learning_rate=0.003,
            embedding_learning_rate=0.01,
            patience=0,
            device="cpu",
            threads=1,
        ),
    )
    pretrain.run(config, Tracker(), dataset=tmp_path / "dataset", gated=tmp_path / "gated")
    gate = load_model(tmp_path / "gated").gate
    selection = gate.select(Budget(), seed=0)
    assert len(selection.pairs) == 5
    assert ("layout", "query") in selection.pairs
    assert gate.names[int(gate.mean.argmax())] == ("layout", "query")


def test_t7_with_all_gates_off_the_product_inputs_are_zero():
    model = gated("optfeature", options=KEEPS_SELECTOR).eval()
    model.gate.raw.sigma.data.fill_(-1.0)
    model.gate.raw.values.data.zero_()
    batch = inputs(model.schema)
    x = model.arena(*batch)
    assert torch.equal(model(*batch), model.backbone.tower(torch.cat([x, torch.zeros(len(x), 15)], dim=1)))


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """Searched with value grain whatever it costs, cut, and retrained from the initial weights."""
    folder = tmp_path_factory.mktemp("audited")
    small.ingest_rows(folder, rows=2000, gate=0.1)
    train = TrainConfig(
        epochs=2, batch_size=128, learning_rate=0.01, embedding_learning_rate=0.02, seed=5, device="cpu", threads=1
    )
    config = PretrainConfig(
        method="optfeature",
        options={"grain": "hybrid", "learning_rate": 0.02, "warmup": 0.0, "min_share": 0.3, **KEEPS_SELECTOR},
        model=ModelConfig(backbone="pnn", embedding_dim=4, options={"hidden": [8]}),
        train=train,
    )
    pretrain.run(config, Tracker(), dataset=folder / "dataset", gated=folder / "gated")
    figures = prune.run(
        PruneConfig(budget=Budget(fields=5)),
        Tracker(),
        gated=folder / "gated",
        selection=folder / "selection",
        slim=folder / "slim",
    )
    paths = {name: folder / name for name in ("dataset", "gated", "selection", "slim")}
    for start in ("initial", "fresh", "warm"):
        finetune.run(FinetuneConfig(start=start, train=train), Tracker(), tuned=folder / start, **paths)
    return folder, figures, train


@pytest.mark.parametrize("start", ["initial", "fresh", "warm"])
def test_t5_every_tensor_of_the_selection_is_bit_equal_after_retraining(audited, start):
    folder, figures, _ = audited
    assert figures["max_logit_difference"] < 1e-4
    searched, slim, tuned = (load_model(folder / name) for name in ("gated", "slim", start))
    kept = slim.schema.names
    assert len(kept) == 5 and tuned.gate.frozen
    before, after = (safetensors.torch.load_file(folder / n / "gate.safetensors") for n in ("slim", start))
    assert all(torch.equal(before[name], after[name]) for name in before) and before.keys() == after.keys()
    for name in ("project.weight", "project.bias", "sigma"):
        assert torch.equal(searched.gate.raw.get_parameter(name), tuned.gate.raw.get_parameter(name))
    places = [searched.schema.names.index(name) for name in kept]
    assert torch.equal(searched.gate.raw.fields[places], tuned.gate.raw.fields)
    alpha = dict(zip(searched.gate.names, searched.gate.alpha.tolist()))
    assert [alpha[pair] for pair in tuned.gate.names] == tuned.gate.alpha.tolist()
    moved = not torch.equal(slim.backbone.tower.first.weight, tuned.backbone.tower.first.weight)
    assert moved or start == "warm"  # a warm start that no epoch betters is kept


def test_t5_retraining_begins_with_the_bits_that_the_search_began_with(audited):
    folder, _, train = audited
    config = FinetuneConfig(start="initial", train=train)
    model = finetune._start(config, folder / "gated", folder / "selection", folder / "slim")
    searched = load_model(folder / "gated")
    first = build(searched.schema, searched.config, train.seed)
    for field in model.schema.embedded:
        assert torch.equal(model.arena.rows_of(field.name), first.arena.rows_of(field.name))
    names = [block.name for block in first.blocks for _ in block.columns]
    columns = [i for i, name in enumerate(names) if name in model.schema.names]
    weight = first.backbone.tower.first.weight
    assert torch.equal(model.backbone.tower.first.weight[:, : len(columns)], weight[:, columns])
    assert torch.equal(model.backbone.tower.first.bias, first.backbone.tower.first.bias)


def test_a_retrained_model_serves_with_its_selector(audited):
    folder = audited[0]
    predictor = Predictor.load(folder / "initial")
    table = small.raw_rows(200, seed=9)
    served = predictor.logits(table)
    ids, dense = (torch.from_numpy(part) for part in predictor.encoder.encode(table.select(list(predictor.columns))))
    model = predictor.model
    with torch.no_grad():
        weights = (model.gate.logits(ids) > 0) * model.gate.met
        by_hand = model.backbone(model.arena(ids, dense), weights)
    assert served == pytest.approx(by_hand.numpy(), abs=1e-6)
    assert 0 < float(weights.mean()) < 1


def surveyed(rows, off=1.0, probes=(), **options):
    """A surveyed PNN of four categories whose pairs of `a` are off for this share of its values: at 1, 3 of 6 go."""
    fields = [
        Field(name=name, kind="category", statistics=Statistics(rows=rows)) for name in ("a", "b", "c", "d", *probes)
    ]
    schema = Schema(label="click", fields=fields)
    model = build(schema, ModelConfig(backbone="pnn", embedding_dim=2, options={"hidden": [1000]}), seed=0)
    with_gate(model, "optfeature", options, seed=0).eval()
    with torch.no_grad():
        bias = model.gate.raw.project.bias
        row = -3 * torch.linalg.pinv(model.gate.raw.project.weight) @ bias
        for table in (model.gate.raw.values, model.gate.raw.fields):
            if table is not None:
                table.zero_()
                table[: (int(off * rows) if len(table) > len(fields) else 1)] = row
    ids = torch.randint(0, rows, (50, len(fields)))
    model.gate.survey(model, lambda: [Batch(ids, torch.zeros(50, 0), torch.zeros(50), torch.ones(50))])
    return model


def test_the_net_saving_counts_the_selectors_own_bytes_and_multiply_adds():
    model = surveyed(rows=5, dim=1, rank=1, fall_back=False)
    evidence = model.gate.evidence()
    assert evidence["pairs_kept"] == 3
    assert evidence["selector_bytes"] == 4 * (4 * 5 + 2 + 1)  # table, Linear(1 -> 1), sigma
    assert evidence["saved_bytes"] == 4 * 3 * 1000  # three inputs of the first layer
    assert evidence["saved_multiply_adds"] == 3 * 1000 + 4 * 4 * 2 - 3 * 3 * 2  # and one field fewer in the products
    assert (
        evidence["selector_multiply_adds"] == 4 * 2 * 2 + 4 * 4 * 2
    )  # [e, 1] core, and that times [e, 1] of all fields
    assert evidence["net_saved_bytes"] == 4 * (3 * 1000 - 23)


@pytest.mark.parametrize("grain", ["value", "field", "hybrid"])
def test_probes_of_a_search_neither_cost_nor_save_nor_take_the_place_of_a_pair(grain):
    options = {"dim": 1, "rank": 1, "grain": grain, "max_pairs": 2, "fall_back": False}
    plain, probed = (surveyed(rows=5, probes=names, **options).gate for names in ((), ("probe0:a", "probe0:b")))
    unlike = ("pairs_on_per_row", "on/")
    found = [{n: v for n, v in gate.evidence().items() if not n.startswith(unlike)} for gate in (plain, probed)]
    assert found[0] == found[1] and found[0]["pairs"] == 6
    kept = [gate.select(Budget(fields=4), seed=0) for gate in (plain, probed)]
    assert len(kept[0].pairs) == len(kept[1].without_probes().pairs) == 2


def test_a_selector_that_pays_for_itself_stays_and_one_that_does_not_falls_back_to_a_static_list():
    static_pairs = (("b", "c"), ("b", "d"), ("c", "d"))
    for rows, stays in ((5, True), (5000, False)):
        model = surveyed(rows=rows, dim=1, rank=1)
        selection = model.gate.select(Budget(), seed=0)
        assert selection.pairs == static_pairs
        assert selection.evidence["fell_back_to_field_grain"] == (0 if stays else 1)
        assert (selection.evidence["net_saved_bytes"] > 0) == stays
        slim = model.narrow(selection)
        assert (slim.gate is not None) == stays
        ids, dense = torch.randint(0, rows, (20, 4)), torch.zeros(20, 0)
        assert torch.allclose(slim(ids, dense), model(ids, dense), atol=1e-5)


def test_where_the_selector_goes_a_pair_stays_if_it_is_on_for_most_rows():
    for off, stays in ((0.3, True), (0.8, False)):
        fallen = surveyed(rows=5000, off=off, dim=1, rank=1).gate
        assert 0 < float(fallen.share[0]) < 1 and bool(fallen.static)
        assert (("a", "b") in (fallen.select(Budget(), seed=0).pairs or fallen.names)) == stays
        assert surveyed(rows=5000, off=off, dim=1, rank=1, fall_back=False).gate.met.all()


def test_field_grain_decides_with_a_static_list_and_leaves_nothing_behind():
    model = surveyed(rows=5, grain="field", dim=1, rank=1)
    selection = model.gate.select(Budget(), seed=0)
    assert selection.pairs == (("b", "c"), ("b", "d"), ("c", "d"))
    assert selection.evidence["selector_bytes"] == 0 and selection.kept == ("a", "b", "c", "d")
    assert model.narrow(selection).gate is None
    assert model.gate.scores() == pytest.approx({"a": 0, "b": 2 / 3, "c": 2 / 3, "d": 2 / 3})


def test_without_a_gate_slice_field_grain_reads_its_table_and_value_grain_is_refused():
    model = surveyed(rows=5, grain="field", dim=1, rank=1)
    before = model.gate.met.clone()
    model.gate.met.zero_()
    model.gate.survey(model, list)
    assert torch.equal(model.gate.met, before)
    assert OptFeatureGate(mixed_schema(), 4).surveys and not OptFeatureGate(mixed_schema(), 4, grain="field").surveys


def test_a_byte_budget_counts_the_table_of_a_selector_that_stays():
    model = surveyed(rows=5, dim=1, rank=1)
    selection = model.gate.select(Budget(max_bytes=2 * 5 * (4 * 2 + 4)), seed=0)
    assert len(selection.kept) == 2


def test_a_field_comes_back_only_where_its_rows_of_the_selector_fit_too():
    gate = surveyed(rows=5, dim=1, rank=1).gate
    vital, less = (Change(mean=mean, error=1e-6, rows=100) for mean in (0.5, 0.1))
    gone = Presence(share=0.5, shuffled=vital, missed=vital)
    findings = Findings(importance=dict.fromkeys("abcd", vital) | {"b": less, "c": less}, presence={"a": gone})
    for room in (3, 2):
        limit = 5 * 4 * (room * (2 + 1) + 2)  # beside whole fields room for a table without a selector
        assert gate.select(Budget(max_bytes=limit), seed=0).kept == ("b", "c", "d")[:room]
        decided = decide(gate, findings, Budget(max_bytes=limit), guard=True, seed=0)
        assert sum(gate.field_bytes()[name] for name in decided.kept) <= limit
        assert "a" in decided.kept


@pytest.mark.parametrize(
    "options",
    [{"grain": "pair"}, {"stream": "valid"}, {"dim": 0}, {"min_share": 1.0}, {"l2": -1.0}, {"reference": "blog"}],
)
def test_an_option_outside_its_range_is_refused(options):
    with pytest.raises(ValueError, match="got"):
        OptFeatureGate(mixed_schema(), 4, **options)
