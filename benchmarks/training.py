"""Direct, LC and gradual compression under equal minibatches, and what preservation losses add at equal size.

`python benchmarks/training.py [--network digits|resnet20|resnet56] [--epochs N] [--densities 0.1 0.05 0.02]
[--methods direct gradual lc] [--seeds 0 1 2] [--preserve none agreement cost …] [--rows FILE]`

Every row is one training: same batches, optimiser (SGD, momentum 0.9) and cosine schedule for all, global magnitude
pruning; judged on held-back images. Cost: 1 for a change between animals and vehicles (digits: between 0–4 and 5–9).
Finished rows are added to FILE, and rows that are there already are not made again. ResNets need CP_DATA or
../shared/data; their images are flipped at random.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

from cp_compress import Prune, compare_predictions, footprint, observe
from cp_compress.examples import digits, digits_cnn, digits_training
from cp_compress.search import (
    LC,
    Direct,
    Gradual,
    PreserveAgreement,
    PreserveAttribution,
    PreserveCost,
    PreserveEmbedding,
    train_compressed,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "cifar10"))
import subjects

METHODS = {"direct": Direct(), "gradual": Gradual(), "lc": LC()}
GROUPS = {
    "digits": {"low": [0, 1, 2, 3, 4], "high": [5, 6, 7, 8, 9]},
    "cifar10": {"animals": [2, 3, 4, 5, 6, 7], "vehicles": [0, 1, 8, 9]},
}
LAYERS = {"digits": "features.10", "resnet20": "layer3", "resnet56": "layer3"}
FIGURES = ("accuracy", "agreement", "worst_class_accuracy", "cost", "bytes")


def load(network):
    if network == "digits":
        return digits_cnn(), digits_training(), digits(), GROUPS["digits"]
    return subjects.network(network), subjects.training_images(), subjects.test_images(), GROUPS["cifar10"]


def terms(names, network, groups):
    made = {
        "agreement": PreserveAgreement(at_most=0.02, temperature=2.0),
        "cost": PreserveCost(at_most=0.01, class_distance=groups),
        "embedding": PreserveEmbedding(at_most=0.05, layer=LAYERS[network]),
        "attribution": PreserveAttribution(at_most=0.2),
    }
    return [made[name] for name in names]


def flip(images, generator):
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, nesterov=True)


def run(options, subject, method, density, seed, preserve):
    model, training, test, groups = subject
    start = time.perf_counter()
    result = train_compressed(
        model,
        Prune(density),
        training,
        epochs=options.epochs,
        method=METHODS[method],
        optimizer=sgd,
        batch_size=options.batch_size,
        augment=None if options.network == "digits" else flip,
        preserve=terms(preserve, options.network, groups),
        seed=seed,
        progress=options.progress,
    )
    seconds = time.perf_counter() - start
    found = compare_predictions(observe(result.model, test), observe(model, test), class_distance=groups)
    return {
        **{name: found.metrics[name] for name in ("accuracy", "agreement", "cost")},
        "worst_class_accuracy": min(row["accuracy"] for row in found.details["classes"]),
        "bytes": footprint(result.model).artifact_bytes,
        "seconds": seconds,
    }


def show(rows):
    print(f"{'method':8} {'density':>7} {'preserve':24} {'n':>2} " + " ".join(f"{name:>24}" for name in FIGURES))
    groups = {}
    for row in rows:
        groups.setdefault((row["method"], row["density"], " ".join(row["preserve"]) or "none"), []).append(row)
    for (method, density, preserve), found in groups.items():
        cells = []
        for name in FIGURES:
            values = [row[name] for row in found]
            digits_ = 0 if name == "bytes" else 4
            cells.append(
                f"{statistics.mean(values):.{digits_}f} ({min(values):.{digits_}f} to {max(values):.{digits_}f})"
            )
        print(f"{method:8} {density:>7} {preserve:24} {len(found):>2} " + " ".join(f"{cell:>24}" for cell in cells))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=LAYERS, default="digits")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.1, 0.05, 0.02])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--preserve", nargs="+", default=["none"], help="sets of terms: none, agreement, agreement+cost"
    )
    parser.add_argument("--rows", type=Path, help="a file of finished rows, one JSON object a line")
    parser.add_argument("--progress", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = load(options.network)
    print(f"{platform.machine()}, torch {torch.__version__}, {options.network}, {options.epochs} epochs")
    known = [] if options.rows is None or not options.rows.exists() else options.rows.read_text().splitlines()
    done = {json.dumps(row["key"]): row for row in map(json.loads, known)}
    rows = []
    for density in options.densities:
        for seed in options.seeds:
            for method in options.methods:
                for preserve in options.preserve:
                    names = [] if preserve == "none" else preserve.split("+")
                    key = [options.network, options.epochs, options.batch_size, density, seed, method, names]
                    row = done.get(json.dumps(key))
                    if row is None:
                        found = run(options, subject, method, density, seed, names)
                        row = {
                            "key": key,
                            "method": method,
                            "density": density,
                            "preserve": names,
                            "seed": seed,
                            **found,
                        }
                        print(json.dumps(row), flush=True)
                        if options.rows is not None:
                            with options.rows.open("a") as file:
                                file.write(json.dumps(row) + "\n")
                    rows.append(row)
    show(rows)


if __name__ == "__main__":
    main()
