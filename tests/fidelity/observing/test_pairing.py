"""Compressed examples that took the places of others of their class are found; what codecs leave is no such case."""

import pytest
import torch

from cp_compress.base.errors import ObservationError
from cp_compress.data import JPEG, ZFP
from cp_compress.examples import digits
from cp_compress.fidelity.observing.pairing import require_same_examples
from cp_compress.inputs.reading import LabeledData

IMAGES, LABELS = digits().tensors


def within_classes(share, seed, only=None):
    """Return an order in which a share of the examples of each class (or of one) changed places among themselves."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(len(LABELS))
    moved = torch.rand(len(LABELS), generator=generator) < share
    for label in range(10) if only is None else [only]:
        places = (moved & (label == LABELS)).nonzero().flatten()
        order[places] = places.roll(1)
    return order


def pair(images, originals=IMAGES, labels=LABELS):
    require_same_examples(LabeledData((images, labels)), LabeledData((originals, labels)), labels)


@pytest.mark.parametrize("codec", [JPEG(20), JPEG(80), ZFP(precision=8)], ids=str)
def test_a_part_of_the_examples_in_other_places_is_found(codec):
    decoded = codec.roundtrip(IMAGES)
    pair(decoded)
    for seed in range(3):
        with pytest.raises(ObservationError, match=r"not the same examples in the same order: \d+ of 51"):
            pair(decoded[within_classes(0.3, seed)])


def test_one_class_in_other_places_is_found_and_named():
    decoded = JPEG(50).roundtrip(IMAGES)
    with pytest.raises(ObservationError, match=r"examples of class 7 that were looked at"):
        pair(decoded[within_classes(1.0, 0, only=7)])


def test_uncompressed_examples_in_other_places_are_found_with_and_without_classes():
    with pytest.raises(ObservationError, match="not the same examples"):
        pair(IMAGES[within_classes(0.3, 0)])
    order, moved = torch.arange(len(LABELS)), torch.rand(len(LABELS), generator=torch.Generator().manual_seed(0)) < 0.4
    order[moved] = order[moved].roll(1)
    with pytest.raises(ObservationError, match="not the same examples"):
        pair(IMAGES[order], labels=torch.zeros_like(LABELS))


def test_large_images_are_compared_by_their_means_over_neighbours():
    large = torch.nn.functional.interpolate(IMAGES, scale_factor=16)  # 128 x 128
    pair(large.mul(255).round() / 255, large)
    with pytest.raises(ObservationError, match="not the same examples"):
        pair(large[within_classes(0.3, 0)], large)


@pytest.mark.parametrize(
    "change",
    [
        *(codec.roundtrip for codec in (JPEG(1), JPEG(5), ZFP(precision=2), ZFP(precision=3), ZFP(precision=4))),
        lambda images: images + torch.randn(images.shape, generator=torch.Generator().manual_seed(0)),
        lambda images: torch.nn.functional.avg_pool2d(images, 4).repeat_interleave(4, 2).repeat_interleave(4, 3),
        lambda images: (images > 0.5).float(),
        lambda images: images.roll(1, -1),
        lambda images: images * 0.1 + 3,
        lambda images: images.half().float(),
        torch.zeros_like,
    ],
)
def test_what_is_left_of_an_example_is_not_called_another(change):
    pair(change(IMAGES))


def test_few_examples_and_repeated_ones_are_not_called_others():
    for count in (1, 2, 3, 5, 10, 30):
        pair(JPEG(20).roundtrip(IMAGES)[:count], IMAGES[:count], LABELS[:count])
    repeated = torch.arange(300) % 7
    pair(JPEG(20).roundtrip(IMAGES)[repeated], IMAGES[repeated], LABELS[repeated])
