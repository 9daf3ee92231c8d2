"""Inputs on which two models disagree, saved as files for later runs."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.digests import digest_tensors
from cp_compress.base.error_reasons import reason_of
from cp_compress.base.errors import CorruptStreamError
from cp_compress.base.files import write_atomically
from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.divergence.finding import DivergenceSearch
from cp_compress.fidelity.divergence.labels import Labeler, Verifier
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.sampling import batch_size_for

_FORMAT = "cp-divergence-1"
_LARGEST_BYTES = 2**31
_ARRAYS = ("inputs", "examples", "labels", "reference_classes", "candidate_classes")


@dataclass(frozen=True, eq=False, repr=False)
class SavedDivergence(Brief):
    """Inputs (n, *input) on which a reference and a candidate gave `reference_classes` and `candidate_classes` (n,).

    `examples` (n,) are the indices of the seeds in their data set, `labels` (n,) their true classes.
    """

    inputs: Tensor
    examples: Tensor
    labels: Tensor
    reference_classes: Tensor
    candidate_classes: Tensor


@explains_keywords
def save_divergence(path: str | Path, found: DivergenceSearch, examples: Tensor, labels: Tensor) -> Path:
    """Write the inputs that a search found, atomically, as a NumPy `.npz` file.

    Images k / 255 are stored as uint8, all others unchanged. An existing file with other content, such as inputs found
    for another candidate, is kept: the digest of the content is then added to the name.

    Args:
        path: The file. A path without the suffix `.npz` is a folder, in which the file is named by its content, so that
            processes that write at the same time never write different content to one file.
        found: The result of `find_divergence`.
        examples: The indices (n,) of the seeds in their data set.
        labels: The true classes (n,) of the seeds.

    Returns:
        The path of the file.

    Raises:
        InvalidArgumentError: If no input was found.
    """
    rows = found.found.nonzero().flatten()
    if not len(rows):
        reject("save_divergence", "found", 0, "no input was found, so there is nothing to save")
    inputs = found.inputs[rows].detach().cpu()
    levels = (inputs * 255).round()
    on_lattice = bool(((levels / 255) == inputs).all()) and bool((inputs >= 0).all()) and bool((inputs <= 1).all())
    parts = {
        "inputs": levels.to(torch.uint8) if on_lattice else _as_known_to_numpy(inputs),
        "examples": examples[rows],
        "labels": labels[rows],
        "reference_classes": found.reference_classes[rows],
        "candidate_classes": found.candidate_classes[rows],
    }
    target, digest = Path(path), digest_tensors(parts.values())[:12]
    named = target.suffix == ".npz"
    if not named:
        target = target / f"divergence-{digest}.npz"
    target.parent.mkdir(parents=True, exist_ok=True)
    header = {"format": _FORMAT, "scale": 255 if on_lattice else 1, "dtype": str(inputs.dtype).removeprefix("torch.")}
    buffer = io.BytesIO()
    arrays = {name: part.numpy() for name, part in parts.items()}
    np.savez_compressed(buffer, allow_pickle=False, header=np.array(json.dumps(header)), **arrays)
    try:
        write_atomically(target, buffer.getvalue(), replace=not named)
    except FileExistsError:
        if target.read_bytes() != buffer.getvalue():
            target = target.with_name(f"{target.stem}-{digest}.npz")
            write_atomically(target, buffer.getvalue())
    return target


def _as_known_to_numpy(inputs: Tensor) -> Tensor:
    """Return inputs of a dtype that NumPy lacks, bfloat16, in float32, which holds the same numbers."""
    return inputs.float() if inputs.dtype == torch.bfloat16 else inputs


@explains_keywords
def load_divergence(path: str | Path) -> SavedDivergence:
    """Read a file that `save_divergence` wrote, without running any code in it.

    Raises OSError for a file that cannot be read, and CorruptStreamError, naming it, for one that is damaged or of
    another kind.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > _LARGEST_BYTES:
                raise ValueError(f"its content would take {size:,} bytes")
        with np.load(path, allow_pickle=False) as content:
            header = json.loads(str(content["header"]))
            arrays = {name: torch.from_numpy(content[name]) for name in _ARRAYS}
        return _checked(header, arrays)
    except OSError:
        raise
    except Exception as error:  # damaged archives and headers make their readers raise anything, MemoryError included
        raise CorruptStreamError(f"{path} is not a saved divergence, or is damaged: {reason_of(error)}") from error


def _checked(header: Any, arrays: dict[str, Tensor]) -> SavedDivergence:
    if header["format"] != _FORMAT:
        raise ValueError(f"its format is {header['format']!r}, not {_FORMAT!r}")
    count = len(arrays["inputs"])
    if count == 0 or arrays["inputs"].ndim < 2:
        raise ValueError("it holds no inputs")
    for name in _ARRAYS[1:]:
        if arrays[name].shape != (count,) or arrays[name].dtype != torch.int64:
            raise ValueError(f"{name} does not fit its {count} inputs")
    if header["scale"] == 255:
        arrays["inputs"] = arrays["inputs"].to(getattr(torch, header["dtype"])) / 255
    else:
        arrays["inputs"] = arrays["inputs"].to(getattr(torch, header["dtype"]))
    if not arrays["inputs"].is_floating_point():
        raise ValueError("its inputs are not floating-point numbers")
    return SavedDivergence(**arrays)


@explains_keywords
@torch.inference_mode(False)  # what is made in a caller's inference mode could not be changed outside of it
def replay_divergence(
    candidate: Observation, reference: Observation, saved: SavedDivergence | str | Path, *, min_margin: float = 1e-5
) -> tuple[DivergenceSearch, Tensor]:
    """Run two models again on saved inputs, and return which disagreements remain.

    Args:
        candidate: The observation of the compressed model.
        reference: The observation of the reference.
        saved: The inputs, or the path of their file.
        min_margin: The margin that counts, as in `find_divergence`.

    Returns:
        The result in the form of a search, and the indices of the seeds. `found` states on which inputs the models
        still disagree, verified as in `find_divergence`; distances are NaN, because the seeds are not in the file.

    Raises:
        InvalidArgumentError: If the inputs do not have the shape of the reference's data.
        CorruptStreamError: If the file is damaged or of another kind.
    """
    require_observations("replay_divergence", candidate=candidate, reference=reference)
    kept = saved if isinstance(saved, SavedDivergence) else load_divergence(saved)
    expected = tuple(reference.data.inputs([0]).shape[1:])
    if tuple(kept.inputs.shape[1:]) != expected:
        rule = f"its inputs have this shape, but those of the data {expected}"
        reject("replay_divergence", "saved", tuple(kept.inputs.shape[1:]), rule)
    device = reference.runner.device
    batch = batch_size_for(device, None, min(candidate.batch_size.limit, reference.batch_size.limit))
    after, before = (Labeler(seen.model, device, batch) for seen in (candidate, reference))
    verifier = Verifier(after, before, kept.inputs.to(device), min_margin)
    confirmed = verifier.confirm(kept.inputs.to(device))
    holds, classes, margins = confirmed.holds, confirmed.classes, confirmed.margins
    unknown = torch.full((len(holds),), torch.nan, dtype=torch.float64)
    found = DivergenceSearch(
        inputs=kept.inputs,
        found=holds,
        already=torch.zeros_like(holds),
        seed_classes=kept.reference_classes,
        reference_classes=classes[:, 1],
        candidate_classes=classes[:, 0],
        reference_margins=margins[:, 1],
        candidate_margins=margins[:, 0],
        queries=torch.ones(len(holds), dtype=torch.int64),
        linf=unknown,
        l2=unknown,
        guided=torch.ones_like(holds),
        unconfirmed=torch.zeros(len(holds), dtype=torch.int64),
        precisions=verifier.precisions,
    )
    return found, kept.examples
