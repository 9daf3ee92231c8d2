"""A device refuses what CUDA refuses, be it there or pretended, and so finds what only a device finds."""

import copy
import inspect
import textwrap

import pretended
import pytest
import torch
from torch import nn

import cp_compress.model.structure.recurrent
import cp_compress.model.tracing
import cp_compress.training.loop
from cp_compress.base.devices import keeping_random_state
from cp_compress.data.zfp.planes import Setting
from cp_compress.data.zfp.requantise import requantise_stepwise
from cp_compress.model import StructurePrune
from cp_compress.search import train_compressed

pytestmark = pytest.mark.gpu


def one(device, *shape):
    return torch.ones(shape or (2, 3), device=device)


def places(*indices):
    return torch.tensor(indices)


REFUSED = {
    "a sum": lambda gpu: one(gpu) + torch.ones(2, 3),
    "a sum with a number that lies on the device": lambda gpu: torch.ones(2, 3) + one(gpu)[0, 0],
    "a sum in place": lambda gpu: torch.ones(2, 3).add_(one(gpu)),
    "a product": lambda gpu: one(gpu) @ torch.ones(3, 2),
    "a convolution": lambda gpu: nn.functional.conv1d(one(gpu, 1, 2, 3), torch.ones(1, 2, 1)),
    "a layer": lambda gpu: nn.Linear(3, 2)(one(gpu)),
    "joined": lambda gpu: torch.cat([one(gpu), torch.ones(2, 3)]),
    "chosen": lambda gpu: torch.where(one(gpu) > 0, one(gpu), torch.ones(2, 3)),
    "an index that is selected": lambda gpu: one(gpu).index_select(0, places(0)),
    "an index that is gathered": lambda gpu: one(gpu).gather(1, torch.zeros(2, 1, dtype=torch.int64)),
    "an index that is scattered": lambda gpu: one(gpu).scatter(1, torch.zeros(2, 1, dtype=torch.int64), 2.0),
    "an embedded index": lambda gpu: nn.functional.embedding(places(0), one(gpu)),
    "labels of a loss": lambda gpu: nn.functional.cross_entropy(one(gpu), places(0, 1)),
    "an index on the device of a tensor that is not": lambda gpu: torch.ones(3)[places(0).to(gpu)],
    "values written": lambda gpu: one(gpu).index_put_((places(0).to(gpu),), torch.ones(1, 3)),
    "a search among values": lambda gpu: torch.searchsorted(torch.arange(3.0), one(gpu)),
    "a generator": lambda gpu: torch.rand(2, device=gpu, generator=torch.Generator()),
    "a generator in place": lambda gpu: one(gpu).normal_(generator=torch.Generator()),
    "numpy": lambda gpu: one(gpu).numpy(),
    "a product of integers": lambda gpu: one(gpu).long() @ one(gpu).long().T,
    "a small product of bytes": lambda gpu: torch._int_mm(one(gpu, 8, 8).char(), one(gpu, 8, 8).char()),
}
ALLOWED = {
    "a number of the CPU": lambda gpu: one(gpu) + torch.tensor(2.0),
    "a number that masks": lambda gpu: one(gpu).masked_fill(one(gpu) > 0, torch.tensor(2.0)),
    "an index of the CPU": lambda gpu: one(gpu)[places(0, 1)],
    "an index of the CPU that is written": lambda gpu: one(gpu).index_put((places(0),), torch.tensor(5.0)),
    "a mask of the CPU": lambda gpu: one(gpu)[places(1, 0).bool()],
    "a copy": lambda gpu: one(gpu).copy_(torch.zeros(2, 3)),
    "a copy to the CPU": lambda gpu: torch.zeros(2, 3).copy_(one(gpu)),
    "lists": lambda gpu: torch.tensor(one(gpu).tolist(), device=gpu),
    "a generator": lambda gpu: torch.rand(2, device=gpu, generator=torch.Generator(gpu).manual_seed(1)).shape,
    "a context": lambda gpu: _made_within(gpu),
    "larger outputs": lambda gpu: torch.add(one(gpu), 1, out=torch.empty(0, device=gpu)),
    "a shifted integer": lambda gpu: one(gpu).int() << 2,
    "a product of bytes": lambda gpu: torch._int_mm(one(gpu, 24, 16).char(), one(gpu, 16, 8).char()),
    "sorted": lambda gpu: torch.sort(-torch.arange(4.0, device=gpu)),
    "a view written to": lambda gpu: _written_to(one(gpu)),
}
WAITING = {
    "an item": lambda gpu, values: values[0].item(),
    "a condition": lambda gpu, values: bool(values[0] > 0),
    "a list": lambda gpu, values: values.tolist(),
    "a copy": lambda gpu, values: values.cpu(),
    "a mask": lambda gpu, values: values[values > 0],
    "nonzero": lambda gpu, values: values.nonzero(),
}


def _made_within(device):
    with torch.device(device):
        return torch.full((2,), 3.0)


def _written_to(values):
    values[:, 1].fill_(7.0)
    values.T[2].mul_(2)
    return values


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_device_refuses(gpu, name):
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        REFUSED[name](gpu)


@pytest.mark.parametrize("name", ALLOWED)
def test_what_a_device_allows(gpu, name):
    found, expected = (ALLOWED[name](torch.device(place)) for place in (gpu, "cpu"))
    torch.testing.assert_close(found, expected, check_device=False)


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_for_a_device(gpu, name):
    values = one(gpu, 3)
    WAITING[name](gpu, values)
    with pretended.no_waiting(gpu), pytest.raises(RuntimeError):
        WAITING[name](gpu, values)


def test_an_operator_without_a_kernel_is_refused(gpu):
    if gpu.type != "cuda" and not torch.backends.cuda.is_built():
        pytest.skip("this torch does not know what CUDA has")
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.histogram(one(gpu), 3)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.Conv2d])
def test_a_step_of_training_is_the_cpus(gpu, kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (
            nn.LSTM(3, 4, 2, bidirectional=True)
            if kind is nn.LSTM
            else nn.Sequential(
                nn.Conv2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 3, 2), nn.GELU(), nn.Dropout(0.0)
            )
        )
        inputs = torch.randn((5, 2, 3) if kind is nn.LSTM else (3, 2, 7, 7))
    there = copy.deepcopy(model).to(gpu)
    for network, batch in ((model, inputs), (there, inputs.to(gpu))):
        optimizer = torch.optim.Adam(network.parameters())
        output = network(batch)
        (output[0] if kind is nn.LSTM else output).square().mean().backward()
        optimizer.step()
    for name, tensor in there.state_dict().items():
        assert tensor.device.type == gpu.type
        torch.testing.assert_close(tensor.cpu(), model.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_modules_that_share_a_parameter_share_it_there(gpu):
    pair = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2, bias=False)])
    pair[1].weight = pair[0].weight
    pair.to(gpu)
    assert pair[1].weight is pair[0].weight
    assert pair.cpu()[1].weight is pair[0].weight


def test_under_autocast_products_are_coarse_and_losses_are_not(gpu):
    inputs, labels = one(gpu).requires_grad_(), places(0, 1).to(gpu)
    layer = nn.Linear(3, 3).to(gpu)
    with torch.autocast(gpu.type, torch.bfloat16):
        output = layer(inputs)
        loss = nn.functional.cross_entropy(output, labels)
    loss.backward()
    assert (output.dtype, loss.dtype, layer.weight.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def test_random_states_of_the_device_are_kept(gpu):
    first, second = (torch.Generator(gpu).manual_seed(7) for _ in range(2))
    assert torch.equal(torch.rand(3, device=gpu, generator=first), torch.rand(3, device=gpu, generator=second))
    module = torch.get_device_module(gpu)
    module.manual_seed(1)
    expected = torch.rand(3, device=gpu)
    module.manual_seed(1)
    with keeping_random_state():
        torch.manual_seed(5)
        torch.rand(3, device=gpu)
    assert torch.equal(torch.rand(3, device=gpu), expected)


def test_zfp_on_a_device_waits_for_nothing(gpu):
    batch, setting = torch.rand(2, 3, 8, 8).to(gpu), Setting(precision=9)
    requantise_stepwise(batch, setting)  # what is made once a process is made
    with pretended.no_waiting(gpu):
        requantise_stepwise(batch, setting)


def train(device):
    data = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3
    train_compressed(nn.Sequential(nn.Linear(4, 3)), "prune(density=0.5)", data, steps=1, batch_size=8, device=device)


def look_at_a_run(device):
    StructurePrune(0.5).compress(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).to(device))


def remove_units(device):
    cp_compress.model.structure.recurrent.remove_hidden_units(nn.LSTM(2, 4).to(device), {1})


PLANTED = {
    "labels stay behind": (
        cp_compress.training.loop.Loop,
        "_read",
        "labels.to(self.task.device)",
        "labels",
        train,
    ),
    "a generator of another device": (
        cp_compress.model.tracing,
        "_random_batch",
        "generator=generator).to(device, dtype)",
        "generator=generator, device=device, dtype=dtype)",
        look_at_a_run,
    ),
    "an index that stays behind": (
        cp_compress.model.structure.recurrent,
        "remove_hidden_units",
        'device=getattr(layer, f"weight_hh{suffix}").device',
        "device='cpu'",
        remove_units,
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_found_there_and_nowhere_else(gpu, monkeypatch, name):
    owner, function, right, wrong, use = PLANTED[name]
    use(gpu)
    source = textwrap.dedent(inspect.getsource(getattr(owner, function)))
    assert right in source
    space = dict(vars(inspect.getmodule(getattr(owner, function))))
    exec(source.replace(right, wrong), space)
    monkeypatch.setattr(owner, function, space[function])
    use(torch.device("cpu"))
    with pytest.raises(Exception, match=r"same device|generator|device type"):
        use(gpu)
