"""ZFP as tensor arithmetic beside zfpy: bits that differ, and throughput in the same run.

    python benchmarks/zfp_transform.py [--rounds 7] [--pixels 32 224 512] [--layout 3d] [--budgets 1] [--threads 1 2]

The sweep compares decoded values and sizes with zfpy's over 1-D to 4-D arrays of odd shapes, float32 and float64, with
magnitudes over up to 120 powers of two: every precision, 108 tolerances, and every budget of fixed-rate mode in steps
of `--budgets` bits until all planes fit (float64 and 4-D in ten and thirty times as long steps).

Timed are images (3, p, p) in float32, as many as 300 of 32 pixels, in turns with zfpy: CPU time with one thread,
wall-clock time with more. Compared with decoding are the coefficients of the same streams.
MB are those of the images. zfpy works image by image, on as many Python threads as torch has (it releases the lock).
"Round trip" is zfpy's encoding and decoding, what `requantise` replaces. The floor is one copy of the images in memory.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")


import numpy as np
import torch
import zfpy
from throughput import make_images, print_rates, print_ratios, time_in_turns

from cp_compress.data import ZFP
from cp_compress.data.zfp.planes import Setting
from cp_compress.data.zfp.requantise import count_array_bits, requantise_arrays

SHAPES = [(37,), (13, 10), (5, 9, 11), (3, 32, 32), (2, 5, 6, 7)]
MODES = [{"precision": 8}, {"precision": 16}, {"tolerance": 0.02}, {"rate": 4}]


def wide_range(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    spread_of_exponents = (0, 4, 20, 60)[seed % 4]
    exponents = (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1) * spread_of_exponents
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * torch.exp2(exponents)
    if seed % 5 == 1:
        values *= torch.rand(shape, generator=generator) < 0.4
    if seed % 7 == 2:
        values = values.cumsum(-1)
    return values.to(dtype)


def differences(batch, mode):
    """Return compared values, values of which any bit differs, and arrays whose sizes differ."""
    setting = Setting(**mode)
    found, bits = requantise_arrays(batch, setting), count_array_bits(batch, setting)
    word = np.uint32 if batch.dtype == torch.float32 else np.uint64
    values = sizes = 0
    for row, ours, size in zip(batch.numpy(), found.numpy(), bits.tolist(), strict=True):
        coded = zfpy.compress_numpy(row, write_header=False, **mode)
        theirs = np.asarray(zfpy._decompress(coded + bytes(20_000), zfpy.dtype_to_ztype(row.dtype), row.shape, **mode))
        values += int((np.ascontiguousarray(theirs).view(word) != ours.view(word)).sum())
        sizes += -(-size // 64) * 64 != 8 * len(coded)
    return batch.numel(), values, sizes


def settings_of(dimensions, dtype, step):
    header, planes = (9, 32) if dtype == torch.float32 else (12, 64)
    yield from ({"precision": precision} for precision in range(1, planes + 1))
    yield from ({"tolerance": factor * 2.0**exponent} for exponent in range(-30, 24) for factor in (1, 1.37))
    long = step * (30 if dimensions == 4 else 1) * (10 if dtype == torch.float64 else 1)
    full = header + (planes + 1) * 4**dimensions + planes
    yield from ({"rate": budget / 4**dimensions} for budget in range(header, full, long))


def sweep(step):
    print(f"{'shape':16}{'dtype':16}{'settings':>10}{'values':>14}{'differing':>11}{'sizes':>9}{'differing':>11}")
    total = np.zeros(5, dtype=np.int64)
    for dtype in (torch.float32, torch.float64):
        for shape in SHAPES:
            counts = np.zeros(5, dtype=np.int64)
            for number, mode in enumerate(settings_of(len(shape), dtype, step)):
                compared, values, sizes = differences(wide_range((2, *shape), dtype, number), mode)
                counts += (1, compared, values, 2, sizes)
            total += counts
            print_counts(str(shape), str(dtype), counts)
    print_counts("all", "", total)


def print_counts(shape, dtype, counts):
    settings, values, wrong, sizes, wrong_sizes = counts.tolist()
    print(f"{shape:16}{dtype:16}{settings:>10,}{values:>14,}{wrong:>11,}{sizes:>9,}{wrong_sizes:>11,}", flush=True)


def works_of(images, mode, layout, pool):
    """Return what is timed, by name: ours and zfpy's."""
    codec = ZFP(**mode, layout=layout, clip=None)
    rows = list((images if layout == "3d" else images.flatten(1, 2)).numpy())
    coded = [zfpy.compress_numpy(row, **mode) for row in rows]
    streams = codec.encode(images)
    copy = torch.empty_like(images)
    parts = [slice(start, start + 100) for start in range(0, len(rows), 100)]

    def compress(part):
        return [zfpy.compress_numpy(row, **mode) for row in rows[part]]

    def decompress(part):
        return [zfpy.decompress_numpy(each) for each in coded[part]]

    def both(part):
        return [zfpy.decompress_numpy(each) for each in compress(part)]

    return {
        "copy in memory (floor)": lambda: copy.copy_(images),
        "ours: requantise": lambda: codec.requantise(images),
        "ours: size_bits": lambda: codec.size_bits(images),
        "ours: coefficients read": lambda: codec.coefficients_of_streams(streams),
        "ours: coefficients": lambda: codec.coefficients(images),
        "zfpy: round trip": lambda: list(pool.map(both, parts)),
        "zfpy: encode": lambda: list(pool.map(compress, parts)),
        "zfpy: decode": lambda: list(pool.map(decompress, parts)),
        "ours: encode": lambda: codec.encode(images),
        "ours: decode (by zfpy)": lambda: codec.decode(streams),
    }


def throughput(images, mode, layout, threads, rounds):
    times = time_in_turns(lambda pool: works_of(images, mode, layout, pool), threads, rounds)
    title = f"{ZFP(**mode, layout=layout)}, {len(images):,} images {tuple(images.shape[1:])}, {threads} thread(s)"
    print_rates(
        f"{title}, {rounds} rounds", times, images.numel() * 4 / 1e6, "zfpy: round trip", "copy in memory (floor)"
    )
    read = "ours: coefficients read"
    print_ratios(times, [(read, "zfpy: decode"), (read, "ours: decode (by zfpy)"), ("ours: encode", "zfpy: encode")])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="0 leaves out the throughput")
    parser.add_argument("--pixels", type=int, nargs="+", default=[32, 224, 512])
    parser.add_argument("--layout", choices=["2d", "3d"], default="3d")
    parser.add_argument("--budgets", type=int, default=1, help="step between budgets in bits; 0 leaves out the sweep")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.budgets:
        sweep(options.budgets)
    if options.rounds:
        for pixels in options.pixels:
            images = make_images(max(2, 300 * 32**2 // pixels**2), pixels)
            for mode in MODES:
                for threads in options.threads:
                    throughput(images, mode, options.layout, threads, options.rounds)


if __name__ == "__main__":
    main()
