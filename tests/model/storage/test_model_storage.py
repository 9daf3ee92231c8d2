"""Stored models come back to the bit, are as small as they can be, and damage is always noticed."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest
import safetensors.numpy
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from model_networks import (
    Depthwise,
    SmallCNN,
    TiedAutoencoder,
    TinyTransformer,
    TokenLSTM,
    Waves,
    bits,
    inputs_for,
    make,
    same_bits,
)
from torch import nn

from cp_compress.base.digests import digest_model
from cp_compress.base.errors import CompressionError, CorruptStreamError
from cp_compress.model import FilterPrune, Prune, compression_report, compression_steps, load, parse_scheme, save
from cp_compress.model.storage.contents import digest_arrays
from cp_compress.model.storage.packing import Packer, Unpacker

KINDS = [SmallCNN, Depthwise, TiedAutoencoder, TokenLSTM, TinyTransformer, Waves]
SCHEMES = [
    "prune(density=0.2, scope=layer)",
    "quantize(float16)",
    "quantize(bfloat16)",
    "quantize(float16, mode=dynamic)",
    "quantize(bfloat16, mode=dynamic)",
    "prune(density=0.3, scope=layer) | quantize(float16, mode=dynamic) | quantize(int8)",
    "quantize(int8)",
    "quantize(int8, mode=dynamic)",
    "prune(density=0.3, scope=layer) | quantize(float16) | quantize(int8)",
    "prune(density=0.3, scope=layer) | quantize(int4, group_size=3)",
    "quantize(int8, group_size=4, include=('*',))",
    "quantize(int4, mode=dynamic)",
    "fixed_point(bits=6)",
    "fixed_point(bits=3, fraction_bits=5, include=('*',))",
    "quantize(float16) | fixed_point(bits=12)",
    "fixed_point(bits=12) | quantize(bfloat16)",
]
SHRINKING = [
    "filter_prune(density=0.5, shrink=False)",
    "filter_prune(density=0.5)",
    "filter_prune(density=0.5) | prune(density=0.5) | quantize(int8, mode=dynamic)",
]


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [(kind, scheme) for kind in KINDS for scheme in SCHEMES]
    + [(kind, scheme) for kind in (SmallCNN, Depthwise) for scheme in SHRINKING],
)
def test_what_is_loaded_is_what_was_saved(kind, scheme, tmp_path):
    model, inputs = make(kind), inputs_for(kind)
    model.train()
    next(iter(model.children())).eval()
    candidate = parse_scheme(scheme).compress(model)
    save(candidate, tmp_path / "model.cp")
    other = make(kind, seed=9)
    before = bits(other)
    loaded = load(tmp_path / "model.cp", other)
    assert same_bits(bits(loaded), bits(candidate))
    assert same_bits(bits(other), before)
    assert digest_model(loaded) == digest_model(candidate)
    assert [module.training for module in loaded.modules()] == [module.training for module in candidate.modules()]
    assert compression_steps(loaded) == compression_steps(candidate) == tuple(scheme.split(" | "))
    assert compression_report(model, loaded) == compression_report(model, candidate)
    assert torch.equal(loaded.eval()(inputs), candidate.eval()(inputs))


def test_a_model_that_no_scheme_made(tmp_path):
    model = make(TiedAutoencoder)
    save(model, tmp_path / "model.cp")
    loaded = load(tmp_path / "model.cp", make(TiedAutoencoder, seed=4))
    assert same_bits(bits(loaded), bits(model))
    assert loaded.first.weight is loaded.second.weight


ANY_DTYPE = [
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int64, torch.bool),
    *(torch.complex64, torch.complex128, torch.float8_e4m3fn),
]


@settings(max_examples=150)
@given(st.data())
def test_packing_keeps_every_bit(data):
    packer, tensors = Packer(), []
    for _ in range(data.draw(st.integers(1, 4))):
        dtype = data.draw(st.sampled_from(ANY_DTYPE))
        shape = data.draw(st.sampled_from([(), (0,), (1,), (17,), (3, 0, 2), (4, 9), (300,)]))
        size = torch.Size(shape).numel() * dtype.itemsize
        seed = data.draw(st.integers(0, 2**32 - 1))
        content = np.random.default_rng(seed).integers(0, 2 if dtype == torch.bool else 256, size, np.uint8)
        kept = np.random.default_rng(seed + 1).random(size) < data.draw(st.sampled_from([0, 0.01, 0.3, 1]))
        raw = torch.from_numpy(content * kept)
        tensors.append(raw.view(dtype).view(shape) if size else torch.empty(shape, dtype=dtype))
    entries = [packer.add(tensor) for tensor in tensors]
    unpacker = Unpacker(packer.arrays())
    restored = [unpacker.read(json.loads(json.dumps(entry))) for entry in entries]
    unpacker.finish()
    assert same_bits(dict(enumerate(restored)), dict(enumerate(tensors)))


def test_minus_zero_and_denormals_survive(tmp_path):
    model = nn.Linear(50, 20)
    model.weight.data.zero_()
    model.weight.data[3, 4], model.weight.data[5, 6] = -0.0, 1e-45
    save(model, tmp_path / "model.cp")
    loaded = load(tmp_path / "model.cp", nn.Linear(50, 20))
    assert same_bits(bits(loaded), bits(model))
    assert torch.signbit(loaded.weight[3, 4])


def bytes_of(model, folder):
    save(model, folder / "size.cp")
    return (folder / "size.cp").stat().st_size


def test_a_sparse_file_is_within_five_percent_of_bitmask_and_values(tmp_path):
    model = make(SmallCNN)
    model.classifier = nn.Linear(48, 300)
    model = Prune(0.1, "layer").compress(model)
    sparse = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    rest = sum(tensor.numel() * tensor.element_size() for tensor in bits(model).values())
    rest -= sum(4 * parameter.numel() for parameter in sparse)
    floor = sum(-(-parameter.numel() // 8) + 4 * int(parameter.count_nonzero()) for parameter in sparse) + rest
    total = nn.Sequential(*[nn.Linear(400, 400, bias=False) for _ in range(4)])
    total = Prune(0.1).compress(total)
    assert bytes_of(total, tmp_path) <= 1.05 * (4 * 20_000 + 4 * 16_000 * 4)
    assert bytes_of(model, tmp_path) <= floor + 2_000


def test_resnet18_at_density_a_tenth(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision.models.resnet18()
    count = sum(parameter.numel() for parameter in model.parameters())
    assert bytes_of(model, tmp_path) <= 1.01 * 4 * count
    pruned = Prune(0.1).compress(model)
    weights = [parameter for parameter in pruned.parameters() if parameter.ndim > 1]
    places = sum(-(-parameter.numel() // 8) + 4 * int(parameter.count_nonzero()) for parameter in weights)
    rest = sum(4 * tensor.numel() for tensor in bits(pruned).values() if tensor.ndim == 1)
    assert bytes_of(pruned, tmp_path) <= 1.01 * (places + rest)
    loaded = load(tmp_path / "size.cp", model)
    assert same_bits(bits(loaded), bits(pruned))


def test_very_sparse_tensors_are_stored_by_index(tmp_path):
    sparse = Prune(0.01).compress(nn.Linear(200, 200, bias=False))
    assert bytes_of(sparse, tmp_path) < 400 * (4 + 2) + 700


def test_int8_takes_a_byte_a_weight(tmp_path):
    candidate = parse_scheme("quantize(int8)").compress(nn.Linear(300, 300))
    assert bytes_of(candidate, tmp_path) < 300 * 300 + 300 * 8 + 900


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "model.cp"
    save(FilterPrune(0.5).compress(make(SmallCNN)), path)
    return path


def test_a_damaged_file_is_noticed_wherever_it_is_damaged(stored):
    content = stored.read_bytes()
    generator = np.random.default_rng(0)
    for position in [*range(0, 200, 7), *generator.integers(0, len(content), 60).tolist()]:
        broken = bytearray(content)
        broken[position] ^= 1 << int(generator.integers(0, 8))
        stored.write_bytes(broken)
        with pytest.raises(CorruptStreamError, match=r"model\.cp is damaged"):
            load(stored, make(SmallCNN))


@pytest.mark.parametrize("length", [0, 5, 8, 100, 1000, -1])
def test_a_truncated_file_is_noticed(stored, length):
    stored.write_bytes(stored.read_bytes()[:length])
    with pytest.raises(CorruptStreamError, match=r"model\.cp is damaged"):
        load(stored, make(SmallCNN))


def test_other_files_are_refused(stored):
    for content in (b"\x00" * 64, struct.pack("<Q", 2**60) + b"{}", safetensors.numpy.save({"a": np.zeros(3)})):
        stored.write_bytes(content)
        with pytest.raises(CorruptStreamError):
            load(stored, make(SmallCNN))


def forge(path, change):
    """Rewrite a file with a changed table and arrays, and a checksum that fits them."""
    arrays = safetensors.numpy.load(path.read_bytes())
    arrays.pop("sha256")
    table = json.loads(zlib.decompress(arrays.pop("table").tobytes()))
    change(table, arrays)
    arrays["table"] = np.frombuffer(zlib.compress(json.dumps(table).encode()), np.uint8)
    arrays["sha256"] = np.frombuffer(bytes.fromhex(digest_arrays(arrays)), np.uint8)
    path.write_bytes(safetensors.numpy.save(arrays))


def entry(index, place, value):
    def change(table, arrays):
        table["tensors"][index][1][place] = value

    return change


def arrangement(key, value):
    def change(table, arrays):
        table["arrangement"][key] = value

    return change


FORGERIES = {
    "huge shape": entry(0, 1, [2**40, 2**40]),
    "huge number": entry(0, 1, [2**80]),
    "another shape": entry(0, 1, [4, 3, 3, 2]),
    "negative shape": entry(0, 1, [-4, 3, 3, 3]),
    "count too large": entry(0, 3, 10**9),
    "unknown form": entry(0, 2, "zip"),
    "unknown dtype": entry(0, 0, "float3"),
    "integer weight": entry(0, 0, "int32"),
    "not an entry": lambda table, arrays: table["tensors"].__setitem__(0, 7),
    "a name twice": lambda table, arrays: table["tensors"].append(table["tensors"][0]),
    "no name": lambda table, arrays: table["tensors"][0].__setitem__(0, []),
    "an unknown name": lambda table, arrays: table["tensors"][0].__setitem__(0, ["nowhere.weight"]),
    "one tensor for two": lambda table, arrays: table["tensors"][0][0].extend(table["tensors"].pop(1)[0]),
    "a missing name": lambda table, arrays: table["tensors"].pop(),
    "no table of tensors": lambda table, arrays: table.pop("tensors"),
    "no arrangement": lambda table, arrays: table.update(arrangement=3),
    "another version": lambda table, arrays: table.update(version=99),
    "short values": lambda table, arrays: arrays.update(values32=arrays["values32"][:-1]),
    "long values": lambda table, arrays: arrays.update(values32=np.append(arrays["values32"], np.uint32(1))),
    "values missing": lambda table, arrays: arrays.pop("values32"),
    "two dimensions": lambda table, arrays: arrays.update(extra=np.zeros((2, 2), np.uint8)),
    "a layer too wide": arrangement("sizes", [["features.0", "out_channels", 2**40]]),
    "an unknown layer": arrangement("sizes", [["features.99", "out_channels", 2]]),
    "an unknown setting": arrangement("sizes", [["features.0", "stride", 2]]),
    "no channels": arrangement("sizes", [["features.0", "out_channels", 0]]),
    "a norm as int8": arrangement("integers", [["features.1", [["weight", [8, None, False]]], "weight"]]),
    "a missing weight as int8": arrangement("integers", [["features.0", [["kernel", [8, None, False]]], "weight"]]),
    "no weights as int8": arrangement("integers", [["features.0", [], "weight"]]),
    "an unknown mode": arrangement("integers", [["features.0", [["weight", [8, None, False]]], "fast"]]),
    "too many bits": arrangement("integers", [["features.0", [["weight", [99, None, False]]], "weight"]]),
    "groups of none": arrangement("integers", [["features.0", [["weight", [8, 0, False]]], "weight"]]),
    "integers nowhere": arrangement("integers", [["features.99", [["weight", [8, None, False]]], "weight"]]),
    "integers twice": arrangement("integers", [["features.0", [["weight", [8, None, False]]], "weight"]] * 2),
    "an unknown cast": arrangement("casts", ["int3", "float32"]),
    "one cast": arrangement("casts", ["float16"]),
    "other modules": arrangement("training", "1"),
    "other steps": arrangement("steps", [3]),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_malicious_file_gives_a_clear_error(stored, name):
    forge(stored, FORGERIES[name])
    with pytest.raises((CorruptStreamError, CompressionError), match=r"model\.cp"):
        load(stored, make(SmallCNN))


@pytest.mark.parametrize(
    ("density", "change"),
    [
        (0.01, lambda table, arrays: arrays["index16"].__setitem__(-1, 60_000)),
        (0.01, lambda table, arrays: arrays["index16"].__setitem__(slice(None), arrays["index16"][::-1].copy())),
        (0.1, lambda table, arrays: arrays["masks"].__setitem__(0, arrays["masks"][0] ^ 1)),
        (0.1, lambda table, arrays: arrays.update(masks=arrays["masks"][:-1])),
    ],
)
def test_forged_places_give_a_clear_error(tmp_path, density, change):
    path = tmp_path / "model.cp"
    save(Prune(density).compress(nn.Linear(100, 101)), path)

    def writable(table, arrays):
        arrays.update({name: array.copy() for name, array in arrays.items()})
        change(table, arrays)

    forge(path, writable)
    with pytest.raises(CorruptStreamError, match="damaged"):
        load(path, nn.Linear(100, 101))


@pytest.mark.parametrize(
    ("other", "tensor"),
    [
        (nn.Linear(6, 7), "weight"),
        (nn.Linear(5, 6), "weight"),
        (nn.Linear(6, 5, bias=False), "bias"),
        (nn.Sequential(nn.Linear(6, 5)), "weight"),
        (nn.ReLU(), "weight"),
    ],
)
def test_another_architecture_is_named_by_its_tensor(tmp_path, other, tensor):
    save(Prune(0.5).compress(nn.Linear(6, 5)), tmp_path / "model.cp")
    with pytest.raises(CompressionError, match=tensor):
        load(tmp_path / "model.cp", other)


def test_a_tensor_that_cannot_be_stored_is_named(tmp_path):
    model = nn.Linear(2, 2)
    model.register_buffer("graph", torch.eye(3).to_sparse())
    with pytest.raises(CompressionError, match="graph cannot be stored"):
        save(model, tmp_path / "model.cp")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        save(nn.Linear(2, 2), tmp_path / "nowhere" / "model.cp")
    with pytest.raises(OSError, match="nowhere"):
        load(tmp_path / "nowhere", nn.Linear(2, 2))
