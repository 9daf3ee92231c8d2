"""A compressed data set reads like the original, in any order, by any number of workers."""

import pickle

import numpy as np
import pytest
import torch
from pairs import Pairs
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import FakeData
from torchvision.transforms import ToTensor

from cp_compress.base.errors import CompressionError, CorruptStreamError, InvalidArgumentError, ObservationError
from cp_compress.data import JPEG, ZFP, CompressedDataset
from cp_compress.inputs.reading import LabeledData


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


def test_labels_beyond_int64_are_refused():
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(ObservationError, match=r"9223372036854775813.*below 2\*\*63"):
        LabeledData((images, np.array([1, 2**63 + 5], dtype=np.uint64))).read_labels()
    assert LabeledData((images, np.array([1, 2**63 - 1], dtype=np.uint64))).read_labels().tolist() == [1, 2**63 - 1]


def normalise(batch):
    return (batch - 0.5) / 0.25


@pytest.mark.parametrize(
    ("start", "codec"),
    [("fork", JPEG(80)), ("fork", ZFP(rate=8)), ("spawn", ZFP(reversible=True)), ("forkserver", JPEG(80))],
)
def test_workers_read_it(data, codec, start):
    stored = CompressedDataset(data, codec, transform=normalise)
    # a process that is spawned imports everything anew: one of them shows what is carried over
    workers = 1 if start == "spawn" else 2
    loader = DataLoader(stored, batch_size=5, num_workers=workers, multiprocessing_context=start)
    images, labels = zip(*loader, strict=True)
    assert torch.equal(torch.cat(images), normalise(codec.roundtrip(data.tensors[0])))
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


def test_what_it_holds_is_three_tensors(data, codec):
    stored = CompressedDataset(data, codec)
    held = [value for value in vars(stored).values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in held) == stored.nbytes + 24 * 8 + 23 * 8
    assert not any(isinstance(value, (list, dict, bytes)) for value in vars(stored).values())


def test_digest_is_that_of_what_is_stored(data):
    images, labels = data.tensors
    stored = CompressedDataset(data, JPEG(80))
    assert stored.digest() == CompressedDataset((images, labels), JPEG(80), batch_size=3).digest()
    assert stored.digest() == pickle.loads(pickle.dumps(stored)).digest()
    others = [
        CompressedDataset(data, JPEG(81)),
        CompressedDataset((images, labels.flip(0)), JPEG(80)),
        CompressedDataset((images.flip(0), labels), JPEG(80)),
    ]
    assert len({stored.digest(), *(other.digest() for other in others)}) == 4


def test_transform_follows_decoding(data):
    stored = CompressedDataset(data, JPEG(80), transform=normalise)
    assert torch.equal(LabeledData(stored).select([4])[0][0], stored[4][0])
    assert torch.equal(stored[4][0], (JPEG(80).roundtrip(data.tensors[0][4:5])[0] - 0.5) / 0.25)


def test_damage_names_the_example_of_the_data_set(data):
    stored = CompressedDataset(data, JPEG(80))
    stored._stream[stored._offsets[18] - 3] ^= 1
    with pytest.raises(CorruptStreamError, match="data set example #17") as caught:
        stored.__getitems__([2, 17, 5])
    assert caught.value.index == 17
    assert stored[16][0].shape == (3, 12, 16)


def test_any_map_style_data_set(data):
    source = Pairs([(image, int(label)) for image, label in list(data)[:6]])
    source.classes = ("a", "b", "c", "d", "e")
    stored = CompressedDataset(source, JPEG(80), batch_size=4)
    assert stored.classes == source.classes
    assert stored.labels.tolist() == [0, 1, 2, 3, 4, 0]


def test_torchvision_data_set():
    fake = FakeData(size=5, image_size=(3, 20, 24), num_classes=3, transform=ToTensor())
    stored = CompressedDataset(fake, ZFP(tolerance=0.01), batch_size=2)
    for (image, label), (expected, expected_label) in zip(stored, fake, strict=True):
        assert (image - expected).abs().max() <= 0.01
        assert int(label) == int(expected_label)


def test_what_cannot_be_encoded_is_named_by_its_place_in_the_data_set(data):
    images = data.tensors[0].clone()
    images[17, 0, 0, 0] = float("nan")
    images[21] += 5
    with pytest.raises(InvalidArgumentError, match=r"data set example #17, encoded alone: .*NaN or Inf"):
        CompressedDataset((images, data.tensors[1]), ZFP(rate=8), batch_size=4)
    images[17] = 0
    with pytest.raises(InvalidArgumentError, match=r"data set example #21, .*values must lie in \[0, 1\]"):
        CompressedDataset((images, data.tensors[1]), JPEG(80), batch_size=4)


def test_examples_of_different_shapes_are_refused():
    with pytest.raises(CompressionError, match=r"example #4 is \(\(3, 9, 8\)"):
        CompressedDataset(Pairs([(torch.rand(3, 8 + i // 4, 8), 0) for i in range(6)]), JPEG(80), batch_size=2)


@pytest.mark.parametrize("transform", [lambda batch: batch[0], lambda batch: batch.numpy(), torch.sum])
def test_transform_that_loses_the_examples_is_refused(data, transform):
    stored = CompressedDataset(data, JPEG(80), transform=transform)
    with pytest.raises(InvalidArgumentError, match="one row per example"):
        stored.__getitems__([1, 2])


def test_refusals(data):
    with pytest.raises(InvalidArgumentError, match="must be a codec"):
        CompressedDataset(data, 80)
    with pytest.raises(InvalidArgumentError, match="batch_size"):
        CompressedDataset(data, JPEG(80), batch_size=0)
    with pytest.raises(InvalidArgumentError, match="transform"):
        CompressedDataset(data, JPEG(80), transform=0.5)
    for index in (23, -24):
        with pytest.raises(IndexError):
            CompressedDataset(data, JPEG(80))[index]


class Failing(Pairs):
    """Cannot read one of its examples."""

    def __init__(self, examples, error):
        super().__init__(examples)
        self.error = error

    def __getitem__(self, index):
        if index == 2:
            raise self.error
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("decoder"), ObservationError),
        (MemoryError("no room"), MemoryError),
        (CorruptStreamError("of its own"), CorruptStreamError),
        (ObservationError("of its own"), ObservationError),
    ],
)
def test_an_example_that_cannot_be_read_is_named(data, error, kind):
    with pytest.raises(kind, match=r"of its own|example #2.*(decoder|no room)"):
        CompressedDataset(Failing(list(data), error), JPEG(80))


def test_two_examples_without_labels_are_no_pair_of_inputs_and_labels():
    with pytest.raises(ObservationError, match=r"read as a pair of tensors \(inputs, labels\), .*\(3, 8, 8\)"):
        CompressedDataset([torch.rand(3, 8, 8), torch.rand(3, 8, 8)], JPEG(80))
