"""Projection onto what a scheme can express, and the zeros that are held while a model is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cp_compress.base.errors import CompressionError
from cp_compress.model import FilterPrune, FixedPoint, LowRank, Prune, Quantize
from cp_compress.model.projection import project, split_rounding, with_density
from cp_compress.model.pruning.masks import apply_masks, find_masks


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 8)
    return nn.Sequential(*layers).eval()


def test_pruning_projects_to_zero_or_to_the_weight_itself(model):
    found = project(Prune(0.3), model)
    assert set(found) == {"0.weight", "4.weight"}
    kept = sum(int(value.count_nonzero()) for value in found.values())
    assert kept == round(0.3 * (108 + 768))
    assert all(((value == 0) | (value == model.get_parameter(name))).all() for name, value in found.items())


@pytest.mark.parametrize(
    "scheme",
    [Prune(0.3), Quantize("int8"), Quantize("float16"), Quantize("bfloat16", mode="dynamic"), FixedPoint(6)],
    ids=str,
)
def test_a_projection_is_its_own_projection(model, scheme):
    once = project(scheme, model)
    with torch.no_grad():
        for name, value in once.items():
            model.get_parameter(name).copy_(value)
    again = project(scheme, model)
    assert not (isinstance(scheme, Prune) and again)
    for name, value in again.items():
        torch.testing.assert_close(value, once[name], rtol=1e-6, atol=1e-7)


def test_a_projection_may_empty_a_layer_that_no_model_could_lose(model):
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
    with pytest.raises(CompressionError, match=r"no weight at all in 0\.weight"):
        Prune(0.1).compress(model)
    assert not project(Prune(0.1), model)["0.weight"].any()


def test_factors_are_multiplied_out_and_shapes_must_stay(model):
    found = project(LowRank(rank=2, include="4"), model)
    assert torch.linalg.matrix_rank(found["4.weight"]) == 2
    with pytest.raises(CompressionError, match="shrink=False"):
        project(FilterPrune(0.5, example_shape=(2, 4, 4)), model)


def test_masks_hold_pruned_weights_and_leave_other_zeros_free(model):
    with torch.no_grad():
        model[1].bias.zero_()
    candidate = Prune(0.3, include="4").compress(model)
    masks = find_masks(candidate, model)
    assert set(masks) == {"4.weight"}
    assert torch.equal(masks["4.weight"], candidate[4].weight != 0)
    with torch.no_grad():
        for parameter in candidate.parameters():
            parameter.add_(1.0)
    apply_masks(candidate, masks)
    assert torch.equal(masks["4.weight"], candidate[4].weight != 0)
    assert candidate[1].bias.all()


def test_masks_hold_all_that_belongs_to_a_zeroed_filter(model):
    candidate = FilterPrune(0.5, shrink=False, example_shape=(2, 4, 4)).compress(model)
    masks = find_masks(candidate, model)
    gone = ~(candidate[0].weight != 0).flatten(1).any(1)
    assert int(gone.sum()) == 3
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(~masks[name], gone)


def test_rounding_is_told_from_choosing():
    choosing, rounding = split_rounding(Prune(0.5) | LowRank(rank=2) | Quantize("int8") | FixedPoint(6))
    assert (str(choosing), str(rounding)) == (
        "prune(density=0.5) | low_rank(rank=2)",
        "quantize(int8) | fixed_point(bits=6)",
    )
    assert split_rounding(Quantize("int8"))[0] is None
    with pytest.raises(CompressionError, match="must come last"):
        split_rounding(Quantize("int8") | Prune(0.5))


def test_a_density_is_reached_from_one():
    assert with_density(Prune(0.2, scope="layer"), 0.0) == Prune(1.0, scope="layer")
    assert with_density(Prune(0.2), 1.0) == Prune(0.2)
    both = with_density(Prune(0.2) | FilterPrune(0.5, shrink=False), 0.5)
    assert [scheme.density for scheme in both.schemes] == pytest.approx([0.6, 0.75])
