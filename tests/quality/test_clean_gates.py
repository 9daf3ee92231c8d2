"""200 honest gates raise none of the errors, and none of the notes, that are for dishonest or doubtful ones."""

import copy

import pytest
import torch
from model_networks import Wrapped
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cp_compress.inputs.tasks import TaskDataset
from cp_compress.model import load, save
from pytest_cp import check_preserved_predictions
from pytest_cp.checks.recorder import Recorder
from pytest_cp.checks.records import recording

SIZES = (20, 90, 300, 700)


class Convolutions(nn.Module):
    """Two convolutions with batch normalisation, and a linear layer."""

    def __init__(self, classes):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 12, 3, stride=2), nn.Linear(12, classes)

    def forward(self, images):
        hidden = torch.relu(self.second(torch.relu(self.norm(self.first(images)))))
        return self.head(hidden.mean((2, 3)))


class Tokens(nn.Module):
    """An embedding, a transformer layer, and a linear layer at each place."""

    def __init__(self, classes):
        super().__init__()
        self.table = nn.Embedding(40, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, classes)

    def forward(self, tokens):
        return self.head(self.layer(self.table(tokens)))


class Cast(nn.Module):
    """A model in another number format, which takes and gives float32."""

    def __init__(self, model, dtype):
        super().__init__()
        self.model, self.dtype = copy.deepcopy(model).to(dtype), dtype

    def forward(self, inputs):
        return self.model(inputs.to(self.dtype) if inputs.is_floating_point() else inputs).float()


def images(count, generator):
    return torch.rand(count, 3, 8, 8, generator=generator)


def vectors(count, generator):
    return torch.randn(count, 12, generator=generator)


def tokens(count, generator):
    return torch.randint(0, 40, (count, 6), generator=generator)


def perceptron(classes):
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, classes))


MODELS = {
    "images": (Convolutions, images, 5),
    "vectors": (perceptron, vectors, 4),
    "two classes": (perceptron, vectors, 2),
    "a rare class": (perceptron, vectors, 3),
    "several labels": (perceptron, vectors, 6),
    "tokens": (Tokens, tokens, 5),
}
# each is the same function up to rounding
TWINS = {
    "float16": lambda model, folder: Cast(model, torch.float16),
    "bfloat16": lambda model, folder: Cast(model, torch.bfloat16),
    "float64": lambda model, folder: Cast(model, torch.float64),
    "channels last": lambda model, folder: Cast(model, torch.float64).to(memory_format=torch.channels_last),
    "transposed weights": lambda model, folder: with_transposed_weights(model),
    "wrapped": lambda model, folder: Cast(Wrapped(copy.deepcopy(model)), torch.float64),
    "saved": lambda model, folder: saved_and_loaded(Cast(model, torch.bfloat16), folder),
    "callable": lambda model, folder: Cast(model, torch.float64).forward,
    "folded": lambda model, folder: folded(model),
}


def with_transposed_weights(model):
    changed = copy.deepcopy(model)
    for parameter in changed.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.t().contiguous().t()
    return Cast(changed, torch.float64)


def saved_and_loaded(model, folder):
    save(model, folder / "model.cp")
    return load(folder / "model.cp", model)


def folded(model):
    changed = copy.deepcopy(model)
    if isinstance(changed, Convolutions):
        changed.first, changed.norm = fuse_conv_bn_eval(changed.first, changed.norm), nn.Identity()
        return changed
    return Cast(changed, torch.float64)


def subjects(kind, count):
    make, draw, classes = MODELS[kind]
    generator = torch.Generator().manual_seed(count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make(classes).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    inputs = draw(count, generator)
    with torch.no_grad():
        logits = model(inputs)
        places = logits.reshape(-1, classes)
        head = next(module for module in reversed(list(model.modules())) if isinstance(module, nn.Linear))
        if kind != "several labels":  # no class has all answers
            head.weight.mul_(4 / places.std(0).mean())
            head.bias.copy_(-places.mean(0) * 4 / places.std(0).mean() + head.bias * 4 / places.std(0).mean())
        if kind == "a rare class":
            head.bias[0] += 3
        logits = model(inputs)
    if kind == "several labels":
        return model, TaskDataset((inputs, (logits > 0).long()), "multi_label")
    labels = logits.argmax(-1)
    wrong = torch.rand(labels.shape, generator=generator) < 0.1
    labels = torch.where(wrong, torch.randint(0, classes, labels.shape, generator=generator), labels)
    return model, TaskDataset((inputs, labels), "sequence") if kind == "tokens" else (inputs, labels)


@pytest.fixture(autouse=True)
def _kept_out_of_this_sessions_own_summary():
    with recording(Recorder("clean gates")):
        yield


@pytest.mark.parametrize("kind", MODELS)
def test_twins_pass_without_a_doubt(kind, tmp_path):
    gates = 0
    for count in SIZES:
        model, data = subjects(kind, count)
        for name, make in TWINS.items():
            required = {"min_agreement": 0.9, "max_accuracy_drop": 0.1} if kind != "several labels" else {}
            required = required or {"min_agreement": 0.9}
            check = check_preserved_predictions(make(model, tmp_path), model, data, **required)
            assert check.passed, (name, count, check.measurement.metrics)
            doubts = [note for note in check.measurement.notes if " task: " not in note]
            assert doubts == [], (name, count)
            gates += 1
    assert gates == len(SIZES) * len(TWINS)
