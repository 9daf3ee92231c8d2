"""Do proposed bounds keep their promise? False alarms on fresh data, and misses of a damage of the size they name.

Models are tables of logits: of a share of examples drawn anew for each model, the prediction is another class. Bounds
are proposed from a reference and two equivalents on one data set, and then asked of a candidate on a fresh data set:
one that is as the equivalents (a broken bound is a false alarm; 5 % are stated), and one with the damage that a
proposal names (a bound that holds is a miss; 20 % are stated).

Run: python benchmarks/proposals.py [RUNS]
"""

import sys

import numpy as np
import torch

from cp_compress.fidelity import compare_predictions, observe
from cp_compress.fidelity.proposals import propose


def draw(generator, size, classes, changed, copies, small=0):
    """Return observations of a reference of accuracy 0.9 and of copies of which a share of predictions changed."""
    labels = generator.integers(0, classes - bool(small), size)
    labels[:small] = classes - 1
    reference = np.where(generator.random(size) < 0.9, labels, generator.integers(0, classes, size))
    columns = [reference]
    for share in changed if isinstance(changed, list) else [changed] * copies:
        other = (reference + generator.integers(1, classes, size)) % classes
        columns.append(np.where(generator.random(size) < share, other, reference))
    inputs = torch.tensor(np.stack(columns, axis=1))
    data = (inputs, torch.tensor(labels))
    return [
        observe(lambda batch, place=place: torch.nn.functional.one_hot(batch[:, place], classes).float() * 5, data)
        for place in range(len(columns))
    ]


def rates(runs, size, classes, churn, small=0, seed=0):
    """Return how often a proposed bound is broken on fresh data without damage, and holds with the damage named."""
    generator = np.random.default_rng(seed)
    alarms = misses = tried = 0
    for _ in range(runs):
        proposals = propose(draw(generator, size, classes, churn, 2, small), levels=["predictions"])
        options = dict(proposals[0].options) if proposals else {}
        reference, candidate = draw(generator, size, classes, churn, 1, small)
        fresh = compare_predictions(candidate, reference, **options).metrics
        alarms += any(not one.holds(fresh[one.metric]) for one in proposals)
        named = next((one for one in proposals if one.metric == "agreement" and one.found is not None), None)
        if named is not None:
            reference, damaged = draw(generator, size, classes, [1 - named.found], 1, small)
            tried += 1
            misses += named.holds(compare_predictions(damaged, reference, **options).metrics["agreement"])
    return alarms / runs, misses / max(1, tried)


def main():
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000  # of 40 runs one in eleven shows 30 % misses by chance
    print("| n | classes | churn of the noise | false alarms | misses |\n| --- | --- | --- | --- | --- |")
    cells = (
        (200, 10, 0.0, 0),
        (200, 10, 0.01, 0),
        (1000, 10, 0.002, 0),
        (1000, 10, 0.05, 0),
        (1000, 10, 0.01, 5),
    )
    for seed, (size, classes, churn, small) in enumerate(cells):  # with one seed, cells would have the same luck
        alarms, misses = rates(runs, size, classes, churn, small, seed)
        named = f"{classes}" + (f" (one of {small} examples)" if small else "")
        print(f"| {size} | {named} | {churn:.1%} | {alarms:.1%} | {misses:.1%} |", flush=True)


if __name__ == "__main__":
    main()
