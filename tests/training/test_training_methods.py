"""Training under compression: what each method gives, for every kind of scheme, and what its zeros and steps are."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from cp_compress.base.errors import CompressionError
from cp_compress.examples import digits_cnn, digits_training
from cp_compress.model import (
    BlockPrune,
    FilterPrune,
    FixedPoint,
    LowRank,
    NMPrune,
    Prune,
    Quantize,
    compression_steps,
    footprint,
    load,
    save,
)
from cp_compress.search import LC, Direct, Gradual, train_compressed

METHODS = (Direct(), Gradual(every=2), LC(every=2))
RAMP = torch.linspace(-1, 1, 6)


@pytest.fixture(scope="module")
def reference():
    return digits_cnn()


@pytest.fixture(scope="module")
def data():
    inputs, labels = digits_training().tensors
    return inputs[:256], labels[:256]


def train(reference, scheme, data, method, **options):
    options = {"steps": 6, "batch_size": 32} | options
    return train_compressed(reference, scheme, data, method=method, **options).model


def weights(model):
    return {name: value.detach() for name, value in model.named_parameters() if value.ndim > 1}


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("scheme", [Prune(0.1), Prune(0.1, scope="layer"), BlockPrune(0.25, (2, 3))], ids=str)
def test_the_density_is_exact_and_the_weights_were_trained(reference, data, scheme, method):
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    candidate = train(reference, scheme, data, method)
    once = scheme.compress(reference)
    assert footprint(candidate).nonzero == pytest.approx(footprint(once).nonzero, abs=60)  # biases come and go
    kept = sum(int(value.count_nonzero()) for value in weights(candidate).values())
    assert kept == sum(int(value.count_nonzero()) for value in weights(once).values())
    assert not torch.equal(candidate.classifier[1].weight, once.classifier[1].weight)
    assert compression_steps(candidate) == (str(scheme),)
    assert all(torch.equal(value, before[name]) for name, value in reference.state_dict().items())
    assert not candidate.training


def test_direct_training_keeps_the_zeros_where_compression_put_them(reference, data):
    once = weights(Prune(0.2).compress(reference))
    optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)  # noqa: E731
    after = weights(train(reference, Prune(0.2), data, Direct(), optimizer=optimizer))
    assert all(torch.equal(once[name] != 0, value != 0) for name, value in after.items())


def test_a_zeroed_filter_stays_silent_with_its_bias_and_its_norm(reference, data):
    scheme = FilterPrune(0.5, shrink=False)
    model = train(reference, scheme, data, Direct(), steps=12)
    layer, norm = model.features[3], model.features[4]
    silent = ~(layer.weight != 0).flatten(1).any(1)
    assert int(silent.sum()) == 24
    for tensor in (layer.bias, norm.weight, norm.bias):
        assert not tensor[silent].any()
    assert norm.bias[~silent].all()


@pytest.mark.parametrize(
    ("scheme", "methods"),
    [
        (NMPrune(2, 4), (Direct(), LC(every=2))),
        (LowRank(rank=6), (Direct(), LC(every=2))),
        (FilterPrune(0.5), (Direct(),)),
        (Quantize("int8"), (Direct(), LC(every=2))),
        (Quantize("int4", group_size=16), (Direct(),)),
        (Quantize("float16"), (Direct(), LC(every=2))),
        (FixedPoint(6), (Direct(),)),
        (Prune(0.2) | Quantize("int8"), METHODS),
        (LowRank(rank=6) | Quantize("int8"), (Direct(), LC(every=2))),
        (FilterPrune(0.5, shrink=False), METHODS),
    ],
    ids=lambda value: str(value) if not isinstance(value, tuple) else "",
)
def test_every_scheme_gives_what_it_says_and_can_be_stored(reference, data, scheme, methods, tmp_path):
    for method in methods:
        candidate = train(reference, scheme, data, method)
        assert compression_steps(candidate) == tuple(str(scheme).split(" | "))
        twin = scheme.compress(reference)
        assert footprint(candidate).parameters == footprint(twin).parameters
        assert {type(module).__name__ for module in candidate.modules()} == {
            type(module).__name__ for module in twin.modules()
        }
        save(candidate, tmp_path / "model.cp")
        again = load(tmp_path / "model.cp", reference)
        assert torch.equal(again(data[0][:4]), candidate(data[0][:4]))


def test_rounded_numbers_are_trained_through_the_rounding(reference, data):
    scheme = FixedPoint(4)
    once, trained = scheme.compress(reference), train(reference, scheme, data, Direct(), epochs=4, steps=None)
    with torch.no_grad():
        loss = [float(nn.functional.cross_entropy(model(data[0]), data[1])) for model in (once, trained)]
    assert loss[1] < loss[0]
    assert not torch.equal(once.classifier[1].weight, trained.classifier[1].weight)
    assert trained.classifier[1].weight.unique().numel() <= 16


def test_what_a_method_cannot_do_is_refused_before_training(reference, data):
    for scheme in (FilterPrune(0.5), LowRank(rank=4), Quantize("int8"), NMPrune()):
        with pytest.raises(CompressionError, match=r"density|shrink"):
            train(reference, scheme, data, Gradual())
    with pytest.raises(CompressionError, match="shrink=False"):
        train(reference, FilterPrune(0.5), data, LC())
    with pytest.raises(CompressionError, match="must come last"):
        train(reference, Quantize("float16") | Prune(0.5), data, Direct())


def test_a_density_that_rounding_reaches_early_is_no_error(reference, data):
    """Near the end of the curve the count of weights may not change any more: with few weights, or many changes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    for method in (Gradual(every=1), Gradual(share=1.0, every=1)):
        candidate = train(model, Prune(0.9), data, method, steps=40)
        assert int(candidate[1].weight.count_nonzero()) == 576
        assert compression_steps(candidate) == ("prune(density=0.9)",)


def test_the_density_falls_along_the_cubic_curve():
    method = Gradual(share=0.5, every=4)
    found = {step: method.progress(step, 80) for step in range(80)}
    changes = {step: share for step, share in found.items() if share is not None}
    assert list(changes) == list(range(0, 41, 4))
    for step, share in changes.items():
        assert share == pytest.approx(1 - (1 - step / 40) ** 3)
    assert Gradual(share=1.0, every=7).last_change(10) == 9


def test_the_penalty_grows_to_its_largest_weight():
    method = LC(mu=0.01, largest_mu=1.0, every=5, fine_tuning=0.5)
    found = [method.weight(compressions, 100) for compressions in range(11)]
    assert found[0] == 0.01
    assert found[9] == pytest.approx(1.0)
    ratios = [after / before for before, after in itertools.pairwise(found[:10])]
    assert ratios == pytest.approx([ratios[0]] * 9)
    assert LC(growth=2.0).weight(3, 100) == pytest.approx(0.8)


def regression(seed):
    """Return a design of correlated columns, and targets for two outputs."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(40, 6, generator=generator)
    design = base + 0.9 * base[:, :1] + 0.1 * torch.randn(40, 6, generator=generator)
    truth = torch.tensor([[0.9, 0.0, 1.0, 0.0, -0.8, 0.1], [0.7, 0.6, 0.0, 0.0, 0.3, -0.9]])
    return design, design @ truth.t() + 0.1 * torch.randn(40, 2, generator=generator)


def best_subset(design, targets, count):
    """Return the smallest squared error that any `count` of the weights reach, over all subsets."""
    best = float("inf")
    size = design.shape[1] * targets.shape[1]
    for chosen in itertools.combinations(range(size), count):
        error = 0.0
        for output in range(targets.shape[1]):
            columns = [place % design.shape[1] for place in chosen if place // design.shape[1] == output]
            part = design[:, columns]
            if columns:
                solution = torch.linalg.lstsq(part, targets[:, output : output + 1]).solution
                error += float((part @ solution - targets[:, output : output + 1]).square().sum())
            else:
                error += float(targets[:, output].square().sum())
        best = min(best, error)
    return best / targets.numel()


@pytest.mark.parametrize("seed", range(3))
def test_lc_comes_close_to_the_best_subset_of_weights(seed):
    design, targets = regression(seed)
    model = nn.Linear(6, 2, bias=False)
    model.weight.data = torch.linalg.lstsq(design, targets).solution.t().contiguous()
    options = {
        "steps": 300,
        "batch_size": 40,
        "loss": lambda outputs, rows: nn.functional.mse_loss(outputs, targets[rows]),
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
    }
    data = (design, torch.arange(40))
    best = best_subset(design, targets, 4)
    errors = {}
    for method in (Direct(), LC(mu=0.05, largest_mu=20.0)):
        found = train(model, Prune(4 / 12), data, method, **options)
        assert int(found.weight.count_nonzero()) == 4
        errors[type(method)] = float(nn.functional.mse_loss(found(design), targets).detach())
    assert min(errors.values()) >= best * (1 - 1e-4)
    assert errors[LC] <= errors[Direct] * (1 + 1e-3)
    assert errors[LC] <= best * 1.5
