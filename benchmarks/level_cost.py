"""What levels A, B and D cost beyond the forward and backward passes that they are defined by.

ResNet-20 and its half-pruned copy on CIFAR-10 images, one thread, CPU time, in turns. The floor of A and B is one bare
forward pass of both models over the same batches; that of boundary distances is one bare pass for each input that the
search had to look at (`evaluations`) in batches of the same size, and for the worst case the forward and backward
passes of its gradients. Peak memory is that of a process of its own on 10,000 images, less what it held before.

Run: python benchmarks/level_cost.py [ROUNDS] [IMAGES]   (needs CP_DATA or ../shared/data)
     python benchmarks/level_cost.py memory
"""

import resource
import sys
import time
from pathlib import Path

import torch
from global_pruning import spread

from cp_compress import observe, parse_scheme
from cp_compress.fidelity import (
    compare_embeddings,
    compare_predictions,
    forget_observations,
    gaussian_directions,
    search_boundaries,
    worst_case_directions,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "cifar10"))
import subjects

MEMORY = sys.argv[1:] == ["memory"]
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 and not MEMORY else 5
IMAGES = int(sys.argv[2]) if len(sys.argv) > 2 else 500
BATCH, RAY_BATCH = 256, 32


def timed(work):
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def forward(models, images, batch):
    with torch.no_grad():
        for model in models:
            for start in range(0, len(images), batch):
                model(images[start : start + batch])


def linearise(model, images, classes, steps):
    for _ in range(steps):
        leaf = images.clone().requires_grad_()
        logits = model(leaf)
        top = logits.topk(classes, dim=1).values
        for place in range(1, classes):
            torch.autograd.grad((top[:, place] - top[:, 0]).sum(), leaf, retain_graph=True)


def main():
    torch.set_num_threads(1)
    reference = subjects.network("resnet20")
    candidate = parse_scheme("prune(density=0.5)").compress(reference)
    images = subjects.test_images()
    inputs = torch.stack([images[index][0] for index in range(min(IMAGES, len(images)))])
    data = inputs, torch.tensor([int(images[index][1]) for index in range(len(inputs))])
    models = candidate, reference
    rays, seeds = gaussian_directions((3, 32, 32), 8, 0), inputs[:16]
    times = {"A: predictions": [], "B: embeddings": [], "D: distances": [], "D: worst-case directions": []}
    for number in range(ROUNDS + 1):
        floor, _ = timed(lambda: forward(models, inputs, BATCH))
        found = {}
        for name, compare in (("A: predictions", compare_predictions), ("B: embeddings", compare_embeddings)):
            forget_observations()
            spent, _ = timed(lambda compare=compare: compare(*(observe(model, data) for model in models)))
            passes = floor if name.startswith("A") else 2 * floor  # predictions, and one pass for all layers
            found[name] = spent / passes
        spent, search = timed(
            lambda: search_boundaries(reference, seeds, rays, max_distance=12.0, batch_size=RAY_BATCH)
        )
        looked = seeds.repeat(search.evaluations // len(seeds) + 1, 1, 1, 1)[: search.evaluations]
        bare, _ = timed(lambda looked=looked: forward((reference,), looked, RAY_BATCH))
        found["D: distances"] = spent / bare
        forget_observations()
        several = inputs[:64], data[1][:64]
        seen = observe(reference, several)
        seen.predictions  # noqa: B018
        spent, _ = timed(lambda seen=seen: worst_case_directions(seen, methods=["gradient"]))
        bare, _ = timed(lambda several=several: linearise(reference, several[0], 2, 1))
        found["D: worst-case directions"] = spent / bare
        if number:  # the first round warms up
            for name, ratio in found.items():
                times[name].append(ratio)
    print(
        f"{len(inputs)} images, {ROUNDS} rounds, torch {torch.__version__}, one thread; {search.evaluations} inputs\n"
    )
    print("| level | time / floor |\n| --- | --- |")
    for name, ratios in times.items():
        print(f"| {name} | {spread(ratios, '.2f')} |")


def memory():
    torch.set_num_threads(1)
    reference = subjects.network("resnet20")
    candidate = parse_scheme("prune(density=0.5)").compress(reference)
    images = subjects.test_images()
    some = torch.stack([images[index][0] for index in range(500)])
    inputs = (some.repeat(20, 1, 1, 1) + 0.01 * torch.randn(10_000, 3, 32, 32)).clamp(0, 1)
    data = inputs, torch.tensor([int(images[index % 500][1]) for index in range(10_000)])
    seen = [observe(model, data) for model in (candidate, reference)]
    compare_predictions(*seen)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    compare_embeddings(*seen, ["input:linear", "layer1"])
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"10,000 images: predictions peak at {before / 1024:.0f} MB in all, embeddings of two layers add "
        f"{(after - before) / 1024:.0f} MB"
    )


if __name__ == "__main__":
    memory() if MEMORY else main()
