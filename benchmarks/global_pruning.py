"""Global magnitude pruning of ResNet-50's 25.5 million weights to density 0.02: ours against torch and NumPy.

    python benchmarks/global_pruning.py [--rounds 5] [--density 0.02]

One process, one thread, all methods in turns. Timed is the choice of the survivors and the zeroing of the rest, on
copies made before the clock starts. Extra memory is the growth of the process's peak while one method runs, in a
process of its own. The floor is the time to read and write every weight once at the bandwidth of a copy measured in
the same round.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

from cp_compress.model.pruning.largest import zero_all_but_largest

STAGES = ((64, 256, 3), (128, 512, 4), (256, 1024, 6), (512, 2048, 3))


def resnet50_shapes():
    """The shapes of the weight matrices of ResNet-50: 53 convolutions and one linear layer."""
    shapes, inputs = [(64, 3, 7, 7)], 64
    for inner, outer, blocks in STAGES:
        for block in range(blocks):
            shapes += [(inner, inputs, 1, 1), (inner, inner, 3, 3), (outer, inner, 1, 1)]
            if block == 0:
                shapes.append((outer, inputs, 1, 1))
            inputs = outer
    return [*shapes, (1000, 2048)]


def make_weights():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in resnet50_shapes()]


def ours(weights, count):
    zero_all_but_largest(weights, count)


def torch_prune(weights, count):
    modules = []
    for weight in weights:
        module = nn.Module()
        module.weight = nn.Parameter(weight)
        modules.append((module, "weight"))
    total = sum(weight.numel() for weight in weights)
    prune.global_unstructured(modules, pruning_method=prune.L1Unstructured, amount=total - count)
    for module, name in modules:
        prune.remove(module, name)
    weights[:] = [module.weight.detach() for module, _ in modules]


def magnitudes(weights):
    return torch.cat([weight.view(-1).abs() for weight in weights])


def topk(weights, count):
    kept = torch.topk(magnitudes(weights), count, sorted=False).indices
    mask = torch.zeros(sum(weight.numel() for weight in weights), dtype=torch.bool)
    mask[kept] = True
    for weight, part in zip(weights, mask.split([weight.numel() for weight in weights]), strict=True):
        weight.view(-1).masked_fill_(~part, 0)


def zero_below(weights, threshold):
    for weight in weights:
        weight.masked_fill_(weight.abs() < threshold, 0)


def kthvalue(weights, count):
    values = magnitudes(weights)
    zero_below(weights, torch.kthvalue(values, len(values) - count + 1).values)


def numpy_partition(weights, count):
    values = magnitudes(weights).numpy()
    values.partition(len(values) - count)
    zero_below(weights, float(values[len(values) - count]))


METHODS = {
    "ours": ours,
    "numpy partition": numpy_partition,
    "torch.kthvalue": kthvalue,
    "torch.topk": topk,
    "torch.nn.utils.prune": torch_prune,
}


def copy_seconds(weights):
    targets = [torch.empty_like(weight) for weight in weights]
    for _ in range(2):  # the first pass only touches the pages
        start = time.process_time()
        for target, weight in zip(targets, weights, strict=True):
            target.copy_(weight)
        seconds = time.process_time() - start
    return seconds


def memory_now(field):
    """A line of Linux's account of this process: VmRSS (held now) or VmHWM (the most that was held), in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def print_extra_memory(name, count):
    weights = make_weights()
    METHODS[name]([torch.randn(1000)], 10)  # libraries load what they need before the measurement
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = memory_now("VmRSS")
    METHODS[name](weights, count)
    print(memory_now("VmHWM") - before)


def extra_memory(name, density):
    command = [sys.executable, __file__, "--memory", name, "--density", str(density)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def spread(values, pattern):
    return f"{statistics.median(values):{pattern}} [{min(values):{pattern}}, {max(values):{pattern}}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--density", type=float, default=0.02)
    parser.add_argument("--memory", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    total = sum(torch.Size(shape).numel() for shape in resnet50_shapes())
    count = round(options.density * total)
    if options.memory:
        print_extra_memory(options.memory, count)
        return

    weights = make_weights()
    seconds = {name: [] for name in METHODS}
    copies, survivors = [], {}
    for _ in range(options.rounds):
        copies.append(copy_seconds(weights))
        for name, method in METHODS.items():
            own = [weight.clone() for weight in weights]
            start = time.process_time()
            method(own, count)
            seconds[name].append(time.process_time() - start)
            survivors[name] = sum(int(np.count_nonzero(weight.numpy())) for weight in own)

    print(f"{total:,} weights, density {options.density}, {count:,} survivors, one thread, {options.rounds} rounds")
    print(f"floor (every weight read and written once, by copying): {spread(copies, '.3f')} s")
    print(
        f"{'method':22}{'CPU seconds [min, max]':>26}{'time / ours':>22}{'time / floor':>22}{'extra MB':>10}  survivors"
    )
    for name, times in seconds.items():
        ratios = [mine / base for mine, base in zip(times, seconds["ours"], strict=True)]
        floors = [mine / base for mine, base in zip(times, copies, strict=True)]
        memory = extra_memory(name, options.density) / 1e6
        row = f"{name:22}{spread(times, '.3f'):>26}{spread(ratios, '.2f'):>22}{spread(floors, '.1f'):>24}"
        print(f"{row}{memory:>10.0f}  {survivors[name]:,}")


if __name__ == "__main__":
    main()
