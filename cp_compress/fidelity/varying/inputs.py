"""The tensor of each example that is moved or explained: its input, or by `input=` one of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.base.arguments import did_you_mean, reject
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.trees import MASKS, Inputs, TensorTree, rows_of

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


def _only_one(inputs: TensorTree, purpose: str) -> int:
    places = [place for place, name in enumerate(inputs.names) if name not in MASKS]
    floating = [place for place in places if inputs.tensors[place].is_floating_point()]
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


class VariedInput:
    """The tensor (k, ...) of some examples that a comparison moves or explains.

    A call of the model with other values of it says of which examples they are: what else belongs to these, such as
    further inputs and masks, goes with them. Places of padding keep their values, so that nothing depends on them.

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
        self.observation, self.runner, self.chosen = observation, observation.runner, chosen
        first = observation.data.read(chosen[:1])[0]
        self.place = find_input(owner, first, name, purpose)
        # what several inputs are padded to may depend on which are read together
        self._tree = None if self.place is None else observation.data.read(chosen)[0]
        self.name = first.names[self.place] if isinstance(first, TensorTree) and self.place is not None else None
        self.counting = self._counting()

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
    def beside(self) -> bool:
        """Whether anything else belongs to an example, so that a call must say of which examples its values are."""
        return self._tree is not None

    @property
    def data(self) -> LabeledData:
        """The data set, whose examples are the named input alone."""
        if self.place is None:
            return self.observation.data
        return _OneInput(self.observation.data, self.place)

    def values(self, part: slice | Tensor = slice(None)) -> Tensor:
        """Return the values (m, ...) of some of the examples, in the data's dtype."""
        if self._tree is None:
            return self.observation.data.inputs(self.chosen[part])
        return rows_of(_tensor(self._tree, self.place), part)

    def inputs(self, part: slice) -> Inputs:
        """Return all that belongs to some of the examples."""
        return self.values(part) if self._tree is None else self._tree[part]

    def logits(self, values: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the logits (m, classes) where the examples at `rows` (m,) have the values (m, ...) instead.

        Gradients flow through them where the model has any. `rows` may be left out where nothing is beside them.
        """
        if self._tree is None:
            return self.runner.logits(values)
        if rows is None or len(rows) != len(values):
            raise ObservationError(
                f"{len(values)} inputs are asked about, and it is not said of which examples they are; several inputs "
                "belong together, so that a call names them: subject.logits(inputs, rows), with subject.rows of those "
                "of the batch"
            )
        assert isinstance(self._tree, TensorTree)
        beside = self._tree[rows.cpu()]
        own = _tensor(beside, self.place)
        if self.counting is not None:
            keep = _spread(self.counting[rows.cpu()], values).to(values.device)
            values = torch.where(keep, values, own.to(values.device, values.dtype))
        tensors = list(beside.tensors)
        tensors[self.place or 0] = values
        return self.runner.logits(beside.replaced(tensors))

    def clear(self, maps: Tensor, part: slice) -> Tensor:
        """Return maps (m, ...) that are 0 at places of padding, where they have such places."""
        counting = self.counting_in(maps)
        return maps if counting is None else maps.masked_fill(~_spread(counting[part], maps).to(maps.device), 0)

    def counting_in(self, maps: Tensor) -> Tensor | None:
        """Return which places (k, length) of maps (k, ...) are no padding; None where they have no such places."""
        fits = self.counting is not None and maps.ndim > 1 and maps.shape[1] == self.counting.shape[1]
        return self.counting if fits else None

    def _counting(self) -> Tensor | None:
        mask = self._tree.mask if isinstance(self._tree, TensorTree) else None
        if mask is None or bool(mask.all()) or self.values(slice(0, 1)).shape[1:2] != mask.shape[1:]:
            return None
        return mask.cpu()


def _tensor(inputs: Inputs, place: int | None) -> Tensor:
    return inputs if isinstance(inputs, Tensor) else inputs.tensors[place or 0]


def _spread(mask: Tensor, values: Tensor) -> Tensor:
    return mask.view(*mask.shape, *[1] * (values.ndim - mask.ndim))


class _OneInput(LabeledData):
    """A data set whose examples are one of several inputs."""

    def __init__(self, data: LabeledData, place: int) -> None:
        self._data, self._place = data, place
        self.source, self.task, self.table = data.source, data.task, None

    @property
    def labeled(self) -> bool:  # type: ignore[override]
        return self._data.labeled

    def __len__(self) -> int:
        return len(self._data)

    def read(self, indices: Sequence[int] | Tensor) -> tuple[Inputs, Any]:
        inputs, labels = self._data.read(indices)
        return _tensor(inputs, self._place), labels
