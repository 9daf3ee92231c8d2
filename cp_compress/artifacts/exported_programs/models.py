"""Programs exported by `torch.export` as models, with gradients and optionally with the names of their layers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from cp_compress.artifacts.exported_programs.archives import clean_archive
from cp_compress.artifacts.fixed_batches import BatchSizes, run_in_sizes
from cp_compress.artifacts.guards import MAX_BYTES, check_max_bytes, opened, size_of, told
from cp_compress.artifacts.named_inputs import named_inputs
from cp_compress.base.arguments import explains_keywords
from cp_compress.base.devices import usable_device
from cp_compress.base.digests import digest_file, digest_text
from cp_compress.base.errors import ArtifactError, ObservationError
from cp_compress.inputs.trees import TensorTree

_OWNER = "load_exported"
_TRAINING = {"dropout": 2, "native_dropout": 2, "alpha_dropout": 2, "feature_dropout": 2, "batch_norm": 5}
_TRIED = 1024


@explains_keywords
class ExportedModel(nn.Module):
    """An exported program that maps a batch to logits, or to all that it gives; `load_exported` makes it.

    Gradients pass through it. Its layers have names if `layers` was set.

    Args:
        program: The module that the program was unpacked to.
        sizes: The batch sizes that it takes.
        content_digest: The digest of the file.
        file_bytes: The size of the file.
        inputs: What it is called with, in order; None for one tensor by position.
    """

    def __init__(
        self,
        program: nn.Module,
        sizes: BatchSizes,
        content_digest: str,
        file_bytes: int,
        inputs: Sequence[ProgramInput] | None = None,
    ) -> None:
        super().__init__()
        self.program = program
        self.content_digest = content_digest
        self.file_bytes = file_bytes
        self.inputs = (ProgramInput("batch"),) if inputs is None else tuple(inputs)
        self._sizes = sizes

    @property
    def has_layers(self) -> bool:
        """Whether the program kept the layers of the module that it was exported from."""
        return any(True for _ in self.program.children())

    def forward(self, *batch: Any, **named: Any) -> Any:
        """Return what the program gives for a batch (n, ...): its one output, or the dict or tuple of several.

        Several inputs are given by name, or by position in the program's order.
        """
        names = [each.name for each in self.inputs if not each.constant]
        if len(batch) > 1 and any(each.keyword for each in self.inputs):  # their order is that of the export alone
            told = f"the program takes {', '.join(names)} by name, as it was exported"
            raise ObservationError(f"{told}, and is given {len(batch)} tensors by position: an example is a mapping")
        rows = TensorTree(named_inputs(f"the program takes {', '.join(names)}", names, batch, named))
        return run_in_sizes(self._run, rows, self._sizes)

    def _run(self, rows: TensorTree) -> Any:
        tensors = iter(rows.tensors)
        args: list[Any] = []
        keywords: dict[str, Any] = {}
        for each in self.inputs:
            value = each.value if each.constant else next(tensors)
            if each.keyword:
                keywords[each.name] = value
            else:
                args.append(value)
        output = self.program(*args, **keywords)
        if isinstance(output, (dict, tuple, list)) and len(output) == 1:
            return next(iter(output.values())) if isinstance(output, dict) else output[0]
        return output


@dataclass(frozen=True)
class ProgramInput:
    """One input of a program, by position or by keyword: a tensor, or a constant that it was exported with."""

    name: str
    keyword: bool = False
    constant: bool = False
    value: Any = None


@explains_keywords
def load_exported(
    path: str | os.PathLike[str],
    *,
    layers: bool = False,
    device: torch.device | str = "cpu",
    allow_pickle: bool = False,
    max_bytes: int = MAX_BYTES,
) -> ExportedModel:
    """Return a program that `torch.export.save` wrote as a model that maps a batch (n, ...) to logits.

    One of several inputs is called with examples that are mappings of their names, or tuples in their order; one that
    gives several outputs gives them as it was exported, and `output=` of a comparison, or else "logits", says which is
    compared. A program that was exported for certain batch sizes is called with those only: batches are split, and the
    last part is padded with copies of its last row.

    The archive is checked and rebuilt before torch reads it: pickles, compiled libraries and texts that torch would
    evaluate are refused.

    Args:
        path: The `.pt2` file.
        layers: Whether to restore the named modules of the module that was exported, for comparisons of embeddings. The
            model then runs a little slower.
        device: Where the model is to run, whatever device it was exported on.
        allow_pickle: Whether to read the file without these checks. It can then run any code.
        max_bytes: The largest size of the file, also when unpacked.

    Returns:
        The model.

    Raises:
        ArtifactError: If the file is damaged, refused or too large, the program has nested inputs, was exported in
            training mode, or changes its own buffers. The file is named.
        InvalidArgumentError: If `max_bytes` is not a whole number of 1 or more, or the device cannot be used.
    """
    limit, place = check_max_bytes(_OWNER, max_bytes), usable_device(device, f"{_OWNER}(device)")
    with opened(path, limit) as file:
        digest, size = digest_file(file), size_of(file)
        file.seek(0)
        if allow_pickle:
            program = _load(file, path)
        else:
            with clean_archive(file, path, limit) as cleaned:
                program = _load(cleaned, path)
    inputs, sizes = _inputs_of(program, path), _batch_sizes(program, path)
    _require_evaluation(program, path)
    with told(path, "making a model of it"):
        if place.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(place))
        module = torch.export.unflatten(program) if layers else program.module()
    content = digest_text("exported", digest, "layers" if layers else "")
    return ExportedModel(module, sizes, content, size, inputs)


def _load(file: BinaryIO, path: str | os.PathLike[str]) -> ExportedProgram:
    try:
        from torch.export.pt2_archive._package import load_pt2
    except ImportError as error:
        raise ArtifactError(path, f"holds an exported program, which torch {torch.__version__} cannot read") from error
    with told(path, "torch's reading it"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_pt2(file).exported_programs["model"]


def _inputs_of(program: ExportedProgram, path: str | os.PathLike[str]) -> list[ProgramInput]:
    """Return what a program is called with, in order; raises ArtifactError for nested inputs."""
    given = program.graph_signature.user_inputs
    args, keywords = program.call_spec.in_spec.children() if program.call_spec.in_spec is not None else (None, None)
    parts = [] if args is None or keywords is None else [*args.children(), *keywords.children()]
    if len(parts) != len(given) or not all(part.is_leaf() for part in parts):
        told = f"{len(given)} nested inputs" if len(parts) != len(given) else f"{len(given)} inputs"
        raise ArtifactError(path, f"takes {told}; export a module that takes each tensor as an argument of its own")
    named = list(keywords.context) if keywords is not None and keywords.context else []
    positional = len(parts) - len(named)
    found = []
    for place, value in enumerate(given):
        tensor = isinstance(value, str)
        keyword = place >= positional
        name = named[place - positional] if keyword else str(value) if tensor else f"argument {place}"
        found.append(ProgramInput(name, keyword, not tensor, None if tensor else value))
    if not any(not one.constant for one in found):
        raise ArtifactError(path, "takes no tensor; a model takes a batch")
    return found


def _batch_sizes(program: ExportedProgram, path: str | os.PathLike[str]) -> BatchSizes:
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    sizes: dict[str, BatchSizes] = {}
    for name in program.graph_signature.user_inputs:
        if not isinstance(name, str):
            continue
        value = placeholders[name].meta.get("val") if name in placeholders else None
        if not isinstance(value, Tensor) or value.ndim == 0:
            raise ArtifactError(path, f"takes {name}, which is no tensor (n, ...)")
        sizes[name] = _sizes_of(program, value.shape[0], path)
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} in {_told_sizes(one)}" for name, one in sizes.items())
        raise ArtifactError(path, f"takes {told}: the first dimension of each input must be that of the batch")
    return next(iter(sizes.values()))


def _told_sizes(sizes: BatchSizes) -> str:
    if sizes.smallest == sizes.largest:
        return f"batches of {sizes.smallest}"
    return f"batches of {sizes.smallest} to {'any number' if sizes.largest is None else sizes.largest}"


def _sizes_of(program: ExportedProgram, first: Any, path: str | os.PathLike[str]) -> BatchSizes:
    if isinstance(first, int):
        if first < 1:
            raise ArtifactError(path, f"was exported for batches of {first}")
        return BatchSizes(first, first, first)
    return _symbolic_sizes(program, first.node.expr, path)


def _symbolic_sizes(program: ExportedProgram, size: Any, path: str | os.PathLike[str]) -> BatchSizes:
    """Return the sizes of a symbol s within its range, or of a multiple of it, such as 2*s."""
    symbols = sorted(size.free_symbols, key=str)
    multiple = size.coeff(symbols[0]) if len(symbols) == 1 else None
    if multiple is None or size != multiple * symbols[0] or not multiple.is_Integer or multiple < 1:
        raise ArtifactError(path, f"takes batches of {size}, which is neither a number nor a multiple of one")
    found, step = program.range_constraints.get(symbols[0]), int(multiple)
    lower = int(found.lower) if found is not None and found.lower.is_Integer else 1
    upper = int(found.upper) if found is not None and found.upper.is_Integer else None
    return BatchSizes(max(1, lower) * step, None if upper is None else upper * step, step)


def _require_evaluation(program: ExportedProgram, path: str | os.PathLike[str]) -> None:
    signature = program.graph_signature
    changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
    if changed:
        raise ArtifactError(path, f"changes {changed[0]} in each call: export the module in evaluation mode")
    for node in program.graph.nodes:
        name = str(node.target).split(".")[1] if str(node.target).startswith("aten.") else ""
        place = _TRAINING.get(name)
        if place is not None and len(node.args) > place and node.args[place] is True:
            raise ArtifactError(path, f"has a {name} in training mode: export the module in evaluation mode")
