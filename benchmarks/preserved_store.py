"""Bytes of a store whose examples have each a setting of their own, beside one setting for all, without a flip.

    python benchmarks/preserved_store.py [--family NAME …] [--images N]

A committee of three networks must keep every answer on the lossless CIFAR-10 test images (CP_DATA or ../shared/data):
ResNet-20, ResNet-56, and ResNet-56 pruned to half its weights. Of each family of codecs printed are the smallest
setting for all images at which none of the three changes an answer, found by trying every setting, and what
`write_preserved_store` takes; flips are counted once more by decoding the store. A second table asks ResNet-20 alone,
or with two compressed forms of itself, and holds ResNet-56 back.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cp_compress import CodecSpace, CompressedDataset, Prune, Quantize
from cp_compress.data import StoredDataset, parse_codec
from cp_compress.search import Integer, Real, write_preserved_store

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("CP_DATA", ROOT.parent / "shared" / "data"))
PARTS = ["uniform", "committee", "alone"]
SMALL = "layout='2d', color=ycbcr, chroma='4:2:0'"
FAMILIES = {
    "jpeg420": CodecSpace("jpeg(quality={quality})", quality=Integer(1, 100)),
    "jpeg444": CodecSpace("jpeg(quality={quality}, subsampling='4:4:4')", quality=Integer(1, 100)),
    "precision": CodecSpace("zfp(precision={precision})", precision=Integer(1, 24)),
    "tolerance": CodecSpace(f"zfp(tolerance={{tolerance}}, {SMALL})", tolerance=Real(2**-12, 2, scale="log")),
}


def networks():
    sys.path.insert(0, str(ROOT / "examples" / "cifar10"))
    import resnet

    found = {}
    for depth in (20, 56):
        state = torch.load(FOLDER / f"cifar10_resnet{depth}.pt", map_location="cpu", weights_only=True)
        model = getattr(resnet, f"resnet{depth}")()
        model.load_state_dict(state.get("state_dict", state))
        found[f"resnet{depth}"] = model.eval()
    return found


def scaled(pixels):
    return pixels.float() / 255


def answers(model, images):
    with torch.no_grad():
        return torch.cat([model(scaled(part)).argmax(1) for part in images.split(125)])


def uniform(family, images, labels, committee):
    """Return the smallest setting for all without a flip, and its payload bytes an image; None where there is none."""
    name, parameter = family.parameters[0]
    if isinstance(parameter, Integer):
        values = range(parameter.low, parameter.high + 1)
    else:
        values = [parameter.from_unit(place / 126) for place in range(127)]
    stored = sorted(
        (CompressedDataset((images, labels), family.codec({name: value})) for value in values),
        key=lambda one: one.payload_bytes,
    )
    before = {name: answers(model, images) for name, model in committee.items()}
    for one in stored:
        decoded = one.codec.decode(one.streams(range(len(one))))
        if all(keeps(model, decoded, before[name]) for name, model in committee.items()):
            return str(one.codec), one.payload_bytes / len(one)
    return None


def keeps(model, images, before):
    """Tell whether a model gives these answers; it is not asked further after the first other one."""
    parts = zip(images.split(50), before.split(50), strict=True)
    return all(torch.equal(answers(model, part), known) for part, known in parts)


def preserved(family, images, labels, committee, held_back, otherwise="lossless"):
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        write_preserved_store(
            (images, labels),
            family,
            f"{folder}/store",
            committee,
            held_back=held_back,
            otherwise=otherwise,
            transform=scaled,
        )
        seconds = time.perf_counter() - began
        stored = StoredDataset(f"{folder}/store")
        decoded = torch.stack([stored[place][0] for place in range(len(stored))])
        flips = {
            name: int((answers(model, decoded) != answers(model, images)).sum()) for name, model in committee.items()
        }
        return stored.payload_bytes / len(stored), stored.nbytes / len(stored), flips, stored.record, seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--family", nargs="+", choices=tuple(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(FOLDER / "cifar10_subset.npz") as arrays:
        images = torch.from_numpy(arrays["test_images"][: options.images])
        labels = torch.from_numpy(arrays["test_labels"][: options.images]).long()
    known = networks()
    small, large = known["resnet20"], known["resnet56"]
    committee = {**known, "resnet56 prune(0.5)": Prune(density=0.5).compress(large)}
    beside = {"resnet20 quantize(int4)": Quantize("int4").compress(small)}
    own = {
        "resnet20": small,
        "resnet20 int8": Quantize("int8").compress(small),
        "resnet20 half": Prune(0.5).compress(small),
    }
    lossless = CompressedDataset((images, labels), parse_codec("zfp(reversible=True)")).payload_bytes / len(images)
    print(f"lossless (zfp reversible): {lossless:.0f} bytes", flush=True)
    for name in options.family:
        family = FAMILIES[name]
        if "uniform" in options.part:
            one = uniform(family, images, labels, committee)
            told = "none" if one is None else f"{one[0]} {one[1]:.0f} bytes"
            print(f"{name}: uniform {told}", flush=True)
        if "committee" in options.part:
            payload, whole, flips, record, seconds = preserved(family, images, labels, committee, beside)
            lost = record["settings"].get("zfp(reversible=True, clip=None)", 0)
            print(f"  each its own: {payload:.0f} bytes ({whole:.0f} with all on disk), flips {flips}, lossless {lost}")
            print(f"  decodes {record['decodes']}, passes {record['forward_passes']}, {seconds:.0f} s", flush=True)
            print(f"  held back {record['held_back']}", flush=True)
        if "alone" in options.part:
            for asked in ({"resnet20": small}, own):
                payload, _, flips, record, _ = preserved(family, images, labels, asked, {"resnet56": large})
                kept = record["held_back"]["resnet56"]["agreement"]
                print(f"  {name}, asked {list(asked)}: {payload:.0f} bytes, flips {flips}, resnet56 agrees {kept:.3f}")


if __name__ == "__main__":
    main()
