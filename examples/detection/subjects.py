"""Rectangles of three colours, and a detector of torchvision that is trained on them here, from a fixed seed.

Let the environment variable CP_DETECTOR name weights of torchvision's Faster R-CNN with a ResNet-50 (a file of
`state_dict`), and CP_IMAGES a folder of photographs, to gate a real one.
"""

import functools
import os
from pathlib import Path

import torch
from torch import nn
from torchvision.models.detection import FCOS, fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from cp_compress import DetectionData

CLASSES = ("red", "green", "blue")
SIDE = 64


def draw(seed, count):
    """Return images (count, 3, 64, 64) with up to four rectangles, and what is where."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = 0.1 * torch.rand(count, 3, SIDE, SIDE, generator=generator), []
    for image in images:
        boxes, labels = [], []
        for left, top in ((0, 0), (0, 32), (32, 0), (32, 32)):
            width, height, label, present = torch.randint(10, 26, (4,), generator=generator).tolist()
            if present < 14:
                continue
            x, y = left + (31 - width) // 2, top + (31 - height) // 2
            image[label % 3, y : y + height, x : x + width] += 0.7
            boxes.append([x, y, x + width, y + height])
            labels.append(label % 3)
        targets.append({"boxes": torch.tensor(boxes).float().reshape(-1, 4), "labels": torch.tensor(labels).long()})
    return list(images), targets


def scenes():
    if "CP_IMAGES" in os.environ:
        from torchvision.io import ImageReadMode, decode_image

        paths = sorted(Path(os.environ["CP_IMAGES"]).glob("*.jp*g"))
        return DetectionData([decode_image(str(path), ImageReadMode.RGB) / 255 for path in paths])
    return DetectionData(*draw(0, 60), classes=CLASSES)


@functools.cache
def reference():
    if "CP_DETECTOR" in os.environ:
        model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        model.load_state_dict(torch.load(os.environ["CP_DETECTOR"], weights_only=True))
        return model.eval()
    torch.manual_seed(0)
    layers = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = 32
    pixels = {"min_size": SIDE, "max_size": SIDE, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    model = FCOS(backbone, len(CLASSES), anchor_generator=AnchorGenerator(((8,),), ((1.0,),)), **pixels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    for step in range(80):
        loss = sum(model(*draw(step + 1, 8)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
