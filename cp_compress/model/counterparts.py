"""Where the weights of a reference are found in a candidate, whose layers may be wrapped, packed or replaced."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from cp_compress.model.layers import resolve, used_value
from cp_compress.model.record import Step, read_steps
from cp_compress.model.representations.registry import held_weights

PLAIN = (Tensor, nn.Parameter)
_PACKED = ("_packed_params", "_all_weight_values")  # of torch.ao, linear and recurrent


class Counterparts:
    """Where the weights of a reference are found in a candidate."""

    def __init__(self, candidate: nn.Module, layers: Collection[str]) -> None:
        self.candidate = candidate
        self.hidden: list[str] = []
        self.held = {name: held.parts for name, _, held in held_weights(candidate)}
        paths = {path for path, _ in candidate.named_modules()}
        self.dropped, self.prefix = _best_prefix(paths, list(dict.fromkeys(layers)))

    def name(self, name: str) -> str:
        """Return the name in the candidate of a weight of the reference."""
        return joined(self.prefix, name.removeprefix(self.dropped))

    def state(self, name: str, weight: Tensor, reference: nn.Module) -> bool | None:
        """Tell whether the candidate has changed a weight; None where it has nothing in its place."""
        own = self.name(name)
        if own in self.held:
            return True
        try:
            module, attribute = resolve(self.candidate, own)
        except AttributeError:
            return None
        value = _tensors(module, recurse=False).get(attribute)
        value = used_value(self.candidate, own) if value is None else value
        if value is not None:
            return not _same(value, weight)
        if callable(getattr(module, attribute, None)) or any(hasattr(module, packed) for packed in _PACKED):
            return True  # torch.ao packs a weight, and gives it back by a method of its name
        inside = _tensors(module)
        if any(_same(tensor, weight) for tensor in inside.values()):
            return False  # the same weight within a wrapper
        known = _tensors(resolve(reference, name)[0])
        replaced = sum(tensor.numel() for path, tensor in inside.items() if path not in known) > 1
        if not replaced and not type(module).__module__.startswith("torch.nn."):
            self.hidden.append(own)  # it may hold anything, where nobody can see it
        return True

    def has_others(self, states: Mapping[str, bool | None]) -> bool:
        """Tell whether the candidate lacks most weights, or holds some that stand for no weight of the reference."""
        found = [name for name, state in states.items() if state is not None]
        if 2 * len(found) < len(states):
            return True
        layers = {layer_of(self.name(name)) for name in found}
        for name, value in self.candidate.named_parameters():
            inside = any(layer == "" or f"{name}.".startswith(f"{layer}.") for layer in layers)
            if value.ndim > 1 and not inside:
                return True
        return False

    def step_names(self, step: Step) -> set[str]:
        """Return the candidate's names of the weights that a recorded step changed."""
        whole = {joined(name.rpartition(".")[0], part): name for name, parts in self.held.items() for part in parts}
        return {whole.get(change.tensor, change.tensor) for change in step.changes}

    def reasons(self) -> dict[str, str]:
        """Return why recorded steps left weights alone, by the reference's names."""
        told = {skip.tensor: skip.reason for step in read_steps(self.candidate) for skip in step.skips}
        start = f"{self.prefix}." if self.prefix else ""
        return {self.dropped + name.removeprefix(start): reason for name, reason in told.items()}


def _tensors(module: nn.Module, recurse: bool = True) -> dict[str, Tensor]:
    """Return the parameters and buffers of a module by their names within it."""
    parameters = module.named_parameters(recurse=recurse, remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(recurse=recurse, remove_duplicate=False))}


def _same(value: Tensor, weight: Tensor) -> bool:
    """Tell whether two tensors hold the same values in one dtype, also where the axes of a matrix are swapped."""
    if value.ndim == 2 and value.shape == weight.shape[::-1] and value.shape != weight.shape:
        value = value.t()
    if value.dtype != weight.dtype or value.shape != weight.shape or value.layout != weight.layout:
        return False
    if type(value) not in PLAIN and type(value) is not type(weight):
        return False  # a tensor subclass that looks like floats holds something else
    if value.is_meta or weight.is_meta:
        return value is weight
    try:
        return value is weight or torch.equal(value.detach().to(weight.device), weight.detach())
    except (NotImplementedError, RuntimeError, TypeError):
        if type(value) in PLAIN:
            raise
        return False  # a subclass that cannot be compared


def _best_prefix(paths: set[str], layers: list[str]) -> tuple[str, str]:
    """Return what the reference's names begin with and the candidate's do not, and the other way round."""
    common = _common_start(layers)
    best = ("", "", -1)
    for dropped in dict.fromkeys(["", *common]):
        shorter = [layer.removeprefix(dropped) for layer in layers]
        probes = {shorter[0], shorter[len(shorter) // 2], shorter[-1]}
        starts = {path.removesuffix(probe).rstrip(".") for path in paths for probe in probes if _ends(path, probe)}
        for prefix in sorted({"", *starts}, key=lambda start: (start.count("."), start)):
            count = sum(joined(prefix, layer) in paths for layer in shorter)
            if count > best[2]:
                best = (dropped, prefix, count)
    return best[0], best[1]


def _common_start(layers: list[str]) -> list[str]:
    """Return the starts, each with its last dot, that all paths have in common, shortest first."""
    first = layers[0].split(".")[:-1]
    starts = [".".join(first[:length]) + "." for length in range(1, len(first) + 1)]
    return [start for start in starts if all(layer.startswith(start) for layer in layers)]


def _ends(path: str, end: str) -> bool:
    return path == end or end == "" or path.endswith(f".{end}")


def joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}".strip(".")


def layer_of(name: str) -> str:
    """Return the path of the layer that holds a tensor; a parametrisation belongs to the layer that it is in."""
    return name.rpartition(".")[0].partition("parametrizations")[0].rstrip(".")
