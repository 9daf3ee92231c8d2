"""How much each example matters for training: scores from early models, from a training history, from margins."""

from __future__ import annotations

import torch
from torch import Tensor

from cp_compress.base.arguments import check_real, explains_keywords, reject
from cp_compress.data.selection.coverage import last_layer_gradients
from cp_compress.data.selection.selection import as_matrix, check_labels


@explains_keywords
def el2n_scores(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the mean error of early models on each example (n,), float64: E‖p(x) − y‖₂, in [0, √2].

    `probabilities` are (n, classes) of one model, or (models, n, classes) of several that were trained for a few epochs
    from different seeds; `labels` are (n,). Paul, Ganguli and Dziugaite 2021, "Deep learning on a data diet".

    >>> el2n_scores(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])).tolist()
    [0.0, 1.4142...]
    """
    return torch.stack([_errors("el2n_scores", part, labels).norm(dim=1) for part in _models(probabilities)]).mean(0)


@explains_keywords
def self_influence(probabilities: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return how much a training step at the last layer on each example (n,) would lower its own loss, float64.

    That is the squared norm of the gradient of the cross entropy at a last linear layer with bias, ‖p − y‖² (‖h‖² + 1):
    the influence of an example on itself in TracIn (Pruthi et al. 2020), which is high for hard, rare and mislabelled
    examples. `probabilities` are (n, classes) or (checkpoints, n, classes), `embeddings` (n, d) or (checkpoints, n, d),
    the inputs of the last layer; `labels` are (n,). Checkpoints are added up.
    """
    steps, inputs = _models(probabilities), _models(embeddings)
    if len(steps) != len(inputs):
        reject("self_influence", "embeddings", tuple(embeddings.shape), f"must hold {len(steps)} checkpoints")
    total = torch.zeros(len(steps[0]), dtype=torch.float64)
    for part, features in zip(steps, inputs, strict=True):
        rows = as_matrix("self_influence", "embeddings", features).double()
        if len(rows) != len(part):
            reject(
                "self_influence", "embeddings", tuple(features.shape), f"must have one row per example ({len(part)})"
            )
        total += _errors("self_influence", part, labels).square().sum(1) * (rows.square().sum(1) + 1)
    return total


@explains_keywords
def forgetting_scores(correct: Tensor) -> Tensor:
    """Return how often each example (n,) was forgotten in a training, float64; infinity for those never learned.

    `correct` (epochs, n), bool, says whether the model was right after each epoch. An example is forgotten if it was
    right and then is wrong (Toneva et al. 2019, "An empirical study of example forgetting").

    >>> forgetting_scores(torch.tensor([[True, False], [False, False], [True, False]])).tolist()
    [1.0, inf]
    """
    if not isinstance(correct, Tensor) or correct.ndim != 2 or correct.dtype != torch.bool or correct.numel() == 0:
        found = f"{correct.dtype} {tuple(correct.shape)}" if isinstance(correct, Tensor) else type(correct).__name__
        reject("forgetting_scores", "correct", found, "must be a bool tensor (epochs, n)")
    forgotten = (correct[:-1] & ~correct[1:]).sum(0).double()
    return forgotten.masked_fill(~correct.any(0).to(forgotten.device), float("inf"))


@explains_keywords
def support_scores(embeddings: Tensor, labels: Tensor, *, penalty: float = 1.0) -> Tensor:
    """Return how strongly each example (n,) determines the boundary of a linear support vector machine, float64.

    The sum over all pairs of classes of the sizes of its dual coefficients, by scikit-learn's SVC with C = `penalty` on
    standardised `embeddings` (n, d): 0 for every example that could be removed without moving a boundary. Time grows
    with the square of n.
    """
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    check_real("support_scores", "penalty", penalty, "must be a number above 0", above=0)
    rows = as_matrix("support_scores", "embeddings", embeddings)
    classes = check_labels("support_scores", labels, len(rows))
    if len(torch.unique(classes)) < 2:
        reject("support_scores", "labels", torch.unique(classes).tolist(), "there must be at least two classes")
    machine = SVC(kernel="linear", C=penalty).fit(
        StandardScaler().fit_transform(rows.double().numpy()), classes.numpy()
    )
    scores = torch.zeros(len(rows), dtype=torch.float64)
    scores[torch.from_numpy(machine.support_).long()] = torch.from_numpy(abs(machine.dual_coef_).sum(0))
    return scores


def _models(values: Tensor) -> list[Tensor]:
    return [*values] if isinstance(values, Tensor) and values.ndim == 3 and len(values) else [values]


def _errors(owner: str, probabilities: Tensor, labels: Tensor) -> Tensor:
    rows = as_matrix(owner, "probabilities", probabilities).double()
    check_labels(owner, labels, len(rows))
    if bool((rows < -1e-6).any()) or bool(((rows.sum(1) - 1).abs() > 1e-3).any()):
        reject(owner, "probabilities", f"rows that sum to {float(rows.sum(1)[0]):.4g}", "rows must be probabilities")
    return last_layer_gradients(rows, labels)
