"""Where embeddings are read when no layer is named: on the way to what is compared, and nowhere else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.judging.skill import skill_of
from cp_compress.fidelity.observing.batch_dependence import coarsest_dtype
from cp_compress.fidelity.observing.determinism import beyond_rounding
from cp_compress.fidelity.observing.hooks import watching
from cp_compress.fidelity.observing.layer_outputs import INPUT, OUTPUT, output_of, require_not_compiled
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.inputs.trees import Inputs


def default_layer(seen: Observation) -> str:
    """Return where the embeddings of an observed model are: the input of the linear layer that decides its answers.

    It is the last one that runs whose output reaches what is compared. A model that gives no logits, or pools what such
    a layer makes of many places and is not shown to classify, gives embeddings itself: they are what it gives
    (`OUTPUT`).

    Raises ObservationError where neither can be shown.
    """
    return seen.remember(("default layer",), lambda: _find(seen))


def _find(seen: Observation) -> str:
    inputs, logits = seen.data.read([0])[0], seen.gives_logits
    with torch.inference_mode(False), torch.no_grad(), seen.runner.evaluating():
        if not logits:
            output_of(seen.runner.output(inputs), 1)  # one tensor, or an error that names them
            return OUTPUT
        path, places = last_linear(seen, inputs)
    pooled = seen.task == "single_label" and places > 0
    return OUTPUT if pooled and not _classifies(seen) else INPUT + path


def _classifies(seen: Observation) -> bool:
    """Tell whether what a model gives are classes: labels show that, unless they were made up for what needs none."""
    skill = skill_of(seen) if seen.labeled else None
    return skill is not None and skill.shown


def last_linear(seen: Observation, inputs: Inputs) -> tuple[str, int]:
    """Return the path of the last linear layer on the way to what is compared, and how many axes of places it has.

    It is looked for on one example, `inputs` (1, ...): a layer is on the way where other outputs of it move what is
    compared. Raises ObservationError without one, and where compiled code could hide it.
    """
    runner, module = seen.runner, seen.runner.module
    if module is None:
        raise ObservationError("embeddings need an nn.Module with named layers; the model is a plain callable")
    ran: dict[str, int] = {}
    linear = [path for path, part in module.named_modules() if path and _is_linear(part)]
    for path in linear:  # one that is not seen could be the last
        require_not_compiled(module, path, "embeddings")

    def note(path: str, args: Any, words: Any, output: Any) -> None:
        ran.pop(path, None)  # the last call counts
        ran[path] = output.ndim - 2 if isinstance(output, Tensor) else 0

    with watching(module, {path: functools.partial(note, path) for path in linear}):
        known = runner.compared(inputs)
    if not ran:
        raise ObservationError("the model runs no linear layer, whose input is the default embedding; name a layer")
    unknown = None
    for path in reversed(ran):
        moves = _moves(
            module.get_submodule(path), lambda: runner.compared(inputs), known, coarsest_dtype(runner, known)
        )
        if moves:
            return path, ran[path]
        unknown = path if unknown is None and moves is None else unknown
    if unknown is not None:
        return unknown, ran[unknown]
    raise ObservationError(
        f"no linear layer of the model can be shown to lie on the way to what is compared (looked at were "
        f"{', '.join(list(reversed(ran))[:3])}{', …' if len(ran) > 3 else ''}): name a layer by layer="
    )


def _moves(layer: nn.Module, ask: Callable[[], Tensor], known: Tensor, dtype: torch.dtype) -> bool | None:
    """Tell whether what is compared depends on what a layer gives; None where its output cannot be changed."""
    changed = []

    def change(module: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point() or output.is_quantized:
            return None
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
        changed.append(True)
        return output + noise * output.abs().amax().clamp_min(1.0)

    handle = layer.register_forward_hook(change)
    try:
        found = ask()
    except ObservationError:  # a model may refuse such values
        return None
    finally:
        handle.remove()
    if not changed:
        return None
    # hooks may change by which kernels a model runs, and so its rounding
    return found.shape != known.shape or beyond_rounding(found, known, dtype) > 0


def _is_linear(module: nn.Module) -> bool:
    kind = getattr(module, "original_name", type(module).__name__)  # of a scripted module, that of its source
    return kind.endswith("Linear") or isinstance(module, nn.Linear)
