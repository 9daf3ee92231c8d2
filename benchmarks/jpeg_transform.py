"""JPEG as tensor arithmetic beside Pillow: bits that differ, bytes an image, and throughput in the same run.

    python benchmarks/jpeg_transform.py [--rounds 7] [--images 1000] [--pixels 32 224 512] [--threads 1 2] [--timed]

Compared are decoded pixels with Pillow's, and computed coefficients with those in its coded images, at every quality
and subsampling, on noise, on images of two colours and on smooth ones, of odd sizes. Timed are CIFAR-10 test images
(smooth random ones without CP_DATA, and of more than 32 pixels), uint8, ours and Pillow in turns: CPU time with one
thread, wall-clock time with more. MB are those of the pixels. The floor is one copy of the images in memory. Compared
with decoding are the coefficients of the same streams.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from throughput import make_images, print_rates, print_ratios, time_in_turns

from cp_compress.data import JPEG, CompressedDataset
from cp_compress.data.jpeg.coefficients import FACTORS

SIZES = [(1, 1), (8, 8), (17, 23), (33, 31), (2, 50)]


def kinds(size):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (2, 3, *size), generator=generator, dtype=torch.uint8)
    hard = torch.randint(0, 2, (1, 3, *size), generator=generator, dtype=torch.uint8) * 255
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4, generator=generator), size, mode="bicubic")
    return torch.cat([noise, hard, (smooth.clamp(0, 1) * 255).byte()])


def encode(row, quality, subsampling):
    file = io.BytesIO()
    Image.fromarray(row).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return file.getvalue()


def decode(file):
    return np.asarray(Image.open(io.BytesIO(file)))


def sweep():
    pixels = wrong_pixels = coefficients = wrong_coefficients = 0
    for quality in range(1, 101):
        for subsampling in FACTORS:
            codec = JPEG(quality, subsampling)
            for size in SIZES:
                images = kinds(size)
                found = codec.requantise(images).permute(0, 2, 3, 1).numpy()
                rows = images.permute(0, 2, 3, 1).numpy()
                theirs = np.stack([decode(encode(row, quality, subsampling)).reshape(row.shape) for row in rows])
                pixels += found.size
                wrong_pixels += int((found != theirs).sum())
                stored, computed = codec.coefficients_of_streams(codec.encode(images)), codec.coefficients(images)
                for first, second in zip(stored.components, computed.components, strict=True):
                    coefficients += first.numel()
                    wrong_coefficients += int((first != second).sum())
    print(f"pixels: {wrong_pixels:,} of {pixels:,} differ from Pillow's")
    print(f"coefficients: {wrong_coefficients:,} of {coefficients:,} differ from those in the coded images")


def read_images(count):
    folder = os.environ.get("CP_DATA")
    if folder and (Path(folder) / "cifar10_subset.npz").exists():
        content = np.load(Path(folder) / "cifar10_subset.npz")
        return torch.from_numpy(np.concatenate([content["test_images"], content["train_images"]])[:count])
    small = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(small, (32, 32), mode="bicubic").clamp(0, 1) * 255).byte()


def print_sizes(images):
    print(f"\nbytes of the codec an image, {len(images):,} images, 4:2:0 (pixels: {images[0].numel():,})")
    for quality in (20, 50, 75, 90):
        sizes = []
        for tables in ("inline", "shared"):
            labels = torch.zeros(len(images), dtype=torch.int64)
            stored = CompressedDataset((images, labels), JPEG(quality, "4:2:0", tables))
            sizes.append(stored.payload_bytes / len(stored))
        print(f"quality {quality}: whole files {sizes[0]:.0f}, tables shared {sizes[1]:.0f}")


def works_of(images, quality, pool):
    codec, rows = JPEG(quality), list(images.permute(0, 2, 3, 1).contiguous().numpy())
    files, streams = [encode(row, quality, "4:2:0") for row in rows], codec.encode(images)
    copy = torch.empty_like(images)
    parts = [slice(start, start + 100) for start in range(0, len(rows), 100)]

    def compress(part):
        return [encode(row, quality, "4:2:0") for row in rows[part]]

    def decompress(part):
        return [decode(file) for file in files[part]]

    def both(part):
        return [decode(file) for file in compress(part)]

    return {
        "copy in memory (floor)": lambda: copy.copy_(images),
        "ours: requantise": lambda: codec.requantise(images),
        "ours: coefficients": lambda: codec.coefficients(images),
        "Pillow: round trip": lambda: list(pool.map(both, parts)),
        "Pillow: encode": lambda: list(pool.map(compress, parts)),
        "Pillow: decode": lambda: list(pool.map(decompress, parts)),
        "ours: encode (by Pillow)": lambda: codec.encode(images),
        "ours: decode (by Pillow)": lambda: codec.decode(streams),
        "ours: coefficients read": lambda: [codec.coefficients_of_streams(streams[part]) for part in parts],
    }


def throughput(images, quality, threads, rounds):
    times = time_in_turns(lambda pool: works_of(images, quality, pool), threads, rounds)
    title = f"quality {quality}, {len(images):,} images {tuple(images.shape[1:])}, {threads} thread(s), {rounds} rounds"
    print_rates(title, times, images.numel() / 1e6, "Pillow: round trip", "copy in memory (floor)")
    read = "ours: coefficients read"
    print_ratios(times, [(read, "Pillow: decode"), (read, "ours: decode (by Pillow)")])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--pixels", nargs="+", type=int, default=[32, 224, 512])
    parser.add_argument("--timed", action="store_true", help="leaves out the comparison of bits and the sizes")
    options = parser.parse_args()
    images = read_images(options.images)
    if not options.timed:
        sweep()
        print_sizes(images)
    for pixels in options.pixels if options.rounds else ():
        if pixels != 32:
            images = (make_images(max(2, 300 * 32**2 // pixels**2), pixels) * 255).byte()
        for threads in options.threads:
            for quality in (50, 90):
                throughput(images, quality, threads, options.rounds)


if __name__ == "__main__":
    main()
