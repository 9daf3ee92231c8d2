"""Data of inputs alone: what says that examples have no labels, and what can be done without them."""

from __future__ import annotations

from typing import Any

from cp_compress.base.arguments import explains_keywords
from cp_compress.inputs.forms import as_data_set
from cp_compress.inputs.loaders import HandedOn

REMEDY = (
    "give (input, label) pairs. Without labels, agreement, divergence of probabilities, embeddings, attributions, "
    "boundaries and outputs are compared"
)
NO_LABELS_NOTE = "the data has no labels: what is measured against labels is left out"


@explains_keywords
class Unlabeled(HandedOn):
    """A data set whose examples are inputs alone, whatever form they have.

    A tensor, a data set of tensors and one of mappings without "labels" and "label" are inputs alone by themselves. A
    pair is (input, label) everywhere; here it is two inputs. A tuple of tensors (n, ...) is several inputs of n
    examples; a list is a sequence of examples. The model is called with a mapping's entries by name, and with a tuple's
    by position.

    Args:
        dataset: A map-style data set of inputs, a tensor, a tuple or mapping of tensors, or an unshuffled `DataLoader`.

    >>> import torch
    >>> from cp_compress.fidelity import observe
    >>> pair = Unlabeled((torch.eye(3), torch.ones(3, 3)))
    >>> observe(lambda a, b: a + b, pair).logits[0].tolist()
    [2.0, 1.0, 1.0]
    """

    labeled = False

    def __init__(self, dataset: Any) -> None:
        super().__init__(as_data_set(dataset, alone=True))
