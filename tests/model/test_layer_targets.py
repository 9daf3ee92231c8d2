"""Patterns on paths and types choose layers in the same way for every scheme."""

import pytest
import torch
from torch import nn

from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.model import Prune, compression_report, parse_scheme


class Narrow(nn.Conv2d):
    """A user's own convolution."""


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 4), nn.Linear(4, 6), nn.Unflatten(1, (6, 1, 1)), Narrow(6, 3, 1))


def pruned(model, candidate):
    return {layer.name for layer in compression_report(model, candidate).layers if layer.changed}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"1.weight", "3.weight"}),
        ({"include": nn.Conv2d}, {"3.weight"}),
        ({"include": "type:Conv*"}, {"3.weight"}),
        ({"include": "type:Narrow"}, {"3.weight"}),
        ({"exclude": (nn.Conv2d,)}, {"1.weight"}),
        ({"include": ("*",)}, {"0.weight", "1.weight", "3.weight"}),
        ({"include": (nn.Embedding, "3")}, {"0.weight", "3.weight"}),
    ],
)
def test_layers_are_chosen_by_path_and_by_type(model, options, expected):
    assert pruned(model, Prune(0.5, scope="layer", **options).compress(model)) == expected


def test_types_survive_the_text_of_a_scheme():
    scheme = Prune(0.5, include=(nn.Linear, "head.*"))
    assert parse_scheme(str(scheme)) == scheme


def test_an_embedding_left_alone_says_how_to_include_it(model):
    skipped = {skip.name: skip.reason for skip in compression_report(model, Prune(0.5).compress(model)).skipped}
    assert "include" in skipped["0.weight"]


def test_a_type_that_no_layer_has_is_an_error(model):
    with pytest.raises(CompressionError, match="type:LSTM"):
        Prune(0.5, exclude=nn.LSTM).compress(model)


@pytest.mark.parametrize("pattern", ["", "type:", 3, ("a", None)])
def test_patterns_must_be_texts_or_classes(pattern):
    with pytest.raises(InvalidArgumentError, match="include"):
        Prune(0.5, include=pattern)
