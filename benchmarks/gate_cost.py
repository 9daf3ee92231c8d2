"""What a gate costs beyond the forward passes that no gate can do without.

All level-A checks (agreement, accuracy drops, cost under a class distance, with a confidence level) on eight
schemes, against nine bare forward passes of the same models over the same batches; in turns, in one process, in CPU
time, so that others on the machine count less.

Run: python benchmarks/gate_cost.py [ROUNDS]      (needs CP_DATA or ../shared/data)
"""

import platform
import statistics
import sys
import time
from pathlib import Path

import torch

from cp_compress import observe, parse_scheme
from cp_compress.fidelity import forget_observations
from pytest_cp import check_preserved_predictions

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "cifar10"))
import subjects

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
DENSITIES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
BATCH = 256
GROUPS = {"animals": [2, 3, 4, 5, 6, 7], "vehicles": [0, 1, 8, 9]}


def bare(models, images) -> float:
    start = time.process_time()
    with torch.no_grad():
        for model in models:
            for part in images.split(BATCH):
                model(part)
    return time.process_time() - start


def gate(reference, candidates, data) -> float:
    forget_observations()
    start = time.process_time()
    for candidate in candidates:
        for confidence in (None, 0.95):
            check_preserved_predictions(
                candidate,
                reference,
                data,
                min_agreement=0.9,
                max_accuracy_drop=0.02,
                max_class_accuracy_drop=0.1,
                max_cost=0.05,
                class_distance=GROUPS,
                confidence=confidence,
            )
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    reference, data = subjects.network("resnet20"), subjects.test_images()
    candidates = [parse_scheme(f"prune(density={density})").compress(reference) for density in DENSITIES]
    images = data.tensors[0]
    len(observe(reference, data).logits)  # reads the images once, so that no round pays for it
    ratios, floors = [], []
    for _ in range(ROUNDS):
        floors.append(bare([reference, *candidates], images))
        ratios.append(gate(reference, candidates, data) / floors[-1])
    print(f"ResNet-20, {len(images)} images, {len(candidates)} schemes, 1 thread, {ROUNDS} rounds")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    print(f"floor: {len(candidates) + 1} bare forward passes {statistics.median(floors):.2f} s")
    print(f"gate / floor: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
