"""How many samples does a search need to find the smallest feasible density, and does what it finds hold on fresh data?

`python benchmarks/search.py simulated [CURVES] [TRIALS]`: noisy curves of accuracy over density, of which the smallest
feasible density is known in closed form: accuracy(d) = c + (a − c)·σ(k·ln(d/m)) with drawn a, k, m; it must not fall
more than 0.02 below a. Every sample adds Gaussian noise. "Fresh data" is the curve itself. With confidence, a sample
is feasible when its lower 95 % bound (1.645 standard deviations of the noise) is.

`python benchmarks/search.py resnet20 [SUBSETS] [TRIALS]`: a trained ResNet-20 under global magnitude pruning without
fine-tuning, agreement with the reference ≥ 0.95; searched on subsets of 1,000 training images, with and without 95 %
confidence. Densities are rounded to 0.005; the true smallest feasible one of each subset is that of the grid with these
steps. Fresh data are the 500 test images, judged by value. Needs CP_DATA or ../shared/data.

`python benchmarks/search.py held_out [SPLITS] [TRIALS]`: `search` itself on one half of the 500 test images, and
judged on the other half.

The first two: best-so-far after each sample (feasible, and trusted by the strategy); samples until it is within 0.02
of the true smallest density; the gap at the end; how often what was found violates the constraint on fresh data.
`gp_minimize` minimises density + 10 · violation, the best feasible sample counts.
"""

import argparse
import functools
import statistics
import sys
import warnings
from pathlib import Path

import numpy as np
import skopt
import torch

from cp_compress.search.spaces import Real, SchemeSpace
from cp_compress.search.strategies.bayesian import Bayesian
from cp_compress.search.strategies.bisection import Bisection
from cp_compress.search.strategies.drucb import DRUCB
from cp_compress.search.trials import Trial

CLOSE, PENALTY, CHANCE, TOLERANCE, NORMAL_95 = 0.02, 10.0, 0.1, 0.02, 1.645
GRID = 0.005
# how many standard deviations a sample must lie above the level; at noise 0.01 the curves leave no room for a bound
BOUNDS = {0.0: (0.0,), 0.002: (0.0, NORMAL_95), 0.01: (0.0,)}
LOWEST = {"simulated": 0.01, "resnet20": 0.2}


class Samples:
    """A function from density to margin, with what was asked of it."""

    def __init__(self, margin):
        self.margin, self.trials = margin, []

    def __call__(self, density):
        margin = self.margin(density)
        outcome = "pass" if margin >= 0 else "fail"
        trial = Trial(len(self.trials) + 1, {"density": density}, "", outcome, density, (margin,))
        self.trials.append(trial)
        return trial


def run_strategy(strategy, samples, count, seed, space):
    """Return the best density after each sample, None where there is none yet."""
    run = strategy.start(space, count, seed)
    best = []
    for _ in range(count):
        points = run.ask(1)
        if not points:
            break
        run.tell(points[0], samples(points[0]["density"]))
        feasible = [t.objective for t in samples.trials if t.feasible and run.trusts(t.point)]
        best.append(min(feasible, default=None))
    return best + best[-1:] * (count - len(best))


def run_gp_minimize(samples, count, seed, space):
    parameter = dict(space.parameters)["density"]

    def penalised(values):
        trial = samples(values[0])
        return values[0] + PENALTY * max(0.0, -trial.margin)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        skopt.gp_minimize(
            penalised, [(parameter.low, parameter.high)], n_calls=count, n_initial_points=4, random_state=seed
        )
    best = []
    for made in range(1, count + 1):
        best.append(min((t.objective for t in samples.trials[:made] if t.feasible), default=None))
    return best


def searchers(noise):
    """Return the searches that are compared, as functions of (samples, count, seed, space)."""
    strategies = [Bisection(), DRUCB(), DRUCB(gamma=0.3), Bayesian(initial=4)]
    if noise:
        strategies.insert(1, Bisection(noise=noise))
        strategies.append(Bayesian(initial=4, confidence=0.9))
    named = {
        str(strategy): lambda samples, count, seed, space, chosen=strategy: run_strategy(
            chosen, samples, count, seed, space
        )
        for strategy in strategies
    }
    return {**named, "skopt.gp_minimize": run_gp_minimize}


class Tally:
    """What many runs of one search gave."""

    def __init__(self):
        self.until, self.gaps, self.violated, self.nothing = [], [], [], 0

    def add(self, best, truth, holds):
        close = [number for number, found in enumerate(best, 1) if found is not None and abs(found - truth) <= CLOSE]
        self.until.append(close[0] if close else None)
        if best[-1] is None:
            self.nothing += 1
        else:
            self.gaps.append(best[-1] - truth)
            self.violated.append(not holds(best[-1]))

    def row(self):
        reached = sorted(number for number in self.until if number is not None)
        runs = len(self.until)
        median = sorted(number if number is not None else np.inf for number in self.until)[(runs - 1) // 2]
        middle = f"{median:.0f}" if np.isfinite(median) else "–"
        spread = f"{reached[0]}–{reached[-1]}" if reached else "–"
        gaps = np.quantile(np.abs(self.gaps), [0.5, 0.9]) if self.gaps else [np.nan, np.nan]
        share = f"{statistics.mean(self.violated):.0%}" if self.violated else "–"
        return (
            f"{len(reached):>3}/{runs:<3} {middle:>4} ({spread:>5})   {gaps[0]:.3f} / {gaps[1]:.3f}   "
            f"{share:>5}   {self.nothing}"
        )


def print_table(title, tallies):
    print(f"\n{title}")
    print(f"  {'search':<38} reached  samples (range)  |gap| p50 / p90  violated  nothing found")
    for name, tally in tallies.items():
        print(f"  {name:<38} {tally.row()}", flush=True)


def draw_curve(generator):
    """Return an accuracy curve, the level that it must keep, and the smallest density that does."""
    top, steepness = generator.uniform(0.88, 0.95), generator.uniform(2.0, 8.0)
    smallest = generator.uniform(0.05, 0.7)
    level = top - TOLERANCE
    share = (level - CHANCE) / (top - CHANCE)
    middle = smallest * ((1 - share) / share) ** (1 / steepness)

    def accuracy(density):
        return CHANCE + (top - CHANCE) / (1 + (density / middle) ** -steepness)

    assert abs(accuracy(smallest) - level) < 1e-9
    return accuracy, level, smallest


def simulate(curves, trials):
    space = SchemeSpace("prune(density={density})", density=Real(LOWEST["simulated"], 1))
    for noise in BOUNDS:
        for bound in BOUNDS[noise]:
            tallies = {}
            for seed in range(curves):
                accuracy, level, smallest = draw_curve(np.random.default_rng(seed))
                for name, search in searchers(noise).items():
                    errors = np.random.default_rng([seed, 1])

                    def margin(density, accuracy=accuracy, level=level, errors=errors, noise=noise, bound=bound):
                        return float(accuracy(density) + errors.normal(0, 1) * noise - bound * noise - level)

                    best = search(Samples(margin), trials, seed, space)
                    holds = lambda density, accuracy=accuracy, level=level: accuracy(density) >= level - 1e-12  # noqa: E731
                    tallies.setdefault(name, Tally()).add(best, smallest, holds)
            claim = "lower 95 % bounds" if bound else "point values"
            print_table(f"noise {noise}, {claim}, {curves} curves, {trials} samples", tallies)


def measure_resnet20(subsets, trials):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "cifar10"))
    import subjects

    from cp_compress.fidelity import Requirement, judge
    from cp_compress.model import Prune
    from cp_compress.search import Preserved
    from cp_compress.search.constraints import conservative_margin

    torch.set_num_threads(1)
    with np.load(subjects.data_folder() / "cifar10_subset.npz") as content:
        images, labels = torch.from_numpy(content["train_images"]), torch.from_numpy(content["train_labels"]).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    parts = [order[start : start + 1000] for start in range(0, subsets * 1000, 1000)]
    reference = subjects.network("resnet20")
    claims = [Requirement("agreement", "min", 0.95, confidence) for confidence in (None, 0.95)]
    fresh = Preserved("predictions", subjects.test_images(), claims[0])
    space = SchemeSpace("prune(density={density})", density=Real(LOWEST["resnet20"], 1))
    tallies = [{}, {}]

    def prune(steps):
        return Prune(steps * GRID).compress(reference) if steps * GRID < 1 else reference

    @functools.cache
    def holds_at(steps):
        return fresh(prune(steps), reference).passed

    def holds(density):
        return holds_at(round(density / GRID))

    for seed, part in enumerate(parts):

        @functools.cache
        def measure(steps, part=part):
            data = (images[part].float() / 255, labels[part])
            return Preserved("predictions", data, claims[0])(prune(steps), reference).measurement

        for claim, tally in zip(claims, tallies, strict=True):

            def margin(density, claim=claim, measure=measure):
                return conservative_margin(judge(measure(round(density / GRID)), [claim]))

            smallest = smallest_on_grid(margin)
            print(f"subset {seed}, {claim}: smallest feasible density {smallest:g}", flush=True)
            for name, search in searchers(0.0).items():
                best = search(Samples(margin), trials, seed, space)
                tally.setdefault(name, Tally()).add(best, smallest, holds)
    for claim, tally in zip(claims, tallies, strict=True):
        print_table(f"ResNet-20, {claim}, {subsets} subsets, {trials} samples", tally)


def smallest_on_grid(margin):
    """Return the smallest density on the grid that is feasible, and above which no coarse grid point is infeasible."""
    coarse = [round(0.05 * step, 2) for step in range(20, 3, -1)]
    last = next(density for density in coarse if margin(density) < 0)
    fine = [round(last + GRID * step, 3) for step in range(-9, 11)]
    return min(density for density in fine if margin(density) >= 0)


def measure_held_out(splits, trials):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "cifar10"))
    import subjects

    from cp_compress.fidelity import Requirement
    from cp_compress.search import Preserved, search

    torch.set_num_threads(1)
    reference, (images, labels) = subjects.network("resnet20"), subjects.test_images().tensors
    space = SchemeSpace("prune(density={density})", density=Real(LOWEST["resnet20"], 0.98))
    for confidence in (None, 0.95):
        for split in range(splits):
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(split))
            seen, fresh = order.chunk(2)
            judge = Preserved(
                "predictions", (images[seen], labels[seen]), Requirement("agreement", "min", 0.95, confidence)
            )
            found = search(
                reference,
                space,
                objective="artifact_bytes",
                constraints=judge,
                trials=trials,
                gate_data=(images[fresh], labels[fresh]),
            )
            agreement = found.gate[0].measurement.metrics["agreement"]
            size = found.trial.objective / found.reference_objective
            print(
                f"confidence {confidence}, split {split}: {found.scheme}, {size:.3f} of the bytes, "
                f"agreement {found.trial.values[0]['agreement']:.3f} searched on, {agreement:.3f} fresh",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=("simulated", "resnet20", "held_out"))
    parser.add_argument("repetitions", type=int, nargs="?")
    parser.add_argument("trials", type=int, nargs="?", default=12)
    arguments = parser.parse_args()
    print(f"scikit-optimize {skopt.__version__}, torch {torch.__version__}")
    if arguments.mode == "simulated":
        simulate(arguments.repetitions or 30, arguments.trials)
    elif arguments.mode == "held_out":
        measure_held_out(arguments.repetitions or 4, arguments.trials)
    else:
        measure_resnet20(arguments.repetitions or 4, arguments.trials)


if __name__ == "__main__":
    main()
