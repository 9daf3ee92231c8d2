"""Adaptation to decoded data: what it gains and costs, its exact laws, going on after a stop, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cp_compress.base.errors import CompressionError, InvalidArgumentError, NoEffectError, ObservationError
from cp_compress.data import JPEG, ZFP, CompressedDataset
from cp_compress.examples import digits, digits_cnn, digits_training
from cp_compress.fidelity import minibatch_cka
from cp_compress.model import Prune, Quantize, compression_steps
from cp_compress.search import PreserveAgreement, PreserveAttribution, PreserveEmbedding, adapt

TRAINING, TEST = digits_training(), digits()
CODEC = JPEG(3)


@pytest.fixture(scope="module")
def stored():
    return CompressedDataset(TRAINING, CODEC), CompressedDataset(TEST, CODEC)


@pytest.fixture(scope="module")
def adapted(stored):
    model = digits_cnn()
    return adapt(model, model, stored[0], TRAINING, validation=(stored[1], TEST), epochs=3)


class Linear(nn.Module):
    """A model without randomness or statistics, so that one step has a closed form."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.linear = nn.Linear(6, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, inputs):
        return self.linear(inputs)


def pair(count=20, seed=0, noise=0.5, classes=3):
    generator = torch.Generator().manual_seed(seed)
    originals = torch.randn(count, 6, generator=generator)
    decoded = originals + noise * torch.randn(count, 6, generator=generator)
    labels = torch.arange(count) % classes
    return (decoded, labels), (originals, labels)


def plain_descent(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def constant(optimizer, steps):
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=steps)


def adapt_linear(model, **settings):
    decoded, originals = pair()
    given = {"validation": pair(seed=1), "epochs": 1, "batch_size": 20, "optimizer": plain_descent}
    return adapt(model, Linear(1), decoded, originals, schedule=constant, **(given | settings))


def divergence(logits, wanted, temperature):
    """Return the mean of Σ p·(log p − log q) · T², written out."""
    p, q = ((values / temperature).softmax(1) for values in (wanted, logits))
    return (p * (p.log() - q.log())).sum(1).mean() * temperature**2


def test_what_is_gained_on_decoded_data_and_paid_on_clean_data_is_measured(adapted, stored):
    before, after = adapted.decoded.before.metrics, adapted.decoded.after.metrics
    assert after["accuracy"] > before["accuracy"] + 0.1
    model = digits_cnn()
    for measured, data, candidate in (
        (adapted.decoded.before, stored[1], model),
        (adapted.decoded.after, stored[1], adapted.model),
        (adapted.clean.before, TEST, model),
        (adapted.clean.after, TEST, adapted.model),
    ):
        images = torch.stack([data[index][0] for index in range(len(data))])
        with torch.no_grad():
            found = candidate(images).argmax(1)
            wanted = model(TEST.tensors[0]).argmax(1)
        assert measured.metrics["accuracy"] == pytest.approx(float((found == TEST.tensors[1]).double().mean()))
        assert measured.metrics["agreement"] == pytest.approx(float((found == wanted).double().mean()))
    assert adapted.clean.before.metrics["agreement"] == 1
    assert adapted.clean.after.metrics["agreement"] < 1
    assert "clean: accuracy" in str(adapted)
    assert adapted.to_json()["clean"]["after"]["metrics"] == dict(adapted.clean.after.metrics)


def test_the_step_is_recorded_and_the_model_given_is_untouched(stored):
    model = digits_cnn().train()
    before = copy.deepcopy(model.state_dict())
    with torch.random.fork_rng():
        torch.manual_seed(5)
        random = torch.get_rng_state()
        found = adapt(model, model, stored[0], TRAINING, validation=(stored[1], TEST), epochs=1, seed=3).model
        assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert found.training
    assert all(parameter.requires_grad for parameter in found.parameters())
    text = "adapt(epochs=1, temperature=2, seed=3, examples=1197, data='jpeg(quality=3)')"
    assert compression_steps(found) == (text,)
    assert compression_steps(model) == ()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("clean_weight", [0.0, 0.5])
def test_one_step_is_the_gradient_step_of_the_written_loss(temperature, clean_weight):
    found = adapt_linear(Linear(0), temperature=temperature, clean_weight=clean_weight)
    (decoded, _), (originals, _) = pair()
    model, wanted = Linear(0), Linear(1)(originals).detach()
    loss = divergence(model(decoded), wanted, temperature)
    loss = loss + clean_weight * divergence(model(originals), wanted, temperature)
    loss.backward()
    for name, parameter in model.named_parameters():
        moved = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(found.model.get_parameter(name).detach(), moved)
    assert found.history[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)


def test_terms_compare_decoded_inputs_with_the_reference_on_the_originals():
    terms = [
        PreserveAgreement(at_most=10, temperature=1),
        PreserveEmbedding(at_most=0.9, layer="linear"),
        PreserveAttribution(at_most=0.9),
    ]
    row = adapt_linear(Linear(0), preserve=terms).history[0]
    (decoded, _), (originals, _) = pair()
    model, reference = Linear(0), Linear(1)
    mine, theirs = model(decoded).detach(), reference(originals).detach()
    assert row["PreserveAgreement"] == pytest.approx(float(divergence(mine, theirs, 1.0)), rel=1e-5)
    assert row["PreserveEmbedding(linear)"] == pytest.approx(1 - minibatch_cka(mine, theirs), rel=1e-4)
    classes = theirs.argmax(1)  # a linear model's gradient is the row of its class
    maps = [F.normalize(each.linear.weight.detach()[classes], p=1, dim=1) for each in (model, reference)]
    assert row["PreserveAttribution"] == pytest.approx(float((maps[0] - maps[1]).abs().sum(1).mean() / 2), rel=1e-4)


def test_attributions_of_the_reference_are_those_on_the_originals():
    class Squared(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, inputs):  # its gradient at the input is the input, twice
            return self.scale * torch.stack([inputs.square().sum(1), inputs.sum(1) * 0], 1)

    decoded, originals = pair()
    found = adapt(
        Squared(),
        Squared(),
        decoded,
        originals,
        validation=pair(seed=1, classes=2),
        epochs=1,
        batch_size=20,
        preserve=[PreserveAttribution(at_most=0.5)],
        optimizer=plain_descent,
        schedule=constant,
    )
    maps = [F.normalize(values, p=1, dim=1) for values in (decoded[0], originals[0])]
    expected = float((maps[0] - maps[1]).abs().sum(1).mean() / 2)
    assert expected > 0.1
    assert found.history[0]["PreserveAttribution"] == pytest.approx(expected, rel=1e-4)


def test_clean_weight_keeps_clean_behaviour(stored):
    model = digits_cnn()
    settings = {"validation": (stored[1], TEST), "epochs": 2, "batch_size": 32}
    careless, careful = (
        adapt(model, model, stored[0], TRAINING, clean_weight=weight, **settings) for weight in (0.0, 2.0)
    )
    assert careful.clean.after.metrics["agreement"] > careless.clean.after.metrics["agreement"]
    assert "clean_weight=2" in compression_steps(careful.model)[0]


def test_zeros_of_a_pruned_candidate_stay(stored):
    reference = digits_cnn()
    candidate = Prune(0.2).compress(reference)
    found = adapt(candidate, reference, stored[0], TRAINING, validation=(stored[1], TEST), epochs=1).model
    weights = [value for name, value in candidate.named_parameters() if value.ndim > 1]
    after = [value for name, value in found.named_parameters() if value.ndim > 1]
    assert all(bool((new[old == 0] == 0).all()) for old, new in zip(weights, after, strict=True))
    assert any(not torch.equal(new, old) for old, new in zip(weights, after, strict=True))
    assert compression_steps(found)[0] == "prune(density=0.2)"
    assert compression_steps(found)[1].startswith("adapt(epochs=1,")


class Interrupted(Exception):
    """Stands for the end of the process."""


def test_a_stopped_run_goes_on_to_the_same_model(stored, tmp_path, monkeypatch):
    model = digits_cnn()
    settings = {"validation": (stored[1], TEST), "epochs": 2, "batch_size": 128}
    whole = adapt(model, model, stored[0], TRAINING, **settings)
    decode, calls = CompressedDataset.__getitems__, {"left": 50}

    def stopping(self, indices):
        calls["left"] -= 1
        if calls["left"] == 0:
            raise Interrupted
        return decode(self, indices)

    monkeypatch.setattr(CompressedDataset, "__getitems__", stopping)
    path = tmp_path / "adapt.pt"
    with pytest.raises(Interrupted):
        adapt(model, model, stored[0], TRAINING, checkpoint=path, **settings)
    monkeypatch.undo()
    assert path.exists()
    again = adapt(model, model, stored[0], TRAINING, checkpoint=path, **settings)
    assert again.history == whole.history
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    with pytest.raises(InvalidArgumentError, match=r"adapt\(checkpoint=.*another seed"):
        adapt(model, model, stored[0], TRAINING, checkpoint=path, seed=1, **settings)


def test_a_checkpoint_knows_what_was_frozen(tmp_path):
    first, other = Linear(0), Linear(0)
    first.linear.weight.requires_grad_(False)
    other.linear.bias.requires_grad_(False)
    path = tmp_path / "adapt.pt"
    found = adapt_linear(first, checkpoint=path).model
    assert torch.equal(found.linear.weight, first.linear.weight)
    assert torch.equal(adapt_linear(first, checkpoint=path).model.linear.bias, found.linear.bias)
    for model in (other, Linear(0)):
        with pytest.raises(InvalidArgumentError, match="another set of frozen parameters"):
            adapt_linear(model, checkpoint=path)


class Normed(nn.Module):
    """Two norms with statistics, of which tests freeze one."""

    def __init__(self):
        super().__init__()
        self.norm, self.free, self.linear = nn.BatchNorm1d(6), nn.BatchNorm1d(6), Linear(0).linear

    def forward(self, inputs):
        return self.linear(self.free(self.norm(inputs) + 1))


@pytest.mark.parametrize("training", [False, True])
def test_frozen_layers_in_evaluation_mode_keep_their_statistics(training, tmp_path):
    model = Normed().train(training)
    model.norm.eval().requires_grad_(False)
    for _ in range(2):  # the second time from the checkpoint
        found = adapt_linear(model, checkpoint=tmp_path / "adapt.pt", epochs=2).model
        assert torch.equal(found.norm.running_mean, torch.zeros(6))
        assert torch.equal(found.norm.running_var, torch.ones(6))
        assert not torch.equal(found.free.running_mean, torch.zeros(6))
        assert [module.training for module in found.modules()] == [module.training for module in model.modules()]
    model.norm.train()
    assert not torch.equal(adapt_linear(model).model.norm.running_mean, torch.zeros(6))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripted_models_and_terms_without_gradients_are_refused():
    scripted = torch.jit.script(Linear(0))
    with pytest.raises(InvalidArgumentError, match=r"adapt\(model=.*of a ScriptModule can neither"):
        adapt_linear(scripted)
    decoded, originals = (((part * 40 + 120).byte(), labels) for part, labels in pair())
    with pytest.raises(InvalidArgumentError, match=r"adapt\(reference=.*of a ScriptModule can neither"):
        adapt(Linear(0), scripted, decoded, originals, validation=pair(seed=1))
    with pytest.raises(InvalidArgumentError, match=r"adapt\(preserve=.*torch\.uint8, not floating point"):
        adapt(Linear(0), Linear(1), decoded, originals, validation=pair(seed=1), preserve=[PreserveAttribution(0.1)])


class AnyArguments(torch.optim.lr_scheduler.ConstantLR):
    """A schedule whose step passes on whatever it is given."""

    def step(self, *args, **kwargs):
        return super().step(*args, **kwargs)


def test_a_schedule_may_take_any_arguments():
    decoded, originals = pair()
    given = {"validation": pair(seed=1), "epochs": 1, "batch_size": 20, "optimizer": plain_descent}
    found = adapt(
        Linear(0), Linear(1), decoded, originals, schedule=lambda made, steps: AnyArguments(made, 1.0), **given
    )
    assert torch.equal(found.model.linear.weight, adapt_linear(Linear(0)).model.linear.weight)


def test_training_pairs_need_no_true_labels():
    (decoded, _), (originals, _) = pair()
    unknown = torch.full((20,), -1)
    labelled = adapt_linear(Linear(0)).model.state_dict()
    settings = {"validation": pair(seed=1), "epochs": 1, "batch_size": 20, "schedule": constant}
    found = adapt(Linear(0), Linear(1), (decoded, unknown), (originals, unknown), optimizer=plain_descent, **settings)
    assert all(torch.equal(value, labelled[name]) for name, value in found.model.state_dict().items())
    originals[3, 0] = float("nan")
    with pytest.raises(ObservationError, match="first at example #3"):
        adapt(Linear(0), Linear(1), (decoded, unknown), (originals, unknown), **settings)


def test_rounded_models_are_refused_with_the_way_round_it():
    reference = Linear(0)
    for scheme in (Quantize("int8"), Quantize("float16"), Quantize("bfloat16", mode="dynamic")):
        with pytest.raises(CompressionError, match="round the result"):
            adapt_linear(scheme.compress(reference))


def test_data_that_is_not_of_the_same_examples_is_refused():
    decoded, originals = pair()
    model, validation = Linear(0), pair(seed=1)

    def start(first, second, judged=validation):
        return adapt(model, model, first, second, validation=judged)

    with pytest.raises(ObservationError, match="decoded holds 19 examples, originals 20"):
        start((decoded[0][:-1], decoded[1][:-1]), originals)
    with pytest.raises(ObservationError, match="different labels at example #"):
        start((decoded[0], decoded[1].flip(0)), originals)
    with pytest.raises(ObservationError, match="one shape and dtype"):
        start((decoded[0].double(), decoded[1]), originals)
    with pytest.raises(NoEffectError, match="nothing to adapt to"):
        start(originals, tuple(part.clone() for part in originals))
    with pytest.raises(InvalidArgumentError, match=r"20 of its examples .* are trained on"):
        start(decoded, originals, (decoded, originals))
    with pytest.raises(InvalidArgumentError, match="pair of data sets"):
        start(decoded, originals, decoded[0])


def test_pairs_that_are_mixed_up_within_a_class_are_refused(stored):
    model, (images, labels) = digits_cnn(), TRAINING.tensors
    order = torch.arange(len(labels))
    for label in range(10):
        places = (labels == label).nonzero()[:, 0]
        order[places] = places.roll(1)
    mixed = JPEG(30).roundtrip(images)[order], labels
    with pytest.raises(ObservationError, match="not the same examples in the same order"):
        adapt(model, model, mixed, TRAINING, validation=(stored[1], TEST), epochs=1)


def test_decoded_data_and_originals_in_the_wrong_order_are_refused(stored):
    model = digits_cnn()
    with pytest.raises(
        InvalidArgumentError, match=r"adapt\(originals='CompressedDataset'\): .*jpeg\(quality=3\).*order"
    ):
        adapt(model, model, stored[0], TRAINING, validation=(TEST, stored[1]), epochs=1)


def test_decoded_data_that_resembles_nothing_is_known_by_its_codec():
    model, codec = digits_cnn(), ZFP(precision=2, layout="2d")
    seen, judged = (CompressedDataset(data, codec) for data in (TRAINING, TEST))
    assert adapt(model, model, seen, TRAINING, validation=(judged, TEST), epochs=1).history


def test_decoded_data_of_which_nothing_is_left_is_taken():
    (_, labels), originals = pair()
    flat = torch.full((20, 6), 0.1), labels
    found = adapt(Linear(0), Linear(1), flat, originals, validation=pair(seed=1), epochs=1, batch_size=20)
    assert len(found.history) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, r"adapt\(epochs=0\)"),
        ({"batch_size": 0}, r"adapt\(batch_size=0\)"),
        ({"temperature": 0}, r"adapt\(temperature=0\)"),
        ({"clean_weight": -1}, r"adapt\(clean_weight=-1\)"),
        ({"multiplier_rate": 0}, r"adapt\(multiplier_rate=0\)"),
        ({"seed": -1}, r"adapt\(seed=-1\)"),
        ({"precision": "int8"}, r"adapt\(precision='int8'\)"),
        ({"preserve": [PreserveAgreement]}, r"adapt\(preserve="),
        ({"optimizer": 0.1}, r"adapt\(optimizer=0.1\)"),
        ({"device": "nonsense"}, "nonsense"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        adapt_linear(Linear(0), **arguments)
    with pytest.raises(InvalidArgumentError, match=r"adapt\(model='function'\)"):
        adapt_linear(lambda inputs: inputs)
    with pytest.raises(InvalidArgumentError, match="all are frozen"):
        adapt_linear(Linear(0).requires_grad_(False))
    with pytest.raises(ObservationError, match="no layer 'body'"):
        adapt_linear(Linear(0), preserve=[PreserveEmbedding(at_most=0.1, layer="body")])
