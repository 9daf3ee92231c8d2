"""Inputs and outputs of the figures: networks, test and training images, and the files that are written."""

import io
import itertools
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from cp_compress import JPEG
from cp_compress.base.files import write_atomically
from cp_compress.data.container import payload_size
from cp_compress.examples import digits, digits_cnn, digits_training

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cifar10"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "learn_from_coefficients"))
from networks import quick_cnn
from resnet import DEVIATION, MEAN, resnet20, resnet56


class Normalised(nn.Sequential):
    """A network behind the normalisation of images in [0, 1]."""

    def __init__(self, network):
        super().__init__(network)

    def forward(self, images):
        mean, deviation = (torch.tensor(numbers).view(3, 1, 1) for numbers in (MEAN, DEVIATION))
        return super().forward((images - mean) / deviation)


# trained by train_networks.py
TRAINED = {
    "normed": lambda: Normalised(quick_cnn(3, 32)),
    "plain": lambda: Normalised(quick_cnn(3, 32, norm=False)),
}
NETWORKS = {"resnet20": resnet20, "resnet56": resnet56, **TRAINED, "digits": digits_cnn}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


JPEG_CODED, _SAME = 2000, 0.07  # of the lossless images, 97 have their JPEG file within this root mean square
TEST_IMAGES = ("lossless", "jpeg", "both")


class Images(TensorDataset):
    """RGB images (n, 3, 32, 32), float32 in [0, 1], and their labels."""

    classes = CLASSES


def folder():
    """Return the folder named by CP_DATA, or shared/data beside the checkout."""
    return Path(os.environ.get("CP_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def missing(names, images="lossless", trained=None):
    """Return a line that names missing files of some networks and images, or None."""
    wanted = ["cifar10_subset.npz"] * any(name != "digits" for name in names)
    wanted += [f"cifar10_{name}.pt" for name in names if name != "digits" and name not in TRAINED]
    wanted += ["cifar10_jpeg_test.npz"] * (images != "lossless")
    absent = [name for name in wanted if not (folder() / name).exists()]
    unmade = [f"{name}.pt" for name in names if name in TRAINED and not (trained and (trained / f"{name}.pt").exists())]
    if not absent and not unmade:
        return None
    if not absent:
        return f"skipped: {', '.join(unmade)} not found; run train_networks.py, and name its folder with --trained"
    return f"skipped: {', '.join(absent)} not found in {folder().name}; set CP_DATA to the folder that holds them"


def load(name, images="lossless", trained=None):
    """Return a trained network, its test images and its training images."""
    if name == "digits":
        return digits_cnn(), digits(), digits_training()
    model = NETWORKS[name]()
    path = folder() / f"cifar10_{name}.pt" if name not in TRAINED else trained / f"{name}.pt"
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state.get("state_dict", state))
    return model.eval(), test_images(images), _images("train")


def test_images(kind):
    """Return the 500 lossless test images, those of 2,000 former JPEG files that show no picture of them, or both."""
    lossless = _images("test")
    if kind == "lossless":
        return lossless
    pixels, labels = read_jpeg_files("test", JPEG_CODED)
    images = pixels.float() / 255
    apart = torch.cdist(images.flatten(1), lossless.tensors[0].flatten(1)).amin(1) / images[0].numel() ** 0.5
    other = apart > _SAME
    images, labels = images[other], labels[other]
    if kind == "both":
        images, labels = (torch.cat(pair) for pair in zip(lossless.tensors, (images, labels), strict=True))
    return Images(images, labels)


def _images(part):
    with np.load(folder() / "cifar10_subset.npz") as content:
        pixels = torch.from_numpy(content[f"{part}_images"])
        return Images(pixels.float() / 255, torch.from_numpy(content[f"{part}_labels"]).long())


def read_jpeg_files(part, count):
    """Return the first images of a file of JPEG streams, uint8 (n, 3, 32, 32), and their labels."""
    with np.load(folder() / f"cifar10_jpeg_{part}.npz") as content:
        stream, offsets = content["stream"].tobytes(), content["offsets"].tolist()
        labels = torch.from_numpy(content["labels"][:count]).long()
    files = (stream[start:stop] for start, stop in itertools.islice(itertools.pairwise(offsets), count))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels


def denominator(data):
    """Return the bytes of an example's uncompressed pixels in uint8; in float32 they are four times as many."""
    return data[0][0].numel()


def spell_out(data):
    """Return the sentence that defines the shares."""
    values = denominator(data)
    shape = "×".join(map(str, data[0][0].shape))
    return (
        f"An image is {shape} = {values:,} values: {values:,} bytes as uint8 pixels, {4 * values:,} as float32. "
        "Coded: entropy-coded bytes alone. Payload: what the codec stores per image; with tables=inline a whole JPEG "
        "file, of which 625 bytes are headers and tables at this size. Stored: the payload with an envelope of 10 to "
        "14 bytes (shape, dtype, checksum). Shares are shares of the coded bytes."
    )


def coded_bytes(stored):
    """Return the mean bytes of entropy-coded data per image: the scan of a JPEG file, a whole ZFP stream."""
    streams = (stored.stream(index) for index in range(len(stored)))
    payloads = [stream[len(stream) - payload_size(stream) :] for stream in streams]
    count = _scan if isinstance(stored.codec, JPEG) and stored.codec.tables == "inline" else len
    return sum(map(count, payloads)) / len(payloads)


def _scan(file):
    """Return the bytes of a baseline JPEG file between the header of its scan and the marker of its end."""
    position = 2
    while file[position + 1] != 0xDA:
        position += 2 + int.from_bytes(file[position + 2 : position + 4], "big")
    header = int.from_bytes(file[position + 2 : position + 4], "big")
    return len(file) - (position + 2 + header) - 2


def is_json(line):
    """Tell whether a line is complete: an interrupted run may have written only part of its last line."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def markdown(rows, columns):
    """Return rows, mappings, as a Markdown table; `columns` maps headings to functions of a row."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(str(show(row)) for show in columns.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def write(output, name, content):
    """Write a text, or a value as JSON, into the output folder, and print its path."""
    output.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(output / name, text)
    print(output / name, flush=True)


def draw(output, name, figure):
    """Save a figure as PNG and SVG in the output folder."""
    output.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        figure.savefig(output / f"{name}.{kind}", dpi=150, bbox_inches="tight")
        print(output / f"{name}.{kind}", flush=True)


def environment():
    """Return where the figures were made."""
    return {"machine": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
