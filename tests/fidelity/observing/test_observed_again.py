"""An observation is used again only where the model is known to be the same, whatever holds its weights."""

import functools

import pytest
import torch
from torch import nn

from cp_compress.fidelity import forget_observations, layer_features, observe
from cp_compress.fidelity.observing import observation

torch.manual_seed(0)
GOOD, BAD = nn.Linear(4, 3).requires_grad_(False), nn.Linear(4, 3).requires_grad_(False)
DATA = torch.randn(40, 4), torch.arange(40) % 3


class Served:
    def load(self, model):
        self.model = model

    def __call__(self, inputs):
        return self.model(inputs)

    def predict(self, inputs):
        return self.model(inputs)


class Chosen(Served):
    """Both models are held, and which of them answers is an attribute that comes after them."""

    def __init__(self):
        self.all, self.model = [GOOD, BAD], None


class Private(nn.Module):
    def load(self, model):
        self._parts = [model]

    def forward(self, inputs):
        return self._parts[0](inputs)


class Registered(Private):
    def __init__(self):
        super().__init__()
        self.first, self.second = GOOD, BAD


def handing_out(model):
    while True:
        yield model


class Hidden(Served):
    """The model is a variable of a generator, where nobody can see it."""

    def load(self, model):
        self.models = handing_out(model)

    def __call__(self, inputs):
        return next(self.models)(inputs)


HELD = [None]


def from_globals(inputs):
    return HELD[0](inputs)


def captured():
    held = [None]
    return lambda inputs: held[0](inputs), lambda model: held.__setitem__(0, model)


def of(served, call=None):
    return served if call is None else call(served), served.load


@pytest.mark.parametrize(
    ("model", "load"),
    [
        of(Served()),
        of(Chosen()),
        of(Private()),
        of(Registered()),
        of(Hidden()),
        of(Served(), lambda served: served.predict),
        of(Served(), lambda served: functools.partial(Served.predict, served)),
        (from_globals, lambda model: HELD.__setitem__(0, model)),
        captured(),
    ],
)
def test_a_model_that_was_loaded_anew_is_run_again(model, load):
    load(GOOD)
    assert torch.equal(observe(model, DATA).logits, GOOD(DATA[0]))
    load(BAD)
    assert torch.equal(observe(model, DATA).logits, BAD(DATA[0]))


def test_layers_are_read_again_too():
    class Around(Private):
        def __init__(self):
            super().__init__()
            self.head = nn.Identity()

        def forward(self, inputs):
            return self.head(super().forward(inputs))

    model = Around()
    for part in (GOOD, BAD):
        model.load(part)
        assert torch.equal(layer_features(observe(model, DATA), ["head"])["head"], part(DATA[0]))


def test_a_callable_that_reads_elsewhere_is_asked_about_the_first_examples(tmp_path):
    path, asked = tmp_path / "weights.pt", []

    def from_file(inputs):
        asked.append(len(inputs))
        return inputs @ torch.load(path)

    torch.save(torch.eye(4), path)
    seen = observe(from_file, DATA)
    assert torch.equal(seen.logits, DATA[0])
    asked.clear()
    torch.save(2 * torch.eye(4), path)
    assert torch.equal(observe(from_file, DATA).logits, 2 * DATA[0])


def test_a_model_that_says_what_it_is_is_not_asked_again():
    served, asked = Served(), []
    served.content_digest = "v1"
    served.load(lambda inputs: asked.append(len(inputs)) or GOOD(inputs))
    seen = observe(served, DATA)
    assert len(seen.logits) == 40
    assert observe(served, DATA) is seen
    assert asked == [40, 8, 8]


def test_parameters_and_buffers_alone_are_compared_by_digest_once(monkeypatch):
    forget_observations()
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    seen = observe(model, DATA)
    assert len(seen.logits) == 40
    examined = []
    monkeypatch.setattr(
        observation, "examine", lambda value, ask=observation.examine: examined.append(value) or ask(value)
    )
    assert observe(model, DATA) is seen
    assert examined == [model]
