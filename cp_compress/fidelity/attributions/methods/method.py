"""What an attribution method is: a value with a text, what it needs, and one call that gives maps."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.expressions import format_expression
from cp_compress.fidelity.observing.activation_modules import ActivationModules
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.inputs.reading import LabeledData

Need = Literal["gradients", "activation modules", "relu", "spatial layer"]
NEEDS: tuple[Need, ...] = get_args(Need)
Maps = Tensor | tuple[Tensor, Tensor]
"""Maps (n, ...), or a pair of them and the changes of the logits (n,) that each map should add up to."""


@explains_keywords
@dataclass(frozen=True)
class AttributionSubject:
    """A model as an attribution method sees it.

    Attributes:
        runner: Runs the model on its device, in evaluation mode.
        activation_modules: The model, run so that each of its activations is a module of its own, which hooks can
            reach; None for a method that neither looks at a layer nor needs activation modules.
        layer: The layer that the method looks at, or None for the input.
        draws: What the method's `draws` returned, on the CPU.
        limit: The largest number of inputs in one call of the model.
        rows: Which of the examples (n,) the batch holds, where more belongs to each than its input; else None.
        logits_of: Maps inputs (m, ...), and their rows (m,) where they have such, to logits (m, classes).
    """

    runner: Runner
    activation_modules: ActivationModules | None
    layer: nn.Module | None
    draws: Mapping[str, Tensor]
    limit: int
    rows: Tensor | None = None
    logits_of: Callable[..., Tensor] | None = None

    @property
    def rules(self) -> ActivationModules:
        """The model with its activations as modules, for methods that look at a layer or need activation modules."""
        assert self.activation_modules is not None
        return self.activation_modules

    @property
    def beside(self) -> tuple[Tensor, ...] | None:
        """What Captum hands on to `logits` beside the inputs, and repeats where it repeats these."""
        return None if self.rows is None else (self.rows,)

    def logits(self, inputs: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the logits (m, classes) of inputs (m, ...); gradients flow through them where the model has any.

        Where an example has several inputs, `rows` (m,) says which of `self.rows` each belongs to: what is beside it
        stays as that example has it. The batch's own inputs need no rows.
        """
        if self.logits_of is None:
            return self.runner.logits(inputs)
        if rows is None and self.rows is not None and len(inputs) == len(self.rows):
            rows = self.rows
        return self.logits_of(inputs, rows)


@explains_keywords
class AttributionMethod(abc.ABC):
    """Base class of attribution methods, which are frozen dataclasses; only `attribute` and the name are required.

    `expression_name` is the name by which texts such as "saliency(layer='conv1')" call the method;
    `positional_fields` are the fields that such a text writes without their names. A method that has a field `layer`,
    the path of a module, looks at that layer: it is found, and `AttributionSubject.layer` holds it.

    `needs` says what the model must offer; what it does not offer is an error before any map is computed:

    - "gradients": logits that are differentiable in the inputs;
    - "activation modules": `AttributionSubject.rules`;
    - "relu": activation modules, with at least one ReLU among them;
    - "spatial layer": a layer with outputs (n, channels, *space).

    `complete` says whether a map must add up to a change of the logit. Then `attribute` returns that change as well,
    and a comparison refuses maps that miss too much of it; `gap_advice` is what the error advises.
    """

    expression_name: ClassVar[str]
    positional_fields: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[Need, ...]] = ("gradients",)

    @abc.abstractmethod
    def attribute(self, subject: AttributionSubject, inputs: Tensor, target: Tensor) -> Maps:
        """Return the maps of one batch for one class an example.

        Args:
            subject: The model, its layer and what was drawn.
            inputs: A batch (n, ...) of floating-point inputs on the model's device, which requires gradients.
            target: The classes (n,), int64, one an example.

        Returns:
            Signed maps, a floating-point tensor. Without a layer they have the shape of the inputs, or that of their
            places (n, *space) or (n, 1, *space); with a layer they are (n, ...). A complete method returns a pair: the
            maps, and the changes of the logits (n,) that they should add up to.
        """

    @property
    def complete(self) -> bool:
        """Whether each map must add up to the change of the logit that `attribute` returns beside it."""
        return False

    @property
    def gap_advice(self) -> str:
        """What an error about a gap advises."""
        return "its maps do not add up to the change of the logit that they should explain"

    @property
    def at_layer(self) -> str | None:
        """The path of the layer that the method looks at, or None for the input."""
        path: str | None = getattr(self, "layer", None)
        return path

    @property
    def inner(self) -> AttributionMethod:
        """The method that asks the model: this one, or the one that it averages."""
        return self

    def draws(self, data: LabeledData, input_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Return what the method draws at random: the same for all examples and for both models of a comparison.

        Args:
            data: The examples; `data.select(indices)` returns inputs and labels.
            input_shape: The shape of one input.

        Returns:
            Tensors by name, drawn by a seed of the method's own; empty for a method without randomness.
        """
        return {}

    def __str__(self) -> str:
        return format_expression(self)  # type: ignore[arg-type]  # its subclasses are dataclasses

    def __repr__(self) -> str:
        return str(self)


def leaf(tensor: Tensor) -> Tensor:
    """Return the values of a tensor, without their history, as a tensor that gradients can be asked for."""
    return tensor.detach().requires_grad_()


def maps_and_change(found: Maps) -> tuple[Tensor, Tensor | None]:
    """Return what `attribute` gave as maps and changes, without their history; None where it gave no changes."""
    maps, change = found if isinstance(found, tuple) else (found, None)
    return maps.detach(), None if change is None else change.detach()


def sum_of(maps: Tensor) -> Tensor:
    """Return what each of the maps (n, ...) adds up to, (n,)."""
    return maps.detach().flatten(1).sum(dim=1)
