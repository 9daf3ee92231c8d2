"""Stores in trouble: what is refused by name, what is left alone, and what the machine lacks."""

import errno
import os
import shutil
import threading

import numpy as np
import pytest
import torch
from filelock import FileLock
from pairs import Pairs
from PIL import Image
from torch.utils.data import Subset, TensorDataset
from torchvision.datasets import ImageFolder

from cp_compress import TaskDataset
from cp_compress.base.errors import CompressionError, CorruptStreamError, InvalidArgumentError, ObservationError
from cp_compress.data import (
    JPEG,
    ZFP,
    CompressedDataset,
    StoredDataset,
    verify_store,
    write_store,
)
from cp_compress.data.store import reading as stored_dataset
from cp_compress.data.store import shards


@pytest.fixture(scope="module")
def data():
    images = torch.rand(23, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    made = TensorDataset(images, torch.arange(23) % 5)
    made.classes = ["a", "b", "c", "d", "e"]
    return made


@pytest.fixture
def folder(tmp_path):
    chance = np.random.default_rng(0)
    for name, sizes in (("cat", [(8, 9), (12, 10)]), ("dog", [(8, 9)])):
        (tmp_path / "images" / name).mkdir(parents=True)
        for place, size in enumerate(sizes):
            pixels = chance.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{place}.png")
    return ImageFolder(tmp_path / "images")


@pytest.mark.parametrize("indices", [None, [1, 0]])
def test_images_of_more_than_8_bits_are_refused_by_name(folder, tmp_path, indices):
    """torchvision's loader gives white for them."""
    path = tmp_path / "images" / "cat" / "1.png"
    Image.fromarray(np.full((10, 12), 40_000, np.uint16)).save(path)
    source = folder if indices is None else Subset(folder, indices)
    for make in (
        lambda: write_store(source, ZFP(reversible=True), tmp_path / "s"),
        lambda: CompressedDataset(source, JPEG(90)),
    ):
        with pytest.raises(
            ObservationError, match=rf"example #{1 if indices is None else 0} .*mode I;16.*1\.png.*given as tensors"
        ):
            make()
    source = ImageFolder(tmp_path / "images", loader=lambda name: np.array(Image.open(name).convert("F")) / 65535)
    assert float(write_store(source, ZFP(reversible=True), tmp_path / "own")[1][0].max()) > 0.6


def test_a_relative_path_is_read_from_any_folder(data, tmp_path, monkeypatch):
    write_store(data, JPEG(80), tmp_path / "store", shard_size=8)
    monkeypatch.chdir(tmp_path)
    stored = StoredDataset("store")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(stored[20][0], StoredDataset(tmp_path / "store")[20][0])
    assert stored.nbytes > 0


def test_few_shards_are_open_at_once(data, tmp_path, monkeypatch):
    monkeypatch.setattr(stored_dataset, "_MOST_OPEN", 3)
    found = write_store(data, ZFP(reversible=True), tmp_path / "store", shard_size=2)
    for index in [*range(23), 0, 22, 5]:
        assert torch.equal(found[index][0], data.tensors[0][index])
        assert len(found._open) <= 3
    assert torch.equal(found.labels, data.tensors[1])
    assert torch.equal(torch.stack([image for image, _ in found.__getitems__(range(23))]), data.tensors[0])


def exhausted(*_, **__):
    raise OSError(errno.EMFILE, "Too many open files")


def unmappable(*_, **__):
    raise RuntimeError("unable to mmap 400 bytes from file <x>: Cannot allocate memory (12)")


@pytest.mark.parametrize(("failure", "kind"), [(exhausted, OSError), (unmappable, RuntimeError)])
def test_what_the_process_lacks_is_not_called_damage(data, tmp_path, monkeypatch, failure, kind):
    found = write_store(data, JPEG(80), tmp_path / "store", shard_size=8)
    monkeypatch.setattr(shards, "safe_open", failure)
    with pytest.raises(kind, match=r"Too many open files|Cannot allocate memory") as caught:
        found[0]
    assert not isinstance(caught.value, CorruptStreamError)


def test_a_folder_that_may_not_be_written_is_not_called_busy(data, tmp_path, monkeypatch):
    write_store(data, JPEG(80), tmp_path / "store")
    assert (tmp_path / ".store.lock").exists()
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_: False)
        with pytest.raises(PermissionError, match=r"nothing can be written in .*StoredDataset"):
            write_store(data, JPEG(80), tmp_path / "store")
    with FileLock(tmp_path / ".store.lock"), pytest.raises(CompressionError, match="another process"):
        write_store(data, JPEG(80), tmp_path / "store")


class Broken(Pairs):
    """Cannot be read at all."""

    def __getitem__(self, index):
        raise OSError("disk")


def test_a_run_that_wrote_no_shard_stands_in_nobodys_way(data, tmp_path):
    path = tmp_path / "store"
    with pytest.raises(ObservationError):
        write_store(Broken([0] * 4), JPEG(80), path)
    assert (tmp_path / "store.partial" / "plan.json").exists()
    assert len(write_store(data, JPEG(80), path)) == 23


def test_folders_of_others_are_not_removed(data, tmp_path):
    path, beside = tmp_path / "store", tmp_path / ".store.replaced"
    write_store(data, JPEG(80), path, shard_size=8)
    beside.mkdir()
    (beside / "thesis.txt").write_text("mine")
    write_store(data, JPEG(80), path, shard_size=8)
    with pytest.raises(InvalidArgumentError, match=r"thesis\.txt.*move it elsewhere"):
        write_store(data, JPEG(70), path, shard_size=8, overwrite=True)
    assert (beside / "thesis.txt").read_text() == "mine"
    shutil.rmtree(beside)
    for name in ("notes.txt", "shard-00000.safetensors.bak"):
        (path / name).write_text("mine")
        write_store(data, JPEG(80), path, shard_size=8, overwrite=True)
        with pytest.raises(InvalidArgumentError, match=rf"{name}.*move it elsewhere"):
            write_store(data, JPEG(70), path, shard_size=8, overwrite=True)
        assert (path / name).read_text() == "mine"
        (path / name).unlink()
    (tmp_path / "store.partial").write_text("mine")
    with pytest.raises(InvalidArgumentError, match=r"store\.partial.*not a folder"):
        write_store(data, JPEG(70), path, shard_size=8, overwrite=True)
    assert (tmp_path / "store.partial").read_text() == "mine"


def test_a_folder_in_the_place_of_a_shard_is_told(data, tmp_path):
    path = tmp_path / "store"
    write_store(data, JPEG(80), path, shard_size=8)
    (path / "shard-00001.safetensors").unlink()
    (path / "shard-00001.safetensors").mkdir()
    assert verify_store(path).lost == 8
    with pytest.raises(InvalidArgumentError, match=r"shard-00001.*is a folder"):
        write_store(data, JPEG(80), path, shard_size=8)


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes")
def test_a_class_whose_name_is_no_text(tmp_path):
    name = os.fsdecode(b"gr\xf6\xdfe")
    (tmp_path / "images" / name).mkdir(parents=True)
    (tmp_path / "images" / "größe").mkdir()
    for each in (name, "größe"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / each / "0.png")
    source = ImageFolder(tmp_path / "images")
    write_store(source, JPEG(90), tmp_path / "store")
    assert list(StoredDataset(tmp_path / "store").classes) == source.classes
    assert "größe" in (tmp_path / "store" / "manifest.json").read_text(encoding="utf-8")
    write_store(source, JPEG(90), tmp_path / "store")


class Locked(Pairs):
    """Holds what no other process can be given."""

    def __init__(self, examples):
        super().__init__(examples)
        self.lock = threading.Lock()


def test_a_data_set_that_cannot_be_sent_is_named(data, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"dataset='Locked'\): .*must be picklable"):
        write_store(Locked(list(data)), JPEG(80), tmp_path / "store", jobs=2)
    assert len(write_store(Locked(list(data)), JPEG(80), tmp_path / "store")) == 23


def test_data_of_more_than_one_class_an_example_is_refused(tmp_path):
    data = TaskDataset((torch.rand(4, 3, 8, 8), torch.ones(4, 5)), "multi_label")
    with pytest.raises(InvalidArgumentError, match=r"write_store\(dataset='TaskDataset'\): its task is multi_label"):
        write_store(data, JPEG(80), tmp_path / "store")
    with pytest.raises(
        InvalidArgumentError, match=r"CompressedDataset\(dataset='TaskDataset'\): its task is multi_label"
    ):
        CompressedDataset(data, JPEG(80))
