"""Finding inputs on which a candidate and its reference disagree: this search beside three others, in one process.

ResNet-20, seeds on which both models agree, images on the uint8 lattice within ε in L∞, a budget of pair queries for
each seed. *Random* draws images evenly from the ball. *PGD* takes gradient steps on both models' difference of
probabilities at the seed's class (after DIVA, Hao et al. 2022), one query a step, restarted from random points.
*Mutation* applies the operators of DFLARE (Tian et al. 2023: noise, brightness, contrast, shift, rotation, blur) and
keeps those that raise the difference of the probability vectors; its images may leave the ball, so that their distance
is given. A hit counts when it holds in float64 on a batch of one and not by rounding, for all four.

Run: python benchmarks/divergence.py [SEEDS] [QUERIES]   (needs CP_DATA or ../shared/data)
"""

import copy
import sys
import time
from pathlib import Path

import torch
import torchvision.transforms.v2.functional as transforms
from measures import folded

from cp_compress import parse_scheme
from cp_compress.base.batching import BatchSize
from cp_compress.fidelity import find_divergence
from cp_compress.fidelity.divergence.labels import Labeler, Verifier

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "cifar10"))
import subjects

SEEDS = int(sys.argv[1]) if len(sys.argv) > 1 else 64
QUERIES = int(sys.argv[2]) if len(sys.argv) > 2 else 60
SCHEMES = ("quantize(int8)", "prune(density=0.5)", "quantize(bfloat16)", "quantize(float16)")


def lattice(images):
    return (images.clamp(0, 1) * 255).round() / 255


class Peer:
    """Asks both models about one image a seed and query, and keeps the first verified disagreement of each."""

    def __init__(self, candidate, reference, seeds):
        self.candidate, self.reference, self.seeds = candidate, reference, seeds
        labelers = [Labeler(model, None, BatchSize(64)) for model in (candidate, reference)]
        self.verifier = Verifier(*labelers, seeds, 1e-5)
        self.classes = labelers[1].classes(seeds)
        self.found = torch.zeros(len(seeds), dtype=torch.bool)
        self.queries = torch.zeros(len(seeds), dtype=torch.int64)
        self.distance = torch.full((len(seeds),), torch.nan)
        self.ask(torch.arange(len(seeds)), seeds, free=True)

    def open(self):
        return (~self.found & (self.queries < QUERIES)).nonzero().flatten()

    def ask(self, rows, images, free=False):
        with torch.no_grad():
            outputs = [torch.softmax(model(images), dim=1) for model in (self.candidate, self.reference)]
        if not free:
            self.queries[rows] += 1
        differs = (outputs[0].argmax(1) != outputs[1].argmax(1)).nonzero().flatten()
        if len(differs):
            holds = self.verifier.confirm(images[differs]).holds
            hits = differs[holds]
            self.found[rows[hits]] = True
            moved = (images[hits] - self.seeds[rows[hits]]).flatten(1)
            self.distance[rows[hits]] = moved.abs().amax(1)
        return outputs


def random_search(peer, epsilon, generator):
    while len(rows := peer.open()):
        noise = (2 * torch.rand(peer.seeds[rows].shape, generator=generator) - 1) * epsilon
        peer.ask(rows, lattice(peer.seeds[rows] + noise))


def difference_ascent(peer, epsilon, generator, steps=20):
    while len(peer.open()):
        place = lattice(peer.seeds + (2 * torch.rand(peer.seeds.shape, generator=generator) - 1) * epsilon)
        for _ in range(steps):
            rows = peer.open()
            if not len(rows):
                return
            leaf = place[rows].clone().requires_grad_()
            chosen = peer.classes[rows][:, None]
            first, second = (
                torch.softmax(model(leaf), 1).gather(1, chosen) for model in (peer.reference, peer.candidate)
            )
            (gradient,) = torch.autograd.grad((first - second).sum(), leaf)
            moved = place[rows] + 2.5 * epsilon / steps * gradient.sign()
            place[rows] = (moved - peer.seeds[rows]).clamp(-epsilon, epsilon) + peer.seeds[rows]
            peer.ask(rows, lattice(place[rows]))


def mutation(peer, epsilon, generator):
    """Keep a mutated image when the probability vectors differ more; the ball is not kept to."""
    kept, best = peer.seeds.clone(), torch.zeros(len(peer.seeds))
    while len(rows := peer.open()):
        amount = float(torch.rand(1, generator=generator))
        images = kept[rows]
        kind = int(torch.randint(0, 6, (1,), generator=generator))
        if kind == 0:
            images = images + 0.1 * amount * torch.randn(images.shape, generator=generator)
        elif kind == 1:
            images = images + 0.4 * (amount - 0.5)
        elif kind == 2:
            mean = images.mean(dim=(1, 2, 3), keepdim=True)
            images = mean + (0.5 + amount) * (images - mean)
        elif kind == 3:
            images = images.roll(int(6 * amount) - 3, dims=3)
        elif kind == 4:
            images = transforms.rotate(images, 30 * (amount - 0.5))
        else:
            images = transforms.gaussian_blur(images, kernel_size=[3, 3], sigma=[0.2 + amount])
        images = lattice(images)
        outputs = peer.ask(rows, images)
        gain = (outputs[0] - outputs[1]).abs().sum(1)
        better = gain > best[rows]
        kept[rows[better]], best[rows[better]] = images[better], gain[better]


def report(name, scheme, level, found, queries, distance, seconds):
    share = float(found.double().mean())
    used = float(queries[found].double().mean()) if bool(found.any()) else float("nan")
    moved = float(distance[found].nanmedian() * 255) if bool(found.any()) else float("nan")
    print(f"| {scheme} | {level}/255 | {name} | {share:.0%} | {used:.1f} | {moved:.1f} | {seconds:.1f} |", flush=True)


def main():
    torch.set_num_threads(1)
    model = subjects.network("resnet20")
    images = subjects.test_images()
    seeds = lattice(torch.stack([images[index][0] for index in range(SEEDS)]))
    print(f"{SEEDS} seeds, at most {QUERIES} pair queries each, torch {torch.__version__}, one thread\n")
    print("| candidate | ε | search | found | queries a hit | median L∞ of 255 | seconds |\n" + "| --- " * 7 + "|")
    for scheme in SCHEMES:
        candidate = parse_scheme(scheme).compress(model)
        for level in (8, 2, 1):
            epsilon = level / 255
            start = time.perf_counter()
            found = find_divergence(candidate, model, seeds, epsilon=epsilon, lattice="uint8", queries=QUERIES)
            seconds = time.perf_counter() - start
            report("bisection", scheme, level, found.found, found.queries, found.linf, seconds)
            for name, search in (("random", random_search), ("PGD", difference_ascent), ("mutation", mutation)):
                if name == "mutation" and level != 8:
                    continue  # it knows no ball
                start = time.perf_counter()
                peer = Peer(candidate, model, seeds)
                search(peer, epsilon, torch.Generator().manual_seed(0))
                seconds = time.perf_counter() - start
                report(name, scheme, level, peer.found, peer.queries, peer.distance, seconds)
    layouts = {
        "channels last": copy.deepcopy(model).to(memory_format=torch.channels_last),
        "folded batch norm": folded(model),
        "copy": copy.deepcopy(model),
    }
    for name, layout in layouts.items():
        for where in (None, "uint8"):
            found = find_divergence(layout, model, seeds, epsilon=8 / 255, lattice=where, queries=QUERIES)
            print(f"{name}, lattice {where}: {int(found.found.sum())} hits, {int(found.unconfirmed.sum())} unconfirmed")


if __name__ == "__main__":
    main()
