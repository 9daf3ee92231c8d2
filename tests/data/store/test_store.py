"""A stored data set reads like the original after the codec, however it was written and whoever reads it."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from pairs import Pairs
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.datasets import FakeData, ImageFolder

from cp_compress import observe
from cp_compress.base.errors import CompressionError, InvalidArgumentError, ObservationError
from cp_compress.data import (
    JPEG,
    ZFP,
    CompressedDataset,
    StoredDataset,
    verify_store,
    write_store,
)
from cp_compress.data.store import writing as store
from cp_compress.inputs.reading import LabeledData


@pytest.fixture(scope="module")
def data():
    images = torch.rand(23, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    made = TensorDataset(images, torch.arange(23) % 5)
    made.classes = ["a", "b", "c", "d", "e"]
    return made


@pytest.fixture(scope="module", params=[JPEG(80), ZFP(rate=8), ZFP(reversible=True)], ids=str)
def codec(request):
    return request.param


@pytest.fixture(scope="module")
def stored(data, codec, tmp_path_factory):
    return write_store(data, codec, tmp_path_factory.mktemp("stored") / "store", shard_size=8, batch_size=3)


def normalise(batch):
    return (batch - 0.5) / 0.25


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_examples_are_those_of_the_codec(data, codec, stored):
    expected = codec.roundtrip(data.tensors[0])
    assert len(stored) == 23
    for index in (0, 7, 8, 22, -1, -23):
        image, label = stored[index]
        assert torch.equal(image, expected[index])
        assert label == data.tensors[1][index]
    images, labels = LabeledData(stored).select([5, 21, 3, 20, 5])
    assert torch.equal(images, expected[[5, 21, 3, 20, 5]])
    assert labels.tolist() == [0, 1, 3, 0, 0]
    assert len(list(stored)) == 23
    for index in (23, -24):
        with pytest.raises(IndexError):
            stored[index]


def test_it_holds_what_the_data_set_in_memory_holds(data, codec, stored):
    memory = CompressedDataset(data, codec)
    assert [stored.stream(index) for index in range(23)] == [memory.stream(index) for index in range(23)]
    assert torch.equal(stored.labels, memory.labels)
    assert stored.labels.dtype == torch.int64
    assert stored.payload_bytes == memory.payload_bytes
    assert stored.codec == codec
    assert list(stored.classes) == data.classes
    assert stored.raw_bytes == data.tensors[0].nbytes
    assert stored.values == data.tensors[0].numel()
    assert stored.shapes == {"3×12×16 float32": 23}


def test_sizes_are_those_of_the_files(stored):
    counted = [file for file in stored.path.iterdir() if file.suffix != ".digests"]
    assert stored.nbytes == sum(file.stat().st_size for file in counted)
    assert stored.bytes_per_example == stored.nbytes / 23
    assert stored.shards == 3


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_it(data, tmp_path, start):
    codec, path = JPEG(80), tmp_path / "store"
    write_store(data, codec, path, shard_size=8)
    reader = StoredDataset(path, transform=normalise)
    reader[0]  # a shard that is open is not carried over
    loader = DataLoader(reader, batch_size=5, num_workers=2, multiprocessing_context=start)
    images, labels = zip(*loader, strict=True)
    assert torch.equal(torch.cat(images), normalise(codec.roundtrip(data.tensors[0])))
    assert torch.equal(torch.cat(labels), data.tensors[1])


def test_it_can_be_pickled(stored):
    again = pickle.loads(pickle.dumps(stored))
    assert torch.equal(again[3][0], stored[3][0])
    assert again.digest() == stored.digest()


def test_it_reads_lazily(stored, tmp_path):
    path = shutil.copytree(stored.path, tmp_path / "copy")
    for shard in sorted(path.glob("*.safetensors"))[1:]:
        shard.unlink()
    assert torch.equal(StoredDataset(path)[4][0], stored[4][0])


def test_large_labels_and_negative_ones(tmp_path):
    labels = torch.tensor([-1, 2**40, 255, 256, 40_000, 0])
    found = write_store((torch.rand(6, 3, 8, 8), labels), JPEG(80), tmp_path / "store", shard_size=2)
    assert torch.equal(found.labels, labels)
    assert [int(label) for _, label in found] == labels.tolist()


def test_processes_write_the_same_bytes(data, tmp_path):
    serial = write_store(data, JPEG(80), tmp_path / "serial", shard_size=8)
    examples = Pairs(list(data))
    examples.classes = data.classes
    for name, source, size in (("tensors", data, 256), ("examples", examples, 1)):
        spread = write_store(source, JPEG(80), tmp_path / name, shard_size=8, batch_size=size, jobs=2)
        assert contents(spread.path) == contents(serial.path)


def test_a_dask_cluster_writes_the_same_bytes(data, tmp_path):
    distributed = pytest.importorskip("distributed")
    serial = write_store(data, JPEG(80), tmp_path / "serial", shard_size=8)
    source = Pairs(list(data))
    source.classes = data.classes
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        for name, given in (("tensors", data), ("examples", source)):
            spread = write_store(given, JPEG(80), tmp_path / name, shard_size=8, backend="dask")
            assert contents(spread.path) == contents(serial.path)


@pytest.fixture
def folder(tmp_path):
    chance = np.random.default_rng(0)
    for name, sizes in (("cat", [(8, 9), (12, 10)]), ("dog", [(8, 9)])):
        (tmp_path / "images" / name).mkdir(parents=True)
        for place, size in enumerate(sizes):
            pixels = chance.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{place}.png")
    return ImageFolder(tmp_path / "images")


@pytest.mark.parametrize("indices", [None, [2, 0, 1]])
def test_an_image_folder_of_several_sizes(folder, tmp_path, indices):
    source = folder if indices is None else Subset(folder, indices)
    found = write_store(source, JPEG(90), tmp_path / "store")
    for (image, label), (original, expected) in zip(found, source, strict=True):
        pixels = torch.from_numpy(np.array(original)).permute(2, 0, 1)
        assert torch.equal(image, JPEG(90).roundtrip(pixels.unsqueeze(0))[0])
        assert image.dtype == torch.uint8
        assert label == expected
    if indices is None:
        assert list(found.classes) == ["cat", "dog"]
    together = found.__getitems__([0, 1, 2, 0])
    assert [torch.equal(image, found[index][0]) for (image, _), index in zip(together, [0, 1, 2, 0], strict=True)]


def test_a_torchvision_data_set_without_a_transform(tmp_path):
    fake = FakeData(size=5, image_size=(3, 20, 24), num_classes=3)
    found = write_store(fake, ZFP(reversible=True), tmp_path / "store")
    for (image, label), (original, expected) in zip(found, fake, strict=True):
        assert torch.equal(image, torch.from_numpy(np.array(original)).permute(2, 0, 1))
        assert label == expected
    assert torch.equal(CompressedDataset(fake, ZFP(reversible=True))[3][0], found[3][0])


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("RGB", 3), ("P", 3), ("RGBA", 3), ("CMYK", 3)])
def test_modes_of_images(tmp_path, mode, channels):
    found = write_store(Pairs([(Image.new(mode, (8, 10)), 0)]), JPEG(90), tmp_path / "store")
    assert found[0][0].shape == (channels, 10, 8)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((Image.new("I", (8, 8)), 0), "#1 is an image of mode I"),
        (("text", 0), "#1 has an input of type str"),
        (5, "#1 is a int"),
        ((torch.rand(3, 8, 8), 0.5), "integer dtype"),
        ((torch.rand(3, 8, 8), "cat"), "integer dtype"),
    ],
)
def test_what_is_no_labelled_image_is_named(tmp_path, example, message):
    with pytest.raises(ObservationError, match=message):
        write_store(Pairs([(torch.rand(3, 8, 8), 0), example]), JPEG(90), tmp_path / "store")


def test_what_the_codec_refuses_is_named_by_its_place(data, tmp_path):
    images = data.tensors[0].clone()
    images[17] += 5
    with pytest.raises(InvalidArgumentError, match="data set example #17"):
        write_store((images, data.tensors[1]), JPEG(80), tmp_path / "store", shard_size=5)
    assert not (tmp_path / "store").exists()


def test_a_finished_store_is_kept_unless_asked(data, tmp_path):
    path = tmp_path / "store"
    images, labels = data.tensors
    write_store(data, JPEG(80), path, shard_size=8)
    before = contents(path)
    times = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    write_store(data, JPEG(80), path, shard_size=8, overwrite=True)
    other = TensorDataset(images, labels.flip(0))
    other.classes = data.classes
    renamed = TensorDataset(images, labels)
    renamed.classes = ["v", "w", "x", "y", "z"]
    calls = [
        ((data, JPEG(81), 8), "another store"),
        ((data, JPEG(80), 9), "another store"),
        ((renamed, JPEG(80), 8), "another store"),
        ((other, JPEG(80), 8), "other data"),
    ]
    for (source, codec, size), message in calls:
        with pytest.raises(InvalidArgumentError, match=f"{message}.*overwrite=True"):
            write_store(source, codec, path, shard_size=size)
    assert contents(path) == before
    assert {file.name: file.stat().st_mtime_ns for file in path.iterdir()} == times
    for (source, codec, size), _ in calls:
        replaced = write_store(source, codec, path, shard_size=size, overwrite=True)
        fresh = write_store(
            source, codec, tmp_path / f"{codec.quality}{size}{message}", shard_size=size, overwrite=True
        )
        assert contents(replaced.path) == contents(fresh.path)


class Interrupted(Pairs):
    """Ends like a process that is stopped, at an example."""

    classes = ("a", "b", "c", "d", "e")

    def __getitem__(self, index):
        if index == 17:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_an_unfinished_store_goes_on_with_the_same_data_only(data, tmp_path):
    path = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        write_store(Interrupted(list(data)), JPEG(80), path, shard_size=8)
    with pytest.raises(InvalidArgumentError, match=r"not a finished store.*unfinished"):
        StoredDataset(path)
    images, labels = data.tensors
    other = TensorDataset(images.flip(0), labels)
    other.classes = data.classes
    with pytest.raises(InvalidArgumentError, match=r"another store was begun.*overwrite=True"):
        write_store(data, JPEG(70), path, shard_size=8)
    with pytest.raises(InvalidArgumentError, match=r"other data was begun.*overwrite=True"):
        write_store(other, JPEG(80), path, shard_size=8)
    begun = {file.name: file.stat().st_mtime_ns for file in path.with_name("store.partial").glob("*.safetensors")}
    assert len(begun) == 2
    write_store(data, JPEG(80), path, shard_size=8)
    assert {name: (path / name).stat().st_mtime_ns for name in begun} == begun
    assert contents(path) == contents(write_store(data, JPEG(80), tmp_path / "whole", shard_size=8).path)


def test_a_damaged_store_is_repaired_by_its_data_and_not_by_others(data, tmp_path):
    path = tmp_path / "store"
    write_store(data, JPEG(80), path, shard_size=8)
    before = contents(path)
    damaged = path / "shard-00001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    other = TensorDataset(data.tensors[0].roll(1, dims=1), data.tensors[1])
    other.classes = data.classes
    with pytest.raises(InvalidArgumentError, match="other data"):
        write_store(other, JPEG(80), path, shard_size=8)
    assert verify_store(path).lost == 1
    write_store(data, JPEG(80), path, shard_size=8)
    assert contents(path) == before


def test_what_is_no_store_is_left_alone(data, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    beside = tmp_path / "store.partial"
    beside.mkdir()
    (beside / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        for path in (mine, mine / "thesis.txt", tmp_path / "store"):
            with pytest.raises(InvalidArgumentError, match="path="):
                write_store(data, JPEG(80), path, overwrite=overwrite)
    assert (mine / "thesis.txt").read_text() == (beside / "thesis.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert len(write_store(data, JPEG(80), tmp_path / "empty")) == 23
    (tmp_path / "empty" / "notes.txt").write_text("mine")
    write_store(data, JPEG(80), tmp_path / "empty")
    assert (tmp_path / "empty" / "notes.txt").read_text() == "mine"


def test_a_worker_that_outlived_its_run_writes_nothing(data, tmp_path, monkeypatch):
    """Its staging folder is gone, so that what it would move does not get there."""
    late = []

    def remember(function, calls, *_):
        late.extend(calls)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store, "run_parallel", remember)
        with pytest.raises(KeyboardInterrupt):
            write_store(data, JPEG(30), tmp_path / "store", shard_size=8)
    write_store(data, JPEG(80), tmp_path / "store", shard_size=8, overwrite=True)
    before = contents(tmp_path / "store")
    for call in late:
        with pytest.raises(OSError, match="there is no folder"):
            store.encode_shard(*call)
    assert contents(tmp_path / "store") == before


def test_a_store_is_observed_like_the_data_in_memory(data, tmp_path):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(576, 5)).eval()
    found = write_store(data, JPEG(80), tmp_path / "store", shard_size=8)
    assert torch.equal(observe(model, found).logits, observe(model, CompressedDataset(data, JPEG(80))).logits)


def test_a_dead_worker_process_is_told(data, tmp_path, monkeypatch):
    def die(*_):
        raise store.BrokenExecutor("killed")
        yield

    monkeypatch.setattr(store, "run_parallel", die)
    with pytest.raises(CompressionError, match="to continue"):
        write_store(data, JPEG(80), tmp_path / "store")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"codec": "jpg(quality=80)"}, "jpeg"),
        ({"shard_size": 0}, "shard_size"),
        ({"batch_size": 0.5}, "batch_size"),
        ({"jobs": 0}, "jobs"),
        ({"backend": "threads"}, "backend"),
        ({"path": "/nowhere/at/all"}, "does not exist"),
        ({"path": "/"}, "path"),
    ],
)
def test_refusals(data, tmp_path, changed, message):
    given = {"codec": JPEG(80), "path": tmp_path / "store", **changed}
    with pytest.raises(InvalidArgumentError, match=message):
        write_store(data, given.pop("codec"), given.pop("path"), **given)
    with pytest.raises(InvalidArgumentError, match="transform"):
        StoredDataset(tmp_path, transform=1)
