"""Terms of the training loss that preserve behaviour under compression, each with a bound that it has to meet.

Each term is 0 or more, and 0 if the candidate behaves like the reference. Its weight is the Lagrange multiplier of the
constraint "at most `at_most`", found during training (`cp_compress.training.multipliers`). The terms are the
preservation losses of Joseph et al. 2020, section III.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cp_compress.base.arguments import check_real, explains_keywords, reject
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.attributions.jaccard import signed_units
from cp_compress.fidelity.embeddings.similarity import unbiased_cka
from cp_compress.fidelity.predictions.class_distances import (
    ClassDistance,
    Weights,
    as_class_distance,
    as_class_weights,
    check_class_distance,
)


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch as both models see it; features (n, width) are those of the layers that terms name."""

    inputs: Tensor
    logits: Tensor
    reference_logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    reference_features: dict[str, Tensor] = field(default_factory=dict)
    reference: Callable[[Tensor], Tensor] | None = None


class Preservation(Protocol):
    """A term with its bound."""

    @property
    def at_most(self) -> float: ...

    @property
    def layer(self) -> str | None:
        """The path of the layer whose output it needs, or None."""
        ...

    @property
    def needs_input_gradients(self) -> bool: ...

    def bind(self, class_names: tuple[str, ...], device: torch.device) -> Callable[[Batch], Tensor]:
        """Return the function that gives the term's value on a batch, a scalar with a gradient."""
        ...


class _Term:
    at_most: float
    layer: str | None = None
    needs_input_gradients = False
    _largest: ClassVar[float] = float("inf")
    _largest_is: ClassVar[str] = "its largest value"

    def __post_init__(self) -> None:
        owner, below = type(self).__name__, self._largest
        rule = "at_most is the bound that the term has to hold, a number above 0"
        rule += f" and below {below:g}, {self._largest_is}" if below < float("inf") else ""
        object.__setattr__(self, "at_most", check_real(owner, "at_most", self.at_most, rule, above=0, below=below))


@explains_keywords
@dataclass(frozen=True)
class PreserveAgreement(_Term):
    """Preserve the predicted probabilities: the mean Kullback–Leibler divergence from the reference's, in nats.

    Both are softened by `temperature` T and the divergence is multiplied by T², so that the scale of its gradient does
    not depend on T. Hinton et al. 2015, "Distilling the knowledge in a neural network".
    """

    at_most: float
    temperature: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "temperature softens the probabilities, a number above 0"
        check_real("PreserveAgreement", "temperature", self.temperature, rule, above=0)

    def bind(self, class_names: tuple[str, ...], device: torch.device) -> Callable[[Batch], Tensor]:
        """Return the function of a batch."""

        def divergence(batch: Batch) -> Tensor:
            mine = F.log_softmax(batch.logits.float() / self.temperature, 1)
            theirs = F.log_softmax(batch.reference_logits.float() / self.temperature, 1)
            return F.kl_div(mine, theirs, reduction="batchmean", log_target=True) * self.temperature**2

        return divergence


@explains_keywords
@dataclass(frozen=True, eq=False)
class PreserveCost(_Term):
    """Keep costly changes rare: the expected distance from the reference's class to the candidate's.

    The expectation is over the candidate's probabilities. `class_distance` and `weights` are those of
    `compare_predictions`, `weights` as a mapping from the reference's class. It is the differentiable form of Δ_{μ,d}
    of Joseph et al. 2020, section II-A.
    """

    at_most: float
    class_distance: ClassDistance | None = None
    weights: Weights | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_class_distance(self.class_distance, "PreserveCost")

    def bind(self, class_names: tuple[str, ...], device: torch.device) -> Callable[[Batch], Tensor]:
        """Return the function of a batch."""
        distance = as_class_distance(self.class_distance, class_names, "PreserveCost").float().to(device)
        shares = as_class_weights(self.weights, class_names, "PreserveCost").float().to(device)

        def cost(batch: Batch) -> Tensor:
            classes = batch.reference_logits.argmax(1)
            expected = (F.softmax(batch.logits.float(), 1) * distance[classes]).sum(1)
            share = shares[classes]
            return (share * expected).sum() / share.sum().clamp_min(torch.finfo(share.dtype).tiny)

        return cost


@explains_keywords
@dataclass(frozen=True)
class PreserveEmbedding(_Term):
    """Preserve the structure of a layer's features: 1 − the linear CKA of both models' features on a batch, in [0, 2].

    It is 1 − `cka` as `compare_embeddings` computes it, on the batch alone: features are averaged over positions, and
    the estimator is unbiased, so that unrelated features give about 1 whatever their width, to within about 1.4 / n on
    n examples. Batches of 64 or more are enough for bounds of a few hundredths; fewer than 4 examples give 1, without a
    gradient.

    `layer` is the path of a layer that both models have. Kornblith et al. 2019, "Similarity of neural network
    representations revisited"; Nguyen et al. 2021, "Do wide and deep networks learn the same things?".
    """

    at_most: float
    layer: str = ""
    _largest: ClassVar[float] = 1.0
    _largest_is: ClassVar[str] = "its value for unrelated features"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.layer, str) or not self.layer:
            reject("PreserveEmbedding", "layer", self.layer, "give the path of a layer, such as 'features.7'")

    def bind(self, class_names: tuple[str, ...], device: torch.device) -> Callable[[Batch], Tensor]:
        """Return the function of a batch."""

        def distance(batch: Batch) -> Tensor:
            mine, theirs = batch.features[self.layer], batch.reference_features[self.layer]
            if len(mine) < 4:  # nothing can be told: the bound does not hold, and nothing pulls
                return 1 + 0 * mine.sum()
            return 1 - unbiased_cka(mine, theirs)

        return distance


@explains_keywords
@dataclass(frozen=True)
class PreserveAttribution(_Term):
    """Preserve the attributions: half the mean L1 distance of both models' gradient maps, in [0, 1].

    The maps are gradients of the reference's class with respect to the input, scaled to an absolute sum of 1; with
    their distance D the weighted Jaccard index of the split maps is (2 − D) / (2 + D), see `split_jaccard`. It needs a
    second backward pass.
    """

    at_most: float
    needs_input_gradients = True
    _largest: ClassVar[float] = 1.0

    def bind(self, class_names: tuple[str, ...], device: torch.device) -> Callable[[Batch], Tensor]:
        """Return the function of a batch."""

        def distance(batch: Batch) -> Tensor:
            classes = batch.reference_logits.argmax(1, keepdim=True)
            mine = _gradient_map(batch.logits, classes, batch.inputs, create_graph=True)
            assert batch.reference is not None
            leaf = batch.inputs.detach().requires_grad_()
            theirs = _gradient_map(batch.reference(leaf), classes, leaf, create_graph=False).detach()
            return (signed_units(mine) - signed_units(theirs)).abs().sum(1).mean() / 2

        return distance


def _gradient_map(logits: Tensor, classes: Tensor, inputs: Tensor, create_graph: bool) -> Tensor:
    (found,) = torch.autograd.grad(
        logits.gather(1, classes).sum(), inputs, create_graph=create_graph, retain_graph=create_graph
    )
    return found.float()


def find_layers(terms: tuple[Preservation, ...], model: nn.Module, what: str) -> dict[str, nn.Module]:
    """Return the layers that terms name; raises ObservationError, naming the model, for one that it does not have."""
    known: dict[str, nn.Module] = dict(model.named_modules())
    found = {}
    for term in terms:
        if term.layer is None:
            continue
        if term.layer not in known:
            last = ", ".join([name for name in known if name][-5:])
            raise ObservationError(f"{term}: the {what} has no layer {term.layer!r}; its last are {last}")
        found[term.layer] = known[term.layer]
    return found


def name_terms(terms: tuple[Preservation, ...]) -> list[str]:
    """Return the names of terms in histories, each another.

    >>> name_terms((PreserveAgreement(0.1), PreserveAgreement(0.2)))
    ['PreserveAgreement', 'PreserveAgreement 2']
    """
    names: list[str] = []
    for term in terms:
        name = type(term).__name__ + (f"({term.layer})" if term.layer else "")
        seen = sum(other.partition(" ")[0] == name for other in names)
        names.append(f"{name} {seen + 1}" if seen else name)
    return names
