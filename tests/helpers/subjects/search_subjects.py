"""A model of which the smallest feasible density is known in closed form, and trials made by hand."""

import math

import torch
from torch import nn

from cp_compress.fidelity import Requirement
from cp_compress.search import Preserved, Real, SchemeSpace, Trial, search

EXAMPLES = 64
BOUND = 0.75


def model():
    """Return a linear model (n, 64) -> (n, 2) that needs one weight of its own for each unit vector."""
    linear = nn.Linear(EXAMPLES, 2)
    with torch.no_grad():
        linear.weight[0] = 1 + torch.arange(EXAMPLES) / EXAMPLES
        linear.weight[1] = -(1 + torch.arange(EXAMPLES) / EXAMPLES) / 1000
        linear.bias.copy_(torch.tensor([0.0, 0.5]))
    return linear.eval()


def data(scale=1.0):
    """Return the unit vectors, scaled; each is predicted as class 0 as long as its weight is kept."""
    return torch.eye(EXAMPLES) * scale, torch.zeros(EXAMPLES, dtype=torch.int64)


def agreement(bound, confidence=None, dataset=None):
    requirement = Requirement("agreement", "min", bound, confidence)
    return Preserved("predictions", data() if dataset is None else dataset, [requirement])


def smallest_density(bound):
    """Return the least density at which round(density · 128) weights cover the share `bound` of the examples."""
    return (math.ceil(bound * EXAMPLES) - 0.5) / (2 * EXAMPLES)


def space(low=0.02, high=0.98):
    return SchemeSpace("prune(density={density})", density=Real(low, high))


def made(number, point, objective, margin):
    """Return a trial with one margin; None for a candidate that could not be judged."""
    outcome = "error" if margin is None else "pass" if margin >= 0 else "fail"
    return Trial(number, point, "", outcome, None if margin is None else objective, (margin,))


def drive(strategy, searched, margin, trials, *, seed=0, batch=1, objective=None):
    """Run a strategy against functions of the point; return the trials and the best that is feasible and trusted."""
    run = strategy.start(searched, trials, seed)
    tried = []
    while len(tried) < trials:
        points = run.ask(min(batch, trials - len(tried)))
        if not points:
            break
        for point in points:
            cost = objective(point) if objective else float(next(iter(point.values())))
            tried.append(made(len(tried) + 1, point, cost, margin(point)))
            run.tell(point, tried[-1])
    feasible = [trial for trial in tried if trial.feasible and run.trusts(trial.point)]
    return tried, min(feasible, key=lambda trial: trial.objective, default=None)


def find(constraints=None, **options):
    """Search the space for the smallest feasible candidate, with few words."""
    settings = {"objective": "parameters", "trials": 10, **options}
    given = settings.pop("model", None) or model()
    searched = settings.pop("space", None) or space()
    return search(given, searched, constraints=constraints or agreement(BOUND), **settings)
