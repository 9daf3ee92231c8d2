"""A compressed data set reads like the original, in any order, by any number of workers."""

import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from cp_compress.base.datasets import LabeledData
from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError
from cp_compress.data import JPEG, ZFP, CompressedDataset


@pytest.fixture(scope="module")
def data():
    images = torch.rand(23, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    return TensorDataset(images, torch.arange(23) % 5)


@pytest.fixture(scope="module", params=[JPEG(80), ZFP(rate=8), ZFP(reversible=True)], ids=str)
def codec(request):
    return request.param


def test_examples_are_those_of_the_codec(data, codec):
    stored = CompressedDataset(data, codec, batch_size=4)
    expected = codec.roundtrip(data.tensors[0])
    assert len(stored) == 23
    for index in (0, 7, 22, -1):
        image, label = stored[index]
        assert torch.equal(image, expected[index])
        assert int(label) == int(data.tensors[1][index])
    images, labels = LabeledData(stored).select([5, 3, 20])
    assert torch.equal(images, expected[[5, 3, 20]])
    assert labels.tolist() == [0, 3, 0]
    assert len(list(stored)) == 23


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_workers_read_it(data, codec, start):
    stored = CompressedDataset(data, codec)
    loader = DataLoader(stored, batch_size=5, num_workers=2, multiprocessing_context=start)
    images, labels = zip(*loader, strict=True)
    assert torch.equal(torch.cat(images), codec.roundtrip(data.tensors[0]))
    assert torch.equal(torch.cat(labels), data.tensors[1])


def test_it_can_be_pickled(data, codec):
    stored = CompressedDataset(data, codec)
    again = pickle.loads(pickle.dumps(stored))
    assert torch.equal(again[3][0], stored[3][0])
    assert again.codec == codec


def test_sizes_are_those_of_the_streams(data, codec):
    stored = CompressedDataset(data, codec)
    streams = codec.encode(data.tensors[0])
    assert stored.nbytes == sum(map(len, streams))
    assert stored.bytes_per_example == stored.nbytes / 23
    assert [stored.stream(index) for index in range(23)] == streams
    assert 0 < stored.nbytes - stored.payload_bytes <= 16 * 23


def test_transform_follows_decoding(data):
    stored = CompressedDataset(data, JPEG(80), transform=lambda batch: (batch - 0.5) / 0.25)
    assert torch.equal(stored[4][0], (JPEG(80).roundtrip(data.tensors[0][4:5])[0] - 0.5) / 0.25)


def test_damage_names_the_example_of_the_data_set(data):
    stored = CompressedDataset(data, JPEG(80))
    stored._stream[stored._offsets[18] - 3] ^= 1
    with pytest.raises(CorruptStreamError, match="data set example #17") as caught:
        stored.__getitems__([2, 17, 5])
    assert caught.value.index == 17
    assert stored[16][0].shape == (3, 12, 16)


def test_any_map_style_data_set(data):
    class Pairs(Dataset):
        classes = ("a", "b", "c", "d", "e")

        def __len__(self):
            return 6

        def __getitem__(self, index):
            return data.tensors[0][index], int(data.tensors[1][index])

    stored = CompressedDataset(Pairs(), JPEG(80), batch_size=4)
    assert stored.classes == Pairs.classes
    assert stored.labels.tolist() == [0, 1, 2, 3, 4, 0]


def test_refusals(data):
    with pytest.raises(InvalidArgumentError, match="must be a codec"):
        CompressedDataset(data, "jpeg(quality=80)")
    with pytest.raises(InvalidArgumentError, match="batch_size"):
        CompressedDataset(data, JPEG(80), batch_size=0)
    with pytest.raises(IndexError):
        CompressedDataset(data, JPEG(80))[23]
