"""A training run: stopped early, spread over processes, in mixed precision, and refused."""

from __future__ import annotations

import subprocess

import pytest
import torch
from forks import python_command
from torch import nn
from training_subjects import equal, make_data, make_reference

from cp_compress.base.errors import InvalidArgumentError, NoEffectError, ObservationError, TrainingError
from cp_compress.examples import digits, digits_cnn, digits_training
from cp_compress.fidelity import Requirement
from cp_compress.inputs.reading import LabeledData
from cp_compress.model import LowRank, Prune, Quantize
from cp_compress.search import (
    LC,
    Gradual,
    PreserveAgreement,
    PreserveAttribution,
    Preserved,
    PreserveEmbedding,
    Real,
    SchemeSpace,
    search,
    train_compressed,
)

PLATEAU = torch.optim.lr_scheduler.ReduceLROnPlateau
RAMP = torch.linspace(0, 1, 3)


@pytest.fixture(scope="module")
def reference():
    return make_reference()


@pytest.fixture(scope="module")
def data():
    return make_data()


def test_a_result_says_which_constraints_hold():
    preserve = [PreserveAgreement(at_most=1e-6), PreserveAgreement(at_most=1e3), PreserveAttribution(at_most=0.99)]
    options = {"steps": 3, "batch_size": 60, "preserve": preserve}
    result = train_compressed(digits_cnn(), Prune(0.05), digits(), **options)
    assert [term.held for term in result.terms] == [False, True, True]
    assert not result.constraints_held
    assert "PreserveAgreement: " in str(result)
    assert "is NOT ≤ 1e-06" in str(result)
    inputs, _ = LabeledData(digits()).select(range(600))
    with torch.no_grad():
        mine, theirs = (model.eval()(inputs).div(2).log_softmax(1) for model in (result.model, digits_cnn()))
    divergence = 4 * (theirs.exp() * (theirs - mine)).sum(1).mean()
    assert result.terms[0].value == pytest.approx(float(divergence), rel=1e-4)
    assert result.terms[1].value == result.terms[0].value


def test_a_term_without_gradients_in_the_compressed_model_is_not_held():
    scheme = Quantize("int8", mode="dynamic")
    options = {"steps": 1, "batch_size": 60, "preserve": [PreserveAttribution(at_most=0.5)]}
    result = train_compressed(digits_cnn(), scheme, digits(), **options)
    assert not result.constraints_held or result.terms[0].value > 0


def test_attributions_of_integer_inputs_are_refused_at_once():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
    data = torch.randint(10, (8, 3)), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(InvalidArgumentError, match=r"preserve=.*torch.int64, not floating point"):
        train_compressed(model, Prune(0.5), data, steps=1, preserve=[PreserveAttribution(0.5)])


def test_learning_compression_says_at_once_that_a_scheme_changes_nothing(reference, data):
    def never(parameters):
        raise AssertionError

    with pytest.raises(NoEffectError, match="no weight of the model would become smaller"):
        train_compressed(reference, LowRank(rank=1000), data, steps=50, method=LC(), optimizer=never)


def test_the_same_seed_gives_the_same_model_and_another_one_another(reference, data):
    def run(seed):
        return train_compressed(reference, Prune(0.2), data, steps=5, batch_size=32, seed=seed).model

    assert equal(run(0), run(0))
    assert not equal(run(0), run(1))


def test_training_stops_early_and_returns_the_best_epoch(data):
    model = digits_cnn()

    def worse_and_worse(parameters):
        return torch.optim.SGD(parameters, lr=1e-3)

    def rising(optimizer, steps):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step < 5 else 300.0)

    result = train_compressed(
        model,
        Prune(0.3),
        data,
        epochs=20,
        batch_size=32,
        optimizer=worse_and_worse,
        schedule=rising,
        validation=digits(),
        monitor="loss",
        patience=2,
    )
    losses = [row["validation_loss"] for row in result.history]
    best = losses.index(min(losses))
    assert result.stopped_early
    assert len(losses) == best + 3
    assert result.best_step == result.history[best]["step"]
    inputs, labels = digits().tensors
    with torch.no_grad():
        found = float(nn.functional.cross_entropy(result.model(inputs), labels))
    assert found == pytest.approx(min(losses), rel=1e-5)


def test_before_the_density_is_reached_no_epoch_counts_as_the_best(reference, data):
    result = train_compressed(
        reference,
        Prune(0.05),
        data,
        epochs=6,
        batch_size=32,
        method=Gradual(share=0.8, every=1),
        validation=data,
        monitor="accuracy",
    )
    matrices = [value for value in result.model.parameters() if value.ndim > 1]
    assert sum(int(value.count_nonzero()) for value in matrices) == round(0.05 * sum(v.numel() for v in matrices))
    assert result.best_step >= 24


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains_in_float32_weights(reference, data, precision):
    result = train_compressed(reference, Prune(0.3), data, steps=10, batch_size=32, precision=precision)
    assert {value.dtype for value in result.model.parameters()} == {torch.float32}
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_frozen_parameters_are_compressed_and_not_trained(reference, data):
    model = make_reference()
    model.layers[1].weight.requires_grad_(False)
    result = train_compressed(model, Prune(0.2, scope="layer"), data, steps=5, batch_size=32).model
    once = Prune(0.2, scope="layer").compress(model)
    assert torch.equal(result.layers[1].weight, once.layers[1].weight)
    assert not result.layers[1].weight.requires_grad
    assert not torch.equal(result.layers[5].weight, once.layers[5].weight)
    with pytest.raises(InvalidArgumentError, match="frozen"):
        train_compressed(model.requires_grad_(False), Prune(0.2), data, steps=1)


def test_a_loss_that_is_no_number_stops_with_the_step(reference, data):
    def huge(parameters):
        return torch.optim.SGD(parameters, lr=1e30)

    with pytest.raises(TrainingError, match=r"at step [23]: training has diverged"):
        train_compressed(reference, Prune(0.3), data, steps=5, batch_size=32, optimizer=huge)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, InvalidArgumentError, "either epochs or steps"),
        ({"epochs": 1, "steps": 1}, InvalidArgumentError, "either epochs or steps"),
        ({"epochs": 0}, InvalidArgumentError, "epochs=0"),
        ({"steps": 1, "batch_size": 0}, InvalidArgumentError, "batch_size=0"),
        ({"steps": 1, "seed": -1}, InvalidArgumentError, "seed=-1"),
        ({"steps": 1, "method": Gradual}, InvalidArgumentError, "method="),
        ({"steps": 1, "precision": "int8"}, InvalidArgumentError, "precision="),
        ({"steps": 1, "monitor": "beauty"}, InvalidArgumentError, "monitor="),
        ({"steps": 1, "patience": 1}, InvalidArgumentError, "needs validation data"),
        ({"steps": 1, "preserve": [3]}, InvalidArgumentError, "preserve="),
        ({"steps": 1, "optimizer": 3}, InvalidArgumentError, "optimizer="),
        ({"steps": 1, "multiplier_rate": 0}, InvalidArgumentError, "multiplier_rate=0"),
        ({"steps": 1, "optimizer": torch.optim.LBFGS}, InvalidArgumentError, "closure"),
        ({"steps": 1, "optimizer": lambda parameters: None}, InvalidArgumentError, "optimizer="),
        (
            {"steps": 1, "optimizer": lambda _: torch.optim.SGD([nn.Parameter(RAMP)])},
            InvalidArgumentError,
            "other than",
        ),
        ({"steps": 1, "schedule": lambda optimizer, steps: None}, InvalidArgumentError, "schedule="),
        ({"steps": 1, "schedule": lambda optimizer, _: PLATEAU(optimizer)}, InvalidArgumentError, "metrics"),
        ({"steps": 1, "augment": lambda inputs, generator: None}, InvalidArgumentError, "augment="),
        ({"steps": 1, "loss": lambda logits, labels: logits}, InvalidArgumentError, "loss="),
        ({"steps": 1, "device": "banana"}, InvalidArgumentError, "device="),
        ({"steps": 1, "preserve": [PreserveAgreement]}, InvalidArgumentError, "preserve="),
        ({"steps": 1, "validation": (torch.zeros(2, 1, 8, 8), torch.tensor([0, 10]))}, ObservationError, "10 classes"),
        ({"steps": 1, "preserve": [PreserveEmbedding(0.1, layer="nowhere")]}, ObservationError, "no layer 'nowhere'"),
    ],
)
def test_bad_arguments_are_refused_before_training(reference, data, options, error, message):
    with pytest.raises(error, match=message):
        train_compressed(reference, Prune(0.3), data, **options)


def test_labels_outside_the_classes_are_named(reference, data):
    with pytest.raises(ObservationError, match="outside the model's 10 classes"):
        train_compressed(reference, Prune(0.3), (data[0], data[1] + 5), steps=3, batch_size=32)


def test_terms_of_one_kind_have_names_of_their_own_and_one_example_is_a_batch(reference, data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    terms = [PreserveAgreement(0.1), PreserveAgreement(0.2, temperature=4.0), PreserveEmbedding(0.1, layer="1")]
    result = train_compressed(model, Prune(0.3), data, steps=4, batch_size=1, preserve=terms)
    row = result.history[-1]
    assert {"PreserveAgreement", "PreserveAgreement 2", "PreserveEmbedding(1)"} <= set(row)
    assert all(value == value for value in row.values())


def test_data_without_labels_and_no_model_are_refused(reference, data):
    with pytest.raises(ObservationError, match="pair"):
        train_compressed(reference, Prune(0.3), torch.utils.data.TensorDataset(data[0]), steps=1)
    with pytest.raises(InvalidArgumentError, match="model="):
        train_compressed(lambda inputs: inputs, Prune(0.3), data, steps=1)
    with pytest.raises(InvalidArgumentError, match="scheme="):
        train_compressed(reference, 0.3, data, steps=1)


PROCESS = """
import sys, torch, torch.distributed as distributed
from torch import nn
from cp_compress.examples import digits_training
from cp_compress.model import Prune
from cp_compress.search import PreserveAgreement, train_compressed

rank, processes, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
if processes > 1:
    store = distributed.FileStore(folder + "/store", processes)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=processes)
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
inputs, labels = digits_training().tensors
result = train_compressed(
    model, Prune(0.3), (inputs[:150], labels[:150]), steps=12, batch_size=50,
    preserve=[PreserveAgreement(at_most=0.1)], checkpoint=f"{folder}/checkpoint{processes}.pt", seed=5,
)
torch.save([result.model.state_dict(), list(result.history)], f"{folder}/{processes}_{rank}.pt")
"""


def test_two_processes_train_as_one(tmp_path):
    def start(rank, processes):
        return subprocess.Popen(python_command(PROCESS, str(rank), str(processes), str(tmp_path)))

    for processes in (1, 2):
        running = [start(rank, processes) for rank in range(processes)]
        assert [process.wait(timeout=600) for process in running] == [0] * processes
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1_0", "2_0", "2_1"))
    assert all(torch.equal(value, second[0][name]) for name, value in first[0].items())
    for name, value in one[0].items():
        torch.testing.assert_close(first[0][name], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(first[0][name] != 0, value != 0)
    assert first[1][-1]["loss"] == pytest.approx(one[1][-1]["loss"], rel=1e-4)
    assert (tmp_path / "checkpoint2.pt").exists()


def test_a_search_finds_smaller_candidates_when_each_is_trained(data):
    model = digits_cnn()
    inputs, labels = digits_training().tensors
    held_out = inputs[400:800], labels[400:800]
    spec = Preserved("predictions", held_out, [Requirement("agreement", "min", 0.97)])
    space = SchemeSpace("prune(density={density})", density=Real(0.02, 1, scale="log"))

    def trained(candidate, scheme):
        return train_compressed(model, scheme, (inputs[:400], labels[:400]), epochs=3, batch_size=32).model

    options = {"objective": "parameters", "constraints": spec, "trials": 4}
    plain = search(model, space, **options)
    finished = search(model, space, finish=trained, **options)
    assert finished.trial.objective < plain.trial.objective
    assert spec(finished.best, model).passed
