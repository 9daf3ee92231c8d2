"""Boundary distances against closed forms, dense scans and rays made by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cp_compress.base.errors import InvalidArgumentError, ObservationError
from cp_compress.fidelity.boundaries.search import boundary_distances, search_boundaries


class Intervals(nn.Module):
    """Class 1 where the first coordinate lies in one of the intervals, class 0 elsewhere."""

    def __init__(self, *intervals):
        super().__init__()
        self.intervals, self.calls, self.rows = intervals, [], 0

    def forward(self, x):
        self.calls.append(len(x))
        inside = torch.zeros(len(x), dtype=torch.bool)
        for low, high in self.intervals:
            inside |= (x[:, 0] >= low) & (x[:, 0] < high)
        return nn.functional.one_hot(inside.long(), 2).to(x.dtype)


def random_network(seed):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 5)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def dense_scan(model, examples, directions, reach, points):
    """Return places (points,) and, for each ray, whether the class there differs from the seed's."""
    unit = directions / directions.norm(dim=1, keepdim=True)
    places = torch.arange(1, points + 1, dtype=torch.float64) * reach / points
    with torch.no_grad():
        seeds = model(examples).argmax(dim=1)
        moved = examples[:, None, None] + places[None, None, :, None] * unit[None, :, None]
        classes = model(moved.flatten(0, 2)).argmax(dim=1).view(moved.shape[:3])
    return places, classes != seeds[:, None, None]


def first_place(flags, places):
    return torch.where(flags.any(dim=-1), places[flags.double().argmax(dim=-1)], torch.inf)


@given(st.integers(0, 10**6), st.sampled_from([1, 7, 64, 1000]))
@settings(max_examples=25)
def test_linear_models_have_exact_distances(seed, batch_size):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    model = nn.Linear(8, 4, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(weight)
    examples = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    directions = torch.randn(6, 8, generator=generator, dtype=torch.float64)
    unit = directions / directions.norm(dim=1, keepdim=True)
    logits, slopes = examples @ weight.T, unit @ weight.T
    own = logits.argmax(dim=1)
    gap = logits.gather(1, own[:, None]) - logits
    # the class c is met where its logit, growing faster than the seed's, has made up the gap
    gain = slopes[None] - slopes[:, own].T[:, :, None]
    exact = torch.where(gain > 0, gap[:, None] / gain, torch.inf).amin(dim=2)
    found = boundary_distances(model, examples, directions, max_distance=3.0, batch_size=batch_size)
    resolution = 3.0 / 32 / 2**14
    assert torch.equal(torch.isinf(found), exact > 3.0)
    reached = torch.isfinite(found)
    assert bool((found >= exact - 1e-9)[reached].all())
    assert bool((found <= exact + resolution + 1e-9)[reached].all())


@pytest.mark.parametrize("seed", range(8))
def test_no_excursion_wider_than_a_step_is_missed(seed):
    model = random_network(seed)
    generator = torch.Generator().manual_seed(seed)
    examples = torch.randn(10, 6, generator=generator, dtype=torch.float64)
    directions = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    found = search_boundaries(model, examples, directions, max_distance=8.0, steps=64)
    places, changed = dense_scan(model, examples, directions, 8.0, 4096)
    # nothing is met before the first change
    assert bool((found.distances >= first_place(changed, places) - 8.0 / 4096 - 1e-9).all())
    # and an excursion wider than a step, 64 points, is met before it ends
    window = 4096 // 64 + 1
    wide = first_place(changed.unfold(2, window, 1).all(dim=-1), places)
    assert bool((found.distances <= wide + window * 8.0 / 4096).all())
    assert int(torch.isfinite(wide).sum()) > 20
    with torch.no_grad():
        unit = directions / directions.norm(dim=1, keepdim=True)
        ends = examples[:, None] + torch.where(torch.isfinite(found.distances), found.distances, 0)[..., None] * unit
        classes = model(ends.flatten(0, 1)).argmax(dim=1).view(found.classes.shape)
    reached = torch.isfinite(found.distances)
    assert torch.equal(found.classes[reached], classes[reached])
    assert bool((found.classes[~reached] == -1).all())
    assert bool((classes != found.seed_classes[:, None])[reached].all())


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(3.0, 4.0)], 3.0),
        ([(1.3, 2.4), (5.0, 9.0)], 1.3),
        ([(0.6, 1.7), (1.9, 2.0), (7.0, 20.0)], 0.6),
        ([(12.0, 13.0)], torch.inf),
        ([(9.9, 10.0001)], 9.9),
        ([(-5.0, -1.0)], torch.inf),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_the_first_of_several_crossings(intervals, expected, batch_size):
    found = boundary_distances(
        Intervals(*intervals), torch.zeros(1, 2), torch.eye(2), max_distance=10.0, steps=10, batch_size=batch_size
    )
    assert found[0, 0].item() == pytest.approx(expected, abs=1e-3)
    assert found[0, 1].item() == torch.inf


def test_an_excursion_narrower_than_a_step_may_be_missed_and_a_finer_grid_finds_it():
    model = Intervals((1.2, 1.8))
    rays = (torch.zeros(1, 1), torch.ones(1, 1))
    assert boundary_distances(model, *rays, max_distance=10.0, steps=10).item() == torch.inf
    assert boundary_distances(model, *rays, max_distance=10.0, steps=20).item() == pytest.approx(1.2, abs=1e-3)


@given(st.floats(0.01, 9.99), st.integers(0, 20))
def test_narrowing_keeps_its_promise_without_a_margin_to_follow(place, bisections):
    model = Intervals((place, 100.0))
    found = search_boundaries(
        model, torch.zeros(1, 1).double(), torch.ones(1, 1).double(), max_distance=10.0, steps=10, bisections=bisections
    )
    assert place <= found.distances.item() <= place + 2.0**-bisections + 1e-12
    assert found.evaluations <= 1 + int(place) + 1 + bisections + 1


def test_margins_save_evaluations():
    generator = torch.Generator().manual_seed(0)
    examples, directions = torch.randn(20, 6, generator=generator), torch.randn(20, 6, generator=generator)
    model = random_network(0).float()
    found = search_boundaries(model, examples, directions, max_distance=8.0)
    reached = torch.isfinite(found.distances)
    grid = torch.where(reached, (found.distances / 0.25).ceil(), 32.0).sum()
    bisection = 20 + grid + 14 * reached.sum()
    assert found.evaluations < 0.85 * float(bisection)


def test_finished_rays_make_room_and_batches_stay_full():
    model = Intervals((0.05, 100.0))
    examples = torch.zeros(40, 3)
    found = search_boundaries(model, examples, torch.eye(3), max_distance=10.0, steps=16, batch_size=10)
    assert found.evaluations == sum(model.calls)
    assert max(model.calls) == 10
    assert sum(size < 10 for size in model.calls) <= 16


def test_directions_of_each_example():
    model = Intervals((2.0, 100.0))
    examples = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    each = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[5.0, 0.0], [3.0, 4.0]]])
    found = boundary_distances(model, examples, each, max_distance=4.0)
    assert found.tolist() == [
        [pytest.approx(2, abs=1e-4), torch.inf],
        [pytest.approx(1, abs=1e-4), pytest.approx(1 / 0.6, abs=1e-4)],
    ]


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (torch.zeros(2), torch.ones(2)), (0, torch.tensor([1.0, 9.0]))])
def test_bounds_clip_what_is_moved(bounds):
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.append(x.amax(dim=0))
            return nn.functional.one_hot((x[:, 0] >= 1.5).long(), 2).to(x.dtype)

    rays = (torch.full((1, 2), 0.5), torch.eye(2))
    assert boundary_distances(Watch(), *rays, max_distance=4.0)[0, 0] == pytest.approx(1.0, abs=1e-4)
    seen.clear()
    assert boundary_distances(Watch(), *rays, max_distance=4.0, bounds=bounds)[0, 0] == torch.inf
    assert max(float(top[0]) for top in seen) <= 1.0


def test_bounds_of_channels():
    class Blue(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot((x[:, 2].amax(dim=(1, 2)) > 1.5).long(), 2).to(x.dtype)

    images, ray = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    open_ = (0.0, torch.tensor([1.0, 1.0, 2.0]))
    assert torch.isfinite(boundary_distances(Blue(), images, ray, max_distance=9.0, bounds=open_)).all()
    shut = (0.0, torch.tensor([2.0, 2.0, 1.0]))
    assert torch.isinf(boundary_distances(Blue(), images, ray, max_distance=9.0, bounds=shut)).all()


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.9), nn.Linear(8, 2)).train()
    examples = torch.randn(4, 3)
    copy = examples.clone()
    first = boundary_distances(model, examples, torch.eye(3), max_distance=5.0)
    assert torch.equal(first, boundary_distances(model, examples, torch.eye(3), max_distance=5.0))
    assert model.training
    assert model[1].training
    assert torch.equal(examples, copy)


def test_half_precision_inputs():
    model = nn.Linear(2, 2).bfloat16()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, 0], [1, 0]]))
        model.bias.copy_(torch.tensor([1.0, -1]))
    found = boundary_distances(model, torch.zeros(1, 2).bfloat16(), torch.eye(2), max_distance=4.0)
    assert found.dtype == torch.float64
    assert found[0, 0].item() == pytest.approx(1, rel=0.02)


def test_nan_on_the_way_is_an_error():
    class Edge(nn.Module):
        def forward(self, x):
            return torch.cat([(1 - x[:, :1]).sqrt(), x[:, :1] * 0 - 1], dim=1)

    with pytest.raises(ObservationError, match="along a ray from example 1"):
        boundary_distances(Edge(), torch.tensor([[-9.0], [0.5]]), torch.ones(1, 1), max_distance=2.0)


def test_batches_halve_when_memory_runs_out():
    class Small(Intervals):
        def forward(self, x):
            if len(x) > 5:
                raise torch.cuda.OutOfMemoryError("pretended")
            return super().forward(x)

    found = boundary_distances(Small((2.0, 9.0)), torch.zeros(12, 2), torch.eye(2), max_distance=4.0, batch_size=16)
    assert found[:, 0].tolist() == [pytest.approx(2, abs=1e-4)] * 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"examples": torch.zeros(0, 2)}, "n of 1 or more"),
        ({"examples": torch.zeros(1, 2, dtype=torch.uint8)}, "floating-point"),
        ({"directions": torch.zeros(1, 2)}, "zero or not finite"),
        ({"directions": torch.tensor([[1.0, torch.nan]])}, "zero or not finite"),
        ({"directions": torch.eye(3)}, "made for inputs"),
        ({"directions": torch.ones(3, 1, 2)}, "for each of 1 examples"),
        ({"directions": torch.zeros(0, 2)}, "at least one direction"),
        ({"directions": "gate"}, "give Directions"),
        ({"max_distance": 0.0}, "positive"),
        ({"max_distance": torch.inf}, "finite"),
        ({"steps": 0}, "steps"),
        ({"bisections": -1}, "bisections"),
        ({"batch_size": 0}, "batch_size"),
        ({"bounds": (1.0, 0.0)}, "below high"),
        ({"bounds": 1.0}, "low, high"),
        ({"bounds": (0.5, 1.0)}, "1 examples lie outside, first #0"),
        ({"bounds": (torch.zeros(3), 1.0)}, "broadcasts"),
    ],
)
def test_refusals(change, message):
    options = {"examples": torch.zeros(1, 2), "directions": torch.eye(2), "max_distance": 1.0} | change
    with pytest.raises(InvalidArgumentError, match=message):
        boundary_distances(Intervals((2.0, 3.0)), **options)
