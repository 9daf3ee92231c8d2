"""What the search for decision boundaries costs beyond its forward passes, and how often it is right.

32 images × 32 gate directions on ResNet-20, one process, one thread. In turns, in each round:
  - ours: all rays together, finished rays making room;
  - the floor: the same number of evaluations in full batches of the same size, and nothing else;
  - one ray at a time: the whole grid in one batch, then bisection, on every 16th ray, scaled to all;
  - Foolbox's nearest attack: a line search from each image towards uniform noise (a direction that it draws, not one
    that is given) at a resolution of about 0.25, on two directions an image, scaled to all.
Then rays FIRST to LAST of a shuffled order are scanned at 1,000 places: a ray is right when the scan meets no other
class more than a grid step before the distance that was claimed, and none at all where none was found.

Run: python benchmarks/boundary_distance.py [ROUNDS] [FIRST] [LAST]      (needs CP_DATA or ../shared/data, foolbox)
"""

import platform
import statistics
import sys
import time
import warnings
from pathlib import Path

import foolbox
import torch

from cp_compress.fidelity import observe
from cp_compress.fidelity.boundaries.families import gate_directions
from cp_compress.fidelity.boundaries.search import search_boundaries

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "cifar10"))
import subjects

ARGUMENTS = [int(argument) for argument in sys.argv[1:]] + [None] * 3
ROUNDS = 3 if ARGUMENTS[0] is None else ARGUMENTS[0]
FIRST, LAST = ARGUMENTS[1] or 0, 64 if ARGUMENTS[2] is None else ARGUMENTS[2]
IMAGES, DIRECTIONS, REACH, STEPS, BISECTIONS, BATCH = 32, 32, 8.0, 32, 14, 32
SCAN_STEPS, NAIVE_EVERY, FOOLBOX_DIRECTIONS, FOOLBOX_RESOLUTION = 1000, 16, 2, 0.25


def ours(model, images, directions):
    start = time.perf_counter()
    found = search_boundaries(
        model, images, directions, max_distance=REACH, steps=STEPS, bisections=BISECTIONS, batch_size=BATCH
    )
    return time.perf_counter() - start, found


@torch.no_grad()
def floor(model, images, evaluations):
    start = time.perf_counter()
    for first in range(0, evaluations, BATCH):
        model(images[: min(BATCH, evaluations - first)])
    return time.perf_counter() - start


@torch.no_grad()
def one_ray(model, image, direction):
    seed = model(image[None]).argmax()
    grid = torch.arange(1, STEPS + 1) * (REACH / STEPS)
    changed = model(image + grid.view(-1, 1, 1, 1) * direction).argmax(dim=1) != seed
    if not changed.any():
        return torch.inf
    high = float(grid[changed.double().argmax()])
    low = high - REACH / STEPS
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if model((image + middle * direction)[None]).argmax() == seed:
            low = middle
        else:
            high = middle
    return high


def one_at_a_time(model, images, directions):
    rays = range(0, IMAGES * DIRECTIONS, NAIVE_EVERY)
    start = time.perf_counter()
    for ray in rays:
        one_ray(model, images[ray // DIRECTIONS], directions.tensor[ray // DIRECTIONS, ray % DIRECTIONS])
    return (time.perf_counter() - start) * IMAGES * DIRECTIONS / len(rays)


def with_foolbox(model, images, labels):
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    length = float((torch.rand_like(images) - images).flatten(1).norm(dim=1).mean())
    attack = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(
        distance=foolbox.distances.l2, directions=1, steps=round(length / FOOLBOX_RESOLUTION)
    )
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noise images of the seed's own class
        for _ in range(FOOLBOX_DIRECTIONS):
            attack(wrapped, images, labels, epsilons=None)
    return (time.perf_counter() - start) * DIRECTIONS / FOOLBOX_DIRECTIONS


@torch.no_grad()
def is_right(model, image, direction, seed, claimed):
    places = torch.arange(1, SCAN_STEPS + 1) * (REACH / SCAN_STEPS)
    before = places[places < claimed - REACH / STEPS]
    for part in before.split(BATCH):
        if bool((model(image + part.view(-1, 1, 1, 1) * direction).argmax(dim=1) != seed).any()):
            return False
    return True


def report(name, times, baseline):
    ratios = [other / own for other, own in zip(times, baseline, strict=True)]
    spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    print(f"{name}: median {statistics.median(times):.1f} s, ratio {spread}")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    reference = observe(subjects.network("resnet20"), subjects.test_images())
    chosen = torch.arange(IMAGES)
    images, _ = reference.data.select(chosen)
    labels, model = reference.predictions[:IMAGES], reference.model
    directions = gate_directions(reference, chosen, seed=0)
    assert len(directions) == DIRECTIONS
    print(f"torch {torch.__version__}, foolbox {foolbox.__version__}, Python {platform.python_version()}, 1 thread")
    print(f"{platform.machine()}, {IMAGES} images × {DIRECTIONS} directions up to {REACH}, batch {BATCH}")
    _, found = ours(model, images, directions)
    reached = torch.isfinite(found.distances)
    grid = torch.where(reached, (found.distances * STEPS / REACH).ceil(), STEPS).sum()
    by_bisection = IMAGES + int(grid) + BISECTIONS * int(reached.sum())
    print(
        f"{int(reached.sum())} rays reach another class; {found.evaluations} evaluations, {by_bisection} by bisection"
    )
    if ROUNDS:
        own, bare, single, attack = [], [], [], []
        for _ in range(ROUNDS):
            own.append(ours(model, images, directions)[0])
            bare.append(floor(model, images, found.evaluations))
            single.append(one_at_a_time(model, images, directions))
            attack.append(with_foolbox(model, images, labels))
        print(f"{ROUNDS} rounds, ratios within each round")
        report("ours / floor", own, bare)
        report("one ray at a time / ours", single, own)
        report("Foolbox's line search / ours", attack, own)
    order = torch.randperm(IMAGES * DIRECTIONS, generator=torch.Generator().manual_seed(1))[FIRST:LAST].tolist()
    wrong = [
        (ray // DIRECTIONS, directions.names[ray % DIRECTIONS])
        for ray in order
        if not is_right(
            model,
            images[ray // DIRECTIONS],
            directions.tensor[ray // DIRECTIONS, ray % DIRECTIONS],
            found.seed_classes[ray // DIRECTIONS],
            float(found.distances.flatten()[ray]),
        )
    ]
    if order:
        right = len(order) - len(wrong)
        print(f"right against a scan of {SCAN_STEPS} steps: {right} of {len(order)} rays ({right / len(order):.2%})")
        print(f"wrong: {wrong or 'none'}")


if __name__ == "__main__":
    main()
