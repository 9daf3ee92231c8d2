"""Data sets of coefficients: what networks see, against the codecs and against closed forms."""

import pickle

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder

from cp_compress.base.errors import CorruptStreamError, InvalidArgumentError, ObservationError
from cp_compress.data import (
    JPEG,
    ZFP,
    ChannelNorm,
    CoefficientDataset,
    CompressedDataset,
    StoredDataset,
    write_store,
)
from cp_compress.inputs.reading import LabeledData

MEAN_OF_BLOCK = 0
FLAT = ZFP(precision=8, layout="2d")


def images(count=6, size=(32, 32), channels=3):
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(0))


def labels(count=6):
    return torch.arange(count) % 4


def read(dataset):
    return torch.stack([dataset[index][0] for index in range(len(dataset))])


CODECS = [
    ZFP(precision=12, layout="2d"),
    ZFP(precision=12),
    ZFP(tolerance=0.01, layout="2d"),
    ZFP(rate=4, layout="2d"),
    JPEG(80),
    JPEG(60, "4:4:4"),
]


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_stored_streams_and_images_give_the_same_coefficients(codec):
    pair = images(), labels()
    stored = CoefficientDataset(CompressedDataset(pair, codec))
    computed = CoefficientDataset(pair, codec)
    assert torch.equal(read(stored), read(computed))
    assert torch.equal(stored.labels, computed.labels)
    assert len(stored) == 6


@pytest.mark.parametrize(
    ("codec", "arrangement", "shape"),
    [
        (ZFP(precision=8, layout="2d"), "channels", (48, 8, 8)),
        (ZFP(precision=8, layout="2d"), "image", (3, 32, 32)),
        (ZFP(precision=8), "channels", (64, 8, 8)),
        (ZFP(precision=8, color="ycbcr", chroma="4:2:0"), "channels", (80, 8, 8)),
        (JPEG(80, "4:4:4"), "channels", (192, 4, 4)),
        (JPEG(80, "4:4:4"), "image", (3, 32, 32)),
        (JPEG(80, "4:2:0"), "channels", (192, 4, 4)),
    ],
    ids=str,
)
def test_shapes(codec, arrangement, shape):
    dataset = CoefficientDataset((images(), labels()), codec, arrangement=arrangement)
    assert dataset[0][0].shape == shape
    assert dataset[0][0].dtype == torch.float32


def test_the_first_coefficient_of_a_block_is_its_mean():
    pictures = images()
    means = torch.nn.functional.avg_pool2d(pictures, 4)
    found = read(CoefficientDataset((pictures, labels()), ZFP(precision=30, layout="2d")))
    assert torch.allclose(found.unflatten(1, (3, 16))[:, :, MEAN_OF_BLOCK], means, atol=1e-6)
    in_place = read(CoefficientDataset((pictures, labels()), ZFP(precision=30, layout="2d"), arrangement="image"))
    assert torch.allclose(in_place[:, :, ::4, ::4], means, atol=1e-6)
    grey = images(channels=1)
    found = read(CoefficientDataset((grey, labels()), JPEG(100)))
    pixels = (grey * 255).round() - 128
    assert torch.allclose(found[:, 0] * 255 / 8, torch.nn.functional.avg_pool2d(pixels, 8)[:, 0], atol=0.5)


def test_both_arrangements_hold_the_same_numbers():
    pair = images(), labels()
    for codec in (ZFP(precision=9, layout="2d"), JPEG(70, "4:4:4")):
        by_channel = read(CoefficientDataset(pair, codec))
        in_place = read(CoefficientDataset(pair, codec, arrangement="image"))
        assert torch.equal(by_channel.flatten(1).sort().values, in_place.flatten(1).sort().values)


@pytest.mark.parametrize("layout", ["2d", "3d"])
def test_what_is_stored_once_is_read_at_any_lower_precision(layout):
    pair = images(2), labels(2)
    stored = CompressedDataset(pair, ZFP(precision=16, layout=layout))
    for precision in (2, 5, 8, 15, 16):
        at_that = CompressedDataset(pair, ZFP(precision=precision, layout=layout))
        expected = read(CoefficientDataset(at_that))
        assert torch.equal(read(CoefficientDataset(stored, precision=precision)), expected)
        assert torch.equal(read(CoefficientDataset(pair, stored.codec, precision=precision)), expected)
    assert not torch.equal(read(CoefficientDataset(stored, precision=3)), read(CoefficientDataset(stored)))


def test_it_reads_like_any_data_set():
    pair = images(), labels()
    dataset = CoefficientDataset(CompressedDataset(pair, ZFP(precision=8, layout="2d")))
    loader = DataLoader(pickle.loads(pickle.dumps(dataset)), batch_size=4, num_workers=1)
    batches = list(loader)
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), read(dataset))
    assert torch.equal(torch.cat([found for _, found in batches]), labels())
    assert torch.equal(LabeledData(dataset).select([5, 0])[0], read(dataset)[[5, 0]])
    assert torch.equal(dataset[-1][0], dataset[5][0])
    with pytest.raises(IndexError, match="example 6"):
        dataset[6]


def test_damage_names_the_example_of_the_data_set_and_its_file(tmp_path):
    codec = ZFP(precision=10, layout="2d")
    store = write_store((images(12, (8, 8)), labels(12)), codec, tmp_path / "store", shard_size=5)
    path = store.path / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    stream = store.stream(8)
    content[content.index(stream) + len(stream) // 2] ^= 1
    path.write_bytes(content)
    found = CoefficientDataset(StoredDataset(store.path))
    with pytest.raises(
        CorruptStreamError, match=r"example #8 in .*shard-00001\.safetensors, which holds #5 to #9"
    ) as told:
        found.__getitems__([3, 11, 8, 7])
    assert told.value.index == 8


class Mixed(Dataset):
    """Images of two sizes."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return images(5, (8, 8) if index % 2 else (16, 12))[index], index % 3


@pytest.mark.parametrize("codec", [ZFP(precision=10, layout="2d"), JPEG(50)], ids=str)
def test_stored_images_of_several_sizes_are_read_together(codec, tmp_path):
    found = CoefficientDataset(write_store(Mixed(), codec, tmp_path / "store")).__getitems__([3, 0, 1, 4])
    expected = CoefficientDataset(Mixed(), codec).__getitems__([3, 0, 1, 4])
    for (maps, label), (wanted, truth) in zip(found, expected, strict=True):
        assert torch.equal(maps, wanted)
        assert label == truth


def test_normalised_channels_have_mean_0_and_deviation_1():
    dataset = CoefficientDataset((images(40), labels(40)), ZFP(precision=10, layout="2d"))
    layer = ChannelNorm.of(dataset, batch_size=7)
    found = layer(read(dataset)).transpose(0, 1).flatten(1)
    assert torch.allclose(found.mean(1), torch.zeros(48), atol=1e-5)
    assert torch.allclose(found.std(1, correction=0), torch.ones(48), atol=1e-4)
    flat = ChannelNorm.of((torch.full((3, 2, 4, 4), 0.25), torch.zeros(3, dtype=torch.int64)))
    assert torch.equal(flat(torch.full((1, 2, 4, 4), 1.25)), torch.ones(1, 2, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "options", "rule"),
    [
        (((images(), labels()),), {}, "give a codec for images"),
        ((CompressedDataset((images(), labels()), JPEG(50)), JPEG(50)), {}, "none for a data set that is stored"),
        ((CompressedDataset((images(), labels()), JPEG(50), transform=torch.flip),), {}, "open it without"),
        (((images(), labels()), ZFP(reversible=True)), {}, "lossy modes"),
        (((images(), labels()), JPEG(50)), {"precision": 4}, "has no bit planes"),
        (((images(), labels()), ZFP(precision=8)), {"precision": 0}, r"1\.\.32"),
        (((images(), labels()), ZFP(precision=8)), {"arrangement": "image"}, "layout 2d"),
        (((images(), labels()), JPEG(50)), {"arrangement": "image"}, "subsampling"),
        (((images(size=(8, 8)), labels()), JPEG(50)), {"arrangement": "image"}, "subsampling"),
        (
            ((images(size=(4, 4)), labels()), ZFP(precision=8, color="ycbcr", chroma="4:2:0", layout="2d")),
            {"arrangement": "image"},
            "subsampling",
        ),
        (((images(size=(20, 20)), labels()), JPEG(50, "4:4:4")), {"arrangement": "image"}, "multiples of 8"),
        *(
            ((data, codec), {"arrangement": "image"}, rule)
            for channels, size, rule in (
                (4, (18, 16), r"\(18, 16\) must be multiples of 4"),
                (2, (10, 16), "multiples of 4"),
                (3, (16, 18), "multiples of 4"),
            )
            for pair in [(images(6, size, channels), labels())]
            for data, codec in ((pair, FLAT), (CompressedDataset(pair, FLAT), None))
        ),
        (((images(), labels()), ZFP(precision=8)), {"arrangement": "rows"}, "'channels', 'image'"),
        ((CompressedDataset((images(), labels()), ZFP(precision=8)),), {"precision": 9}, "stores 8 bit planes"),
        (((images(), labels()), ZFP(precision=8)), {"precision": 9}, "stores 8 bit planes"),
    ],
)
def test_what_has_no_such_coefficients_is_refused_at_once(arguments, options, rule):
    with pytest.raises(InvalidArgumentError, match=rule):
        CoefficientDataset(*arguments, **options)


@pytest.mark.parametrize("constant", [0.1963445544242859, 0.7, 1e9, 0.0])
def test_constant_channels_are_only_shifted(constant):
    data = torch.full((777, 1, 3, 3), constant), torch.zeros(777, dtype=torch.int64)
    assert ChannelNorm.of(data, batch_size=100).scale.item() == 1.0


def test_deviations_far_from_zero_are_not_lost():
    inputs = 1e9 + torch.randn(500, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = ChannelNorm.of((inputs, torch.zeros(500, dtype=torch.int64)), batch_size=64)
    assert torch.allclose(layer.scale, torch.ones(2), atol=0.05)


def test_a_precision_beyond_the_dtype_is_refused():
    codec = ZFP(rate=8)
    streams = codec.encode(torch.rand(1, 3, 8, 8))
    assert codec.decode(streams, precision=32).shape == (1, 3, 8, 8)
    with pytest.raises(InvalidArgumentError, match="32 bit planes"):
        codec.decode(streams, precision=40)


@pytest.mark.parametrize(("mean", "scale"), [([1.0], [1.0]), (torch.ones(2), torch.ones(3)), (torch.ones(1, 2), None)])
def test_a_norm_takes_one_number_a_channel(mean, scale):
    with pytest.raises(InvalidArgumentError, match="one number for each channel"):
        ChannelNorm(mean, scale)


def test_a_number_is_no_batch():
    for codec in (JPEG(75).requantise, JPEG(75).coefficients):
        with pytest.raises(InvalidArgumentError, match="must have shape"):
            codec(torch.tensor(1.0))
        with pytest.raises(InvalidArgumentError, match="must be a tensor"):
            codec(None)


@pytest.fixture
def folder(tmp_path):
    for place, name in enumerate(("cat", "cat", "dog")):
        (tmp_path / name).mkdir(exist_ok=True)
        pixels = (images(3)[place] * 255).to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / name / f"{place}.png")
    return ImageFolder(tmp_path)


def test_a_folder_of_images_is_read_for_its_coefficients_and_not_for_its_labels(folder, monkeypatch):
    expected = CoefficientDataset(CompressedDataset(folder, JPEG(90)))
    read_before = []
    get = ImageFolder.__getitem__
    monkeypatch.setattr(ImageFolder, "__getitem__", lambda self, index: read_before.append(index) or get(self, index))
    found = CoefficientDataset(folder, JPEG(90))
    assert set(read_before) <= {0}
    assert torch.equal(found.labels, torch.tensor([0, 0, 1]))
    assert found.classes == ["cat", "dog"]
    assert torch.equal(torch.stack([image for image, _ in found.__getitems__([2, 0, 1])]), read(expected)[[2, 0, 1]])
    turned = ImageFolder(folder.root, target_transform=lambda label: 5 - label)
    assert CoefficientDataset(turned, JPEG(90)).labels.tolist() == [5, 5, 4]
    folder.targets = [1, 1, 1]  # items are read from `samples`
    assert CoefficientDataset(folder, JPEG(90)).labels.tolist() == [0, 0, 1]


class Coarse(Dataset):
    """Items whose labels are others than an attribute of that name, as with classes that were merged."""

    labels = torch.arange(12)

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return images(12)[index], int(self.labels[index]) // 4


class Merged(CompressedDataset):
    """A user's own kind of stored data, whose items have merged classes."""

    def __getitems__(self, indices):
        return [(image, label // 4) for image, label in super().__getitems__(indices)]


def test_labels_are_those_of_the_items():
    expected = [0] * 4 + [1] * 4 + [2] * 4
    assert LabeledData(Coarse()).read_labels().tolist() == expected
    assert CompressedDataset(Coarse(), JPEG(50)).labels.tolist() == expected
    found = CoefficientDataset(Coarse(), JPEG(50))
    assert found.labels.tolist() == [int(label) for _, label in found.__getitems__(range(12))] == expected
    merged = Merged((images(12), torch.arange(12)), JPEG(50))
    assert LabeledData(merged).read_labels().tolist() == expected
    assert LabeledData(CompressedDataset(Coarse(), JPEG(50))).known_labels().tolist() == expected


@pytest.mark.parametrize(
    ("inputs", "rule"),
    [(torch.full((4, 2, 3), float("nan")), "NaN"), (torch.rand(4), r"must be \(channels")],
)
def test_a_norm_of_what_has_no_channels_or_numbers_is_refused(inputs, rule):
    with pytest.raises(ObservationError, match=rule):
        ChannelNorm.of((inputs, labels(4)))
