"""Train a small network from stored CIFAR-10 images for equal wall-clock time: accuracy against time.

`python examples/end_to_end/training.py --output DIR [--seconds S] [--images N] [--routes NAME …]`

A route is how the images are stored and what a network reads of them: pixels at full resolution, pixels arranged as
blocks, or the coefficients of the codec, which lie in such blocks. Networks that read blocks work at a fourth or an
eighth of the resolution; pixels as blocks tell what that gains from what is gained by not decoding. All routes train by
turns in one process on one thread, so that other work on the machine takes as much from each; a route's clock runs
while its batches are read, decoded and learned from, and stands while it is judged.

The images are those of `cifar10_jpeg_train.npz` and `cifar10_jpeg_test.npz` in the folder named by CP_DATA: former JPEG
files, decoded, mirrored as well, and stored again as each route says. Without them the script says so and ends. With
`--digits` it runs on scikit-learn's handwritten digits instead, without a download.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cp_compress.data import ChannelNorm, CoefficientDataset, write_store
from cp_compress.examples import digits, digits_training

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "paper"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "learn_from_coefficients"))
import material
from networks import quick_cnn

_HALF_CHROMA = "layout='2d', color=ycbcr, chroma='4:2:0'"
CODECS = {"memory": None, "JPEG": "jpeg(quality=75)", "ZFP": f"zfp(precision=8, {_HALF_CHROMA})"}
GREY = {"memory": None, "JPEG": "jpeg(quality=75)", "ZFP": "zfp(precision=8, layout='2d')"}
SIDES = {"JPEG": 8, "ZFP": 4, "memory": 4}
ROUTES = (
    "memory, pixels",
    "JPEG, pixels",
    "ZFP, pixels",
    "memory, blocks",
    "JPEG, blocks",
    "ZFP, blocks",
    "JPEG, coefficients",
    "ZFP, coefficients",
)
_TURN, _WARM_UP = 1.0, 0.2


class Blocks(nn.Module):
    """Pixels (n, channels, height, width) as one channel for each place in a block."""

    def __init__(self, side):
        super().__init__()
        self.side = side

    def forward(self, images):
        return F.pixel_unshuffle(images.float(), self.side)


@dataclass
class Route:
    """One way from stored images to a network that learns from them, with its clock."""

    name: str
    data: object
    judged: dict
    network: nn.Module
    bytes_per_image: float
    budget: float
    batch_size: int
    rate: float
    seed: int
    seconds: float = 0.0
    seen: int = 0
    points: list = field(default_factory=list)

    def __post_init__(self):
        order = torch.Generator().manual_seed(self.seed)
        self._batches = iter(DataLoader(self.data, batch_sampler=self._drawn(order)))
        parameters = self.network.parameters()
        self._optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def _drawn(self, order):
        while True:
            places = torch.randperm(len(self.data), generator=order)
            yield from (part.tolist() for part in places.split(self.batch_size) if len(part) == self.batch_size)

    def warm(self):
        """Read and learn once, so that nothing is compiled on the clock; no weight changes at a rate of 0."""
        self.turn(0.0)
        self.seconds, self.seen = 0.0, 0

    def turn(self, seconds):
        """Learn for a while; learning rates follow the share of the budget that is spent."""
        self.network.train()
        began, spent = time.perf_counter(), 0.0
        while True:
            share = min(1.0, (self.seconds + spent) / self.budget)
            falling = 0.5 + 0.5 * math.cos(math.pi * max(0.0, share - _WARM_UP) / (1 - _WARM_UP))
            self._optimizer.param_groups[0]["lr"] = self.rate * min(share / _WARM_UP, falling)
            inputs, labels = next(self._batches)
            self._optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(self.network(inputs), labels).backward()
            self._optimizer.step()
            self.seen += len(labels)
            spent = time.perf_counter() - began
            if spent >= seconds:
                break
        self.seconds += spent

    def judge(self):
        """Note the share of test images that the network gets right now; the clock stands."""
        self.network.eval()
        right = {}
        with torch.no_grad():
            for part, (inputs, labels) in self.judged.items():
                answers = torch.cat([self.network(few).argmax(1) for few in inputs.split(250)])
                right[part] = int((answers == labels).sum())
        self.points.append({"seconds": round(self.seconds, 2), "seen": self.seen, "right": right})


def grey_images(data, count):
    """Return the first digits, four times as large, uint8 (n, 1, 32, 32), and their labels."""
    rows = [data[place] for place in range(min(count, len(data)))]
    images = F.interpolate(torch.stack([row[0] for row in rows]) * 255, scale_factor=4)
    return images.round().to(torch.uint8), torch.tensor([int(row[1]) for row in rows])


def read_images(options):
    """Return training images with their mirror images, and the parts that are judged, uint8 with labels."""
    if options.digits:
        return grey_images(digits_training(), options.images), {"digits": grey_images(digits(), options.judged)}
    images, labels = material.read_jpeg_files("train", options.images)
    judged = {"JPEG-coded": material.read_jpeg_files("test", options.judged)}
    with np.load(material.folder() / "cifar10_subset.npz") as content:
        judged["lossless"] = tuple(torch.from_numpy(content[f"test_{name}"]) for name in ("images", "labels"))
    # mirrored before they are stored: coefficients cannot be flipped like pixels
    return (torch.cat([images, images.flip(3)]), labels.repeat(2)), judged


def store(pair, codec, path):
    """Return a pair of images and labels as a store of a codec, or as it is in memory."""
    return TensorDataset(*pair) if codec is None else write_store(pair, codec, path)


def read_all(data):
    """Return what a network reads of all examples, and their labels."""
    parts = list(DataLoader(data, batch_size=250))
    return tuple(torch.cat([part[place] for part in parts]) for place in (0, 1))


def make_routes(options, training, judged):
    """Return the routes, ready to start."""
    codecs, routes = GREY if options.digits else CODECS, []

    @functools.cache
    def stored(kind, part):
        pair = training if part is None else judged[part]
        return store(pair, codecs[kind], options.output / f"{kind}-{part or 'training'}".lower())

    for name in options.routes:
        kind, reads = name.split(", ")

        def reading(part, kind=kind, reads=reads):
            data = stored(kind, part)
            return CoefficientDataset(data) if reads == "coefficients" else data

        data = reading(None)
        torch.manual_seed(options.seed)
        first = [] if reads != "blocks" else [Blocks(SIDES[kind])]
        sample = torch.stack([data[place][0] for place in range(min(len(data), 2000))])
        sample = nn.Sequential(*first)(sample).float()
        width = 1 if reads == "pixels" else options.width
        made = quick_cnn(sample.shape[1], sample.shape[2], width=width)
        norm = ChannelNorm.of((sample, torch.zeros(len(sample)).long()))
        network = nn.Sequential(*first, norm, made)
        size = training[0][0].numel() if codecs[kind] is None else stored(kind, None).bytes_per_example
        tested = {part: read_all(reading(part)) for part in judged}
        settings = options.seconds, options.batch_size, options.rate, options.seed
        routes.append(Route(name, data, tested, network, size, *settings))
    return routes


def picture(output, routes, part, total):
    """Draw accuracy against the seconds of each route."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    colours = {"memory": "#666666", "JPEG": "#d55e00", "ZFP": "#0072b2"}
    styles = {"pixels": "-", "blocks": ":", "coefficients": "--"}
    for one in routes:
        kind, reads = one.name.split(", ")
        seconds = [point["seconds"] for point in one.points]
        accuracy = [point["right"][part] / total for point in one.points]
        axes.plot(seconds, accuracy, styles[reads], color=colours[kind], label=one.name, marker=".")
    axes.set_xlabel("seconds of reading, decoding and learning, one thread")
    axes.set_ylabel(f"accuracy on {total:,} test images, {part}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    material.draw(output, "training", figure)
    plt.close(figure)


def table(routes, totals):
    """Return the last point of each route, and when it first was as good as the first route ended, as Markdown."""
    part = next(iter(totals))

    def share(one, name):
        return f"{one.points[-1]['right'][name] / totals[name]:.3f}"

    columns = {
        "route": lambda one: one.name,
        "bytes an image": lambda one: f"{one.bytes_per_image:,.0f}",
        "examples/s": lambda one: f"{one.seen / one.seconds:,.0f}",
        "epochs": lambda one: f"{one.seen / len(one.data):.1f}",
        **{f"accuracy, {name} ({count:,})": functools.partial(share, name=name) for name, count in totals.items()},
        f"at a quarter of the time, {part}": lambda one: f"{_at(one, 0.25)['right'][part] / totals[part]:.3f}",
    }
    return material.markdown(routes, columns)


def _at(route, fraction):
    return min(route.points, key=lambda point: abs(point["seconds"] - fraction * route.budget))


def missing():
    names = ("cifar10_jpeg_train.npz", "cifar10_jpeg_test.npz", "cifar10_subset.npz")
    return [name for name in names if not (material.folder() / name).exists()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the figures and of the stores")
    parser.add_argument("--seconds", type=float, default=150, help="what each route may spend (default: 150)")
    parser.add_argument("--images", type=int, default=50_000, help="training images, before they are mirrored")
    parser.add_argument("--judged", type=int, default=2_000, help="test images, of JPEG files or of digits")
    parser.add_argument("--points", type=int, default=10, help="how often each network is judged")
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=list(ROUTES), metavar="NAME")
    parser.add_argument("--width", type=int, default=2, help="networks on blocks are so many times as wide")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.1, help="largest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--digits", action="store_true", help="handwritten digits, enlarged, instead of CIFAR-10")
    options = parser.parse_args()
    absent = [] if options.digits else missing()
    if absent:
        print(f"skipped: {', '.join(absent)} not found; set CP_DATA to the folder that holds them")
        return
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    training, judged = read_images(options)
    totals = {part: len(labels) for part, (_, labels) in judged.items()}
    routes = make_routes(options, training, judged)
    for one in routes:
        one.warm()
    for point in range(1, options.points + 1):
        until = options.seconds * point / options.points
        while any(one.seconds < until for one in routes):
            for one in routes:
                if one.seconds < until:
                    one.turn(min(_TURN, until - one.seconds))
        for one in routes:
            one.judge()
            shares = {part: f"{count / totals[part]:.3f}" for part, count in one.points[-1]["right"].items()}
            print(f"{one.name}: {one.seconds:.0f} s, {one.seen:,} examples, {shares}", flush=True)
    shown = ("name", "bytes_per_image", "seconds", "seen", "points")
    rows = [{name: getattr(one, name) for name in shown} for one in routes]
    told = {name: getattr(options, name) for name in ("seconds", "images", "width", "batch_size", "rate", "seed")}
    content = {"rows": rows, "totals": totals, "options": told, "environment": material.environment()}
    material.write(options.output, "training.json", content)
    text = table(routes, totals)
    material.write(options.output, "training.md", text)
    print(text)
    part = next(iter(totals))
    picture(options.output, routes, part, totals[part])


if __name__ == "__main__":
    main()
