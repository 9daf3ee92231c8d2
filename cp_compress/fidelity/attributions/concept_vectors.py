"""Directions in a layer's outputs that represent concepts, found by Captum's TCAV from examples of each concept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum.concept import TCAV, Classifier, Concept
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from cp_compress.base.batching import slices
from cp_compress.base.devices import keeping_random_state
from cp_compress.base.errors import ObservationError
from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.observing.gradients import differentiating
from cp_compress.fidelity.observing.observation import Observation

_TEST_SHARE = 0.33
_ROUNDING = 1e-9  # of outputs of unit length: what a regression finds between equal ones


@dataclass(frozen=True, repr=False)
class ConceptVectors(Brief):
    """Unit vectors (concepts, random sets, features) towards each concept, and how well each separates it.

    `accuracies` (concepts, random sets) are shares of held-out examples of concept and random set, in [0, 1]. A vector
    is zero where the layer gives the same outputs for both.
    """

    vectors: Tensor
    accuracies: Tensor

    @property
    def known(self) -> Tensor:
        """Which vectors are not zero, (concepts, random sets)."""
        return self.vectors.any(dim=-1)


def find_concept_vectors(
    observation: Observation,
    layer: str,
    concepts: Sequence[Tensor],
    random_sets: Sequence[Tensor],
    *,
    batch_size: int,
    seed: int,
) -> ConceptVectors:
    """Return the vectors of `concepts` (k, *input) against each of the random sets, in a model's layer.

    A vector is the normal of a logistic regression, fitted to two thirds of the outputs, that separates the concept's
    from those of random inputs (Kim et al. 2018, section 3.2). The files that Captum writes go to a folder that is
    removed.

    Raises ObservationError when the layer gives NaN or infinite outputs.
    """
    runner = observation.runner
    assert runner.module is not None  # the layer was found
    every = [
        Concept(number, "set", [inputs[part].to(runner.device) for part in slices(len(inputs), batch_size)])
        for number, inputs in enumerate([*concepts, *random_sets])
    ]
    wanted, randoms = every[: len(concepts)], every[len(concepts) :]
    pairs = [[concept, random] for concept in wanted for random in randoms]
    holder = _Holder(runner.module.get_submodule(layer), runner.logits)
    # Captum's data loaders draw from the global random state
    quiet = keeping_random_state()
    with tempfile.TemporaryDirectory() as folder, quiet, differentiating(runner), torch.no_grad():
        method = TCAV(holder, "layer", "model", _LinearClassifier(seed), save_path=folder)
        # otherwise the outputs of a concept are computed once for each of its pairs
        found = method.compute_cavs(pairs, force_train=True)
    stats = [found[f"{concept.id}-{random.id}"]["layer"].stats for concept, random in pairs]
    # weights are those of each class, in the order of `classes`
    vectors = [
        entry["weights"][entry["classes"].tolist().index(pair[0].id)] for entry, pair in zip(stats, pairs, strict=True)
    ]
    shape = (len(wanted), len(randoms))
    accuracies = torch.tensor([entry["accs"] for entry in stats], dtype=torch.float64)
    return ConceptVectors(torch.stack(vectors).reshape(*shape, -1), accuracies.reshape(shape))


class _Holder(nn.Module):
    """A model of which Captum sees one layer, by a name that fits into a path of files."""

    def __init__(self, layer: nn.Module, run: Any) -> None:
        super().__init__()
        object.__setattr__(self, "layer", layer)  # not as a submodule: it belongs to the model
        self._run = (run,)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self._run[0](inputs)
        return logits


class _LinearClassifier(Classifier):  # type: ignore[misc]
    """Logistic regression whose direction does not depend on the scale of the outputs, nor on global random states."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._fitted: LogisticRegression

    def train_and_eval(self, dataloader: Iterable[tuple[Tensor, Tensor]], **kwargs: Any) -> dict[str, float]:
        rows, labels = (torch.cat(parts) for parts in zip(*dataloader, strict=True))
        values = rows.double().cpu()
        if not bool(torch.isfinite(values).all()):
            raise ObservationError("the layer gives NaN or infinite outputs for inputs of a concept or a random set")
        lengths = values.square().sum(dim=1).mean().sqrt()
        values = values / (lengths if lengths > 0 else 1.0)
        numbers = labels.cpu().numpy()
        train, test, train_labels, test_labels = train_test_split(
            values.numpy(), numbers, test_size=_TEST_SHARE, random_state=self._seed, stratify=numbers
        )
        self._fitted = LogisticRegression(max_iter=1000, class_weight="balanced").fit(train, train_labels)
        return {"accs": float(self._fitted.score(test, test_labels))}

    def weights(self) -> Tensor:
        normal = torch.from_numpy(self._fitted.coef_[0])
        length = normal.norm()
        unit = normal / length if length > _ROUNDING else torch.zeros_like(normal)
        return torch.stack([-unit, unit]).float()

    def classes(self) -> Any:
        return torch.from_numpy(self._fitted.classes_)
