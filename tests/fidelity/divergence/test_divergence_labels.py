"""Which disagreements count: none for rounding, and all others whatever the scale of the logits."""

import copy

import pytest
import torch
from torch import nn

from cp_compress.base.errors import NothingComparedError
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import compare_divergence, find_divergence, observe
from cp_compress.model import parse_scheme


def scaled(model, factor):
    """The same classes from logits `factor` times as large."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.classifier[3].parameters():
            parameter.mul_(factor)
    return copied


def few_digits(count=24):
    return observe(digits_cnn(), digits()).data.select(range(count))


def test_a_model_that_gives_nothing_but_zeros_diverges():
    model, data = digits_cnn(), few_digits()
    found = compare_divergence(observe(scaled(model, 0), data), observe(model, data), epsilon=0.3)
    disagreeing = int((observe(model, data).predictions != 0).sum())
    assert disagreeing > 15
    assert found.details["already"] == disagreeing
    assert found.metrics["divergence_rate"] >= disagreeing / 24


@pytest.mark.parametrize("factor", [1e-5, 1e5])
def test_the_scale_of_the_logits_does_not_matter(factor):
    model, (seeds, _) = digits_cnn(), few_digits(12)
    candidate = parse_scheme("prune(density=0.3)").compress(model)
    plain = find_divergence(candidate, model, seeds, epsilon=0.2, restarts=1)
    other = find_divergence(scaled(candidate, factor), scaled(model, factor), seeds, epsilon=0.2, restarts=1)
    assert int(plain.found.sum()) >= 8
    assert other.found.tolist() == plain.found.tolist()
    assert not bool(find_divergence(scaled(model, factor), model, seeds, epsilon=0.2, restarts=1).found.any())


class OtherwiseInBatches(nn.Module):
    """Says something else about the first `rows` classes in a batch than alone."""

    def __init__(self, model, classes):
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, inputs):
        logits = self.model(inputs)
        turned = (logits.argmax(dim=1) < self.classes)[:, None] & torch.tensor(len(inputs) > 1)
        return torch.where(turned, -logits, logits)


def test_seeds_on_which_a_disagreement_does_not_hold_do_not_count_as_free_of_one():
    model, data = digits_cnn(), few_digits()
    low = int((observe(model, data).predictions < 4).sum())
    candidate = observe(OtherwiseInBatches(model, 4), data)
    found = compare_divergence(candidate, observe(model, data), epsilon=0.05, restarts=0)
    assert found.counts["divergence_rate"] == 24 - low
    assert any(f"{low} examples do not count" in note and "batch of one" in note for note in found.notes)
    with pytest.raises(NothingComparedError, match="24 examples do not count"):
        compare_divergence(observe(OtherwiseInBatches(model, 10), data), observe(model, data), epsilon=0.05, restarts=0)


def test_a_search_in_which_most_seeds_do_not_count_is_an_error():
    model, data = digits_cnn(), few_digits()
    low = int((observe(model, data).predictions < 7).sum())
    assert 12 < low < 24
    candidate = observe(OtherwiseInBatches(model, 7), data)
    with pytest.raises(NothingComparedError, match=f"only {24 - low} of the 24 examples count: {low} examples do not"):
        compare_divergence(candidate, observe(model, data), epsilon=0.05, restarts=0)


class Autocast(nn.Module):
    """A model in bfloat16, behind an offset, that gives logits of the dtype of its inputs."""

    def __init__(self, model, offset):
        super().__init__()
        self.model, self.offset, self.identity = model, offset, nn.Conv2d(1, 1, 1)
        with torch.no_grad():
            self.identity.weight.fill_(1)
            self.identity.bias.zero_()

    def forward(self, inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.model((self.identity(inputs) + self.offset) - self.offset)
        return logits.to(inputs.dtype)


def test_a_model_under_autocast_is_not_taken_for_its_float64_copy():
    model, data = digits_cnn(), few_digits()
    candidate = Autocast(model, 256)
    with torch.no_grad():
        differing = sum(int(candidate(one).argmax() != model(one).argmax()) for one in data[0].split(1))
    found = compare_divergence(observe(candidate, data), observe(model, data), epsilon=0.05, restarts=0)
    assert differing > 12
    assert found.details["already"] == differing
    assert found.metrics["divergence_rate"] >= differing / 24
    assert found.details["precisions"] == ("own precision", "float64")


def test_two_models_under_autocast_differ_by_their_weights_and_not_by_their_layout():
    model, (seeds, _) = digits_cnn(), few_digits(8)
    pruned = parse_scheme("prune(density=0.3)").compress(model)
    layout = copy.deepcopy(model).to(memory_format=torch.channels_last)
    found, none = (
        find_divergence(Autocast(one, 0), Autocast(model, 0), seeds, epsilon=0.2, restarts=0)
        for one in (pruned, layout)
    )
    assert int(found.found.sum()) >= 4
    assert not bool(none.found.any())


class Above(nn.Module):
    """Class 1 where the mean of the input is above 0.6, in float32 not where it is above `turned`."""

    def __init__(self, turned):
        super().__init__()
        self.turned, self.level = turned, nn.Parameter(torch.tensor(0.6))

    def forward(self, inputs):
        over = inputs.mean(dim=1) - self.level
        over = torch.where(
            (inputs.mean(dim=1) > self.turned) & torch.tensor(inputs.dtype == torch.float32), -over, over
        )
        return torch.stack([-over, over], dim=1)


def test_a_clear_answer_that_the_float64_copy_does_not_share_counts():
    found = find_divergence(Above(0.55), Above(2.0), torch.full((2, 4), 0.5), epsilon=0.2)
    assert found.precisions == ("float64", "float64")
    assert bool(found.found.all())
    assert torch.equal(found.candidate_classes, 1 - found.reference_classes)


def test_disagreements_within_rounding_are_told():
    model, data = digits_cnn(), few_digits()
    candidate = copy.deepcopy(model).to(memory_format=torch.channels_last)
    found = compare_divergence(observe(candidate, data), observe(model, data), epsilon=0.3, examples=8, restarts=2)
    assert found.metrics["divergence_rate"] == 0
    assert found.details["unconfirmed"] > 0
    assert any("no more than rounding" in note for note in found.notes)


def test_seeds_without_a_path_do_not_count():
    model, (inputs, labels) = digits_cnn(), observe(digits_cnn(), digits()).data.select(range(200))
    candidate = parse_scheme("quantize(int8)").compress(model)
    threes = (observe(model, (inputs, labels)).predictions == 3).nonzero().flatten()
    data = inputs[threes], labels[threes]
    options = {"epsilon": None, "guide": "examples", "examples": None}
    with pytest.raises(NothingComparedError, match="of another class"):
        compare_divergence(observe(candidate, data), observe(model, data), **options)


class Rounding(nn.Module):
    """A model behind a step that rounds pixels: the same answers on images, and no gradient."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return self.model((inputs * 255).round() / 255)


def test_without_a_gradient_the_search_goes_towards_other_examples_or_does_not_count():
    model, (seeds, labels) = digits_cnn(), few_digits(12)
    data = (seeds * 255).round() / 255, labels
    pruned = parse_scheme("prune(density=0.3)").compress(model)
    pair = observe(Rounding(pruned), data), observe(Rounding(model), data)
    found = compare_divergence(*pair, epsilon=None, refine=True)
    plain = compare_divergence(observe(pruned, data), observe(model, data), epsilon=None, guide="examples")
    assert found.details["asked"] == 12
    assert found.details["found"] >= plain.details["found"] - 2 >= 6
    with pytest.raises(NothingComparedError, match=r"12 examples do not count: the reference's gradient is zero"):
        compare_divergence(*pair, epsilon=1 / 255, lattice="uint8", restarts=1)


def test_a_seed_with_a_gradient_is_searched_as_if_others_had_one_too():
    class Partly(nn.Module):
        def forward(self, inputs):
            over = inputs.mean(dim=1) - 0.6
            flat = torch.where(inputs.mean(dim=1) < 0.2, over.detach(), over)
            return torch.stack([-flat, flat], dim=1)

    seeds = torch.tensor([[0.1, 0.1], [0.5, 0.5]])
    found = find_divergence(Partly(), Partly(), seeds, epsilon=0.2, restarts=0)
    assert found.asked.tolist() == [False, True]
    assert found.queries[0] == 0


class Classes(nn.Module):
    """A model that gives class numbers only, in a form."""

    def __init__(self, model, form):
        super().__init__()
        self.model, self.form = model, form

    def forward(self, inputs):
        return self.form(self.model(inputs).argmax(dim=1))


@pytest.mark.parametrize(
    "form", [lambda classes: classes, lambda classes: classes[:, None], lambda classes: classes.int()]
)
def test_a_module_may_give_classes_only(form):
    model, (seeds, _) = digits_cnn(), few_digits(12)
    pruned = parse_scheme("prune(density=0.3)").compress(model)
    by_function = find_divergence(lambda x: pruned(x).argmax(dim=1), model, seeds, epsilon=0.2, restarts=0)
    by_module = find_divergence(Classes(pruned, form), model, seeds, epsilon=0.2, restarts=0)
    assert int(by_module.found.sum()) >= 8
    assert torch.equal(by_module.found, by_function.found)
    assert bool(by_module.candidate_margins.isnan().all())
