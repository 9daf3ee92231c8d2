"""The space that is searched: the same whatever unit the inputs are given in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cp_compress.fidelity import find_divergence
from cp_compress.fidelity.divergence.space import search_space


class Above(nn.Module):
    """Class 1 where the mean of the input is above a level."""

    def __init__(self, level):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))

    def forward(self, inputs):
        over = inputs.flatten(1).mean(dim=1) - self.level
        return torch.stack([-over, over], dim=1)


@pytest.mark.parametrize("unit", [1.0, 255.0])
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8 / 255), ("linf", None), ("l2", 0.2), ("l2", None)])
def test_what_is_found_does_not_depend_on_the_unit_of_the_inputs(unit, bounded, norm, epsilon):
    seeds = torch.full((4, 64), 128 / 255 * unit)
    found = find_divergence(
        Above(133.6 / 255 * unit),
        Above(133.1 / 255 * unit),
        seeds,
        epsilon=None if epsilon is None else epsilon * unit,
        norm=norm,
        bounds=(0.0, unit) if bounded else None,
        restarts=0,
    )
    assert bool(found.found.all())
    assert bool((found.inputs.mean(dim=1) > 133.1 / 255 * unit).all())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_inputs_far_from_their_seed_are_reached(norm):
    seeds = torch.full((2, 64), 0.1)
    found = find_divergence(Above(0.75), Above(0.7), seeds, epsilon=None if norm == "linf" else 8.0, norm=norm)
    assert bool(found.found.all())


@pytest.mark.parametrize(
    ("epsilon", "norm", "bounds", "reach"),
    [
        (0.2, "linf", (0, 1), 0.2),
        (8, "linf", (0, 255), 8),
        (8, "linf", (0, 1), 1),
        (None, "l2", (0, 255), 255 * 4),
        (None, "linf", None, 3),
        (8, "linf", None, 8),
    ],
)
def test_a_search_goes_as_far_as_inputs_can_be_apart(epsilon, norm, bounds, reach):
    seeds = torch.zeros(2, 16)
    if bounds is None:
        seeds[0], seeds[1] = -1.0, 2.0
    assert search_space("test", seeds, epsilon, norm, None, bounds).reach == pytest.approx(reach)


def test_moves_shorter_than_a_level_change_some_coordinates():
    seeds = torch.full((1, 4000), 100 / 255)
    space = search_space("test", seeds, 8 / 255, "linf", "uint8", None)
    drawn = space.draw(seeds + 0.25 / 255, seeds, torch.Generator().manual_seed(0))
    levels = (drawn * 255).round()
    assert torch.equal(levels / 255, drawn)
    assert set(levels.flatten().tolist()) == {100.0, 101.0}
    assert float((levels == 101).double().mean()) == pytest.approx(0.25, abs=0.03)
    again = space.draw(seeds, seeds, torch.Generator().manual_seed(0))
    assert torch.equal((again * 255).round(), (seeds * 255).round())


@settings(max_examples=40)
@given(
    st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    st.sampled_from(["linf", "l2"]),
    st.floats(0.003, 0.5),
    st.integers(0, 1000),
)
def test_no_dtype_rounds_an_input_out_of_the_ball(dtype, norm, epsilon, seed):
    generator = torch.Generator().manual_seed(seed)
    seeds, others = (torch.rand(4, 12, generator=generator).to(dtype) for _ in range(2))
    points = search_space("test", seeds, epsilon, norm, None, (0.0, 1.0)).points(others, seeds)
    moves = points.double() - seeds.double()
    order = torch.inf if norm == "linf" else 2
    assert points.dtype == dtype
    assert float(torch.linalg.vector_norm(moves, order, dim=1).max()) <= epsilon * (1 + 1e-12)
    assert bool(((others.double() - seeds.double()) * moves >= 0).all())
