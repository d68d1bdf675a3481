"""The arena against one embedding a field, and the whole model's cut against the masked model."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from slimrec.config import ModelConfig
from slimrec.model import Arena, build
from slimrec.plugins import BACKBONES
from slimrec.schema import Block, Field, Label, Schema, Statistics, blocks_of
from slimrec.selection import Budget, Decision, Selection

DIM = 8


def embedded(name, rows, **options):
    return Field(name=name, statistics=Statistics(rows=rows), **options)


# names out of canonical order, widths 8, 4 and 3, bags between plain fields, dense fields between embedded ones
SCHEMA = Schema(
    label=Label(column="y"),
    fields=(
        embedded("site", 20, kind="category"),
        embedded("app", 7, kind="category", embedding_dim=4),
        embedded("city", 9, kind="category"),
        embedded("age", 9, kind="number", discretise="log_square"),
        embedded("genres", 11, kind="bag", max_length=4),
        embedded("tags", 6, kind="bag", max_length=3, embedding_dim=4),
        embedded("zone", 5, kind="category", embedding_dim=3),
        Field(name="price", kind="number"),
        Field(name="image", kind="vector", width=5),
        Field(name="score", kind="number"),
    ),
)
CONFIG = ModelConfig(embedding_dim=DIM)
every_network = pytest.mark.parametrize("name", BACKBONES.table)


def batch(size=40, seed=0):
    """Ids (B, S) and dense columns (B, N) of SCHEMA; bags padded at the end, some empty."""
    draw, ids = np.random.default_rng(seed), []
    for field in SCHEMA.embedded:
        values = draw.integers(1, field.rows, (size, field.slots))
        if field.kind == "bag":
            length = draw.integers(0, field.slots + 1, (size, 1))
            values = np.where(np.arange(field.slots) < length, values, 0)
        ids.append(values)
    dense = draw.normal(size=(size, sum(field.dense_width for field in SCHEMA.dense)))
    return torch.tensor(np.concatenate(ids, axis=1)), torch.tensor(dense, dtype=torch.float32)


def field_by_field(arena, ids, dense):
    """What the arena computes, with one nn.Embedding a field and loops over rows and bags."""
    slot, column, parts = 0, 0, []
    for field in arena.schema.fields:
        if field.embedded:
            table = nn.Embedding.from_pretrained(arena.rows_of(field.name).detach().clone())
            own = ids[:, slot : slot + field.slots]
            slot += field.slots
            if field.kind != "bag":
                parts.append(table(own[:, 0]))
                continue
            none = table(torch.tensor(0))
            parts.append(torch.stack([table(row[row > 0]).mean(0) if (row > 0).any() else none for row in own]))
        else:
            parts.append(dense[:, column : column + field.dense_width])
            column += field.dense_width
    return torch.cat(parts, dim=1)


def of_fields(ids, dense, names):
    """The slots and dense columns of these fields alone: what a slim model is given."""
    slots = [field.name for field in SCHEMA.embedded for _ in range(field.slots)]
    columns = [field.name for field in SCHEMA.dense for _ in range(field.dense_width)]
    return ids[:, [n in names for n in slots]], dense[:, [n in names for n in columns]]


def selection(seed, affine=True, constants=True, pairs=None):
    """A cut with three fields gone, some columns of the others, and a soft gate in front."""
    draw, fields = np.random.default_rng(seed), {}
    gone = draw.permutation(SCHEMA.names)[:3]
    for block in blocks_of(SCHEMA, DIM):
        kept = [] if block.name in gone else [c for c in block.columns if c == 0 or draw.random() < 0.6]
        scale = draw.uniform(0.2, 1.5, block.width) if affine else np.ones(block.width)
        shift = draw.normal(size=block.width) if affine else np.zeros(block.width)
        stays = np.isin(block.columns, kept)
        fields[block.name] = Decision(
            columns=tuple(kept),
            width=block.width,
            score=0.5,
            bytes=0,
            scale=tuple(np.where(stays, scale, 0.0).tolist()),
            shift=tuple(np.where(stays, shift, draw.normal(size=block.width) if constants else 0.0).tolist()),
        )
    return Selection(method="none", seed=0, budget=Budget(), fields=fields, pairs=pairs)


def arena(seed=0, std=1.0):
    torch.manual_seed(seed)
    return Arena(SCHEMA, blocks_of(SCHEMA, DIM), std)


def model(name, **options):
    made = build(SCHEMA, CONFIG.model_copy(update={"backbone": name, "options": options}), seed=0).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def test_the_arena_equals_one_embedding_a_field():
    made, (ids, dense) = arena(), batch()
    assert {width: len(table) for width, table in made.tables.items()} == {"3": 5, "4": 7 + 6, "8": 20 + 9 + 9 + 11}
    torch.testing.assert_close(made(ids, dense), field_by_field(made, ids, dense), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "names", [("site", "city"), ("genres",), ("price", "image"), ("age", "tags", "zone"), ("app",)]
)
def test_the_arena_of_few_fields_equals_one_embedding_a_field(names):
    schema = SCHEMA.narrow(names)
    made = Arena(schema, blocks_of(schema, DIM), 1.0)
    ids, dense = of_fields(*batch(), names)
    torch.testing.assert_close(made(ids, dense), field_by_field(made, ids, dense), rtol=1e-6, atol=1e-6)


def test_a_bag_is_the_average_of_its_values_and_an_empty_bag_is_zero():
    schema = SCHEMA.narrow(["genres"])
    made = Arena(schema, blocks_of(schema, DIM), 1.0)
    table = made.rows_of("genres")
    x = made(torch.tensor([[3, 5, 0, 0], [0, 0, 0, 0], [2, 2, 2, 4]]), torch.empty(3, 0))
    expected = torch.stack([(table[3] + table[5]) / 2, torch.zeros(DIM), (3 * table[2] + table[4]) / 4])
    torch.testing.assert_close(x, expected)


def test_blocks_that_do_not_follow_the_schema_are_refused():
    with pytest.raises(ValueError, match="do not follow the schema"):
        Arena(SCHEMA, blocks_of(SCHEMA, DIM)[::-1])


def test_sparse_gradients_hold_the_rows_of_the_batch_and_equal_the_dense_ones():
    made, (ids, dense) = arena(), batch(size=3)
    weight = torch.randn(sum(block.width for block in made.blocks))
    (made(ids, dense) @ weight).sum().backward()
    sparse = {width: table.grad.coalesce() for width, table in made.tables.items()}
    assert all(table.grad.is_sparse for table in made.tables.values())
    touched = {width: set() for width in sparse}
    slot = dict(zip([f.name for f in SCHEMA.embedded], np.cumsum([0, *[f.slots for f in SCHEMA.embedded]])))
    for width, fields in {"3": ["zone"], "4": ["app", "tags"], "8": ["age", "city", "genres", "site"]}.items():
        start = 0
        for field in (SCHEMA[name] for name in fields):
            own = ids[:, slot[field.name] : slot[field.name] + field.slots].flatten()
            touched[width] |= {start + i for i in own.tolist()}
            start += field.rows
    assert {width: set(grad.indices()[0].tolist()) for width, grad in sparse.items()} == touched
    made.sparse = False
    made.zero_grad()
    (made(ids, dense) @ weight).sum().backward()
    for width, table in made.tables.items():
        torch.testing.assert_close(table.grad, sparse[width].to_dense(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_narrowed_arena_gives_the_gated_columns_that_stay(seed):
    made, chosen, (ids, dense) = arena(), selection(seed), batch()
    scale, shift = (torch.tensor(values) for values in chosen.affine(made.blocks))
    expected = (field_by_field(made, ids, dense) * scale + shift)[:, chosen.indices(made.blocks)]
    state = torch.get_rng_state()
    slim = made.narrow(chosen)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(slim(*of_fields(ids, dense, chosen.kept)), expected, rtol=1e-5, atol=1e-6)
    assert slim.blocks == chosen.blocks(made.blocks) and slim.schema.names == chosen.kept
    owned = {t.untyped_storage().data_ptr() for t in made.parameters()}
    assert owned.isdisjoint(t.untyped_storage().data_ptr() for t in slim.parameters())
    rows = {b.name: b.width * SCHEMA[b.name].rows for b in slim.blocks if SCHEMA[b.name].embedded}
    assert sum(table.numel() for table in slim.tables.values()) == sum(rows.values())


def test_an_arena_narrowed_twice_equals_one_narrowed_once():
    made, (ids, dense) = arena(), batch()
    first, second = selection(1), selection(2)
    half = made.narrow(first)
    slim = half.narrow(second)
    names = [block.name for block in slim.blocks]
    (scale, shift), (again, shift_again) = (
        [torch.tensor(values) for values in chosen.affine(made.blocks)] for chosen in (first, second)
    )
    stays = sorted(set(first.indices(made.blocks)) & set(second.indices(made.blocks)))
    expected = ((made(ids, dense) * scale + shift) * again + shift_again)[:, stays]
    torch.testing.assert_close(slim(*of_fields(ids, dense, names)), expected, rtol=1e-5, atol=1e-5)


def test_an_empty_bag_holds_the_shift_of_the_gate_after_the_cut():
    schema = SCHEMA.narrow(["genres"])
    made = Arena(schema, blocks_of(schema, DIM), 1.0)
    decision = Decision(columns=(0, 1), width=DIM, score=1, bytes=0, scale=(2.0,) * DIM, shift=(5.0,) * DIM)
    slim = made.narrow(Selection(method="none", seed=0, budget=Budget(), fields={"genres": decision}))
    assert slim(torch.zeros(1, 4, dtype=torch.long), torch.empty(1, 0)).tolist() == [[5.0, 5.0]]


@every_network
@pytest.mark.parametrize("seed", range(3))
def test_the_slim_model_equals_the_model_behind_its_frozen_gate(name, seed):
    made, chosen, (ids, dense) = model(name, batch_norm=True), selection(seed), batch()
    scale, shift = (torch.tensor(values) for values in chosen.affine(made.blocks))
    with torch.no_grad():
        expected = made.backbone(field_by_field(made.arena, ids, dense) * scale + shift)
        torch.testing.assert_close(made.masked_logits(ids, dense, chosen), expected, rtol=1e-5, atol=1e-5)
        slim = made.narrow(chosen)
        torch.testing.assert_close(slim(*of_fields(ids, dense, chosen.kept)), expected, rtol=1e-5, atol=1e-5)
    assert not slim.training and slim.gate is None and slim.blocks == slim.backbone.blocks


@pytest.mark.parametrize("name", [name for name in BACKBONES.table if BACKBONES.load(name).meets_pairs])
def test_the_slim_model_lets_only_the_selected_pairs_meet(name):
    pairs = tuple(pair for i, pair in enumerate(combinations(SCHEMA.names, 2)) if i % 3)
    made, chosen, (ids, dense) = model(name), selection(4, pairs=pairs), batch()
    with torch.no_grad():
        expected = made.masked_logits(ids, dense, chosen)
        slim = made.narrow(chosen)
        torch.testing.assert_close(slim(*of_fields(ids, dense, chosen.kept)), expected, rtol=1e-5, atol=1e-5)
        without = made.masked_logits(ids, dense, chosen.model_copy(update={"pairs": None}))
        assert not torch.allclose(expected, without)


def test_a_cut_of_unequal_widths_without_a_gate_is_exact():
    made, chosen, (ids, dense) = model("deepfm"), selection(0, affine=False, constants=False), batch()
    with torch.no_grad():
        slim = made.narrow(chosen)(*of_fields(ids, dense, chosen.kept))
        torch.testing.assert_close(slim, made.masked_logits(ids, dense, chosen), rtol=1e-5, atol=1e-6)


@every_network
def test_the_same_seed_builds_the_same_model_and_leaves_the_random_stream_alone(name):
    config = CONFIG.model_copy(update={"backbone": name})
    state = torch.get_rng_state()
    one, two, other = (build(SCHEMA, config, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["arena.tables.8"], other["arena.tables.8"])


def test_a_model_can_be_built_over_blocks_of_unequal_widths():
    blocks = [Block(b.name, b.columns[: 1 + i % b.width]) for i, b in enumerate(blocks_of(SCHEMA, DIM))]
    made = build(SCHEMA, CONFIG, seed=0, blocks=blocks)
    assert made.blocks == tuple(blocks) and made(*batch()).shape == (40,)
