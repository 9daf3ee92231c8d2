"""How many units stay and which: Condensa's asserted behaviour and where ours differs, floors, ranking over layers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.model import FilterPrune, NeuronPrune, StructurePrune, compression_report
from cp_compress.model.structure.ranking import Family, Ranking, Target, choose_survivors


def family(strengths, layer=None):
    if layer is None:
        layer = nn.Linear(1, len(strengths))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(strengths).view(-1, *[1] * (layer.weight.ndim - 1)).expand_as(layer.weight))
    return Family.of([Target("layer", layer, ("layer.weight",))])


def chosen(families, **options):
    defaults = {"density": 0.5, "criterion": "l1", "round_to": 1, "scope": "layer", "floor": 0.0}
    return [kept.tolist() for kept in choose_survivors(families, Ranking(**(defaults | options)))]


class LeNet(nn.Sequential):
    def __init__(self):
        super().__init__(
            *[nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU()],
            *[nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 20), nn.ReLU(), nn.Linear(20, 5)],
        )


EXAMPLE = {"example_shape": (1, 10, 10)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LeNet().eval()


def alive(layer):
    return layer.weight.detach().flatten(1).any(1)


@pytest.mark.parametrize(("density", "first"), [(0.2, 24), (0.3, 21), (0.5, 15)])
def test_thresholds_of_condensa_keep_the_same_neurons(density, first):
    layer = nn.Sequential(nn.Linear(1, 30), nn.ReLU(), nn.Linear(30, 2))
    layer[0].weight.data = torch.arange(30.0)[:, None]
    pruned = NeuronPrune(density, shrink=False).compress(layer)
    assert alive(pruned[0]).nonzero().flatten().tolist() == list(range(first, 30))


def test_counts_are_rounded_to_the_nearest_where_condensa_cuts_off():
    assert sum(chosen([family([1.0 + index for index in range(100)])], density=0.29)[0]) == 29


def test_ties_go_by_index_where_condensa_keeps_all():
    assert chosen([family([1.0] * 8)], density=0.25) == [[True] * 2 + [False] * 6]


@pytest.mark.parametrize("scheme", [FilterPrune, NeuronPrune, StructurePrune])
def test_the_bias_of_a_removed_unit_is_zero_and_so_is_its_norm(scheme, model):
    pruned = scheme(0.5, shrink=False, **EXAMPLE).compress(model)
    for index in {FilterPrune: (0, 3), NeuronPrune: (7,), StructurePrune: (0, 3, 7)}[scheme]:
        dead = ~alive(pruned[index])
        assert int(dead.sum()) == len(dead) // 2
        assert not pruned[index].bias[dead].any()
        assert pruned[index].bias[~dead].all()
    if scheme is not NeuronPrune:
        dead = ~alive(pruned[0])
        assert not pruned[1].weight[dead].any()
        assert not pruned[1].bias[dead].any()


def test_two_of_four_aligned_to_four_keep_one_group_where_condensa_empties_the_layer():
    assert chosen([family([4.0, 3.0, 2.0, 1.0])], round_to=4) == [[True] * 4]
    assert sum(chosen([family([1.0 + index for index in range(12)])], density=0.01, round_to=4)[0]) == 4


def test_subclasses_are_pruned_where_condensa_looks_for_exact_types():
    class Own(nn.Linear):
        pass

    model = nn.Sequential(Own(3, 8), nn.Tanh(), nn.Linear(8, 2))
    assert NeuronPrune(0.5).compress(model)[0].out_features == 4


def test_ranking_over_all_layers_compares_strengths_relative_to_their_layer():
    small, large = family([0.1, 0.2, 0.9]), family([10.0, 10.0, 10.0])
    # relative to the means of 0.4 and 10 these are 0.25, 0.5, 2.25 and 1, 1, 1
    assert chosen([small, large], density=4 / 6, scope="global") == [[False, False, True], [True, True, True]]


@given(
    st.lists(st.lists(st.floats(0.01, 100), min_size=2, max_size=9), min_size=1, max_size=4),
    st.floats(0.05, 1),
    st.floats(0, 1),
)
def test_the_floor_holds_and_the_total_is_that_of_the_density(rows, density, share):
    floor = share * density
    kept = chosen([family(row) for row in rows], density=density, scope="global", floor=floor)
    total = sum(map(len, rows))
    for row in kept:
        assert sum(row) >= max(1, floor * len(row) - 1e-6)
    least = sum(max(1, -int(-(floor * len(row) - 1e-9) // 1)) for row in rows)
    assert abs(sum(map(sum, kept)) - max(density * total, least)) <= 1


def test_a_weak_layer_keeps_its_floor(model):
    model[3].weight.data[:6] *= 1e-3
    bare = FilterPrune(0.6, scope="global", **EXAMPLE).compress(model)
    floored = FilterPrune(0.6, scope="global", floor=0.6, **EXAMPLE).compress(model)
    assert bare[3].out_channels == 6
    assert floored[3].out_channels == 8
    assert bare[0].out_channels + bare[3].out_channels == 12


def test_each_group_of_a_grouped_convolution_keeps_the_same_number():
    grouped = nn.Conv2d(4, 8, 1, groups=2)
    kept = chosen([family([8.0, 7, 6, 5, 4, 3, 2, 1], grouped)])
    assert kept == [[True, True, False, False] * 2]


@pytest.mark.parametrize(
    ("include", "exclude", "pruned"),
    [
        ((), (), {"0.weight", "3.weight", "7.weight"}),
        (("type:Conv2d",), (), {"0.weight", "3.weight"}),
        ((), ("3",), {"0.weight", "7.weight"}),
        (("7", "0"), nn.Conv2d, {"7.weight"}),
    ],
)
def test_layers_are_chosen_by_pattern(include, exclude, pruned, model):
    for shrink in (True, False):
        scheme = StructurePrune(0.5, shrink=shrink, include=include, exclude=exclude, **EXAMPLE)
        report = compression_report(model, scheme.compress(model))
        assert {layer.name for layer in report.layers if layer.actions} == pruned
        reasons = {skip.name: skip.reason for skip in report.skipped}
        assert set(reasons) == {"0.weight", "3.weight", "7.weight", "9.weight"} - pruned


def test_patterns_that_leave_nothing_are_an_error(model):
    with pytest.raises(CompressionError, match="no filters to prune"):
        FilterPrune(0.5, include="type:Linear", **EXAMPLE).compress(model)
    with pytest.raises(CompressionError, match="matches no layer"):
        FilterPrune(0.5, exclude="stem", **EXAMPLE).compress(model)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"floor": 0.2}, "floor"),
        ({"floor": 0.6, "scope": "global"}, "floor"),
        ({"floor": -0.1, "scope": "global"}, "floor"),
        ({"scope": "all"}, "scope"),
        ({"norm": "l0"}, "norm"),
        ({"example_dtype": "float16"}, "example_dtype"),
        ({"include": ("",)}, "include"),
    ],
)
def test_arguments_out_of_range_name_the_scheme_and_the_argument(arguments, name):
    for scheme in (FilterPrune, NeuronPrune, StructurePrune):
        with pytest.raises(InvalidArgumentError, match=rf"{scheme.__name__}\({name}="):
            scheme(0.5, **arguments)
