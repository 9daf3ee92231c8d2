"""Do paired drops keep their stated error? All samples of up to 300 pairs by enumeration, and more by simulation.

For each number of pairs, true drop and confidence, the samples that call a drop at the bound less (or, by symmetry, of
negative drops: more) are enumerated, and their probability is maximised over a fine grid of shares of gains. Printed is
the largest of these probabilities over the stated error; it must not exceed 1.

Run: python benchmarks/paired_error.py [LARGEST_SIZE] [RUNS]
"""

import sys

import numpy as np
from scipy import stats

from cp_compress.fidelity.judging.paired_tests import p_value

SIZES = (1, 2, 3, 5, 8, 13, 14, 20, 25, 32, 40, 52, 60, 81, 100, 133, 150, 200, 268, 300)
DROPS = (-0.3, -0.1, -0.02, 0.0, 0.01, 0.02, 0.05, 0.1, 0.3)
CONFIDENCES = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999)


def called_less(total, drop, confidence):
    """Return the most losses, -1 for none, with which each number of gains is called less than the drop."""
    most = np.full(total + 1, -1)
    for gained in range(total + 1):
        low, high = -1, total - gained + 1
        while high - low > 1:  # the p-value grows with the losses
            middle = (low + high) // 2
            if p_value(middle, gained, total, drop, confidence) <= 1 - confidence:
                low = middle
            else:
                high = middle
        most[gained] = low
    return most


def largest_error(total, drop, confidence):
    """Return the largest probability, over shares of gains, that a true drop at the bound is called less."""
    most = called_less(total, drop, confidence)
    least, last = max(0.0, -drop), (1 - drop) / 2
    shares = np.unique(np.concatenate([np.linspace(least, last, 400), least + np.geomspace(1e-6, 1, 400)]))
    shares = shares[shares <= last][:, None]
    gains = np.arange(total + 1)[None]
    lost_share = np.clip((shares + drop) / np.maximum(1 - shares, 1e-12), 0, 1)
    below = np.where(most < 0, 0.0, stats.binom.cdf(most[None], total - gains, lost_share))
    return float((stats.binom.pmf(gains, total, shares) * below).sum(axis=1).max())


def simulated_error(total, drop, share, confidence, runs, generator):
    """Return how often a true drop at the bound is called less."""
    counts = generator.multinomial(total, [share + drop, share, 1 - drop - 2 * share], size=runs)
    rows, times = np.unique(counts[:, :2], axis=0, return_counts=True)
    called = [p_value(int(lost), int(gained), total, drop, confidence) <= 1 - confidence for lost, gained in rows]
    return float(np.average(called, weights=times))


def main():
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    sizes = [size for size in SIZES if size <= largest]
    print("Largest error over the stated one, all samples enumerated, over", len(DROPS), "drops\n")
    print("| n | " + " | ".join(f"{confidence:g}" for confidence in CONFIDENCES) + " |")
    print("| --- " * (1 + len(CONFIDENCES)) + "|")
    for size in sizes:
        cells = [max(largest_error(size, drop, each) for drop in DROPS) / (1 - each) for each in CONFIDENCES]
        print(f"| {size} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)
    print(f"\nError by simulation of {runs} samples, at 95 %\n")
    print("| n | drop | gains | error |\n| --- | --- | --- | --- |")
    generator = np.random.default_rng(0)
    for size, drop, share in ((1000, 0.01, 0.0), (1000, 0.02, 0.03), (3000, 0.05, 0.02), (20_000, 0.01, 0.01)):
        error = simulated_error(size, drop, share, 0.95, runs, generator)
        print(f"| {size} | {drop:.0%} | {share:.0%} | {error:.2%} |", flush=True)


if __name__ == "__main__":
    main()
