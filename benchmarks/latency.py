"""What compression does to the latency of a network, measured in turns with the dense one.

    python benchmarks/latency.py [--rounds 15] [--batch 1 8]

On the CPU: ResNet-18 with random weights on 224x224 images, one thread. Where CUDA is present, also ResNet-18 and
ViT-B/16 on the GPU. Each round calls every model once after a warm-up; given are
the medians with quartiles of the wall time and of dense / candidate within a round, so above 1 is faster.
Unstructured pruning is measured to show that zeros alone gain nothing: dense kernels multiply them as well. Integers
with mode="weight" or "dynamic" save bytes and emulate the arithmetic, which costs time; `lower` is what runs integers.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time

import numpy as np
import torch
from torchvision.models import resnet18, vit_b_16

from cp_compress import (
    CalibrationData,
    LowRank,
    NMPrune,
    Prune,
    Quantize,
    StructurePrune,
    lower,
    to_semi_structured,
)
from cp_compress.base.devices import wait_for
from cp_compress.base.errors import CompressionError

SHAPE = (3, 224, 224)


def images(count, seed):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def cpu_candidates(dense):
    static = Quantize("int8", mode="static", calibration=CalibrationData(images(16, 1))).compress(dense)
    candidates = {
        # of ResNet-18 the only linear layer gives the output and stays, so this is FilterPrune as well
        "StructurePrune(0.5), shrunk": StructurePrune(0.5, example_shape=SHAPE).compress(dense),
        "StructurePrune(0.25), shrunk": StructurePrune(0.25, example_shape=SHAPE).compress(dense),
        "int8, weight": Quantize("int8").compress(dense),
        "int8, dynamic": Quantize("int8", mode="dynamic").compress(dense),
        "int8, static": static,
        "LowRank(energy=0.9)": LowRank(energy=0.9).compress(dense),
        "Prune(0.1), unstructured": Prune(0.1).compress(dense),
    }
    try:
        candidates["int8, static, lowered"] = lower(static)
    except CompressionError as error:
        print(f"int8, static, lowered: not measured ({error})")
    return candidates


def gpu_candidates(dense):
    candidates = {
        "float16": Quantize("float16", mode="dynamic").compress(dense),
        "bfloat16": Quantize("bfloat16", mode="dynamic").compress(dense),
    }
    if any(isinstance(module, torch.nn.Conv2d) for module in dense.modules()) and not hasattr(dense, "encoder"):
        candidates["StructurePrune(0.5), shrunk"] = StructurePrune(0.5, example_shape=SHAPE).compress(dense)
        candidates["StructurePrune(0.25), shrunk"] = StructurePrune(0.25, example_shape=SHAPE).compress(dense)
        return candidates
    scheme = NMPrune(2, 4) | Quantize("float16", mode="dynamic")
    try:
        candidates["2:4, float16"] = to_semi_structured(scheme.compress(dense))
    except CompressionError as error:
        print(f"2:4, float16: not measured ({error})")
    return candidates


def seconds_of(model, inputs):
    wait_for(inputs.device)
    start = time.perf_counter()
    model(inputs)
    wait_for(inputs.device)
    return time.perf_counter() - start


@torch.inference_mode()
def measure(title, models, inputs, rounds):
    """Print one table; the first model is the dense one."""
    seconds = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            taken = seconds_of(model, inputs)
            if turn:
                seconds[name].append(taken)
    dense = np.array(next(iter(seconds.values())))
    print(f"\n{title}, batch {len(inputs)}, {rounds} rounds")
    print(f"{'model':32}{'ms [quartiles]':>28}{'dense / candidate':>28}")
    for name, taken in seconds.items():
        print(f"{name:32}{quartiles(1e3 * np.array(taken), '.1f'):>28}{quartiles(dense / np.array(taken), '.2f'):>28}")


def quartiles(values, pattern):
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:{pattern}} [{low:{pattern}}, {high:{pattern}}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    dense = resnet18().eval()
    models = {"dense": dense} | {name: model.eval() for name, model in cpu_candidates(dense).items()}
    for size in options.batch:
        measure("ResNet-18 on one CPU thread", models, images(size, 2), options.rounds)
    if not torch.cuda.is_available():
        print("\nno CUDA here: 2:4, float16, bfloat16 and shrunk models on a GPU are not measured")
        return
    for title, dense in (("ResNet-18", resnet18().eval().cuda()), ("ViT-B/16", vit_b_16().eval().cuda())):
        models = {"dense": dense} | {name: model.eval() for name, model in gpu_candidates(dense).items()}
        for size in options.batch:
            where = f"{title} on {torch.cuda.get_device_name()}"
            measure(where, models, images(size, 2).cuda(), options.rounds)


if __name__ == "__main__":
    main()
