"""Every measure of the four levels on trained networks: measures as rows, chance level and noise floor beside them.

The noise floor is what a measure is between equivalent references: the network, a copy with folded batch normalisation
and its float16 weights (all ordered pairs; the mean is shown). The chance level is what it is when the pairing is lost:
the network itself, shown other images than the reference (for distances other images of the same class, since they are
compared where both predict the same). Embeddings and attributions have one of their own (shuffled pairs).

Run: python benchmarks/measures.py [NETWORK ...] [--images N] [--rays N]   (needs CP_DATA or ../shared/data)
"""

import argparse
import copy
import sys
import time
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cp_compress import observe, parse_scheme
from cp_compress.fidelity import (
    compare_attributions,
    compare_boundaries,
    compare_divergence,
    compare_embeddings,
    compare_predictions,
    noise_floor,
)
from cp_compress.fidelity.robustness import compare_robustness

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "cifar10"))
import subjects

SCHEMES = (
    "quantize(float16)",
    "quantize(bfloat16)",
    "quantize(int8)",
    "quantize(int4)",
    "prune(density=0.5)",
    "prune(density=0.3)",
    "prune(density=0.1)",
    "filter_prune(density=0.8)",
)
CORRUPTIONS = ["gaussian_noise", "defocus_blur", "fog", "jpeg_compression"]
COLUMNS = (
    ("predictions", "agreement"),
    ("predictions", "accuracy_drop"),
    ("predictions", "max_class_accuracy_drop"),
    ("predictions", "newly_wrong"),
    ("predictions", "top_k_agreement"),
    ("predictions", "mean_kl"),
    ("predictions", "mean_logit_distance"),
    ("predictions", "ece_change"),
    ("embeddings", "cka"),
    ("embeddings", "kernel_cka"),
    ("embeddings", "mean_angle"),
    ("embeddings", "neighbor_overlap"),
    ("embeddings", "hardness_change"),
    ("embeddings", "procrustes_distance"),
    ("saliency", "mean_iou"),
    ("saliency", "corrected_iou"),
    ("saliency", "rank_correlation"),
    ("saliency", "top_fraction_iou"),
    ("smooth_grad", "mean_iou"),
    ("gate", "median_change"),
    ("gate", "mean_abs_log_ratio"),
    ("gate", "preserved_fraction"),
    ("worst", "mean_abs_log_ratio"),
    ("worst", "median_distance_ratio"),
    ("benign", "preserved_fraction"),
    ("robustness", "corrupted_agreement"),
    ("robustness", "worst_corrupted_agreement"),
    ("divergence 2/255", "divergence_rate"),
    ("divergence 2/255", "mean_queries"),
)
UNPAIRED = {
    "predictions": "anywhere",
    "robustness": "anywhere",
    "gate": "within the class",
    "worst": "within the class",
    "benign": "within the class",
}
SHUFFLED = ("cka", "kernel_cka", "mean_angle", "neighbor_overlap", "procrustes_distance")


def comparisons(rays):
    few = {"examples": rays}
    return {
        "predictions": (compare_predictions, {}),
        "embeddings": (compare_embeddings, {}),
        "saliency": (compare_attributions, {"examples": 4 * rays}),
        "smooth_grad": (compare_attributions, {"method": "smooth_grad(samples=8)", "examples": rays}),
        "gate": (compare_boundaries, few),
        "worst": (compare_boundaries, {"directions": "worst", **few}),
        "benign": (compare_boundaries, {"directions": "benign", **few}),
        "robustness": (compare_robustness, {"corruptions": CORRUPTIONS, "severities": [1, 3], "examples": 4 * rays}),
        "divergence 2/255": (compare_divergence, {"epsilon": 2 / 255, "lattice": "uint8", "examples": rays}),
    }


def folded(model):
    """Return the same function with each batch normalisation folded into the convolution before it."""
    copied = copy.deepcopy(model).eval()
    modules = dict(copied.named_modules())
    for path, part in modules.items():
        parent, _, name = path.rpartition(".")
        before = f"{parent}.{name.replace('bn', 'conv')}".lstrip(".")
        if isinstance(part, nn.BatchNorm2d) and isinstance(modules.get(before), nn.Conv2d):
            owner = modules[parent]
            setattr(owner, name.replace("bn", "conv"), fuse_conv_bn_eval(modules[before], part))
            setattr(owner, name, nn.Identity())
    return copied


def measure(pairs, candidate, reference):
    found, seconds = {}, {}
    for name, (compare, options) in pairs.items():
        start = time.perf_counter()
        found[name] = compare(candidate, reference, **options)
        seconds[name] = time.perf_counter() - start
    return found, seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", default=["resnet20", "resnet56"])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rays", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = subjects.test_images()
    data = [images[index] for index in range(min(options.images, len(images)))]
    data = torch.stack([image for image, _ in data]), torch.tensor([int(label) for _, label in data])
    pairs = comparisons(options.rays)
    for name in options.networks:
        model = subjects.network(name)
        reference = observe(model, data)
        print(f"\n{name}, {len(data[0])} images; levels C and D on {options.rays} to {4 * options.rays}", flush=True)
        rows, spent = {}, {}
        for scheme in SCHEMES:
            measured, seconds = measure(pairs, observe(parse_scheme(scheme).compress(model), data), reference)
            rows[scheme] = {(kind, metric): measured[kind].metrics[metric] for kind, metric in COLUMNS}
            spent[scheme] = sum(seconds.values())
            parts = ", ".join(f"{kind} {taken:.0f}" for kind, taken in seconds.items())
            print(f"  {scheme}: {spent[scheme]:.0f} s ({parts})", flush=True)
            if scheme == "quantize(int8)":
                layer = measured["embeddings"].details["layers"][0]
                chance = {("embeddings", metric): layer[f"chance_{metric}"] for metric in SHUFFLED}
                chance["saliency", "mean_iou"] = measured["saliency"].metrics["chance_iou"]
                chance["smooth_grad", "mean_iou"] = measured["smooth_grad"].metrics["chance_iou"]
                chance["saliency", "corrected_iou"] = 0.0
                chance["saliency", "rank_correlation"] = 0.0
                chance["saliency", "top_fraction_iou"] = 0.1 / 1.9
        order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(0))
        classes = reference.predictions
        within = torch.empty_like(order)
        within[classes.argsort(stable=True)] = order[classes[order].argsort(stable=True)]
        for kind, moved in UNPAIRED.items():
            compare, settings = pairs[kind]
            unpaired = observe(model, (data[0][order if moved == "anywhere" else within], data[1]))
            # comparisons refuse data that holds other examples, which is the point here
            with mock.patch("cp_compress.fidelity.observing.pairing.require_same_examples"):
                found = compare(unpaired, reference, **settings).metrics
            chance |= {key: found[key[1]] for key in COLUMNS if key[0] == kind}
        rows["chance"] = chance
        equivalent = [model, folded(model)]
        equivalent.append(parse_scheme("quantize(float16)").compress(model))
        observed = [observe(one, data) for one in equivalent]
        floor = {}
        for kind, (compare, settings) in pairs.items():
            floor |= {(kind, k): v for k, v in noise_floor(observed, compare, **settings).to_json().items()}
        rows["noise floor"] = {key: floor[key]["mean"] for key in COLUMNS if key in floor}
        print("\n| measure | " + " | ".join(rows) + " |\n| --- |" + " --- |" * len(rows))
        for key in COLUMNS:
            cells = [f"{row[key]:.4g}" if isinstance(row.get(key), float) else "–" for row in rows.values()]
            print(f"| {key[0]}: {key[1]} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
