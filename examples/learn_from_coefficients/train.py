"""Learn CIFAR-10 from the coefficients of a codec, at several precisions of one stored data set, and from raw pixels.

`python examples/learn_from_coefficients/train.py` trains the small network on a CPU (minutes); with a GPU
`--network vgg19_bn resnet110 preresnet110 wrn28_10 densenet_bc100_12 --epochs 160 --full` computes the columns of
Table II of Joseph et al. 2020. The images come from the folder named by CP_DATA or --data. `--full` uses the 50,000
training images that were once JPEG files (quality 75); without it, the 4,660 lossless images are used. The accuracy is
measured on the 500 lossless test images. Finished rows are added to the file --rows and are not computed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from networks import NETWORKS
from torch import nn
from torch.utils.data import TensorDataset

from cp_compress.base.files import write_atomically
from cp_compress.data import ZFP, ChannelNorm, CoefficientDataset, CompressedDataset, parse_codec
from cp_compress.fidelity.judging.intervals import Proportion
from cp_compress.inputs.reading import LabeledData


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=sorted(NETWORKS), default=["small"])
    parser.add_argument("--codec", default="zfp(precision=16, layout='2d')", help="codec of the stored images")
    parser.add_argument("--precision", nargs="+", type=int, default=[2, 4, 6, 8, 10, 12], help="bit planes to read")
    parser.add_argument("--arrangement", nargs="+", choices=["channels", "image"], default=["channels"])
    parser.add_argument("--no-pixels", action="store_true", help="omit the rows for raw pixels")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.05, help="largest learning rate (one-cycle)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data", default=os.environ.get("CP_DATA"), help="folder of the images (default: CP_DATA)")
    parser.add_argument("--full", action="store_true", help="train on the 50,000 former JPEG images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", help="file of finished rows, one JSON object per line")
    return parser.parse_args()


def read_images(folder, full):
    """Return training images with their mirror images, and test images, uint8, with labels."""
    subset = np.load(Path(folder) / "cifar10_subset.npz")
    test = torch.from_numpy(subset["test_images"]), torch.from_numpy(subset["test_labels"]).long()
    if full:
        from PIL import Image

        stored = np.load(Path(folder) / "cifar10_jpeg_train.npz")
        content, offsets = stored["stream"].tobytes(), stored["offsets"]
        files = (content[start:stop] for start, stop in itertools.pairwise(offsets.tolist()))
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(stored["labels"]).long()
    else:
        images, labels = torch.from_numpy(subset["train_images"]), torch.from_numpy(subset["train_labels"]).long()
    # mirrored before they are encoded: coefficients cannot be flipped like pixels
    return (torch.cat([images, images.flip(3)]), labels.repeat(2)), test


def as_tensors(dataset):
    """Read a data set once, so that epochs do not decode it again."""
    parts = list(LabeledData(dataset).batches(1024))
    return torch.cat([inputs for inputs, _ in parts]), torch.cat([labels for _, labels in parts])


def train(network, training, test, options, seed):
    """Return how many of the test examples a trained network gets right."""
    torch.manual_seed(seed)
    inputs, labels = (part.to(options.device) for part in training)
    made = NETWORKS[network](inputs.shape[1], inputs.shape[2])
    model = nn.Sequential(ChannelNorm.of(training), made).to(options.device)
    steps = options.epochs * (len(inputs) // options.batch_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=options.rate, total_steps=steps)
    order = torch.Generator().manual_seed(seed)
    for _ in range(options.epochs):
        places = torch.randperm(len(inputs), generator=order)
        for start in range(0, len(inputs) - options.batch_size + 1, options.batch_size):
            chosen = places[start : start + options.batch_size].to(options.device)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part.to(options.device)).argmax(1).cpu() for part in test[0].split(256)])
    return int((found == test[1]).sum())


def settings(options):
    """Yield the settings to compare: raw pixels, then every arrangement at every precision."""
    if not options.no_pixels:
        yield "pixels", None
    for arrangement in options.arrangement:
        for precision in options.precision:
            yield arrangement, precision


def prepare(kind, precision, images, stored):
    """Return the inputs and labels of a setting, and the bytes per image from which they are read."""
    if kind == "pixels":
        inputs, labels = images
        return TensorDataset(inputs / 255, labels).tensors, float(inputs[0].numel())
    maps = as_tensors(CoefficientDataset(stored, precision=precision, arrangement=kind))
    at_that = dataclasses.replace(stored.codec, precision=precision)
    return maps, float(at_that.size_bits(images[0][:2000]).double().mean()) / 8


def main():
    options = read_arguments()
    if not options.data or not (Path(options.data) / "cifar10_subset.npz").exists():
        sys.exit("no images: name their folder by CP_DATA or --data")
    training, test = read_images(options.data, options.full)
    codec = parse_codec(options.codec)
    if not isinstance(codec, ZFP) or codec.precision is None:
        sys.exit(f"--codec {codec}: to be read at several precisions it must be ZFP with a precision")
    stored = {name: CompressedDataset(pair, codec) for name, pair in (("training", training), ("test", test))}
    path = None if options.rows is None else Path(options.rows)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []
    size = stored["training"].bytes_per_example
    print(
        f"{len(training[0])} training images, half of them mirrored, stored at {size:.0f} bytes each (pixels: 3072)\n"
    )
    print(f"{'network':18} {'input':10} {'precision':>9} {'bytes':>7} {'accuracy':>9}  95 % interval of {len(test[0])}")
    for kind, precision in settings(options):
        runs = [(name, seed) for name in options.network for seed in options.seeds]
        if not all(find(rows, key(options, name, kind, precision, seed)) for name, seed in runs):
            found, size = prepare(kind, precision, training, stored["training"])
            judged, _ = prepare(kind, precision, test, stored["test"])
        for name in options.network:
            for seed in options.seeds:
                if find(rows, key(options, name, kind, precision, seed)):
                    continue
                right = train(name, found, judged, options, seed)
                rows.append({**key(options, name, kind, precision, seed), "right": right, "bytes": size})
                if path:
                    write_atomically(path, "".join(json.dumps(each) + "\n" for each in rows))
            mine = [key(options, name, kind, precision, seed) for seed in options.seeds]
            show([row for row in rows if any(is_of(row, one) for one in mine)], test)


def key(options, network, kind, precision, seed):
    """Return everything that a row depends on."""
    names = ("codec", "epochs", "batch_size", "rate", "full")
    return {"network": network, "kind": kind, "precision": precision, "seed": seed} | {
        name: getattr(options, name) for name in names
    }


def is_of(row, wanted):
    return all(row.get(name) == value for name, value in wanted.items())


def find(rows, wanted):
    return any(is_of(row, wanted) for row in rows)


def show(rows, test):
    right, total = sum(row["right"] for row in rows) / len(rows), len(test[0])
    interval = Proportion(round(right), total).interval(0.975)  # one-sided at each end
    planes = "–" if rows[0]["precision"] is None else str(rows[0]["precision"])
    shares = [row["right"] / total for row in rows]
    spread = "" if len(rows) == 1 else f"  ({min(shares):.3f} to {max(shares):.3f})"
    print(
        f"{rows[0]['network']:18} {rows[0]['kind']:10} {planes:>9} {rows[0]['bytes']:7.0f} {right / total:9.3f}  "
        f"[{interval.low:.3f}, {interval.high:.3f}]{spread}",
        flush=True,
    )


if __name__ == "__main__":
    main()
