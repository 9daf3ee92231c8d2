"""One way to run a model: on its device, in evaluation mode, without changing it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.batching import is_out_of_memory
from cp_compress.base.devices import known_device, usable_device
from cp_compress.base.digests import forget_examined
from cp_compress.base.errors import ArtifactError, ObservationError
from cp_compress.base.holdings.reach import modules_within
from cp_compress.base.showing.mistaken import is_factory, reject_kind
from cp_compress.fidelity.observing.outputs import (
    NoLogitsError,
    Output,
    call_with_tree,
    floating_tensors,
    logits_in,
    naming_part,
    pick,
    told,
)
from cp_compress.inputs.tasks import Task
from cp_compress.inputs.trees import Inputs, TensorTree
from cp_compress.model.calling import calling
from cp_compress.model.copying import copy_whole

Model = Callable[..., Any]


_INTERPOLATIONS = {3: "linear", 4: "bilinear", 5: "trilinear"}
_REFUSALS = (RuntimeError, TypeError, ValueError, MemoryError)


class Runner:
    """A model ready to run on a device; the model given is never changed.

    An `nn.Module` on another device is copied; train/eval state is restored after each use. Any other callable
    that maps a batch to logits is called as it is. `part` says which part of what it gives is compared, and `passes`
    counts the inputs that it was given. Logits of a dense task that are coarser than `places`, those of the targets
    (*space), are brought to them by interpolation, as the post-processing of segmentation models does; `coarser` are
    their own places then.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device | str | None = None,
        task: Task = "single_label",
        part: Output = None,
    ) -> None:
        self.part = part
        self.passes = 0
        self.places: tuple[int, ...] | None = None
        self.coarser: tuple[int, ...] | None = None
        if not callable(model) or is_factory(model):
            reject_kind("observe", "model", model, "a model is anything that maps a batch to logits", "model")
        own = model_device(model)
        given = known_device(device, f"device {device!r}") if isinstance(device, str) else device
        if given is not None and given.type == "cuda" and not torch.cuda.is_available():
            usable_device(given, f"device {str(given)!r}")
        self.device = given if given is not None else own or torch.device("cpu")
        self.model = model
        self.task = task
        if own is not None and own != self.device:
            self.model = copy_whole(model).to(self.device)  # type: ignore[type-var, attr-defined]

    @property
    def module(self) -> nn.Module | None:
        """The model as an `nn.Module`, or None when it is another callable."""
        return self.model if isinstance(self.model, nn.Module) else None

    @functools.cached_property
    def _held(self) -> list[nn.Module]:
        """The modules that a callable holds; looked for once, because that takes longer than many calls."""
        return list(modules_within(self.model))

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Hold the model in evaluation mode, then restore each submodule's own mode."""
        modules = list(self.module.modules()) if self.module is not None else []
        states = [module.training for module in modules]
        for module in modules:
            module.training = False
        try:
            with calling(self.model, modules or self._held):
                yield
        finally:
            for module, state in zip(modules, states, strict=True):
                module.training = state

    def logits(self, inputs: Inputs) -> Tensor:
        """Return the logits (n, classes) of a batch (n, ...), on the model's device; gradients as the caller set.

        Those of dense and sequence tasks are (n, classes, *space).

        Raises ObservationError when the model cannot take the batch or gives something else than logits.
        """
        return self.as_logits(self.output(inputs), len(inputs))

    def compared(self, inputs: Inputs) -> Tensor:
        """Return the logits of a batch (n, ...), or where there are none all floating-point outputs, (n, values).

        Raises ObservationError as `output`, and for a model that gives no floating-point tensor (n, ...).
        """
        output = self.output(inputs)
        try:
            return self.as_logits(output, len(inputs))
        except NoLogitsError:
            return torch.cat([one.flatten(1) for one in floating_tensors(output, len(inputs)).values()], dim=1)

    def output(self, inputs: Inputs) -> Any:
        """Return what the model gives for a batch (n, ...), or the part of it that is compared.

        Raises ObservationError when the model cannot take the batch, or gives no such part.
        """
        return pick(self._run(inputs), self.part)

    def _run(self, inputs: Inputs) -> Any:
        try:
            # a copy of its own: a model may write to what it is given
            given = inputs.to(self.device, copy=True)
            self.passes += len(inputs)
            forget_examined()
            return self.model(given) if isinstance(given, Tensor) else call_with_tree(self.model, given)
        except ObservationError:
            raise  # a program says best itself what went wrong
        except ArtifactError as error:
            raise ObservationError(str(error)) from error
        except _REFUSALS as error:
            if isinstance(error, torch.cuda.OutOfMemoryError) or (is_out_of_memory(error) and len(inputs) > 1):
                raise  # smaller batches may fit
            raise ObservationError(self._explain(inputs, error)) from error

    def as_logits(self, output: Any, count: int) -> Tensor:
        """Return the logits in a model's output for `count` examples; raises as `logits`."""
        if self.task == "single_label":
            return _as_logits(output, count)
        logits = _as_structured_logits(output, count, self.task)
        if self.task != "dense" or self.places is None or not is_coarser(tuple(logits.shape[2:]), self.places):
            return logits
        self.coarser = tuple(logits.shape[2:])
        return nn.functional.interpolate(logits, self.places, mode=_INTERPOLATIONS[logits.ndim], align_corners=False)

    def _explain(self, inputs: Inputs, error: Exception) -> str:
        dtypes: set[torch.dtype] = set()
        if self.module is not None:
            dtypes = {parameter.dtype for parameter in self.module.parameters() if parameter.is_floating_point()}
        if isinstance(inputs, TensorTree):
            return f"the model cannot take inputs of {inputs.describe(rows=False)}: {type(error).__name__}: {error}"
        if is_out_of_memory(error):
            return f"the model needs more memory than is available for one input of shape {tuple(inputs.shape[1:])}"
        decoding = _missing_decoder_inputs(self.module, error)
        if decoding is not None:
            return decoding
        message = f"the model cannot take inputs of shape {tuple(inputs.shape)} and dtype {inputs.dtype}: {error}"
        if dtypes and inputs.dtype not in dtypes:
            held = ", ".join(sorted(map(str, dtypes)))
            message += f". Its parameters are {held}: convert the data set's inputs, or the model"
        return message


def _missing_decoder_inputs(module: nn.Module | None, error: Exception) -> str | None:
    """Return what an encoder with a decoder, such as Whisper, needs beside its input; None for other models."""
    if module is None or "decoder" not in str(error):
        return None
    for part in module.modules():
        if getattr(getattr(part, "config", None), "is_encoder_decoder", False):
            main = getattr(part, "main_input_name", "input")
            return (
                f"{type(part).__name__} is an encoder with a decoder: beside its {main} it needs the decoder's inputs, "
                "which a batch of examples does not give. Wrap it in a torch.nn.Module whose forward passes both, such "
                f"as network({main}=batch, decoder_input_ids=start).logits[:, -1] for the next token after a start"
            )
    return None


def model_device(model: Model) -> torch.device | None:
    """Return the device of an `nn.Module`'s first parameter or buffer, or None where there is none."""
    if not isinstance(model, nn.Module):
        return None
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return None


def is_coarser(given: tuple[int, ...], places: tuple[int, ...]) -> bool:
    """Tell whether places are those of targets on a coarser grid: fewer along each axis, by about one whole factor.

    >>> is_coarser((32, 48), (128, 192)), is_coarser((129, 129), (513, 513)), is_coarser((32, 32), (32, 64))
    (True, True, False)
    """
    if len(given) != len(places) or len(given) not in (1, 2, 3) or 0 in given:
        return False
    factors = {round(target / own) for own, target in zip(given, places, strict=True)}
    return len(factors) == 1 and min(factors) > 1


def _as_structured_logits(output: Any, count: int, task: Task) -> Tensor:
    logits = logits_in(output)
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        found = logits.dtype if isinstance(logits, Tensor) else told(output)
        raise NoLogitsError(
            f"the model returned {found}; expected a floating-point tensor of logits{naming_part(output)}"
        )
    fits = {"multi_label": logits.ndim == 2, "dense": logits.ndim > 2, "sequence": logits.ndim == 3}[task]
    if not fits or len(logits) != count:
        form = {"multi_label": "labels", "dense": "classes, *space", "sequence": "length, classes"}[task]
        raise NoLogitsError(
            f"the model returned shape {tuple(logits.shape)} for {count} examples; "
            f"a {task} task takes ({count}, {form})"
        )
    return logits.transpose(1, 2) if task == "sequence" else logits


def _as_logits(output: Any, count: int) -> Tensor:
    logits = logits_in(output)
    if not isinstance(logits, Tensor):
        raise NoLogitsError(f"the model returned {told(output)}; expected a tensor of logits{naming_part(output)}")
    if logits.ndim != 2 or len(logits) != count or logits.shape[1] < 2:
        raise NoLogitsError(
            f"the model returned shape {tuple(logits.shape)} for {count} examples; "
            f"expected logits of shape ({count}, classes) with two classes or more"
        )
    if not logits.is_floating_point():
        raise NoLogitsError(f"the model returned {logits.dtype}; logits must be of a floating-point dtype")
    return logits
