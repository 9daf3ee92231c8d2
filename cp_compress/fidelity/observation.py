"""What one model does on one data set, each part computed once however many checks ask."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from cp_compress.base.batching import BatchSize
from cp_compress.base.datasets import DataDigest, LabeledData
from cp_compress.base.digests import digest_model, digest_tensors
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.running import Model, Runner

Value = TypeVar("Value")
_REMEMBERED = 32
_SAMPLED = 8
_observations: OrderedDict[Hashable, Observation] = OrderedDict()


class Observation:
    """One model's outputs on one data set; make it with `observe`.

    The forward pass runs when a result is first asked for. `logits` (n, classes), `labels` and `predictions`
    (n,) lie on the CPU.
    """

    def __init__(self, model: Model, data: LabeledData, device: torch.device | str | None, batch_size: int) -> None:
        self.model = model
        self.data = data
        self.runner = Runner(model, device)
        self.batch_size = BatchSize(batch_size)
        self._digest = digest_model(model)
        self._derived: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self.data)

    @property
    def logits(self) -> Tensor:
        """The logits (n, classes), finite."""
        return self._forward[0]

    @property
    def labels(self) -> Tensor:
        """The true classes (n,), int64."""
        return self._forward[1]

    @functools.cached_property
    def predictions(self) -> Tensor:
        """The classes of the largest logits (n,), int64; the first among equals."""
        return self.logits.argmax(dim=1)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.logits.shape[1]

    @property
    def data_digest(self) -> str:
        """The digest of the inputs and labels that the forward pass saw."""
        return self._forward[2]

    @property
    def model_digest(self) -> str | None:
        """The digest of the model's content, or None for a plain callable."""
        return self._digest

    @property
    def class_names(self) -> tuple[str, ...]:
        """The data set's names of the classes where it has them (`.classes`), else their numbers."""
        names = getattr(self.data.source, "classes", None)
        if isinstance(names, Sequence) and len(names) == self.classes:
            return tuple(map(str, names))
        return tuple(map(str, range(self.classes)))

    def remember(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return what `compute` gave for this key the first time; for results derived from the model."""
        if key not in self._derived:
            self._derived[key] = compute()
        value: Value = self._derived[key]
        return value

    @functools.cached_property
    def _forward(self) -> tuple[Tensor, Tensor, str]:
        logits: list[Tensor] = []
        labels: list[Tensor] = []
        digest = DataDigest()

        def run(part: slice) -> None:
            inputs, part_labels = self.data.select(range(part.start, part.stop))
            part_logits = self.runner.logits(inputs)
            # all that can run out of memory lies above, so that a repeated slice adds nothing twice
            logits.append(part_logits)
            labels.append(part_labels)
            digest.update(inputs, part_labels)

        with torch.no_grad(), self.runner.evaluating():
            self.batch_size.run(len(self.data), run)
        joined, truth = torch.cat(logits).cpu(), torch.cat(labels)
        _check_finite(joined)
        _check_labels(truth, joined.shape[1])
        return joined, truth, digest.hexdigest()


def observe(
    model: Model, dataset: Any, *, device: torch.device | str | None = None, batch_size: int = 256
) -> Observation:
    """Return the observation of a model on a data set, the same one as long as neither has changed.

    `model` maps a batch to logits (n, classes); `dataset` is anything that `LabeledData` reads. `device` is
    where to run, by default where the model is; the model itself is not moved. `batch_size` is the largest
    number of examples in one call and halves itself when memory runs out.

    The 32 last observations are kept. Parameters or buffers changed in place, and tensors of data changed in
    place, are noticed by their content; of a map-style data set 8 examples are read again each time, and one that
    gives other values for them is observed anew.

    Raises ObservationError for an empty or unreadable data set, and, when results are asked for, for inputs the
    model cannot take, NaN or infinite logits, and labels outside the classes.

    >>> import torch
    >>> seen = observe(torch.nn.Identity(), (torch.eye(3), torch.tensor([0, 1, 0])))
    >>> seen.predictions.tolist()
    [0, 1, 2]
    """
    data = dataset if isinstance(dataset, LabeledData) else LabeledData(dataset)
    key = (id(model), digest_model(model), _identity(data), str(device), batch_size)
    if key not in _observations:
        _observations[key] = Observation(model, data, device, batch_size)
    _observations.move_to_end(key)
    while len(_observations) > _REMEMBERED:
        _observations.popitem(last=False)
    return _observations[key]


def forget_observations() -> None:
    """Drop all kept observations, and with them their models, data sets and results."""
    _observations.clear()


def _identity(data: LabeledData) -> Hashable:
    if data.tensors is not None:
        return digest_tensors(data.tensors)
    # an id is safe here: the kept observation holds the object, so that no other can take its id
    spread = torch.linspace(0, len(data) - 1, min(len(data), _SAMPLED)).long()
    return id(data.source), len(data), digest_tensors(data.select(spread))


def _check_finite(logits: Tensor) -> None:
    bad = (~torch.isfinite(logits).all(dim=1)).nonzero().flatten()
    if len(bad):
        first = ", ".join(f"#{index}" for index in bad[:5].tolist())
        raise ObservationError(
            f"the model gives NaN or infinite logits on {len(bad)} of {len(logits)} examples ({first}…): "
            "such outputs cannot be compared"
        )


def _check_labels(labels: Tensor, classes: int) -> None:
    bad = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if len(bad):
        index = int(bad[0])
        raise ObservationError(
            f"{len(bad)} of {len(labels)} labels lie outside the model's {classes} classes: "
            f"example #{index} has label {int(labels[index])}, allowed are 0 to {classes - 1}"
        )
