"""What named layers of an observed model give: found by path, read by hooks, all of them in one pass."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import reject
from cp_compress.base.digests import digest_tensors
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.observation import Observation
from cp_compress.fidelity.running import Runner
from cp_compress.fidelity.sampling import choose_examples

INPUT = "input:"
_CHANNELS_FIRST = ("Conv", "BatchNorm", "Pool", "InstanceNorm", "GroupNorm")


def find_layer(runner: Runner, path: str, purpose: str) -> nn.Module:
    """Return the module at a path; raises ObservationError, naming `purpose` and paths that are close, without one."""
    if runner.module is None:
        raise ObservationError(f"{purpose} needs an nn.Module with named layers; the model is a plain callable")
    layers: dict[str, nn.Module] = dict(runner.module.named_modules(remove_duplicate=False))
    if path not in layers or not path:
        names = [name for name in layers if name]
        close = difflib.get_close_matches(path, names, n=5, cutoff=0.4) or names[-5:]
        raise ObservationError(f"{purpose}: the model has no layer {path!r}; close are {', '.join(close)}")
    return layers[path]


def last_linear(observation: Observation) -> str:
    """Return the path of the linear layer that an observed model runs last; raises ObservationError without one."""
    module = observation.runner.module
    if module is None:
        raise ObservationError("embeddings need an nn.Module with named layers; the model is a plain callable")
    ran: list[str] = []
    linear = [path for path, part in module.named_modules() if path and type(part).__name__.endswith("Linear")]
    hooks = {path: lambda args, output, path=path: ran.append(path) for path in linear}
    with _hooked(observation.runner, hooks), torch.no_grad(), observation.runner.evaluating():
        observation.runner.logits(observation.data.select([0])[0])
    if not ran:
        raise ObservationError("the model runs no linear layer, whose input would be its embedding; name a layer")
    return ran[-1]


def layer_features(
    observation: Observation,
    layers: Sequence[str],
    *,
    pool: str = "mean",
    examples: int | Sequence[int] | Tensor | None = None,
) -> dict[str, Tensor]:
    """Return what each layer gives for the examples, (n, width), float32 on the CPU, from one pass for all.

    `examples` is a number spread evenly over the data set, indices, or None for all.

    A layer is the path of a module, whose output is taken, or "input:" and a path, for what goes into it. Outputs
    with more dimensions are averaged over places with `pool="mean"` (over all but channels in convolutions,
    normalisations and poolings, over all but the last elsewhere), or laid out in one row with "flatten".

    Raises InvalidArgumentError for malformed arguments, ObservationError for layers that do not exist, do not run, run
    more than once, or give anything but one floating-point tensor (n, ...), and for NaN or infinite features.
    """
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
        else observation.remember(("features", name, pool, which), _never)
        for name in names
    }


def _never() -> Tensor:
    raise AssertionError("features are remembered before they are asked for")


def _read(observation: Observation, names: Sequence[str], pool: str, chosen: Tensor) -> dict[str, Tensor]:
    runner = observation.runner
    modules = {name: find_layer(runner, name.removeprefix(INPUT), "embeddings") for name in names}
    parts: dict[str, list[Tensor]] = {name: [] for name in names}

    def read(part: slice) -> None:
        inputs, _ = observation.data.select(chosen[part])
        seen: dict[str, list[Any]] = {name: [] for name in names}
        hooks = {name: _collector(name, seen[name]) for name in names}
        with _hooked(runner, hooks):
            runner.logits(inputs)
        rows = {name: _as_rows(name, seen[name], modules[name], len(inputs), pool) for name in names}
        for name in names:  # after all that can run out of memory
            parts[name].append(rows[name])

    with torch.inference_mode(False), torch.no_grad(), runner.evaluating():
        observation.batch_size.run(len(chosen), read)
    found = {name: torch.cat(parts[name]) for name in names}
    for name, features in found.items():
        bad = (~torch.isfinite(features).all(dim=1)).nonzero().flatten()
        if len(bad):
            first = int(chosen[bad[0]])
            raise ObservationError(f"layer {name} gives NaN or infinite features, first on example #{first}")
    return found


def _collector(name: str, seen: list[Any]) -> Callable[[tuple[Any, ...], Any], None]:
    def collect(args: tuple[Any, ...], output: Any) -> None:
        seen.append(args[0] if name.startswith(INPUT) and args else output)

    return collect


@contextlib.contextmanager
def _hooked(runner: Runner, hooks: Mapping[str, Callable[[tuple[Any, ...], Any], None]]) -> Iterator[None]:
    handles = []
    try:
        for name, hook in hooks.items():
            module = find_layer(runner, name.removeprefix(INPUT), "embeddings")

            def forward_hook(
                module: nn.Module, args: Any, output: Any, hook: Callable[[tuple[Any, ...], Any], None] = hook
            ) -> None:
                hook(args, output)

            handles.append(module.register_forward_hook(forward_hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _as_rows(name: str, seen: list[Any], module: nn.Module, count: int, pool: str) -> Tensor:
    if len(seen) != 1:
        times = "does not run" if not seen else f"runs {len(seen)} times"
        raise ObservationError(f"layer {name} {times} in a forward pass; choose one that runs once")
    value = seen[0]
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 2 or len(value) != count:
        found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ObservationError(f"layer {name} gives {found}; features are one floating-point tensor ({count}, ...)")
    value = value.float()
    return (mean_over_places(value, module) if pool == "mean" else value.flatten(1)).cpu()


def mean_over_places(features: Tensor, module: nn.Module | None) -> Tensor:
    """Return what a module gives (n, ...) as rows (n, width), with a gradient: means over all but its channels."""
    if features.ndim < 3:
        return features
    first = features.ndim > 3 or any(kind in type(module).__name__ for kind in _CHANNELS_FIRST)
    return features.flatten(2).mean(dim=2) if first else features.flatten(1, -2).mean(dim=1)
