"""Files keep layouts in memory, what lies outside of parameters, and refuse what does not fit."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cp_compress.base.digests import digest_model
from cp_compress.base.errors import CompressionError, CorruptStreamError
from cp_compress.model import footprint, load, save
from cp_compress.model.storage.outside import _put
from cp_compress.model.storage.packing import Packer, Unpacker, told_strides

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.complex64]


@settings(max_examples=100)
@given(st.data())
def test_strides_and_values_come_back(data):
    shape = data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 5]), max_size=5))
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    tensor = tensor.to(data.draw(st.sampled_from(DTYPES)))
    tensor = tensor.permute(data.draw(st.permutations(range(len(shape)))))
    if data.draw(st.booleans()):
        tensor = tensor[..., ::2] if tensor.ndim else tensor
    if data.draw(st.booleans()):
        tensor = tensor.expand(3, *tensor.shape)
    packer = Packer()
    entry = json.loads(json.dumps(packer.add(tensor)))
    unpacker = Unpacker(packer.arrays())
    found = unpacker.read(entry)
    unpacker.finish()
    assert found.dtype == tensor.dtype
    assert found.stride() == tensor.stride() or not tensor.numel()
    assert torch.equal(found.to(torch.complex128), tensor.to(torch.complex128))


def test_layouts_that_torch_cannot_write_keep_their_values():
    window, column = torch.arange(9.0).unfold(0, 3, 1), torch.randn(9, 5000)[:, :1]
    assert told_strides(window) is told_strides(column) is None
    with pytest.raises(CorruptStreamError, match="overlap, or leave mostly gaps"):
        Unpacker({}).read(["float32", [3, 3], "dense", 9, [1, 2**40]])


class Keeps(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(3, 4, 1).to(memory_format=torch.channels_last)
        self.layer.weight.data = torch.randn(3, 4, 1, 1).transpose(0, 1)
        self.kept = [torch.randn(3), nn.BatchNorm2d(4)]
        self.table = torch.randn(2).numpy()
        self.alias = nn.Parameter(self.layer.bias.data)

    def forward(self, batch):
        return self.kept[1](self.layer(batch)) + self.kept[0].sum() + float(self.table.sum())


def test_models_come_back_with_layouts_attributes_and_ties(tmp_path):
    path, model, other = tmp_path / "model.cp", Keeps(0).eval(), Keeps(1)
    model.kept[1].eval()
    before = digest_model(other)
    save(model, path)
    found, batch = load(path, other), torch.randn(2, 3, 5, 5)
    assert digest_model(found) == digest_model(model) != before == digest_model(other)
    assert torch.equal(found(batch), model(batch))
    assert found.layer.weight.stride() == model.layer.weight.stride()
    assert found.alias.data_ptr() == found.layer.bias.data_ptr()
    assert not found.kept[1].training
    assert footprint(model).artifact_bytes == path.stat().st_size


def test_what_lies_outside_has_to_fit(tmp_path):
    path = tmp_path / "model.cp"
    save(Keeps(0), path)
    longer, fewer, scaled = Keeps(0), Keeps(0), Keeps(0)
    longer.kept[0] = torch.randn(4)
    fewer.kept[0] = None
    factor = torch.randn(2)
    scaled.layer.register_forward_hook(lambda module, args, output, by=factor: output)
    for model, named in ((longer, r"kept\[0\] is .*\(3,\) in the file"), (fewer, r"kept\[0\] is in the file")):
        with pytest.raises(CompressionError, match=named):
            load(path, model)
    with pytest.raises(CompressionError, match=r"layer\._forward_hooks\[0\]<defaults>\[0\] is in the model"):
        load(path, scaled)


class Caches(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self._angles, self.masks = None, {}

    def forward(self, batch):
        if self._angles is None:
            self._angles = torch.arange(3.0).cos()
        self.masks.setdefault(str(batch.device), self._angles > 0)
        self.seen = batch
        return self.layer(batch * self._angles * self.masks[str(batch.device)])


@pytest.mark.parametrize("saved_after", [0, 1])
@pytest.mark.parametrize("loaded_after", [0, 1])
def test_what_calls_keep_does_not_hinder_loading(tmp_path, saved_after, loaded_after):
    path, batch = tmp_path / "model.cp", torch.randn(4, 3)
    model, architecture = Caches(), Caches()
    model.flag = architecture.flag = torch.ones(1)  # not kept by calls
    for _ in range(saved_after):
        model(batch)
    for _ in range(loaded_after):
        architecture(batch[:2])
    save(model, path)
    found = load(path, architecture)
    assert digest_model(found) == digest_model(model) or loaded_after > saved_after
    assert found.masks.keys() == model.masks.keys()
    assert torch.equal(found(batch), model(batch))


@pytest.mark.parametrize("name", ["_parameters['x']", "_modules['x']", "layer", "forward", "layer.weight", "__class__"])
def test_a_file_puts_nothing_in_the_place_of_parts_and_methods(name):
    assert not _put(Caches(), name, torch.ones(1))
