"""Programs exported by `torch.export` as models, with gradients and optionally with the names of their layers."""

from __future__ import annotations

import os
import warnings
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from cp_compress.artifacts.exported_programs.archives import clean_archive
from cp_compress.artifacts.fixed_batches import BatchSizes, run_in_sizes
from cp_compress.artifacts.guards import MAX_BYTES, check_max_bytes, opened, size_of, told
from cp_compress.base.arguments import explains_keywords
from cp_compress.base.devices import usable_device
from cp_compress.base.digests import digest_file, digest_text
from cp_compress.base.errors import ArtifactError

_OWNER = "load_exported"
_TRAINING = {"dropout": 2, "native_dropout": 2, "alpha_dropout": 2, "feature_dropout": 2, "batch_norm": 5}
_TRIED = 1024


@explains_keywords
class ExportedModel(nn.Module):
    """An exported program that maps a batch to logits; `load_exported` makes it.

    Gradients pass through it. Its layers have names if `layers` was set.

    Args:
        program: The module that the program was unpacked to.
        sizes: The batch sizes that it takes.
        content_digest: The digest of the file.
        file_bytes: The size of the file.
    """

    def __init__(self, program: nn.Module, sizes: BatchSizes, content_digest: str, file_bytes: int) -> None:
        super().__init__()
        self.program = program
        self.content_digest = content_digest
        self.file_bytes = file_bytes
        self._sizes = sizes

    @property
    def has_layers(self) -> bool:
        """Whether the program kept the layers of the module that it was exported from."""
        return any(True for _ in self.program.children())

    def forward(self, batch: Tensor) -> Tensor:
        """Return the logits of a batch (n, ...)."""
        return run_in_sizes(self._run, batch, self._sizes)

    def _run(self, rows: Tensor) -> Tensor:
        output = self.program(rows)
        if isinstance(output, dict):
            output = output["logits"] if "logits" in output else next(iter(output.values()))
        if isinstance(output, (tuple, list)):
            output = output[0]
        logits: Tensor = output
        return logits


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

    A program that was exported for certain batch sizes is called with those only: batches are split, and the last part
    is padded with copies of its last row.

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
        ArtifactError: If the file is damaged, refused or too large, the program has several inputs or outputs, was
            exported in training mode, or changes its own buffers. The file is named.
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
    sizes = _batch_sizes(program, path)
    _require_one_output(program, path)
    _require_evaluation(program, path)
    with told(path, "making a model of it"):
        if place.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(place))
        module = torch.export.unflatten(program) if layers else program.module()
    content = digest_text("exported", digest, "layers" if layers else "")
    return ExportedModel(module, sizes, content, size)


def _load(file: BinaryIO, path: str | os.PathLike[str]) -> ExportedProgram:
    try:
        from torch.export.pt2_archive._package import load_pt2
    except ImportError as error:
        raise ArtifactError(path, f"holds an exported program, which torch {torch.__version__} cannot read") from error
    with told(path, "torch's reading it"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_pt2(file).exported_programs["model"]


def _batch_sizes(program: ExportedProgram, path: str | os.PathLike[str]) -> BatchSizes:
    names = program.graph_signature.user_inputs
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    fed = [placeholders[name] for name in names if isinstance(name, str) and name in placeholders]
    if len(fed) != 1 or len(names) != 1:
        raise ArtifactError(path, f"takes {len(names)} inputs; a model takes a single batch")
    value = fed[0].meta.get("val")
    if not isinstance(value, Tensor) or value.ndim == 0:
        raise ArtifactError(path, "does not take a tensor (n, ...)")
    first = value.shape[0]
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


def _require_one_output(program: ExportedProgram, path: str | os.PathLike[str]) -> None:
    outputs = program.graph_signature.user_outputs
    structure = program.call_spec.out_spec
    named = structure is not None and structure.type is dict and "logits" in (structure.context or ())
    if len(outputs) != 1 and not named:
        raise ArtifactError(path, f"returns {len(outputs)} outputs; expected only logits, or a dict with them")


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
