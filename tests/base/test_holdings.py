"""What a model holds is found wherever it lies, counted once, digested, and named where nobody can see it."""

import copy
import ctypes
import functools
import tempfile
import threading
import types
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic

from cp_compress.base.digests import digest_model, examine, uncovered
from cp_compress.base.holdings.reach import modules_within
from cp_compress.base.holdings.walking import holdings_of
from cp_compress.model import compression_report, footprint, load, save

VARIABLE = torch.randn(6)


@dataclass
class Box:
    inner: object


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner):
        self.inner = inner


def attribute(content):
    torch.manual_seed(0)
    net = nn.Linear(2, 2)
    net.kept = content
    return net


def table(seed=0):
    return torch.randn(100, generator=torch.Generator().manual_seed(seed))


def capture(content):
    return lambda: content


PLACES = {
    "an attribute": table,
    "a list": lambda seed: [table(seed)],
    "a dict of tuples": lambda seed: {"a": (1, table(seed))},
    "a dataclass": lambda seed: Box(Box(table(seed))),
    "slots": lambda seed: Slotted(table(seed)),
    "an array": lambda seed: table(seed).numpy(),
    "a read-only array": lambda seed: np.frombuffer(table(seed).numpy().tobytes(), np.float32),
    "an array of objects": lambda seed: np.array([table(seed), None], dtype=object),
    "bytes": lambda seed: table(seed).numpy().tobytes(),
    "numbers": lambda seed: table(seed).double().tolist() * 4,
    "a closure": lambda seed: capture(table(seed)),
    "a partial": lambda seed: functools.partial(torch.add, other=table(seed)),
    "a module in a list": lambda seed: [attribute(table(seed))],
    "a quantised tensor": lambda seed: torch.quantize_per_tensor(table(seed), 0.1, 0, torch.qint32),
    "a sparse tensor": lambda seed: table(seed).to_sparse(),
    "a script object": lambda seed: torch.ops.quantized.linear_prepack(
        torch.quantize_per_tensor(table(seed).repeat(4).view(20, 20), 0.1, 0, torch.qint8), None
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.filterwarnings("ignore")
def test_content_is_counted_and_digested_wherever_it_lies(place):
    one, same, other = (attribute(PLACES[place](seed)) for seed in (0, 0, 1))
    for net in (same, other):
        net.load_state_dict(one.state_dict())
    assert digest_model(one) == digest_model(same) != digest_model(other)
    assert examine(one).state == examine(same).state
    assert footprint(one).resident_bytes >= 4 * 6 + 400
    assert footprint(one).artifact_bytes >= 400
    assert uncovered(one) == ()


def test_each_storage_counts_once_and_cycles_end():
    net = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
    own = sum(parameter.nbytes for parameter in net.parameters())
    digest, size = digest_model(net), footprint(net).artifact_bytes
    net._parent, net._again = [net], {"weight": net[0].weight, "view": net[0].weight.detach()}
    net._optimizer = torch.optim.SGD(net.parameters(), momentum=0.9)
    net._lock, net._step = threading.Lock(), 0
    assert footprint(net).resident_bytes == own
    assert (digest_model(net), uncovered(net)) == (digest, ())
    assert footprint(net).artifact_bytes <= size + 64
    tied = nn.Linear(4, 4)
    tied.weight = nn.Parameter(net[0].weight.data)
    both = nn.ModuleList([net[0], tied])
    assert footprint(both).resident_bytes == net[0].weight.nbytes + 2 * net[0].bias.nbytes
    deep = box = Box(None)
    for _ in range(1000):
        box.inner = Box(None)
        box = box.inner
    assert "nested more than 64 deep" in uncovered(attribute(deep))[0]


def test_code_that_a_call_runs_is_looked_through():
    class Reads(nn.Module):
        shared = torch.ones(3)

        def forward(self, batch):
            return batch + VARIABLE

    places = {held.path: held.place for held in holdings_of(Reads()).tensors}
    assert places == {"<forward><VARIABLE>": "captured", "<shared>": "captured"}

    class Attributes(nn.Module):
        VARIABLE = 1

        def forward(self, batch):
            return batch + self.VARIABLE

    assert not holdings_of(Attributes()).tensors  # it reads no variable of this module, but an attribute of that name
    called = nn.Linear(2, 2)
    hooked = copy.deepcopy(called)
    hooked.register_forward_hook(lambda module, args, output: output + VARIABLE[:2])
    assert len(holdings_of(hooked).tensors) == 3
    before = examine(lambda batch: called(batch))
    with torch.no_grad():
        called.weight.add_(1)
    after = examine(lambda batch: called(batch))
    assert before.digest is after.digest is None
    assert before.state != after.state
    assert before.uncovered == ()


@pytest.mark.parametrize("name", ["a pointer", "an open file", "on the device meta"])
def test_what_nobody_can_see_is_named(name, tmp_path):
    with tempfile.TemporaryFile() as file:
        made = {
            "a pointer": ctypes.pointer(ctypes.c_float(1)),
            "an open file": file,
            "on the device meta": torch.empty(3, device="meta"),
        }
        require_named(attribute([made[name]]), name, tmp_path)


def require_named(net, name, tmp_path):
    assert name in uncovered(net)[0]
    assert uncovered(net)[0].startswith("kept[0], ")
    for refused in (footprint, lambda model: save(model, tmp_path / "model.cp")):
        with pytest.raises(Exception, match=r"kept\[0\]"):
            refused(net)


@pytest.mark.filterwarnings("ignore")
def test_packed_parameters_are_counted_digested_and_not_saved(tmp_path):
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)).eval() for _ in range(2)]
    one, other = (quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8) for model in models)
    found = footprint(one)
    assert found.parameters == 64 * 64 + 64 + 5 * 64 + 5
    assert 64 * 69 + 4 * 69 <= found.artifact_bytes < footprint(models[0]).artifact_bytes / 2
    assert digest_model(one) != digest_model(other)
    assert compression_report(models[0], one).layers[0].dtype_after == "int8"
    with pytest.raises(Exception, match=r"0\._packed_params.* packed parameters"):
        save(one, tmp_path / "model.cp")


@pytest.mark.filterwarnings("ignore:Please use the new API settings to control TF32")  # by torchao
@pytest.mark.filterwarnings("ignore:Config Deprecation")  # of what older ones make by default
def test_torchao_candidates_are_models_like_others(tmp_path):
    torchao = pytest.importorskip("torchao.quantization")
    torch.manual_seed(0)
    plain = [nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 5)).eval() for _ in range(2)]
    made = [copy.deepcopy(model) for model in plain]
    for model in made:
        torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    path = tmp_path / "model.cp"
    save(made[0], path)
    again, batch = load(path, made[1]), torch.randn(7, 32)
    assert torch.equal(again(batch), made[0](batch))
    assert digest_model(again) == digest_model(made[0]) != digest_model(made[1])
    assert footprint(made[0]).artifact_bytes == path.stat().st_size < footprint(plain[0]).artifact_bytes
    assert compression_report(plain[0], made[0]).layers[0].dtype_after == "int8"
    with pytest.raises(Exception, match=r"0\.weight is a \w+Tensor in the file and a plain tensor"):
        load(path, plain[0])


def test_what_is_reached_from_a_function_is_what_it_reads():
    """An attribute that is called like a variable of the module is not that variable."""
    other, own = nn.Linear(2, 2), nn.Linear(3, 3)
    variables = {"model": other, "holder": types.SimpleNamespace(model=own)}
    exec("def by_attribute(batch): return holder.model(batch)\ndef by_name(batch): return model(batch)", variables)
    assert list(modules_within(variables["by_name"])) == [other]
    assert other not in list(modules_within(variables["by_attribute"]))
    model = own
    assert list(modules_within(lambda batch: model(batch))) == [own]
