"""Train one small network with batch normalisation and one without, otherwise alike, for the rows of Table I.

`python examples/paper/train_networks.py --output DIR [--minutes M] [--images N] [--seed S]`

Both learn from the images of `cifar10_jpeg_train.npz` in the folder named by CP_DATA, decoded, on one thread, for so
many minutes of CPU time each. The weights are written as DIR/normed.pt and DIR/plain.pt,
which `table1.py --trained DIR` reads.
"""

import argparse
import math
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import material
import torch
import torch.nn.functional as F

RATES = {"normed": 0.1, "plain": 0.02}
_WARM_UP, _BATCH = 0.15, 64


def train(name, images, labels, options):
    """Return a network trained for a while, and how many images it saw; rates follow the share of the time spent."""
    torch.manual_seed(options.seed)
    model = material.TRAINED[name]()
    decay = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, **decay)
    began, seen, share = time.process_time(), 0, 0.0
    model.train()
    while share < 1:
        for places in torch.randperm(len(images)).split(_BATCH):
            share = (time.process_time() - began) / (60 * options.minutes)
            if share >= 1:
                break
            falling = 0.5 + 0.5 * math.cos(math.pi * max(0.0, share - _WARM_UP) / (1 - _WARM_UP))
            optimizer.param_groups[0]["lr"] = RATES[name] * min(share / _WARM_UP, falling)
            inputs = images[places].float() / 255
            inputs = torch.where(torch.rand(len(places), 1, 1, 1) < 0.5, inputs, inputs.flip(3))
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(inputs), labels[places]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            seen += len(places)
    return model.eval(), seen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8, help="of CPU time for each network (default: 8)")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--networks", nargs="+", choices=sorted(RATES), default=sorted(RATES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not (material.folder() / "cifar10_jpeg_train.npz").exists():
        print("skipped: cifar10_jpeg_train.npz not found; set CP_DATA to the folder that holds it")
        return
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    images, labels = material.read_jpeg_files("train", options.images)
    tested, known = material.read_jpeg_files("test", 2000)
    for name in options.networks:
        model, seen = train(name, images, labels, options)
        torch.save(model.state_dict(), options.output / f"{name}.pt")
        with torch.no_grad():
            found = torch.cat([model(part.float() / 255).argmax(1) for part in tested.split(250)])
        right = (found == known).float().mean()
        print(
            f"{name}: {seen:,} images seen, accuracy {right:.3f} on {len(known):,} JPEG-coded test images", flush=True
        )


if __name__ == "__main__":
    main()
