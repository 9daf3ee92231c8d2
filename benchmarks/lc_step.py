"""One C step of learning-compression at the size of ResNet-50: ours against Condensa's.

    git clone https://github.com/NVlabs/condensa FOLDER
    python benchmarks/lc_step.py [--condensa FOLDER] [--rounds 5] [--profile]

One process, one thread, in turns. Each side makes three C steps with global magnitude pruning to density 0.02, on the
same random weights of one scale, which change between the steps; timed is the third, with multipliers that are not
zero. Condensa's `LC.compress` runs as it is: the clock starts where it calls `eval` on the model and stops where it
calls `reset_state` on the optimiser. It keeps a copy of the compressed model within that, so its time is given with
and without. Extra memory is the growth of the process's peak during the third step, in a process of its own. The
floor is the time to copy every weight, measured in the same round.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import copy
import cProfile
import logging
import pstats
import subprocess
import sys
import time
import types
from pathlib import Path

import torch
from global_pruning import copy_seconds, memory_now, spread
from torch import nn
from torchvision.models import resnet50

from cp_compress import Prune
from cp_compress.training.methods import LC
from cp_compress.training.stages import LCStage, Subject

DENSITY, MU, GROWTH, STEPS = 0.02, 0.1, 2.0, 3


class Clock:
    """The CPU time, or the peak of memory, of the last C step."""

    def __init__(self, memory=False, profile=None):
        self.memory, self.profile = memory, profile
        self.seconds = self.copying = self.extra_bytes = self.projected = 0

    def start(self):
        if self.memory:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
            self.held = memory_now("VmRSS")
        if self.profile:
            self.profile.enable()
        self.begun = time.process_time()

    def stop(self):
        self.seconds = time.process_time() - self.begun
        if self.profile:
            self.profile.disable()
        if self.memory:
            self.extra_bytes = memory_now("VmHWM") - self.held


class Network(nn.Module):
    """ResNet-50 with a forward pass that costs nothing, for only C steps are of interest."""

    clock = None

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = resnet50()
        for parameter in self.network.parameters():
            if parameter.dim() > 1:  # one scale for all layers: ours refuses to leave a layer without weights
                nn.init.normal_(parameter, std=0.05)

    def forward(self, inputs):
        return self.network.fc.bias.sum()

    def eval(self):
        if Network.clock:
            Network.clock.start()
        return super().eval()


@torch.no_grad()
def train(model, step):
    """Stand in for training: the same noise on both sides."""
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))


def ours(model, clock):
    method = LC(mu=MU, growth=GROWTH, every=1)
    stage = LCStage(method, Subject(model, model, Prune(DENSITY)), STEPS * 2)
    for step in range(STEPS):
        if step:
            train(model, step)
        clock.start()
        stage.compress()
        clock.stop()
    return stage.targets, stage.multipliers


def import_condensa(folder):
    # its set-up writes this module
    sys.modules["condensa.version"] = types.ModuleType("condensa.version")
    sys.modules["condensa.version"].__version__ = "0.5.0-beta"
    sys.path.insert(0, str(folder))
    import condensa
    from condensa.opt.lc.lc import LC as Engine

    logging.getLogger("condensa").setLevel(logging.ERROR)
    return condensa, Engine


def theirs(model, clock, folder):
    condensa, engine_type = import_condensa(folder)
    scheme = condensa.schemes.Prune(DENSITY)
    seen = {}

    class Optimizer:
        def __init__(self, model, lr):
            self.model, self.steps, self.begun = model, 0, False

        def zero_grad(self):
            pass

        def reset_state(self):
            if self.begun:
                clock.stop()
            self.begun = True

        def step(self, learning_rate, mu, theta, multipliers):
            self.steps += 1
            seen["multipliers"] = multipliers
            train(self.model, self.steps)

    def pi(module):
        scheme.pi(module)
        clock.projected = time.process_time()

    def delta(module):
        clock.copying = time.process_time() - clock.projected
        seen["theta"] = module
        scheme.delta(module)

    engine = engine_type(
        steps=STEPS,
        l_optimizer=Optimizer,
        lr=0.1,
        mb_iterations_per_l=1,
        mb_iterations_first_l=1,
        mu_init=MU,
        mu_multiplier=GROWTH,
        debugging_flags={"disable_train_stats": True},
    )
    Network.clock = clock
    batches = [(torch.zeros(1), torch.zeros(1))]
    engine.compress(model, pi, delta, batches, None, None, lambda outputs, labels: outputs)
    Network.clock = None
    return (dict(seen[name].named_parameters()) for name in ("theta", "multipliers"))


def print_extra_memory(side, folder):
    clock = Clock(memory=True)
    arguments = [folder] if side == "theirs" else []
    {"ours": ours, "theirs": theirs}[side](Network(), clock, *arguments)
    print(clock.extra_bytes)


def extra_memory(side, folder):
    command = [sys.executable, __file__, "--memory", side, *(["--condensa", str(folder)] if folder else [])]
    # memory that is freed goes back at once, so that what an earlier step left does not hide what this one needs
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout.split()[-1])


def compare(mine, other):
    """Print how far both sides' targets and multipliers agree."""
    pairs = [(mine[0][name], other[0][name]) for name in mine[0]]
    different = sum(int(((a != 0) != (b != 0)).sum()) for a, b in pairs)
    kept = [sum(int((pair[side] != 0).sum()) for pair in pairs) for side in (0, 1)]
    print(f"survivors: ours {kept[0]:,}, Condensa {kept[1]:,}; chosen by one side only: {different:,}")
    for name, a, b in (("θ", mine[0], other[0]), ("λ", mine[1], other[1])):
        print(f"largest difference of {name}: {max(float((a[key] - b[key]).detach().abs().max()) for key in a):.3g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--condensa", type=Path, help="a clone of NVlabs/condensa; only ours is measured without one")
    parser.add_argument("--profile", action="store_true", help="also show where the time of our three C steps goes")
    parser.add_argument("--memory", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print_extra_memory(options.memory, options.condensa)
        return

    model = Network()
    weights = [parameter.detach() for parameter in model.parameters() if parameter.dim() > 1]
    seconds = {"ours": []} | ({"Condensa": [], "Condensa, copy apart": []} if options.condensa else {})
    copies = []
    for _ in range(options.rounds):
        copies.append(copy_seconds(weights))
        clock = Clock()
        mine = ours(copy.deepcopy(model), clock)
        seconds["ours"].append(clock.seconds)
        if options.condensa:
            clock = Clock()
            other = tuple(theirs(copy.deepcopy(model), clock, options.condensa))
            seconds["Condensa"].append(clock.seconds)
            seconds["Condensa, copy apart"].append(clock.seconds - clock.copying)

    print(f"{sum(map(torch.numel, weights)):,} weights, density {DENSITY}, one thread, {options.rounds} rounds")
    print(f"floor (every weight read and written once, by copying): {spread(copies, '.3f')} s")
    print(f"{'C step':22}{'CPU seconds [min, max]':>26}{'time / ours':>22}{'time / floor':>24}{'extra MB':>10}")
    for name, times in seconds.items():
        ratios = [time / base for time, base in zip(times, seconds["ours"], strict=True)]
        floors = [time / base for time, base in zip(times, copies, strict=True)]
        sides = {"ours": "ours", "Condensa": "theirs"}
        memory = f"{extra_memory(sides[name], options.condensa) / 1e6:.0f}" if name in sides else ""
        row = f"{name:22}{spread(times, '.3f'):>26}{spread(ratios, '.2f'):>22}{spread(floors, '.1f'):>24}"
        print(f"{row}{memory:>10}")
    if options.condensa:
        compare(mine, other)
    if options.profile:
        profile = cProfile.Profile(time.process_time)
        ours(copy.deepcopy(model), Clock(profile=profile))
        pstats.Stats(profile).sort_stats("cumtime").print_stats(30)


if __name__ == "__main__":
    main()
