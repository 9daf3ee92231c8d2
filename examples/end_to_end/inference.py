"""Photographs of a stored data set, answered by EfficientNet-Lite0: examples a second from file to answer.

`python examples/end_to_end/inference.py --output DIR [--photographs N] [--passes N] [--workers N …]`

The 224×224 photographs are stored as PNG files, as JPEG files, and as stores of this package by JPEG and by ZFP; the
network is dense, with filters removed, or in int8 on the CPU's integer kernels (`lower`). All combinations are run in
turns. Weights and photographs are those of `examples/image_classifier`, which says where they come from; without them
the script says so and ends. With `--digits` it runs on scikit-learn's handwritten digits instead, without a download.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from cp_compress import CalibrationData, FilterPrune, Quantize, lower
from cp_compress.base.errors import CompressionError, MissingExtraError
from cp_compress.data import write_store
from cp_compress.examples import digits, digits_cnn, digits_training
from cp_compress.pipeline import Pipeline, draw, profile_pipelines

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "paper"))
import material

CODECS = {
    "JPEG": "jpeg(quality=90)",
    "ZFP": "zfp(precision=10, layout='2d', color=ycbcr, chroma='4:2:0')",
}
GREY = {"JPEG": "jpeg(quality=90)", "ZFP": "zfp(precision=10, layout='2d')"}
_CALIBRATED_ON = 32


class Subject:
    """A network, images it answers, uint8 (n, channels, height, width), with labels, and images to calibrate on."""

    def __init__(self, network, images, labels, calibration, codecs, scaled, kept):
        order = labels.argsort(stable=True)  # as a folder with one folder a class is read
        self.network, self.images, self.labels = network, images[order], labels[order]
        self.calibration, self.codecs, self.scaled, self.kept = calibration, codecs, scaled, kept


def scaled(batch):
    """Return pixels as a network takes them, in [0, 1]."""
    return batch.float() / 255


def scaled_grey(batch):
    """Return grey pixels in [0, 1]: files of images are read as RGB."""
    return batch[:, :1].float() / 255


def read_photographs(options):
    """Return EfficientNet-Lite0 and photographs, or None and what is missing."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "image_classifier"))
    import subjects

    path = subjects.data_folder() / "imagenet_sample.npz"
    absent = [name.replace("_", "-") for name in subjects.PACKAGES if importlib.util.find_spec(name) is None]
    absent += [] if path.exists() else [f"{path.name} in the folder named by CP_DATA"]
    if absent:
        return None, ", ".join(absent)
    with np.load(path) as content:
        images, labels = torch.from_numpy(content["images"]), torch.from_numpy(content["labels"]).long()
    border = (images.shape[-1] - subjects.SIDE) // 2
    images = images[:, :, border : border + subjects.SIDE, border : border + subjects.SIDE].contiguous()
    count = min(options.photographs, len(images) - _CALIBRATED_ON)
    calibration = scaled(images[-_CALIBRATED_ON:])
    subject = Subject(subjects.reference(), images[:count], labels[:count], calibration, CODECS, scaled, options.kept)
    return subject, None


def read_digits(options):
    """Return the network of handwritten digits and its images."""

    def pixels(data, count):
        rows = [data[place] for place in range(min(count, len(data)))]
        images = (torch.stack([row[0] for row in rows]) * 255).round().to(torch.uint8)
        return images, torch.tensor([int(row[1]) for row in rows])

    images, labels = pixels(digits(), options.photographs)
    calibration = scaled_grey(pixels(digits_training(), _CALIBRATED_ON)[0])
    return Subject(digits_cnn(), images, labels, calibration, GREY, scaled_grey, options.kept)


def write_files(images, labels, folder, kind, **options):
    """Return the images as a folder of files, one folder a class, as torchvision reads it."""
    for place, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = folder / f"{label:04}" / f"{place:05}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(path, **options)
    return ImageFolder(folder)


def stored_forms(subject, folder):
    """Return the data sets by name, and the bytes an image of each."""
    images, labels = subject.images, subject.labels
    found = {"PNG files": write_files(images, labels, folder / "png", "png")}
    found["JPEG files"] = write_files(images, labels, folder / "jpg", "jpg", quality=90)
    sizes = {
        name: sum(Path(path).stat().st_size for path, _ in data.samples) / len(data) for name, data in found.items()
    }
    for name, codec in subject.codecs.items():
        found[f"{name} store"] = write_store((images, labels), codec, folder / name.lower())
        sizes[f"{name} store"] = found[f"{name} store"].bytes_per_example
    return found, sizes


def models(subject):
    """Return the networks by name, and sentences about those that this machine cannot make."""
    made, notes = {"dense": subject.network}, []
    shape = tuple(subject.images.shape[1:])
    try:
        shrink = FilterPrune(subject.kept, example_shape=shape)
        made[f"{1 - subject.kept:.0%} of filters removed"] = shrink.compress(subject.network)
    except MissingExtraError as error:
        notes.append(f"no network with filters removed: {error}")
    try:
        known = CalibrationData(subject.calibration)
        made["int8, lowered"] = lower(Quantize("int8", mode="static", calibration=known).compress(subject.network))
    except CompressionError as error:
        notes.append(f"no integer kernels: {error}")
    return made, notes


def answers(data, model, transform):
    """Return a model's answers to a data set (n,)."""
    with torch.no_grad():
        return torch.cat([model(transform(part)).argmax(1) for part in DataLoader(data, 16, collate_fn=as_batch)])


def as_batch(rows):
    """Return the images of rows as one batch."""
    return torch.stack([row[0] if isinstance(row[0], torch.Tensor) else pil_to_tensor(row[0]) for row in rows])


def table(found, rows):
    """Return one row for each combination, as Markdown."""
    first = found.profiles[0]
    columns = {
        "stored as": lambda row: row["data"],
        "network": lambda row: row["model"],
        "bytes an image": lambda row: f"{row['bytes']:,.0f}",
        "examples/s": lambda row: f"{found[row['name']].examples_per_second:.1f}",
        f"times {first.name}": lambda row: spread(found.ratios(row["name"])),
        "read and decode": lambda row: f"{loading_share(found[row['name']]):.0%}",
        "if the model were free": lambda row: f"{found[row['name']].at_best['forward']:,.0f}",
        "if decoding were free": lambda row: f"{found[row['name']].at_best['decode']:.1f}",
        "accuracy": lambda row: f"{row['accuracy']:.3f}",
        "agrees with the first": lambda row: f"{row['agreement']:.3f}",
    }
    return material.markdown(rows, columns)


def spread(ratios):
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def loading_share(profile):
    return sum(profile.shares[name] for name in profile.loading)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the figures and of the stored photographs"
    )
    parser.add_argument("--photographs", type=int, default=96)
    parser.add_argument("--kept", type=float, default=0.7, help="share of filters that the smaller network keeps")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="processes that load")
    parser.add_argument("--digits", action="store_true", help="handwritten digits instead of photographs")
    options = parser.parse_args()
    if options.digits:
        subject = read_digits(options)
    else:
        subject, absent = read_photographs(options)
        if subject is None:
            print(f"skipped: missing are {absent}")
            return
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        data, sizes = stored_forms(subject, Path(folder))
        made, notes = models(subject)
        settings = {"transform": subject.scaled, "batch_size": options.batch_size, "workers": options.workers}
        pipelines = {
            f"{name}, {kind}": Pipeline(one, model, **settings)
            for kind, model in made.items()
            for name, one in data.items()
        }
        found = profile_pipelines(pipelines, examples=options.photographs, passes=options.passes)
        rows, first = [], None
        for name, pipeline in pipelines.items():
            given = answers(pipeline.data, pipeline.model, subject.scaled)
            kind, network = name.split(", ", 1)
            first = given if first is None else first
            rows.append(
                {
                    "name": name,
                    "data": kind,
                    "model": network,
                    "bytes": sizes[kind],
                    "accuracy": float((given == subject.labels).float().mean()),
                    "agreement": float((given == first).float().mean()),
                }
            )
    content = {**found.to_json(), "rows": rows, "notes": notes, "environment": material.environment()}
    material.write(options.output, "inference.json", content)
    text = "\n".join([table(found, rows), *notes])
    material.write(options.output, "inference.md", text)
    material.write(options.output, "inference.svg", draw(found))
    print(f"{text}\n\n{found}")


if __name__ == "__main__":
    main()
