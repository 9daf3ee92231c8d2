"""A store of compressed images: its bytes and random reads beside other containers, encoding, and kills of the writer.

    python benchmarks/store.py containers [--rounds 5]     the same streams in each container that is installed
    python benchmarks/store.py encode [--rounds 3]         images a second, one process and two, and the codec alone
    python benchmarks/store.py load [--rounds 3]           decoded images a second, by a DataLoader's workers
    python benchmarks/store.py kills 20 [--jobs 2]         kills at random moments, then what is left

Streams are those of JPEG(75) of the CIFAR-10 subset (CP_DATA or ../shared/data), repeated to 20,000. A read is one
stream at a random index as `bytes`; peers are asked through the plainest loop that their library allows. In each round
every container is read once, in turns; given are medians with the smallest and largest, and the ratio to ours. The
peers are optional: pip install lmdb h5py pyarrow zarr.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib.util
import platform
import random
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from cp_compress import JPEG, CompressedDataset, verify_store, write_store

CODEC = JPEG(75)
COUNT, READS = 20_000, 20_000


def cifar():
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("CP_DATA", root.parent / "shared" / "data"))
    with np.load(folder / "cifar10_subset.npz") as arrays:
        images = np.concatenate([arrays["train_images"], arrays["test_images"]])
        labels = np.concatenate([arrays["train_labels"], arrays["test_labels"]]).astype(np.int64)
    places = np.arange(COUNT) % len(images)
    return TensorDataset(torch.from_numpy(images[places]), torch.from_numpy(labels[places]))


def size_of(path):
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


def offsets_of(streams):
    return np.cumsum([0, *map(len, streams)])


def write_sqlite(path, streams, labels):
    with sqlite3.connect(path) as base:
        base.execute("create table examples (number integer primary key, label integer, stream blob)")
        base.executemany(
            "insert into examples values (?, ?, ?)", zip(range(len(streams)), labels, streams, strict=True)
        )
    base.close()


def open_sqlite(path):
    base = sqlite3.connect(path, check_same_thread=False)
    return lambda index: base.execute("select stream from examples where number = ?", (index,)).fetchone()[0]


def write_lmdb(path, streams, labels):
    import lmdb

    with lmdb.open(str(path), map_size=2**32, subdir=False) as base, base.begin(write=True) as work:
        for number, (stream, label) in enumerate(zip(streams, labels, strict=True)):
            work.put(struct.pack(">I", number), struct.pack("<q", label) + stream, append=True)


def open_lmdb(path):
    import lmdb

    base = lmdb.open(str(path), subdir=False, readonly=True, lock=False)

    def read(index):
        with base.begin() as work:
            return work.get(struct.pack(">I", index))[8:]

    return read


def write_h5py(path, streams, labels):
    import h5py

    with h5py.File(path, "w") as file:
        file["streams"] = np.frombuffer(b"".join(streams), np.uint8)
        file["offsets"] = offsets_of(streams).astype(np.int32)
        file["labels"] = np.array(labels, np.uint8)


def open_h5py(path):
    import h5py

    file = h5py.File(path, "r")
    streams, offsets = file["streams"], file["offsets"][:].tolist()
    return lambda index: streams[offsets[index] : offsets[index + 1]].tobytes()


def write_pyarrow(path, streams, labels):
    import pyarrow

    table = pyarrow.table({"stream": pyarrow.array(streams, pyarrow.binary()), "label": pyarrow.array(labels, "uint8")})
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def open_pyarrow(path):
    import pyarrow

    column = pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()["stream"].chunk(0)
    return lambda index: column[index].as_py()


def write_zarr(path, streams, labels):
    import zarr

    content = np.frombuffer(b"".join(streams), np.uint8)
    chunk = 2**14
    size = -(-len(content) // chunk) * chunk
    group = zarr.open_group(path, mode="w")
    array = group.create_array("streams", shape=(size,), dtype="u1", chunks=(chunk,), shards=(size,), compressors=None)
    array[: len(content)] = content
    group.create_array("offsets", data=offsets_of(streams).astype(np.int32))
    group.create_array("labels", data=np.array(labels, np.uint8))


def open_zarr(path):
    import zarr

    group = zarr.open_group(path, mode="r")
    streams, offsets = group["streams"], group["offsets"][:].tolist()
    return lambda index: streams[offsets[index] : offsets[index + 1]].tobytes()


PEERS = {
    "pyarrow": (write_pyarrow, open_pyarrow, READS),
    "lmdb": (write_lmdb, open_lmdb, READS),
    "h5py": (write_h5py, open_h5py, READS),
    "sqlite3": (write_sqlite, open_sqlite, READS),
    "zarr": (write_zarr, open_zarr, READS // 20),
}


def reads_a_second(read, indices, threads):
    """Return random reads a second by so many threads together."""

    def work(part):
        for index in part:
            read(index)

    workers = [threading.Thread(target=work, args=(indices[place::threads],)) for place in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(indices) / (time.perf_counter() - start)


def spread(values, pattern=",.0f"):
    return f"{statistics.median(values):{pattern}} ({min(values):{pattern}} to {max(values):{pattern}})"


def measure_containers(folder, rounds):
    data = cifar()
    stored = write_store(data, CODEC, folder / "ours")
    streams = [stored.stream(index) for index in range(COUNT)]
    labels, total = stored.labels.tolist(), sum(map(len, streams))
    readers, sizes = {"StoredDataset": (stored.stream, READS)}, {"StoredDataset": stored.nbytes}
    for name, (write, opened, reads) in PEERS.items():
        if importlib.util.find_spec(name) is None:
            print(f"{name}: not installed, not measured")
            continue
        path = folder / name
        write(path, streams, labels)
        sizes[name], readers[name] = size_of(path), (opened(path), reads)
        if any(readers[name][0](index) != streams[index] for index in range(0, COUNT, 997)):
            raise SystemExit(f"{name} reads other streams")
    chance = random.Random(0)
    rates = {(name, threads): [] for name in readers for threads in (1, 2)}
    for _ in range(rounds):
        for name, (read, reads) in readers.items():
            for threads in (1, 2):
                rates[name, threads].append(reads_a_second(read, chance.choices(range(COUNT), k=reads), threads))
    print(f"{COUNT} streams of {total / COUNT:.0f} bytes, {rounds} rounds")
    print(f"{'container':16}{'bytes more':>12}{'reads/s, 1 thread':>34}{'2 threads':>34}{'to ours':>10}")
    for name in readers:
        one, two = rates[name, 1], rates[name, 2]
        ratio = statistics.median(np.array(one) / np.array(rates["StoredDataset", 1]))
        print(f"{name:16}{(sizes[name] - total) / COUNT:12.1f}{spread(one):>34}{spread(two):>34}{ratio:10.3f}")


def timed(function, *arguments, **options):
    start = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - start


def measure_encoding(folder, rounds):
    data = cifar()
    write_store(data, CODEC, folder / "warm", jobs=2)  # starts the processes
    rates = {name: [] for name in ("codec alone", "jobs=1", "jobs=2", "again, nothing to do")}
    for turn in range(rounds):
        rates["codec alone"].append(COUNT / timed(lambda: [CODEC.encode(part) for part in data.tensors[0].split(256)]))
        for jobs in (1, 2):
            path = folder / f"{turn}-{jobs}"
            rates[f"jobs={jobs}"].append(COUNT / timed(write_store, data, CODEC, path, jobs=jobs))
        rates["again, nothing to do"].append(COUNT / timed(write_store, data, CODEC, path))
    print(f"{COUNT} images, {CODEC}, {rounds} rounds: images a second, and to the codec alone")
    for name, found in rates.items():
        ratio = np.array(found) / np.array(rates["codec alone"])
        print(f"{name:24}{spread(found):>34}   {spread(ratio, '.2f')}")


def measure_loading(folder, rounds):
    data = cifar()
    subjects = {"in memory": CompressedDataset(data, CODEC), "stored": write_store(data, CODEC, folder / "store")}
    rates = {(name, workers): [] for workers in (0, 1, 2) for name in subjects}
    for _ in range(rounds):
        for name, workers in rates:
            loader = DataLoader(subjects[name], 256, shuffle=True, num_workers=workers)
            rates[name, workers].append(COUNT / timed(list, loader))
    print(f"{COUNT} images decoded in batches of 256, shuffled, {rounds} rounds: images a second")
    for (name, workers), found in rates.items():
        print(f"{name:12}{workers} workers {spread(found):>34}")


class SlowImages(Dataset):
    """Images that take a millisecond each to read, so that a writer lives long enough to be killed."""

    def __len__(self):
        return 1_000

    def __getitem__(self, index):
        time.sleep(0.001)
        return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(index)), index % 10


def write_slowly(path, jobs):
    write_store(SlowImages(), CODEC, path, shard_size=20, jobs=jobs)


def start_writer(path, jobs):
    """Start a writer, and return when it has begun to write: importing is no moment of interest."""
    partial = path.with_name(f"{path.name}.partial")
    before = set(partial.glob(".writing-*"))
    command = [sys.executable, __file__, "write", "--path", str(path), "--jobs", str(jobs)]
    writer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while writer.poll() is None and not set(partial.glob(".writing-*")) - before:
        time.sleep(0.001)
    return writer


def count_kills(folder, kills, jobs, seed):
    """Kill writers at random moments; each that found a store unfinished went on with it."""
    chance, whole = random.Random(seed), folder / "whole"
    seconds = timed(start_writer(whole, jobs).wait)
    expected = {file.name: file.read_bytes() for file in whole.iterdir()}
    done = half = stores = 0
    while done < kills:
        path = folder / f"store{stores}"
        stores += 1
        while not path.exists() and done < kills:
            writer = start_writer(path, jobs)
            time.sleep(chance.uniform(0, seconds))
            writer.kill()
            writer.wait()
            done += 1
            shards = list(folder.glob(f"{path.name}*/*.safetensors"))
            half += sum(shard.read_bytes() != expected[shard.name] for shard in shards)
            print(f"kill {done}: {len(shards)} of {len(expected) - 1} shards", flush=True)
        write_slowly(path, jobs)
        if not verify_store(path).intact or {file.name: file.read_bytes() for file in path.iterdir()} != expected:
            raise SystemExit(f"{path} is not what a writer that was not killed writes")
    print(
        f"{done} kills of writers that take {seconds:.1f} s, {stores} stores, each finished by the next writer and then"
    )
    print(f"equal to the whole one byte for byte; shards that could be seen half written: {half}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("containers", "encode", "load", "kills", "write"))
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--path", help="for write: what a killed writer runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "write":
        write_slowly(options.path, options.jobs)
        return
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.what == "kills":
            count_kills(folder, options.kills, options.jobs, options.seed)
        else:
            measures = {"containers": measure_containers, "encode": measure_encoding, "load": measure_loading}
            measures[options.what](folder, options.rounds)


if __name__ == "__main__":
    main()
