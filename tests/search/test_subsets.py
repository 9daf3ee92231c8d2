"""Training on fewer examples: what is trained, what is seen of it, and the smallest part that still teaches enough."""

import pytest
import torch
from torch import nn

from cp_compress import Requirement
from cp_compress.base.digests import digest_model
from cp_compress.base.errors import InvalidArgumentError, ObservationError, TrainingError
from cp_compress.data import craig, last_layer_gradients, random_selection, select_by_score
from cp_compress.examples import DigitsCNN, digits, digits_training
from cp_compress.inputs.reading import LabeledData
from cp_compress.search import find_smallest_subset, fit, look_at_last_layer


def blobs(count=200, seed=0):
    """Return two clouds on a line, which one example of each class tells apart."""
    labels = torch.arange(count) % 2
    noise = 0.05 * torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return noise + torch.stack([2.0 * labels - 1, torch.zeros(count)], 1), labels


def linear():
    return nn.Linear(2, 2)


def test_the_same_seed_trains_the_same_network_and_weights_count():
    first, again = (fit(linear, blobs(), steps=20, seed=3) for _ in range(2))
    assert digest_model(first.model) == digest_model(again.model)
    assert digest_model(fit(linear, blobs(), steps=20, seed=4).model) != digest_model(first.model)
    even = fit(linear, blobs(), steps=20, seed=3, weights=torch.full((200,), 7.0))
    assert digest_model(even.model) == digest_model(first.model)
    # weights that leave one class out teach the other one only
    one_sided = fit(linear, blobs(), steps=60, weights=(blobs()[1] == 1).float())
    with torch.no_grad():
        assert (one_sided.model(blobs()[0]).argmax(1) == 1).all()


def test_a_weight_of_two_is_an_example_twice():
    inputs, labels = blobs(6)
    doubled = torch.cat([inputs, inputs[:2]]), torch.cat([labels, labels[:2]])

    def plain(parameters):
        return torch.optim.SGD(parameters, lr=0.1)

    weights = torch.tensor([2.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    found = fit(linear, (inputs, labels), steps=5, weights=weights, optimizer=plain).model
    # the mean of all at once: 8 examples there, 6 of weight 8 / 6 on average here
    expected = fit(linear, doubled, steps=5, optimizer=plain).model
    assert torch.allclose(found.weight, expected.weight, atol=1e-6)
    assert torch.allclose(found.bias, expected.bias, atol=1e-6)


class Keyword(nn.Module):
    """A network that gives its last layer the input by name."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, inputs):
        return self.last(input=self.first(inputs).tanh())


def test_the_last_layer_may_be_given_its_input_by_name():
    network = Keyword()
    with torch.no_grad():
        expected = network.first(blobs()[0]).tanh()
    assert torch.equal(look_at_last_layer(network, blobs()).embeddings, expected)


def test_seeds_may_be_any_whole_numbers_in_a_row():
    def run(seeds, steps=60):
        choose, requirement = lambda count: random_selection(200, count), "agreement >= 0.1"
        return find_smallest_subset(
            linear, blobs(), choose, blobs(seed=1), requirement, steps=steps, trials=1, seeds=seeds
        )

    expected = str(run((0, 1)))
    assert all(str(run(seeds)) == expected for seeds in (torch.tensor([0, 1]), range(2)))
    for seeds in (torch.tensor(0), 3, "01", (0.5,), torch.tensor([])):
        with pytest.raises(InvalidArgumentError, match=r"seeds=.*at least one seed, whole numbers"):
            run(seeds)


class Headed(nn.Module):
    """A frozen body with statistics and whole numbers, and a head that is trained."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.BatchNorm1d(2), nn.Linear(2, 2)
        self.body.eval().requires_grad_(False)
        self.order = nn.Parameter(torch.tensor([1, 0]), requires_grad=False)

    def forward(self, inputs):
        return self.head(self.body(inputs)[:, self.order])


def test_what_is_frozen_stays_frozen():
    inputs, labels = blobs()
    found = fit(Headed, (inputs, labels), steps=20, seed=3).model
    assert {name for name, value in found.named_parameters() if value.requires_grad} == {"head.weight", "head.bias"}
    for name, value in Headed().body.state_dict().items():
        assert torch.equal(found.body.state_dict()[name], value), name
    # the norm that does nothing, to its epsilon, written out
    head = fit(linear, (inputs[:, [1, 0]] / (1 + 1e-5) ** 0.5, labels), steps=20, seed=3).model
    assert torch.allclose(found.head.weight, head.weight, atol=1e-5)
    with pytest.raises(InvalidArgumentError, match="requires gradients"):
        fit(lambda: linear().requires_grad_(False), blobs(), steps=1)


class Uncopied(nn.Linear):
    """A network that holds what cannot be copied."""

    def __deepcopy__(self, memo):
        raise RuntimeError("no copies")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_networks_that_cannot_be_copied_are_refused():
    with pytest.raises(InvalidArgumentError, match=r"make_model=.*of a ScriptModule can neither be copied"):
        fit(lambda: torch.jit.script(linear()), blobs(), steps=1)
    with pytest.raises(InvalidArgumentError, match=r"Uncopied.*no copies"):
        fit(lambda: Uncopied(2, 2), blobs(), steps=1)


def test_the_history_says_what_was_right():
    found = fit(linear, blobs(), steps=40, batch_size=50, history=True)
    assert found.correct.shape == (10, 200)
    assert found.correct[-1].all()
    with torch.no_grad():
        assert torch.equal(found.correct[-1], found.model(blobs()[0]).argmax(1) == blobs()[1])
    assert fit(linear, blobs(), steps=3).correct.shape == (0, 200)


def test_training_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    fit(linear, blobs(), steps=2)
    assert torch.equal(torch.rand(2), expected)


class ByKeyword(nn.Module):
    """A model that calls its last layer by keyword."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model.classifier[-1](input=self.model.classifier[:-1](self.model.features(images)))


def test_the_last_layer_is_what_the_network_decides_by():
    model = DigitsCNN().eval()
    found = look_at_last_layer(model, digits(), batch_size=100)
    images, labels = LabeledData(digits()).select(range(600))
    with torch.no_grad():
        embeddings = model.classifier[:-1](model.features(images))
        probabilities = model(images).softmax(1)
    assert torch.allclose(found.embeddings, embeddings, atol=1e-5)
    assert torch.allclose(found.probabilities, probabilities, atol=1e-6)
    assert torch.equal(found.labels, labels)
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ObservationError, match="not the outputs of a linear layer"):
        look_at_last_layer(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), blobs())
    assert torch.equal(look_at_last_layer(ByKeyword(model), digits(), batch_size=100).embeddings, found.embeddings)
    negative = nn.Linear(2, 2)
    nn.init.zeros_(negative.weight)
    nn.init.constant_(negative.bias, -1)
    with pytest.raises(ObservationError, match="not the outputs of a linear layer"):  # also when it overwrites them
        look_at_last_layer(nn.Sequential(negative, nn.LeakyReLU(inplace=True)), blobs())


def test_the_smallest_part_is_found():
    def choose(count):
        return select_by_score(blobs()[0][:, 0].abs(), count, labels=blobs()[1])

    requirement = Requirement("agreement", "min", 0.99)
    found = find_smallest_subset(linear, blobs(), choose, blobs(seed=1), requirement, steps=60, trials=6)
    assert len(found.selection) == 2  # one of each class
    assert [trial.outcome for trial in found.trials] == ["pass"]
    # the first 41 labels are wrong: only a part with as many others teaches what all teach
    inputs, labels = blobs()[0], torch.where(torch.arange(200) > 40, blobs()[1], 1 - blobs()[1])
    late = find_smallest_subset(
        linear,
        (inputs, labels),
        lambda count: select_by_score(-torch.arange(200.0), count),
        blobs(seed=1),
        requirement,
        steps=60,
        trials=6,
        smallest=4,
        seeds=(0, 1),
    )
    assert 40 < len(late.selection) < 120
    assert len(late.trials) == 6
    assert all(len(trial.checks) == 2 for trial in late.trials)
    failed = [len(trial.selection) for trial in late.trials if trial.outcome != "pass"]
    assert failed
    assert max(failed) < len(late.selection)
    assert f"{len(late.selection)} of 200" in str(late)


def test_where_no_part_is_enough_that_is_said():
    requirement = Requirement("agreement", "min", 1.0, confidence=0.95)  # no sample proves a share of 1
    found = find_smallest_subset(
        linear,
        blobs(),
        lambda count: random_selection(blobs()[1], count),
        blobs(seed=1),
        requirement,
        steps=60,
        trials=3,
    )
    assert found.selection is None
    assert "no smaller part passed" in str(found)
    assert {trial.outcome for trial in found.trials} == {"inconclusive"}


def test_craig_on_the_digits_keeps_most_of_the_behaviour():
    data = digits_training()
    early = fit(DigitsCNN, data, steps=38).model
    seen = look_at_last_layer(early, data)
    gradients = last_layer_gradients(seen.probabilities, seen.labels)
    kept = craig(gradients, 240, labels=seen.labels)
    assert torch.bincount(seen.labels[kept.indices]).min() >= 20
    found = find_smallest_subset(
        DigitsCNN,
        data,
        lambda count: craig(gradients, count, labels=seen.labels),
        digits(),
        Requirement("agreement", "min", 0.8),
        steps=100,
        smallest=240,
        trials=1,
    )
    assert len(found.selection) == 240


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 1, "weights": torch.ones(3)}, r"\(200,\)"),
        ({"steps": 1, "weights": -torch.ones(200)}, "not negative"),
        ({"steps": 1, "batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments_of_training_are_refused(arguments, rule):
    with pytest.raises(InvalidArgumentError, match=rule):
        fit(linear, blobs(), **arguments)


def test_networks_and_losses_that_are_none_are_told():
    with pytest.raises(InvalidArgumentError, match="without arguments"):
        fit(linear(), blobs(), steps=1)
    with pytest.raises(TrainingError, match="step 1"):
        fit(linear, (torch.full((4, 2), float("nan")), torch.zeros(4, dtype=torch.int64)), steps=1)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"requirements": []}, "at least one Requirement"),
        ({"choose": 3}, "function of a number"),
        ({"choose": lambda count: random_selection(200, 7)}, "Selection of"),
        ({"trials": 0}, "trials"),
        ({"seeds": ()}, "at least one seed"),
        ({"smallest": 200}, "1…199"),
    ],
)
def test_bad_arguments_of_the_search_are_refused(changed, rule):
    given = {
        "choose": lambda count: random_selection(blobs()[1], count),
        "judged_on": blobs(seed=1),
        "requirements": Requirement("agreement", "min", 0.9),
        "steps": 2,
        **changed,
    }
    with pytest.raises(InvalidArgumentError, match=rule):
        find_smallest_subset(linear, blobs(), given.pop("choose"), **given)


def test_a_network_of_the_callers_is_not_trained():
    mine = linear()
    before = digest_model(mine)
    fit(lambda: mine, blobs(), steps=5)
    assert digest_model(mine) == before
    requirement, choose = Requirement("agreement", "min", 0.5), lambda count: random_selection(200, count)
    with pytest.raises(InvalidArgumentError, match="must return a new network"):
        find_smallest_subset(lambda: mine, blobs(), choose, blobs(seed=1), requirement, steps=2)


def test_a_text_is_a_requirement_too():
    given = (linear, blobs(), lambda count: random_selection(blobs()[1], count), blobs(seed=1))
    found = find_smallest_subset(*given, "agreement >= 0.5", steps=60, trials=1)
    (check,) = found.trials[0].checks
    assert check.results[0].requirement == Requirement("agreement", "min", 0.5, confidence=0.95)
    with pytest.raises(InvalidArgumentError, match="at least one Requirement"):
        find_smallest_subset(*given, [3], steps=2)


def test_judging_on_what_was_trained_on_must_be_asked_for():
    given = (linear, blobs(), lambda count: random_selection(blobs()[1], count), blobs(), "agreement >= 0.5")
    with pytest.raises(InvalidArgumentError, match=r"judged_on=.*200 of its examples.*allow_shared_examples"):
        find_smallest_subset(*given, steps=2)
    assert find_smallest_subset(*given, steps=2, trials=1, allow_shared_examples=True).trials
