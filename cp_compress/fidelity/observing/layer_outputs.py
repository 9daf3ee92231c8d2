"""The outputs of named layers of an observed model: found by path, read by hooks, all in one pass."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.digests import digest_tensors
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observing.hooks import watching
from cp_compress.fidelity.observing.layouts import (
    UNKNOWN_LAYOUT,
    Layout,
    Layouts,
    following,
    has_one_place,
    mean_over_places,
)
from cp_compress.fidelity.observing.masks import Masks
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.outputs import floating_tensors, logits_in, naming_part, told
from cp_compress.fidelity.observing.runner import Runner
from cp_compress.fidelity.observing.sampling import choose_examples
from cp_compress.inputs.calls import first_input
from cp_compress.inputs.tasks import IGNORED
from cp_compress.inputs.trees import Inputs

INPUT = "input:"
OUTPUT = "output:"
"""The name of what a model gives, among the names of layers."""


def find_layer(runner: Runner, path: str, purpose: str) -> nn.Module:
    """Return the module at a path.

    Raises ObservationError, naming `purpose`, without such a module (and names paths that are close), and for one that
    runs in compiled code.
    """
    if runner.module is None:
        raise ObservationError(f"{purpose} needs an nn.Module with named layers; the model is a plain callable")
    layers: dict[str, nn.Module] = dict(runner.module.named_modules(remove_duplicate=False))
    if path not in layers or not path:
        names = [name for name in layers if name]
        close = difflib.get_close_matches(path, names, n=5, cutoff=0.4) or names[-5:]
        raise ObservationError(f"{purpose}: the model has no layer {path!r}; similar names are {', '.join(close)}")
    require_not_compiled(runner.module, path, purpose)
    return layers[path]


def require_not_compiled(model: nn.Module, path: str, purpose: str) -> None:
    """Raise ObservationError for a layer that runs in compiled code, where hooks see nothing, or only by chance."""
    names, parts = path.split("."), dict(model.named_modules(remove_duplicate=False))
    for depth in range(len(names) + 1):
        part = parts[".".join(names[:depth])]
        inside = depth < len(names)
        if getattr(part, "_compiled_call_impl", None) is not None:
            remedy = "pass the module as it was before `.compile()`"
        elif inside and hasattr(part, "_orig_mod"):  # what `torch.compile` gives
            remedy = "pass the module that was compiled (`_orig_mod`)"
        elif isinstance(part, torch.jit.ScriptModule):  # takes no hooks itself either
            remedy = "pass the module that was scripted or traced"
        else:
            continue
        place = f"layer {'.'.join(names[:depth])!r}" if depth else "the model"
        raise ObservationError(
            f"{purpose}: {place} is compiled, so the outputs of layers inside cannot be read; {remedy}"
        )


def output_of(output: Any, count: int) -> Tensor:
    """Return the one floating-point tensor (n, ...) of what a model gives for `count` examples, or its logits.

    Raises ObservationError where there are several, which it lists, or none.
    """
    found = logits_in(output)
    tensors = floating_tensors(found, count)
    if len(tensors) > 1:
        raise ObservationError(f"the model gives {told(found)}{naming_part(found)}")
    return next(iter(tensors.values()))


@explains_keywords
def layer_features(
    observation: Observation,
    layers: Sequence[str],
    *,
    pool: str = "mean",
    examples: int | Sequence[int] | Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the outputs of each layer for the examples, (n, width), float32 on the CPU, from one pass for all layers.

    Outputs with more dimensions are pooled. Their channels are the second axis of convolutions, batch and group
    normalisations and poolings, and the last axis of linear layers, layer normalisations and embeddings. Other layers
    (activations, containers) keep the layout of the layers before them. Positions that do not count are left out of the
    mean, and are 0 when flattened, where a layer has as many: those that the targets of a dense or sequence task
    ignore, and padding, as the mask among the inputs says ("attention_mask" or "mask"), or the mask that a part of the
    model is called with ("attention_mask", "key_padding_mask").

    Args:
        observation: The observed model and data.
        layers: Paths of modules, whose output is taken, or "input:" and a path, for the input of a module: its first
            positional argument, or else the first tensor among its keyword arguments; "output:" is what the model
            gives, which needs no named layers.
        pool: "mean" for the mean over all axes but examples and channels, or "flatten" for all values in one row.
        examples: A number of examples spread evenly over the data set, their indices, or None for all.

    Returns:
        The features of each layer, by its name in `layers`.

    Raises:
        InvalidArgumentError: If an argument is not as described.
        ObservationError: If a layer does not exist, does not run, runs more than once or in compiled code
            (`torch.compile`, `torch.jit`), or returns anything but one floating-point tensor (n, ...); if the axis of
            its channels cannot be determined; if all positions of an example are ignored; or if features are NaN or
            infinite.
    """
    require_observations("layer_features", observation=observation)
    if pool not in ("mean", "flatten"):
        reject("layer_features", "pool", pool, 'must be "mean" or "flatten"')
    names = tuple(dict.fromkeys(layers))
    chosen = choose_examples("layer_features", examples, len(observation))
    everything = examples is None or torch.equal(chosen, torch.arange(len(observation)))
    which = None if everything else digest_tensors([chosen])
    whole = [name for name in names if observation.remembers(("features", name, pool, None))]
    missing = [
        name for name in names if name not in whole and not observation.remembers(("features", name, pool, which))
    ]
    if missing:
        found = _read(observation, missing, pool, chosen)
        for name in missing:
            key, features = ("features", name, pool, which), found[name]
            observation.remember(key, lambda features=features: features)  # type: ignore[misc]
    return {
        name: observation.remember(("features", name, pool, None), _never)[chosen]
        if name in whole and not everything
        else observation.remember(("features", name, pool, which), _never).clone()  # the observation keeps its own
        for name in names
    }


def _never() -> Tensor:
    raise AssertionError("features are remembered before they are asked for")


def _read(observation: Observation, names: Sequence[str], pool: str, chosen: Tensor) -> dict[str, Tensor]:
    runner = observation.runner
    modules = {
        name: nn.Identity() if name == OUTPUT else find_layer(runner, name.removeprefix(INPUT), "embeddings")
        for name in names
    }
    parts: dict[str, list[Tensor]] = {name: [] for name in names}

    def read(part: slice) -> None:
        inputs, targets = observation.data.read(chosen[part])
        counts = _counting_places(observation, targets, chosen[part])
        rows, doubtful = _read_batch(runner, modules, inputs, counts, pool)
        if doubtful:  # (n, n, ...), whose first axis may be another: it is not of one example where it is not of n
            _read_batch(runner, modules, inputs[:1], None, pool)
        for name in names:  # after all that can run out of memory
            parts[name].append(rows[name])

    with torch.inference_mode(False), torch.no_grad(), runner.evaluating():
        observation.batch_size.run(len(chosen), read)
    found = {name: torch.cat(parts[name]) for name in names}
    for name, features in found.items():
        bad = (~torch.isfinite(features).all(dim=1)).nonzero().flatten()
        if len(bad):
            first = int(chosen[bad[0]])
            raise ObservationError(f"layer {name} returns NaN or infinite features, first on example #{first}")
    return found


def _counting_places(observation: Observation, targets: Tensor | None, indices: Tensor) -> Tensor | None:
    """Return which places (n, *space) of dense and sequence tasks have a target, or None where all count."""
    if targets is None or observation.task not in ("dense", "sequence"):
        return None
    counts = targets != IGNORED
    silent = indices[~counts.flatten(1).any(1)]
    if len(silent):
        raise ObservationError(f"example #{int(silent[0])} has only ignored positions; choose others by `examples`")
    return None if bool(counts.all()) else counts


def _read_batch(
    runner: Runner, modules: Mapping[str, nn.Module], inputs: Inputs, counts: Tensor | None, pool: str
) -> tuple[dict[str, Tensor], bool]:
    """Return the rows of named layers, and whether one has as many places on its second axis as there are examples."""
    masks = Masks(inputs)
    readers = _watch(runner, modules, inputs, counts, pool, masks)
    if any(reader.missed_mask for reader in readers.values()):  # a part that runs later was called with it
        readers = _watch(runner, modules, inputs, counts, pool, masks)
    rows = {name: reader.rows() for name, reader in readers.items()}
    return rows, len(inputs) > 1 and any(reader.doubtful for reader in readers.values())


def _watch(
    runner: Runner,
    modules: Mapping[str, nn.Module],
    inputs: Inputs,
    counts: Tensor | None,
    pool: str,
    masks: Masks,
) -> dict[str, _LayerReader]:
    """Run a batch once and return what was read of each layer."""
    with contextlib.ExitStack() as stack:
        layouts = Layouts()
        if runner.module is not None:
            # hooks are set before the readers' own, so that a reader knows what its layer has just made
            layouts = stack.enter_context(following(runner.module, modules.values()))
            if counts is None:
                stack.enter_context(masks.noting(runner.module))
        readers = {
            name: _LayerReader(name, module, len(inputs), counts, pool, layouts, masks)
            for name, module in modules.items()
        }
        for name, reader in readers.items():
            path = name.removeprefix(INPUT)
            if name == OUTPUT or runner.module is None:
                continue
            if name == path:
                stack.enter_context(watching(runner.module, {path: reader.see_output}))
            else:
                stack.enter_context(watching(runner.module, {}, {path: reader.see_input}))
        given = runner.output(inputs)
        if OUTPUT in readers:
            readers[OUTPUT].see_output((), {}, output_of(given, len(inputs)))
    return readers


class _LayerReader:
    """The rows (n, width) of what one layer takes or gives in one pass.

    They are made while the model runs: later parts of it may overwrite a tensor, and rows of means are small.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        count: int,
        counts: Tensor | None,
        pool: str,
        layouts: Layouts,
        masks: Masks,
    ) -> None:
        self._name, self._module, self._count, self._pool, self._layouts = name, module, count, pool, layouts
        self._counts, self._masks = counts, masks
        self._unmasked: tuple[int, ...] | None = None
        self._runs = 0
        self._rows: Tensor | None = None
        self._problem = ""
        self.doubtful = False

    @property
    def missed_mask(self) -> bool:
        """Whether a mask of the layer's places became known after they were read."""
        return self._unmasked is not None and self._masks.of(self._unmasked) is not None

    def see_input(self, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Take the first of a call's arguments, which may be given by keyword."""
        self._see(first_input(self._module, args, keywords))

    def see_output(self, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        """Take what a call gives."""
        self._see(output)

    def rows(self) -> Tensor:
        """Return the rows, float32 on the CPU; raises ObservationError where there are none."""
        if self._runs != 1:
            times = f"runs {self._runs} times" if self._runs else "does not run"
            raise ObservationError(f"layer {self._name} {times} in a forward pass; choose one that runs once")
        if self._rows is None:
            raise ObservationError(f"layer {self._name} gives {self._problem}")
        return self._rows

    def _see(self, value: Any) -> None:
        # what is wrong is told by `rows`, because the model could catch an error in here
        self._runs += 1
        if self._runs > 1:
            return
        form = f"features are one floating-point tensor ({self._count}, ...)"
        if not isinstance(value, Tensor):
            self._problem = f"{'no tensor' if value is None else type(value).__name__}; {form}"
            return
        if value.is_quantized:  # of a layer of torch.ao: the values that its integers represent
            value = value.dequantize()
        if not value.is_floating_point() or value.ndim < 2 or len(value) != self._count:
            self._problem = f"{value.dtype} {tuple(value.shape)}; {form}"
            return
        self.doubtful = value.ndim > 2 and value.shape[1] == self._count
        layout = None if value.ndim == 2 else self._layouts.of(self._module, value)
        if layout is not None:
            self._rows = _row_of_all(self._over_places(value, layout))
        elif self._pool == "flatten" or has_one_place(value):
            self._rows = _row_of_all(value)
        else:
            self._problem = (
                f"{tuple(value.shape)}, and {UNKNOWN_LAYOUT}; "
                'use pool="flatten", or name a convolution, a normalisation or a linear layer'
            )

    def _over_places(self, value: Tensor, layout: Layout) -> Tensor:
        """Return the means over the places that count, or with "flatten" the tensor, 0 at those that do not."""
        places, axis = (value.shape[2:], 1) if layout == "first" else (value.shape[1:-1], -1)
        counts, ignored = self._counting(tuple(places)), None
        if counts is not None:
            ignored = ~counts.to(value.device).unsqueeze(axis)
            value = value.masked_fill(ignored, 0)
        if self._pool == "flatten":
            return value
        means = mean_over_places(value.float(), layout)
        if ignored is not None:
            means = means / (~ignored).flatten(1).float().mean(1, keepdim=True)
        return means

    def _counting(self, places: tuple[int, ...]) -> Tensor | None:
        """Return which places count, None where all do."""
        if self._counts is not None:
            return self._counts if self._counts.shape[1:] == places else None
        mask = self._masks.of(places)
        if mask is None:
            self._unmasked = places
        return mask


def _row_of_all(value: Tensor) -> Tensor:
    """Return a copy (n, width) in float32 on the CPU."""
    return value.flatten(1).to("cpu", torch.float32, copy=True)
