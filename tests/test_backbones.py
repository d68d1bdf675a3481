"""The contract of the networks behind the gate, for every one in the table, and each formula against loops by hand."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from slimrec.backbones.layers import Grid, Meetings, Projection, holders
from slimrec.errors import ConfigError
from slimrec.plugins import BACKBONES
from slimrec.schema import Block
from slimrec.selection import Budget, Decision, Selection

WIDTHS = {"a": 8, "b": 1, "c": 16, "d": 8, "e": 3, "f": 8, "g": 1}
BLOCKS = tuple(Block(name, tuple(range(width))) for name, width in WIDTHS.items())
WIDTH = sum(WIDTHS.values())
ALL_PAIRS = list(combinations(WIDTHS, 2))
OPTIONS = [{}, {"hidden": [16.0, 8.0], "batch_norm": True, "dropout": 0.3}]

every_network = pytest.mark.parametrize("name", BACKBONES.table)
meeting_networks = pytest.mark.parametrize("name", [n for n in BACKBONES.table if BACKBONES.load(n).meets_pairs])
with_options = pytest.mark.parametrize("options", OPTIONS, ids=["plain", "batch norm and dropout"])


def network(name, blocks=BLOCKS, seed=0, **options):
    """A network in eval mode with nothing left at its start value: biases, running statistics, all random."""
    torch.manual_seed(seed)
    net = BACKBONES.create(name, blocks, **options)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for _ in range(3):
            net.train()(torch.randn(64, net.width) + 0.5)
    return net.eval()


def selection(columns, pairs=None):
    """The selection that keeps these columns of these fields."""
    fields = {
        name: Decision(columns=tuple(columns.get(name, ())), width=width, score=0.5, bytes=0)
        for name, width in WIDTHS.items()
    }
    return Selection(method="none", seed=0, budget=Budget(), fields=fields, pairs=pairs)


def some_columns(seed):
    """Two fields gone, one cut in part, one whole, the others at random."""
    draw = np.random.default_rng(seed)
    gone, partly, whole = np.split(draw.permutation(list(WIDTHS))[:4], [2, 3])
    columns = {name: [c for c in range(width) if draw.random() < 0.6] for name, width in WIDTHS.items()}
    columns |= {name: range(WIDTHS[name]) for name in whole} | {name: range(WIDTHS[name] // 2) for name in partly}
    return {name: kept for name, kept in columns.items() if name not in gone}


def some_pairs(seed):
    """About half of the pairs, some named backwards."""
    draw = np.random.default_rng(seed)
    return tuple(pair if draw.random() < 0.5 else pair[::-1] for pair in ALL_PAIRS if draw.random() < 0.5)


def masked(x, kept, fill):
    """x with constants in the columns that are gone."""
    stays = torch.zeros(x.shape[1], dtype=torch.bool)
    stays[kept] = True
    return torch.where(stays, x, fill.to(x))


def check_cut(net, chosen, fill, weights=None, tolerance=1e-5, seed=0):
    """Slim equals masked; gives the slim network."""
    x = torch.randn(50, net.width, generator=torch.Generator().manual_seed(seed))
    kept = chosen.indices(net.blocks)
    junk = fill.clone()
    junk[kept] = 77.0  # what `fill` says of kept columns must not be read
    slim = net.narrow(chosen, junk)
    with torch.no_grad():
        torch.testing.assert_close(
            slim(x[:, kept]), net(masked(x, kept, fill), weights), rtol=tolerance, atol=tolerance
        )
    return slim


projecting_networks = pytest.mark.parametrize("name", ["deepfm", "pnn", "xdeepfm"])


@projecting_networks
@pytest.mark.parametrize("seed", range(3))
def test_the_cut_is_exact_where_fields_are_mapped_to_one_width(name, seed):
    torch.manual_seed(seed)
    net, fill = network(name, seed=seed, projection=5), torch.randn(WIDTH)
    columns = some_columns(seed)
    slim = check_cut(net, selection(columns), fill)
    assert slim.projection.weight.shape == (sum(map(len, columns.values())), 5)
    again = BACKBONES.create(name, slim.blocks, **json.loads(json.dumps(slim.options)))
    again.load_state_dict(slim.state_dict())
    x = torch.randn(9, slim.width)
    assert torch.equal(again.eval()(x), slim(x))


@projecting_networks
def test_fields_mapped_to_one_width_meet_as_fields_of_that_width_do(name):
    net, x = network(name, projection=5), torch.randn(10, WIDTH)
    maps, parts, start = net.projection.weight.detach(), [], 0
    for width in WIDTHS.values():
        parts.append(x[:, start : start + width] @ maps[start : start + width])
        start += width
    even = tuple(Block(block.name, tuple(range(5))) for block in BLOCKS)
    met = torch.tensor(inner_products(torch.cat(parts, 1), even), dtype=x.dtype)
    if name == "pnn":
        close(net(x), net.tower(torch.cat([x, met], 1)).detach().numpy())
    elif name == "deepfm":
        close(net(x), (net.linear(x)[:, 0] + met.sum(1) + net.tower(x)).detach().numpy())
    else:
        close(net(x), (net.linear(x)[:, 0] + net.cin(torch.cat(parts, 1)) + net.tower(x)).detach().numpy())
        assert [len(grid.fields) for grid in net.cin.grids] == [len(WIDTHS)]


def test_a_wide_field_makes_a_projection_of_narrow_ones_no_dearer():
    widths = [4] * 10 + [2] * 5 + [200]
    net = Projection([Block(f"f{i}", tuple(range(width))) for i, width in enumerate(widths)], 8)
    with FlopCounterMode(display=False) as counter:
        net(torch.randn(16, sum(widths)))
    assert counter.get_total_flops() == 2 * 16 * sum(widths) * 8


@pytest.mark.parametrize("width", [-1, 2.5, "8", True])
def test_a_projection_to_what_is_no_width_is_refused(width):
    with pytest.raises(ConfigError, match="projection"):
        BACKBONES.create("pnn", BLOCKS, projection=width)


@every_network
@with_options
@pytest.mark.parametrize("seed", range(5))
def test_the_slim_network_equals_the_network_with_dropped_columns_at_zero(name, options, seed):
    check_cut(network(name, seed=seed, **options), selection(some_columns(seed)), torch.zeros(WIDTH))


@every_network
@with_options
@pytest.mark.parametrize("seed", range(5))
def test_constants_in_dropped_columns_fold_exactly(name, options, seed):
    torch.manual_seed(seed)
    check_cut(network(name, seed=seed, **options), selection(some_columns(seed)), torch.randn(WIDTH))


@meeting_networks
@pytest.mark.parametrize("seed", range(4))
def test_a_cut_pair_equals_a_pair_of_weight_zero_also_beside_constants(name, seed):
    meeting = some_pairs(seed)
    weights = torch.tensor([float(p in meeting or p[::-1] in meeting) for p in ALL_PAIRS])
    assert 0 < weights.sum() < len(weights)
    torch.manual_seed(seed)
    check_cut(network(name), selection({n: range(w) for n, w in WIDTHS.items()}, meeting), torch.zeros(WIDTH), weights)
    slim = check_cut(network(name), selection(some_columns(seed), meeting), torch.randn(WIDTH), weights)
    left = {block.name for block in slim.blocks}
    assert slim.options["pairs"] == [list(p) for p, weight in zip(ALL_PAIRS, weights) if weight and left.issuperset(p)]


@meeting_networks
@pytest.mark.parametrize("seed", range(3))
def test_a_network_built_with_a_list_of_pairs_cuts_exactly_and_weighs_them_out_of_all(name, seed):
    own, further = some_pairs(seed), some_pairs(seed + 100)
    net = network(name, pairs=own)
    x, weights = torch.randn(20, WIDTH), torch.rand(20, len(ALL_PAIRS))
    zeroed = torch.tensor([float(p in own or p[::-1] in own) for p in ALL_PAIRS])
    with torch.no_grad():
        torch.testing.assert_close(net(x, weights), net(x, weights * zeroed), rtol=1e-6, atol=1e-6)
        assert not torch.allclose(net(x), net(x, weights))
    mask = torch.tensor([float(p in further or p[::-1] in further) for p in ALL_PAIRS])
    check_cut(net, selection(some_columns(seed), further), torch.randn(WIDTH), mask)


@meeting_networks
def test_weights_of_surviving_pairs_mean_the_same_after_the_cut(name):
    net, chosen = network(name), selection(some_columns(1))
    kept, x, weights = chosen.indices(BLOCKS), torch.randn(30, WIDTH), torch.rand(30, len(ALL_PAIRS))
    slim = net.narrow(chosen, torch.zeros(WIDTH))
    left = {block.name for block in slim.blocks}
    surviving = [p for p, pair in enumerate(ALL_PAIRS) if left.issuperset(pair)]
    with torch.no_grad():
        slim_logits = slim(x[:, kept], weights[:, surviving])
        torch.testing.assert_close(slim_logits, net(masked(x, kept, torch.zeros(WIDTH)), weights), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(net(x, weights[0]), net(x, weights[:1].expand(30, -1)))
        with pytest.raises(ValueError, match="21 pairs of fields need 21 weights, got 20"):
            net(x, weights[:, 1:])


@every_network
def test_a_network_without_meetings_refuses_pair_weights_and_pair_cuts(name):
    net = network(name)
    if not net.meets_pairs:
        with pytest.raises(ValueError, match="has no meetings"):
            net(torch.randn(3, WIDTH), torch.ones(len(ALL_PAIRS)))
        with pytest.raises(ValueError, match="has no meetings"):
            net.narrow(selection({"a": [0]}, (("a", "b"),)), torch.zeros(WIDTH))
    else:
        assert net(torch.randn(3, WIDTH), torch.ones(len(ALL_PAIRS))).shape == (3,)


@every_network
@with_options
def test_blocks_and_options_in_json_rebuild_a_network_that_takes_the_slim_weights(name, options):
    pairs = some_pairs(0) if BACKBONES.load(name).meets_pairs else None
    slim = network(name, **options).narrow(selection(some_columns(2), pairs), torch.randn(WIDTH))
    again = type(slim)(slim.blocks, **json.loads(json.dumps(slim.options))).eval()
    again.load_state_dict(slim.state_dict(), strict=True)
    x = torch.randn(20, slim.width)
    assert torch.equal(again(x), slim(x))


def check_narrowing_twice(net, first, second, both, fill):
    half = net.narrow(first, fill)
    slim, direct = half.narrow(second, fill[first.indices(BLOCKS)]), net.narrow(both, fill)
    rows = slim.options.get("constants", 0), direct.options.get("constants", 0)
    assert slim.blocks == direct.blocks and rows[0] >= rows[1]  # of two cuts each may leave constants of a field
    assert {**slim.options, "constants": rows[1]} == {**direct.options, "constants": rows[1]}
    x = torch.randn(30, slim.width)
    torch.testing.assert_close(slim(x), direct(x), rtol=1e-5, atol=1e-5)


@every_network
@pytest.mark.parametrize("seed", range(3))
def test_narrowing_twice_equals_narrowing_once_by_the_intersection(name, seed):
    first, second = some_columns(seed), some_columns(seed + 10)
    both = {n: sorted({*first[n]} & {*second[n]}) for n in first if n in second}
    net, chosen = network(name, seed=seed, batch_norm=True), [selection(c) for c in (first, second, both)]
    check_narrowing_twice(net, *chosen, fill=torch.randn(WIDTH))


@meeting_networks
@pytest.mark.parametrize("seed", range(3))
def test_cutting_pairs_twice_equals_cutting_once_by_the_intersection(name, seed):
    first, second = some_pairs(seed), some_pairs(seed + 10)
    both = tuple(p for p in first if p in second or p[::-1] in second)
    columns = some_columns(seed)
    chosen = [selection(columns, pairs) for pairs in (first, second, both)]
    check_narrowing_twice(network(name, seed=seed), *chosen, fill=torch.zeros(WIDTH))


@every_network
def test_a_cut_shares_no_storage_and_keeps_mode_precision_statistics_and_the_random_stream(name):
    net = network(name, batch_norm=True, dropout=0.1).double().train()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    slim = net.narrow(selection(some_columns(3)), torch.randn(WIDTH, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in slim.modules())
    assert {p.dtype for p in slim.parameters()} == {torch.float64}
    assert all(p.requires_grad for p in slim.parameters())
    statistics = [key for key in before if "running" in key]
    assert statistics and all(torch.equal(before[key], slim.state_dict()[key]) for key in statistics)
    owned = {t.untyped_storage().data_ptr() for t in net.state_dict().values()}
    assert owned.isdisjoint(t.untyped_storage().data_ptr() for t in slim.state_dict().values())
    slim(torch.randn(8, slim.width).double()).sum().backward()
    with torch.no_grad():
        for parameter in slim.parameters():
            parameter.zero_()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@every_network
@with_options
def test_every_parameter_and_every_column_gets_a_gradient(name, options):
    net = network(name, **options).train()
    x = torch.randn(64, WIDTH, requires_grad=True)
    net(x).square().sum().backward()
    assert [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert x.grad.any(dim=0).all()


@every_network
def test_a_single_field_of_a_single_column_is_enough(name):
    net = network(name)
    check_cut(net, selection({"c": [5]}), torch.zeros(WIDTH))
    assert network(name, blocks=(Block("b", (0,)),))(torch.randn(4, 1)).shape == (4,)


@every_network
def test_a_cut_that_leaves_no_column_is_refused(name):
    half = network(name).narrow(selection({"a": [0, 1]}), torch.zeros(WIDTH))
    with pytest.raises(ValueError, match="keeps none of the fields"):
        half.narrow(selection({"a": [2], "b": [0]}), torch.zeros(2))


@every_network
@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"hidden": [16, 0]}, "`hidden` must be a list of whole numbers of at least 1, got"),
        ({"hidden": 64}, "`hidden` must be a list"),
        ({"hidden": [8.5]}, "`hidden` must be a list"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1, got 1.0"),
        ({"hiden": [8]}, "did you mean 'hidden'"),
    ],
)
def test_a_wrong_option_is_one_sentence(name, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        BACKBONES.create(name, BLOCKS, **options)


@meeting_networks
@pytest.mark.parametrize(
    "pairs, sentence", [([["a", "zz"]], "names 'zz', which is not a field"), ([["a", "a"]], "two different fields")]
)
def test_a_pair_that_cannot_meet_is_refused(name, pairs, sentence):
    with pytest.raises(ConfigError, match=sentence):
        BACKBONES.create(name, BLOCKS, pairs=pairs)


# ---- each network against its formula ------------------------------------------------------------------------------


def padded(x, blocks=BLOCKS):
    """The fields as rows of one grid, by loops: column c of a field at place c, (B, F, largest column + 1)."""
    columns = 1 + max(c for block in blocks for c in block.columns)
    grid, start = np.zeros((len(x), len(blocks), columns)), 0
    for i, block in enumerate(blocks):
        for column in block.columns:
            grid[:, i, column] = x[:, start].detach().numpy()
            start += 1
    return grid


def inner_products(x, blocks=BLOCKS):
    grid = padded(x, blocks)
    pairs = combinations(range(len(blocks)), 2)
    return np.stack([(grid[:, i] * grid[:, j]).sum(1) for i, j in pairs], axis=1)


def close(ours, theirs):
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=2e-5, atol=2e-5)


def head(linear, x):
    return (x @ linear.weight.detach().numpy().T)[:, 0] + (linear.bias.item() if linear.bias is not None else 0)


def test_the_tower_is_linear_batch_norm_relu_and_ends_in_one_logit():
    net, x = network("mlp", hidden=(6, 4), batch_norm=True, dropout=0.5), torch.randn(10, WIDTH)
    layers, value = list(net.tower.layers), x.numpy().astype(np.float64)
    assert [type(layer).__name__ for layer in layers] == [*["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2, "Linear"]
    for linear, norm in (layers[0:2], layers[4:6]):
        value = value @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        value = (value - norm.running_mean.numpy()) / np.sqrt(norm.running_var.numpy() + norm.eps)
        value = np.maximum(value * norm.weight.detach().numpy() + norm.bias.detach().numpy(), 0)
    close(net(x), head(layers[-1], value))


def test_wide_and_deep_adds_a_linear_head_to_the_tower():
    net, x = network("widedeep"), torch.randn(10, WIDTH)
    close(net(x), head(net.linear, x.numpy()) + net.tower(x).detach().numpy())


@pytest.mark.parametrize("weighted", [False, True])
def test_deepfm_adds_all_inner_products_of_two_fields(weighted):
    net, x = network("deepfm"), torch.randn(10, WIDTH)
    weights = torch.rand(10, len(ALL_PAIRS)) if weighted else None
    second = (inner_products(x) * (weights.numpy() if weighted else 1)).sum(1)
    close(net(x, weights), head(net.linear, x.numpy()) + second + net.tower(x).detach().numpy())


@pytest.mark.parametrize("weighted", [False, True])
def test_pnn_gives_its_tower_the_inner_products_in_the_order_of_the_upper_triangle(weighted):
    net, x = network("pnn"), torch.randn(10, WIDTH)
    weights = torch.rand(10, len(ALL_PAIRS)) if weighted else None
    products = inner_products(x) * (weights.numpy() if weighted else 1)
    close(net(x, weights), net.tower(torch.cat([x, torch.tensor(products, dtype=x.dtype)], 1)).detach().numpy())


@pytest.mark.parametrize("cross_layers", [1, 2.0, 3])
def test_dcn_follows_the_cross_formula_of_the_second_version(cross_layers):
    net, x = network("dcn", cross_layers=cross_layers), torch.randn(10, WIDTH)
    raw = crossed = x.numpy().astype(np.float64)
    assert len(net.cross) == cross_layers
    for layer in net.cross:
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        crossed = np.stack([raw[b] * (weight @ crossed[b] + bias) + crossed[b] for b in range(10)])
    close(net(x), head(net.linear, crossed) + net.tower(x).detach().numpy())


@pytest.mark.parametrize("cin_layers", [(3,), (5, 4), (2, 3, 2)])
@pytest.mark.parametrize("blocks", [BLOCKS, (Block("a", (0, 3)), Block("b", (3, 4)), Block("c", (0, 1, 2, 3)))])
def test_xdeepfm_follows_the_sums_of_the_compressed_interaction_network(cin_layers, blocks):
    net = network("xdeepfm", blocks, cin_layers=cin_layers)
    x = torch.randn(10, net.width)
    raw = maps = padded(x, blocks)
    pooled = []
    for weight in net.cin.maps:
        after = np.zeros((10, len(weight), raw.shape[2]))
        for h in range(weight.shape[0]):
            for i in range(weight.shape[1]):
                for j in range(weight.shape[2]):
                    after[:, h] += weight[h, i, j].item() * maps[:, i] * raw[:, j]
        maps = after
        pooled.append(maps.sum(2))
    interaction = head(net.cin.head, np.concatenate(pooled, axis=1))
    close(net(x), head(net.linear, x.numpy()) + interaction + net.tower(x).detach().numpy())


def test_xdeepfm_takes_a_training_batch_in_pieces_without_a_difference():
    net, x = network("xdeepfm", cin_layers=(40, 40)), torch.randn(1500, WIDTH)
    close(net.train()(x), net.eval()(x).detach().numpy())


@pytest.mark.parametrize("layers", [[7], [4, 3], [4, 3, 2]])
@pytest.mark.parametrize("projection", [0, 3])
@pytest.mark.parametrize("seed", range(3))
def test_xdeepfm_takes_constants_through_any_number_of_layers(seed, projection, layers):
    torch.manual_seed(seed)
    net = network("xdeepfm", cin_layers=layers, projection=projection)
    check_cut(net, selection(some_columns(seed)), torch.randn(WIDTH))


def test_a_cut_with_many_constants_leaves_xdeepfm_no_more_constant_rows_than_columns():
    blocks = tuple(Block(name, (0, 1)) for name in WIDTHS)

    def of_two(columns):
        wide = {n: d.model_copy(update={"width": 2}) for n, d in selection(columns).fields.items()}
        return selection(columns).model_copy(update={"fields": wide})

    net = network("xdeepfm", blocks, cin_layers=[3, 2])
    slim = net.narrow(of_two({"a": [0, 1], "c": [0, 1]}), torch.randn(14))
    assert slim.options["constants"] == 2 and slim.cin.maps[0].shape == (3, 4, 4)
    assert net.narrow(of_two({"a": [0, 1]}), torch.zeros(14)).options["constants"] == 0


@pytest.mark.parametrize("cross_layers", [1, 2, 4])
def test_dcn_carries_constants_through_any_number_of_cross_layers(cross_layers):
    net, fill = network("dcn", cross_layers=cross_layers), torch.randn(WIDTH)
    check_cut(net, selection(some_columns(0)), fill)
    assert net.narrow(selection(some_columns(0)), fill).carried
    assert not net.narrow(selection(some_columns(0)), torch.zeros(WIDTH)).carried


def test_a_grid_keeps_columns_at_their_native_numbers():
    blocks = (Block("a", (0, 2)), Block("b", (1, 2, 4)), Block("c", (2,)))
    x = torch.arange(1.0, 7.0)[None]
    assert Grid(blocks, range(3), range(5))(x)[0].tolist() == [[1, 0, 2, 0, 0], [0, 3, 4, 0, 5], [0, 0, 6, 0, 0]]
    assert holders(blocks, range(3)) == {0: (0,), 1: (1,), 2: (0, 1, 2), 4: (1,)}
    assert Meetings(blocks)(x).tolist() == [[2 * 4, 2 * 6, 4 * 6]]
    assert Meetings(blocks).sum(x).tolist() == [8 + 12 + 24]
    assert Meetings(blocks, [["c", "a"]])(x).tolist() == [[12]]


def test_columns_that_meet_nothing_cost_the_meetings_nothing():
    blocks = (Block("a", tuple(range(4))), Block("b", tuple(range(4))), Block("vector", tuple(range(256))))
    assert Meetings(blocks).grid.shape == (3, 4)
    assert Meetings(blocks, [["a", "b"]]).grid.shape == (2, 4)
