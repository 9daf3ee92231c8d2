"""What networks learn from fewer examples, by every way of choosing them, beside all examples and a random choice.

`python benchmarks/selection.py [--data digits|cifar10] [--shares 0.01 0.05 0.1 0.3] [--seeds 0 1 2] [--rows FILE]`

For each seed a network is trained on all examples; scores and gradients come from early networks of other seeds. Then
the same network is trained from the same initial values for the same number of steps on each selection, by its weights.
Accuracy, and agreement with the network trained on all, on held-back examples. CIFAR-10 (4,660 training images, a small
CNN, 500 test images) needs CP_DATA. Finished rows are added to FILE, and rows that are there are not made again.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cp_compress.data import (
    craig,
    el2n_scores,
    forgetting_scores,
    herding,
    k_center,
    last_layer_gradients,
    random_selection,
    select_by_score,
    self_influence,
    support_scores,
)
from cp_compress.examples import DigitsCNN, digits, digits_training
from cp_compress.fidelity import compare_predictions, observe
from cp_compress.inputs.reading import LabeledData
from cp_compress.search import fit, look_at_last_layer

_EARLY = 3


def cifar_cnn():
    layers, channels = [], 3
    for width in (32, 64, 64):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10))


def read(name):
    if name == "digits":
        return DigitsCNN, digits_training(), digits(), 285, 38
    folder = os.environ.get("CP_DATA")
    if not folder:
        sys.exit("cifar10 needs CP_DATA")
    content = np.load(Path(folder) / "cifar10_subset.npz")
    pairs = [
        (torch.from_numpy(content[f"{part}_images"]).float() / 255, torch.from_numpy(content[f"{part}_labels"]).long())
        for part in ("train", "test")
    ]
    return cifar_cnn, *pairs, 730, 146


def look(make_model, data, steps, early_steps):
    """Return what every method chooses by: early networks' last layers, and the history of a whole training."""
    early = [
        look_at_last_layer(fit(make_model, data, steps=early_steps, seed=100 + n).model, data) for n in range(_EARLY)
    ]
    history = fit(make_model, data, steps=steps, seed=200, history=True).correct
    trained = look_at_last_layer(fit(make_model, data, steps=steps, seed=201).model, data)
    labels = trained.labels
    probabilities = torch.stack([each.probabilities for each in early])
    embeddings = torch.stack([each.embeddings for each in early])
    return {
        "labels": labels,
        "embeddings": trained.embeddings,
        "gradients": last_layer_gradients(early[0].probabilities, labels),
        "el2n": el2n_scores(probabilities, labels),
        "influence": self_influence(probabilities, embeddings, labels),
        "forgetting": forgetting_scores(history),
        "support": support_scores(trained.embeddings, labels),
    }


def choose(method, seen, count, seed):
    labels = seen["labels"]
    if method == "random":
        return random_selection(labels, count, seed=seed)
    if method in ("k_center", "herding"):
        options = {"seed": seed} if method == "k_center" else {}
        return {"k_center": k_center, "herding": herding}[method](seen["embeddings"], count, labels=labels, **options)
    if method == "craig":
        return craig(seen["gradients"], count, labels=labels)
    score, _, keep = method.partition(" ")
    return select_by_score(seen[score], count, keep=keep, labels=labels)


METHODS = (
    "random", "k_center", "herding", "craig", "el2n highest", "el2n lowest", "forgetting highest", "influence highest",
    "influence lowest", "support highest",
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["digits", "cifar10"], default="digits")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.01, 0.05, 0.1, 0.3])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows")
    options = parser.parse_args()
    make_model, training, test, steps, early_steps = read(options.data)
    data = LabeledData(training)
    path = Path(options.rows) if options.rows else None
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path and path.exists() else []
    known = {tuple(row["key"]) for row in rows}
    seen = None
    print(f"{platform.machine()}, torch {torch.__version__}, {options.data}, {len(data)} examples, {steps} steps")
    for seed in options.seeds:
        keys = [(options.data, seed, method, share) for method in options.methods for share in options.shares]
        missing = [key for key in keys if key not in known]
        if not missing:
            continue
        seen = seen or look(make_model, data, steps, early_steps)
        reference = observe(fit(make_model, data, steps=steps, seed=seed).model, test)
        for key in missing:
            _, _, method, share = key
            selection = choose(method, seen, round(share * len(data)), seed)
            model = fit(make_model, selection.subset(data), steps=steps, weights=selection.weights, seed=seed).model
            metrics = compare_predictions(observe(model, test), reference).metrics
            row = {"key": key, **{name: metrics[name] for name in ("accuracy", "agreement", "reference_accuracy")}}
            rows.append(row)
            if path:
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    show(rows, options)


def show(rows, options):
    mine = [row for row in rows if row["key"][0] == options.data and row["key"][1] in options.seeds]
    whole = [row["reference_accuracy"] for row in mine]
    print(f"all examples: accuracy {np.mean(whole):.3f} ({min(whole):.3f} to {max(whole):.3f})")
    for name in ("accuracy", "agreement"):
        print(f"\n{name:20}" + "".join(f"{share:>26.0%}" for share in options.shares))
        for method in options.methods:
            cells = []
            for share in options.shares:
                found = [row[name] for row in mine if tuple(row["key"][2:]) == (method, share)]
                cells.append(f"{np.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})")
            print(f"{method:20}" + "".join(f"{cell:>26}" for cell in cells))


if __name__ == "__main__":
    main()
