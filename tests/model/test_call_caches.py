"""What calls leave in a model: it is not carried into candidates, and candidates that answer from it are refused."""

import copy
import math

import pytest
import torch
from torch import nn

from cp_compress import CompressionError, ObservationError, Prune, Quantize, observe
from cp_compress.base.holdings.walking import holdings_of
from cp_compress.fidelity import forget_observations
from cp_compress.model import CalibrationData, footprint, load, measure_latency, save
from cp_compress.model.copying import copy_whole

DATA = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3


class Store:
    """Where a model keeps what it has computed."""


class Sized:
    def __init__(self, size):
        self.size, self.table = size, None


class Caching(nn.Module):
    """Keeps twice its weight after the first call, in one of several ways."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(4, 3)
        self.table, self.tables, self.length, self.scale = None, {}, 0, None
        self.parts, self.grown, self.store = [None] * 2, [], Store()
        self.size, self.pair, self.sized = torch.empty(0), (), Sized(3)
        self.register_buffer("late", None)
        self.register_buffer("placed", torch.zeros(3, 4))
        self.register_buffer("is_placed", torch.zeros((), dtype=torch.bool))
        self.filled = False

    def doubled(self):
        return self.linear.weight.detach() * 2

    def forward(self, inputs):
        if self.kind == "attribute":
            if self.table is None:
                self.table = self.doubled()
            return inputs @ self.table.t()
        if self.kind == "dict":
            if "cpu" not in self.tables:
                self.tables["cpu"] = self.doubled()
            return inputs @ self.tables["cpu"].t()
        if self.kind == "length":  # as tables of positions do
            if self.length < 4:
                self.length, self.table = 4, self.doubled()
            return inputs @ self.table[:, : self.length].t()
        if self.kind == "absent":
            if not hasattr(self, "made"):
                self.made = self.doubled()
            return inputs @ self.made.t()
        if self.kind == "buffer":
            if self.late is None:
                self.late = self.doubled()
            return inputs @ self.late.t()
        if self.kind == "in place":
            if not self.filled:
                self.placed.copy_(self.doubled())
                self.filled = True
            return inputs @ self.placed.t()
        if self.kind == "in place by a buffer":
            if not self.is_placed:
                self.placed[:] = self.doubled()
                self.is_placed |= True
            return inputs @ self.placed.t()
        if self.kind == "list":
            if self.parts[0] is None:
                self.parts[0] = self.doubled()
            return inputs @ self.parts[0].t()
        if self.kind == "grown":
            if not self.grown:
                self.grown.append(self.doubled())
            return inputs @ self.grown[0].t()
        if self.kind == "empty":
            if self.size.numel() == 0:
                self.size = self.doubled()
            return inputs @ self.size.t()
        if self.kind == "tuple":
            if not self.pair:
                self.pair = (self.doubled(), 1)
            return inputs @ self.pair[0].t()
        if self.kind == "object":
            if not hasattr(self.store, "table"):
                self.store.table = self.doubled()
            return inputs @ self.store.table.t()
        if self.kind == "object of a size":
            if self.sized.table is None:
                self.sized.table = self.doubled()
            return inputs @ self.sized.table.t()
        if self.kind == "number":
            if self.scale is None:
                self.scale = float(self.linear.weight.detach().norm())
            return self.linear(inputs) / self.scale
        raise AssertionError(self.kind)


def look(model, data=DATA):
    return observe(model, data).logits


KINDS = ["attribute", "dict", "list", "grown", "empty", "tuple", "length", "absent", "buffer", "number"]
KINDS += ["in place", "in place by a buffer"]


class ByMode(nn.Module):
    """Keeps a table while it is in evaluation mode, as some vision transformers do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def train(self, mode=True):
        super().train(mode)
        if mode and hasattr(self, "table"):
            del self.table
        elif not mode:
            self.table = self.linear.weight.detach() * 2
        return self

    def forward(self, inputs):
        return inputs @ (self.linear.weight * 2 if self.training else self.table).t()


class Honest(nn.Module):
    """Attributes that look like stale caches and are none."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.mask = torch.tensor([1.0, 0.0, 1.0, 1.0])  # used as it is
        self.bias = None  # set by the user
        self.last, self.calls, self.seen = None, 0, []  # kept of the last call
        self.positions = None  # of shapes alone
        self.calibrated = None  # of the first batch
        self.register_buffer("range", torch.zeros(2))  # of the first batch too, in place
        self.register_buffer("angles", torch.zeros(4))  # of no weights

    def calibrate(self, inputs):
        self.calibrated = inputs.abs().max()

    def forward(self, inputs):
        if self.positions is None or len(self.positions) < inputs.shape[1]:
            self.positions = torch.arange(inputs.shape[1]) / math.pi
        if self.calibrated is None:
            self.calibrated = inputs.abs().max()
        if not self.range.any():
            self.range.copy_(torch.stack([inputs.min(), inputs.max()]))
            self.angles.copy_(torch.arange(4) / math.pi)
        inputs = (inputs - self.range[0]) / self.range[1] + self.angles
        given = inputs * self.mask / self.calibrated + self.positions[: inputs.shape[1]]
        if self.bias is not None:
            given = given + self.bias
        self.last = given
        self.calls += 1
        return self.linear(given)


@pytest.mark.parametrize("kind", KINDS)
def test_what_observed_calls_left_is_not_carried_into_candidates(kind, tmp_path):
    torch.manual_seed(1)
    used = Caching(kind).eval()
    unused = copy.deepcopy(used)
    reference = observe(used, DATA)
    before = reference.logits
    forget_observations()
    candidate = Prune(0.5).compress(used)
    expected = Prune(0.5).compress(unused)
    assert torch.equal(look(candidate), look(expected))
    with torch.no_grad():
        assert torch.equal(used(DATA[0]), before)  # and the model itself keeps it
    save(expected, tmp_path / "candidate.cp")
    for architecture in (used, unused):
        loaded = load(tmp_path / "candidate.cp", architecture)
        assert torch.equal(look(loaded), look(expected))


@pytest.mark.parametrize("kind", [*KINDS, "object", "object of a size"])
def test_a_candidate_that_answers_from_what_the_users_calls_left_is_refused(kind):
    torch.manual_seed(1)
    used = Caching(kind).eval()
    with torch.no_grad():
        used(DATA[0])
    for model in (Prune(0.5).compress(used), nn.Sequential(Prune(0.5).compress(used))):
        with pytest.raises(ObservationError, match="what a call of the model before compression has left there"):
            look(model)


def test_tables_of_a_mode_are_found_too():
    used = ByMode().eval()
    with pytest.raises(ObservationError, match="table holds what a call"):
        look(Prune(0.5).compress(used))
    fresh = Prune(0.5).compress(used).train().eval()
    assert torch.equal(fresh.table, fresh.linear.weight * 2)
    look(fresh)


@pytest.mark.parametrize("scheme", [Prune(0.5), Quantize("float16"), Quantize("int8", mode="dynamic")])
def test_other_attributes_raise_nothing_and_stay(scheme):
    model = Honest().eval()
    model.bias = torch.tensor([0.5, 0.0, 0.0, 0.0])
    with torch.no_grad():
        model(DATA[0])
    data = (DATA[0].half(), DATA[1]) if scheme == Quantize("float16") else DATA
    candidate = scheme.compress(model)
    calibrated = candidate.calibrated.clone()
    look(candidate, data)
    assert torch.equal(candidate.calibrated, calibrated)
    assert torch.equal(candidate.bias, model.bias)
    look(model)
    assert model.calls >= 2


class Stateful(nn.Module):
    """Adds numbers that only an extra state carries."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self._state = {"shift": shift, "by": (torch.full((3,), shift), [1, None, b"ab"])}

    def get_extra_state(self):
        return self._state

    def set_extra_state(self, state):
        self._state = state

    def forward(self, inputs):
        return self.linear(inputs) + self._state["shift"] + self._state["by"][0] * torch.arange(3)


class GivesOnly(Stateful):
    set_extra_state = nn.Module.set_extra_state

    def get_extra_state(self):
        return {"made": torch.full((3,), 7.0)}


def test_extra_states_are_given_back_or_refused(tmp_path):
    candidate = Prune(0.5).compress(Stateful(0.25))
    save(candidate, tmp_path / "candidate.cp")
    loaded = load(tmp_path / "candidate.cp", Stateful())
    assert torch.equal(loaded(DATA[0]), candidate(DATA[0]))
    assert loaded._state["by"][1] == [1, None, b"ab"]
    with pytest.raises(CompressionError, match=r"get_extra_state.*set_extra_state too"):
        save(GivesOnly(0.25), tmp_path / "other.cp")


def test_layers_with_other_settings_are_refused_by_name(tmp_path):
    def network(activation, probability=0.1, momentum=0.1, eps=1e-5):
        parts = nn.BatchNorm1d(8, eps=eps, momentum=momentum), activation, nn.Dropout(probability), nn.Linear(8, 3)
        return nn.Sequential(nn.Linear(4, 8), *parts).eval()

    candidate = Quantize("int8").compress(network(nn.ReLU()))
    save(candidate, tmp_path / "candidate.cp")
    loaded = load(tmp_path / "candidate.cp", network(nn.ReLU(inplace=True), probability=0.0, momentum=None))
    assert torch.equal(loaded(DATA[0]), candidate(DATA[0]))
    for other, named in ((network(nn.GELU()), "2 is GELU"), (network(nn.ReLU(), eps=1e-3), "1 is BatchNorm1d")):
        with pytest.raises(CompressionError, match=f"{named}.*another layer in the file"):
            load(tmp_path / "candidate.cp", other)


class Halves(torch.Tensor):
    """A tensor of two halves, whose class says what it is made of and does not copy itself."""

    @staticmethod
    def __new__(cls, left, right):
        size = (left.shape[0] + right.shape[0], left.shape[1])
        return torch.Tensor._make_wrapper_subclass(cls, size, dtype=left.dtype)

    def __init__(self, left, right):
        self.left, self.right = left, right

    def __tensor_flatten__(self):
        return ["left", "right"], None

    @staticmethod
    def __tensor_unflatten__(parts, context, size, stride):
        return Halves(parts["left"], parts["right"])

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return Halves(args[0].left, args[0].right)
        whole = [torch.cat([one.left, one.right]) if isinstance(one, Halves) else one for one in args]
        return function(*whole, **(kwargs or {}))


def test_models_with_tensors_that_do_not_copy_themselves_are_copied(tmp_path):
    model = nn.Linear(4, 3, bias=False)
    left, right = model.weight.detach().split(2)
    model.weight = nn.Parameter(Halves(left.clone(), right.clone()), requires_grad=False)
    with pytest.raises(RuntimeError, match="__deepcopy__"):
        copy.deepcopy(model)
    copied = copy_whole(model)
    assert torch.equal(copied.weight.left, model.weight.left)
    assert copied.weight.left is not model.weight.left
    save(model, tmp_path / "model.cp")
    copied.weight.left.zero_()
    assert torch.equal(load(tmp_path / "model.cp", copied).weight.left, left)


@pytest.mark.parametrize("kind", ["attribute", "dict", "absent", "buffer"])
def test_nothing_of_calls_stays_whoever_makes_them(kind):
    torch.manual_seed(1)
    used = Caching(kind).eval()
    footprint(used, DATA[0])
    observe(lambda inputs: used(inputs), DATA).logits.sum()
    candidate = Prune(0.5).compress(used)
    expected = look(candidate)
    with torch.no_grad():
        candidate.linear.weight.mul_(2)  # as training does
    forget_observations()
    assert torch.equal(look(candidate), 2 * expected)
    measure_latency(candidate, used, DATA[0], repeats=1)
    assert [part.path for part in holdings_of(candidate).hidden()] == ["size"]  # which is empty


class Calibrated(Caching):
    def forward(self, inputs):
        return self.linear(inputs) + super().forward(inputs)


def test_calibration_leaves_nothing_of_the_weights_before():
    torch.manual_seed(1)
    data = CalibrationData(DATA[0])
    candidate = Quantize("int8", "static", calibration=data).compress(Calibrated("attribute").eval())
    assert candidate.table is None
    look(candidate)


def test_what_was_put_into_a_buffer_since_its_calls_stays():
    used = Caching("in place").eval()
    look(used)
    used.placed.fill_(3.0)
    candidate = Prune(0.5).compress(used)
    assert torch.equal(candidate.placed, torch.full((3, 4), 3.0))
