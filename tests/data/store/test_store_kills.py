"""A writer killed at any moment leaves nothing that is half written and readable, and the next one goes on."""

import multiprocessing
import os
import random
import signal
import sys
import time

import pytest
import torch
from torch.utils.data import Dataset

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.data import JPEG, StoredDataset, verify_store, write_store

if sys.platform == "win32":
    pytest.skip("this system has no SIGKILL", allow_module_level=True)

SHARD = 5
CODEC = JPEG(80)


class SlowImages(Dataset):
    """Images that take a while to read, as those of a disk do; from a number on, only when a file is there."""

    classes = ("one", "two", "three")

    def __init__(self, shards, seconds, held=None, until=None):
        self.shards, self.seconds = shards, seconds
        self.held, self.until = held, until

    def __len__(self):
        return self.shards * SHARD - 1

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError(index)
        time.sleep(self.seconds)
        while self.held is not None and index >= self.held and not self.until.exists():
            time.sleep(0.001)
        return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index)), index % 3


def write(path, shards=12, seconds=0.001, held=None, until=None):
    write_store(SlowImages(shards, seconds, held, until), CODEC, path, shard_size=SHARD, batch_size=4)


def write_until_call(path, number):
    """Write, and die before the call of that number which makes something durable."""
    made = 0

    def dying(function):
        def call(*arguments, **options):
            nonlocal made
            if made == number:
                os.kill(os.getpid(), signal.SIGKILL)
            made += 1
            return function(*arguments, **options)

        return call

    for name in ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir"):
        setattr(os, name, dying(getattr(os, name)))
    write(path, 2, 0)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "cp_compress.data.jpeg.codec"])
    return context


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "store"
    write(path)
    return path


def files(path):
    return {
        found.relative_to(path).as_posix(): found.read_bytes()
        for found in path.rglob("*")
        if found.is_file() and not found.name.endswith("lock")
    }


def check_equal(path, whole):
    assert files(path) == files(whole)
    beside = {each.name for each in path.parent.glob(f"*{path.name}*")}
    assert beside <= {path.name, f".{path.name}.lock"}


def shards(path):
    """Return the shards that are there, in the finished folder or in the unfinished one."""
    return sorted(path.parent.glob(f"{path.name}*/*.safetensors"))


def check_what_is_left(path, whole):
    """Tell whether there is a finished store; what can be read is right and whole, whatever happened."""
    for shard in shards(path):
        assert shard.read_bytes() == (whole / shard.name).read_bytes()
    if not path.exists():
        with pytest.raises(InvalidArgumentError, match="not a finished store"):
            StoredDataset(path)
        for other in path.parent.iterdir():
            if other.is_dir() and not (other / "manifest.json").exists():
                with pytest.raises(InvalidArgumentError, match="not a finished store"):
                    StoredDataset(other)
        return False
    assert verify_store(path).intact
    assert StoredDataset(path).digest() == StoredDataset(whole).digest()
    return True


@pytest.mark.parametrize("seed", range(4))
def test_kills_at_random_moments_lose_nothing(processes, whole, tmp_path, seed):
    chance, path = random.Random(seed), tmp_path / "store"
    unfinished = 0
    for _ in range(3):
        wanted = len(shards(path)) + chance.randrange(1, 4)
        held = (wanted + 1) * SHARD  # it cannot finish before it is killed, however late that is
        writer = processes.Process(target=write, args=(path, 12, 0.001, held, tmp_path / "never"))
        writer.start()
        while writer.is_alive() and len(shards(path)) < wanted:
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.01))
        writer.kill()
        writer.join()
        unfinished += not check_what_is_left(path, whole)
    assert unfinished
    done = [shard for shard in shards(path) if shard.with_name(f"{shard.name}.json").exists()]
    kept = {shard.name: shard.stat().st_mtime_ns for shard in done}
    write(path)
    check_equal(path, whole)
    assert {name: (path / name).stat().st_mtime_ns for name in kept} == kept  # what was there was not written again


def test_a_kill_before_every_step_that_makes_something_durable(processes, tmp_path):
    number, unfinished, whole = 0, 0, tmp_path / "whole"
    write(whole, 2, 0)
    while True:
        path = tmp_path / f"folder{number}" / "store"
        path.parent.mkdir()
        writer = processes.Process(target=write_until_call, args=(path, number))
        writer.start()
        writer.join()
        if writer.exitcode == 0:
            break
        assert writer.exitcode == -signal.SIGKILL
        unfinished += not check_what_is_left(path, whole)
        write(path, 2, 0)
        check_equal(path, whole)
        number += 1
    assert unfinished >= 4  # a shard and its note, twice, at the least
    check_equal(path, whole)


def test_two_writers_of_one_folder(processes, whole, tmp_path):
    path, ended = tmp_path / "store", tmp_path / "ended"
    first = processes.Process(target=write, args=(path, 12, 0.001, 6 * SHARD, ended))
    first.start()
    while not shards(path) and first.is_alive():
        time.sleep(0.0005)
    os.kill(first.pid, signal.SIGSTOP)  # it holds the folder and cannot finish
    try:
        with pytest.raises(Exception, match="another process"):
            write(path)
    finally:
        ended.touch()
        os.kill(first.pid, signal.SIGCONT)
        first.join()
    assert first.exitcode == 0
    check_equal(path, whole)
