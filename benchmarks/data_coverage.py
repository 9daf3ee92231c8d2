"""Do the statistics keep their promise? Error rates over simulated releases, and power against the number of examples.

A release is drawn with a true drop and a share of predictions that change for the better or worse (churn). At the
boundary the true drop is the margin: a claim "the drop is at most the margin" at 95 % must then be proven in at most
5 % of the releases. For classes, one of ten truly breaks the margin and the others do not drop ("worst class"), or all
lie at the margin ("each class": any of them called proven by Holm's method is an error). Power is how often a model
that does not drop at all is proven so.

Run: python benchmarks/data_coverage.py [RUNS]
"""

import functools
import sys

import numpy as np

from cp_compress.fidelity.judging.groups import LargestDrop
from cp_compress.fidelity.judging.intervals import PairedDrop
from cp_compress.fidelity.judging.paired_tests import p_value

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
CONFIDENCE, CLASSES = 0.95, 10


def draw(generator, size, drop, churn, runs, groups=1):
    gained = (churn - drop) / 2
    return generator.multinomial(size, [gained + drop, gained, 1 - churn], size=(runs, groups))[..., :2]


@functools.cache
def proven(lost, gained, size, margin):
    return p_value(lost, gained, size, margin, CONFIDENCE) <= 1 - CONFIDENCE


def proven_share(counts, size, margin):
    return float(np.mean([all(proven(int(a), int(b), size, margin) for a, b in run) for run in counts]))


def main():
    generator = np.random.default_rng(0)
    print(f"{RUNS} runs a cell; the error allowed is {1 - CONFIDENCE:.0%}\n")
    print("| n | churn | margin | wrongly proven: overall |\n| --- | --- | --- | --- |")
    for size in (100, 300, 1000, 3000):
        for churn, margin in ((0.02, 0.01), (0.1, 0.01), (0.1, 0.05)):
            share = proven_share(draw(generator, size, margin, churn, RUNS), size, margin)
            print(f"| {size} | {churn:.0%} | {margin:.0%} | {share:.2%} |", flush=True)
    print("\n| n a class | churn | margin | wrongly proven: worst class | wrongly proven: any of ten (Holm) |")
    print("| --- | --- | --- | --- | --- |")
    for size in (50, 100, 300):
        for churn, margin in ((0.1, 0.05), (0.2, 0.1)):
            bad = draw(generator, size, margin, churn, RUNS)
            fine = draw(generator, size, 0.0, churn, RUNS, CLASSES - 1)
            one = proven_share(np.concatenate([bad, fine], axis=1), size, margin)
            edge = draw(generator, size, margin, churn, RUNS, CLASSES)
            wrong = 0
            for run in edge:
                evidence = LargestDrop(tuple(PairedDrop(int(a), int(b), size) for a, b in run), tuple("abcdefghij"))
                wrong += any(group.verdict == "proven" for group in evidence.verdicts(margin, CONFIDENCE))
            print(f"| {size} | {churn:.0%} | {margin:.0%} | {one:.2%} | {wrong / RUNS:.2%} |", flush=True)
    print("\nPower: a model that does not drop, proven at 95 %\n")
    sizes = (100, 300, 1000, 3000, 10_000)
    print(
        "| churn | margin | " + " | ".join(f"n = {size}" for size in sizes) + " |\n" + "| --- " * (2 + len(sizes)) + "|"
    )
    for churn in (0.01, 0.05, 0.1):
        for margin in (0.01, 0.02, 0.05):
            runs = min(RUNS, 2000)
            cells = [proven_share(draw(generator, size, 0.0, churn, runs), size, margin) for size in sizes]
            print(f"| {churn:.0%} | {margin:.0%} | " + " | ".join(f"{cell:.0%}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
