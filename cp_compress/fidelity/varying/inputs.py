"""What of each example is moved or explained: its input, by `input=` one of several, or what a layer gives."""

from __future__ import annotations

import abc
import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import did_you_mean, reject
from cp_compress.base.digests import digest_tensors, digest_text
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observing.masks import Masks
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.inputs.reading import DataDigest, LabeledData
from cp_compress.inputs.trees import MASKS, Inputs, TensorTree, rows_of, split_rows

Input = str | int | None
"""Which of several inputs is moved or explained: the name of one, such as "series" or "heads.left", or the place in a
tuple. None for the only one that can be."""


def find_input(owner: str, inputs: Inputs, name: Input, purpose: str) -> int | None:
    """Return the place of the input that `name` names among a tree's tensors, None where the inputs are one tensor.

    Without a name it is the only floating-point tensor, or else the only one, of those that are no masks. Raises
    InvalidArgumentError, as `owner`, for a name that there is not or that of a mask, and ObservationError where a name
    is needed; `purpose` is what needs one tensor.
    """
    if name is not None and (isinstance(name, bool) or not isinstance(name, (str, int)) or name == ""):
        reject(owner, "input", name, "must be the name of an input, or its place in a tuple")
    if isinstance(inputs, Tensor):
        if name is not None:
            reject(owner, "input", name, "each example is one tensor, which has no name: leave input= out")
        return None
    names = list(inputs.names)
    if name is None:
        return _only_one(inputs, purpose)
    asked = str(name)
    if asked not in names:
        near = did_you_mean(asked, names)
        reject(owner, "input", name, f"each example is {inputs.describe()}{f'; {near}' if near else ''}")
    if asked in MASKS:
        reject(owner, "input", name, "is a mask: it says which places count, and is neither moved nor explained")
    return names.index(asked)


def floating_inputs(inputs: TensorTree) -> list[int]:
    """Return the places of the floating-point tensors that are no masks."""
    named = enumerate(zip(inputs.names, inputs.tensors, strict=True))
    return [place for place, (name, tensor) in named if name not in MASKS and tensor.is_floating_point()]


def cannot_be_moved(module: nn.Module | None) -> str:
    """Return why whole numbers cannot be moved, and what can be instead."""
    rule = "moving along a direction needs a floating-point dtype"
    table = embedding_of(module)
    if table is not None:
        return f"{rule}; name the layer that embeds them, at_layer={table!r}: what it gives is moved"
    return f"{rule}, and the model has no layer that embeds them and could be looked at instead"


def _only_one(inputs: TensorTree, purpose: str) -> int:
    places = [place for place, name in enumerate(inputs.names) if name not in MASKS]
    floating = floating_inputs(inputs)
    for found in (floating, places):
        if len(found) == 1:
            return found[0]
    told = [inputs.names[place] for place in floating or places]
    if not told:
        raise ObservationError(f"{purpose} needs an input, and each example is {inputs.describe()}: masks alone")
    example = int(told[0]) if told[0].isdigit() else told[0]
    raise ObservationError(
        f"{purpose} needs inputs of one tensor, and each example is {inputs.describe()}. Say which one it is about, "
        f"input={example!r} for example; the others then stay as they are"
    )


class Varied(abc.ABC):
    """The values (k, ...) of some examples that a comparison moves or explains.

    A call of the model with other values says of which examples they are: what else belongs to these, such as further
    inputs and masks, goes with them. Places of padding keep their values, so that nothing depends on them.

    Attributes:
        observation: The observed model and data.
        runner: What runs the model.
        chosen: The examples (k,).
        name: The name of the input, where an example has several.
        layer: The path of the layer that gives the values, None for the input.
        counting: Which places (k, length) are no padding, where the values (k, length, ...) have places of padding.
    """

    def __init__(self, observation: Observation, chosen: Tensor, inputs: Inputs | None) -> None:
        self.observation, self.runner, self.chosen = observation, observation.runner, chosen
        self.name: str | None = None
        self.layer: str | None = None
        self.counting: Tensor | None = None
        self._inputs = inputs

    @abc.abstractmethod
    def values(self, part: slice | Tensor = slice(None)) -> Tensor:
        """Return the values (m, ...) of some of the examples."""

    @abc.abstractmethod
    def logits(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the logits (m, classes) where the examples at `rows` (m,) have the values (m, ...) instead.

        Gradients flow through them where the model has any. `rows` may be left out where nothing is beside the values.
        """

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def floating(self) -> bool:
        """Whether the values are floating-point numbers, which can be moved by any amount."""
        return self.values(slice(0, 1)).is_floating_point()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the values of one example."""
        return tuple(self.values(slice(0, 1)).shape[1:])

    @property
    def counting_shape(self) -> tuple[int, ...]:
        """The shape of the values of the longest of the examples, without padding."""
        if self.counting is None:
            return self.shape
        return (int(self.counting.sum(dim=1).max()), *self.shape[1:])

    @property
    def size(self) -> int:
        """How many values the longest of the examples has, without padding."""
        return math.prod(self.counting_shape)

    @property
    def beside(self) -> bool:
        """Whether anything else belongs to an example, so that a call must say of which examples its values are."""
        return self._inputs is not None

    @property
    def what(self) -> str:
        """What the values are, in words."""
        if self.layer is not None:
            return f"what {self.layer} gives"
        return "inputs" if self.name is None else f"inputs {self.name!r}"

    @property
    def data(self) -> LabeledData:
        """The data set, whose examples are the input that is varied alone."""
        return self.observation.data

    @property
    def digest(self) -> str:
        """The digest of the examples and of which part of them the values are."""
        if self._inputs is None:
            return digest_tensors([self.values()])
        seen = DataDigest()
        seen.update(self._inputs, None)
        return digest_text(seen.hexdigest(), str(self.name), str(self.layer))

    def inputs(self, part: slice) -> Inputs:
        """Return all that belongs to some of the examples."""
        return self.values(part) if self._inputs is None else self._inputs[part]

    def select(self, rows: Tensor) -> Varied:
        """Return the values of the examples at `rows` (m,) alone."""
        part = copy.copy(self)
        part.chosen = self.chosen[rows]
        part._inputs = None if self._inputs is None else self._inputs[rows]
        part.counting = None if self.counting is None else self.counting[rows]
        return part

    def require_floating(self) -> None:
        """Raise ObservationError for values that cannot be moved, with what can be moved instead."""
        if not self.floating:
            told = f"{self.what} are {self.values(slice(0, 1)).dtype}"
            raise ObservationError(f"{told}: {cannot_be_moved(self.runner.module)}")

    def counting_in(self, maps: Tensor) -> Tensor | None:
        """Return which places (k, length) of maps (k, ...) are no padding; None where they have no such places."""
        fits = self.counting is not None and maps.ndim > 1 and maps.shape[1] == self.counting.shape[1]
        return self.counting if fits else None

    def clear(self, maps: Tensor, part: slice = slice(None)) -> Tensor:
        """Return maps (m, ...) that are 0 at places of padding, where they have such places."""
        counting = self.counting_in(maps)
        return maps if counting is None else maps.masked_fill(~spread(counting[part], maps).to(maps.device), 0)


class VariedInput(Varied):
    """The input of some examples, or one of several, as the values that are moved or explained.

    Args:
        observation: The observed model and data.
        chosen: The examples (k,).
        name: Which of several inputs it is, as `find_input` takes it.
        owner: What an error is about, such as "compare_attributions".
        purpose: What needs one tensor, such as "a comparison of attributions".
    """

    def __init__(
        self, observation: Observation, chosen: Tensor, name: Input = None, *, owner: str, purpose: str
    ) -> None:
        self._held: Tensor | None = None
        first = observation.data.read(chosen[:1])[0]
        self._place = find_input(owner, first, name, purpose)
        # what several inputs are padded to may depend on which are read together
        super().__init__(observation, chosen, None if self._place is None else observation.data.read(chosen)[0])
        if isinstance(self._inputs, TensorTree):
            self.name = self._inputs.names[self._place or 0]
            mask = self._inputs.mask
            if mask is not None and not bool(mask.all()) and self.shape[:1] == tuple(mask.shape[1:]):
                self.counting = mask.cpu()

    @property
    def data(self) -> LabeledData:
        """The data set, whose examples are the input that is varied alone."""
        data = self.observation.data
        return data if self._place is None else _OneInput(data, self._place)

    def values(self, part: slice | Tensor = slice(None)) -> Tensor:
        """Return the values (m, ...) of some of the examples, in the data's dtype."""
        if self._held is not None:
            return rows_of(self._held, part)
        if self._inputs is None:
            return self.observation.data.inputs(self.chosen[part])
        return rows_of(_tensor(self._inputs, self._place), part)

    def note_padding(self) -> None:
        """Learn which places of one tensor are padding, from the masks that parts of the model are given."""
        if self._inputs is not None or self.runner.module is None:
            return
        inputs = self.values()
        counting = padding_seen(
            self.runner, inputs, lambda: tuple(inputs.shape[1:2]), self.observation.batch_size.limit
        )
        if counting is not None:
            self._inputs, self.counting = inputs, counting

    def hold(self) -> None:
        """Read the values once, where they are needed again and again."""
        self._held = self.values()

    def select(self, rows: Tensor) -> Varied:
        """Return the values of the examples at `rows` (m,) alone."""
        part = super().select(rows)
        assert isinstance(part, VariedInput)
        part._held = None if self._held is None else rows_of(self._held, rows)
        return part

    def logits(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the logits (m, classes) where the examples at `rows` (m,) have the values (m, ...) instead."""
        if self._inputs is None:
            return self.runner.logits(values)
        if rows is None or len(rows) != len(values):
            raise ObservationError(
                f"{len(values)} inputs are asked about, and it is not said of which examples they are; several inputs "
                "belong together, so that a call names them: subject.logits(inputs, rows), with subject.rows of those "
                "of the batch"
            )
        beside = self._inputs[rows.cpu()]
        if self.counting is not None:
            own = _tensor(beside, self._place).to(values.device, values.dtype)
            values = torch.where(spread(self.counting[rows.cpu()], values).to(values.device), values, own)
        if isinstance(beside, Tensor):
            return self.runner.logits(values)
        tensors = list(beside.tensors)
        tensors[self._place or 0] = values
        return self.runner.logits(beside.replaced(tensors))


def padding_seen(runner: Runner, inputs: Inputs, places: Callable[[], tuple[int, ...]], limit: int) -> Tensor | None:
    """Return which of the places (length,) of examples count, (n, length) bool; None where all do, or nothing tells.

    `places` says after a batch how many there are. A mask among the inputs tells, and else what parts of the model are
    given; it is run on `limit` examples at a time.
    """
    assert runner.module is not None
    found: list[Tensor] = []
    with torch.no_grad(), runner.evaluating():
        for part in split_rows(inputs, limit):
            masks = Masks(part)
            with masks.noting(runner.module):
                runner.logits(part)
            known = masks.of(places())
            found.append(torch.ones(len(part), *places(), dtype=torch.bool) if known is None else known)
    counting = torch.cat(found)
    return None if bool(counting.all()) else counting


def embedding_of(module: nn.Module | None) -> str | None:
    """Return the path of a model's first table of embeddings, None where it has none."""
    parts = module.named_modules() if module is not None else ()
    return next((path for path, part in parts if isinstance(part, nn.Embedding) and path), None)


def _tensor(inputs: Inputs, place: int | None) -> Tensor:
    return inputs if isinstance(inputs, Tensor) else inputs.tensors[place or 0]


def spread(mask: Tensor, values: Tensor) -> Tensor:
    """Return a mask (m, length) with as many dimensions as values (m, length, ...)."""
    return mask.view(*mask.shape, *[1] * (values.ndim - mask.ndim))


class _OneInput(LabeledData):
    """A data set whose examples are one of several inputs."""

    def __init__(self, data: LabeledData, place: int) -> None:
        self._data, self._place = data, place
        self.source, self.task, self.table = data.source, data.task, None

    @property
    def labeled(self) -> bool:
        return self._data.labeled

    def __len__(self) -> int:
        return len(self._data)

    def read(self, indices: Sequence[int] | Tensor) -> tuple[Inputs, Any]:
        inputs, labels = self._data.read(indices)
        return _tensor(inputs, self._place), labels
