"""What a way to hold compressed weights provides, so that files, reports and footprints need to know none of them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Held:
    """How a layer holds one weight that is none of its parameters.

    `parts` are the names, in the layer, of the tensors that hold it. Where these are no weights themselves, `numbers`
    returns the stored numbers in the shape of the weight, and `format` names them ("int8").
    """

    parts: tuple[str, ...]
    numbers: Callable[[], Tensor] | None = None
    format: str = ""


class Representation(abc.ABC):
    """A way in which the layers of a model hold compressed weights; the base class changes nothing.

    `key` names it in a file. One that is `whole` is of a model as a whole, and is lost inside another module.
    """

    key: ClassVar[str]
    whole: ClassVar[bool] = False

    @abc.abstractmethod
    def describe(self, model: nn.Module) -> Any:
        """Return which layers hold weights in this way, and how, as JSON values; an empty value or None for none."""

    @abc.abstractmethod
    def read(self, content: Any) -> Any:
        """Return what `describe` wrote, checked for its form.

        Raises AttributeError, KeyError, TypeError, ValueError or OverflowError for anything else.
        """

    def shape(self, model: nn.Module, found: Any) -> None:  # noqa: B027  some have nothing to do here
        """Give a model, in place, the layers that `read` found; the values of their tensors are then replaced.

        Raises CompressionError for layers that the model does not have, and for weights that cannot be held so.
        """

    def finish(self, model: nn.Module, found: Any) -> None:  # noqa: B027  most have nothing to do here
        """Do, in place, what `read` found and what needs the values of the tensors."""

    def held(self, layer: nn.Module) -> Mapping[str, Held]:
        """Return the weights that one layer holds in this way, by the names of their attributes."""
        return {}
