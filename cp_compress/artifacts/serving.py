"""Which levels of comparison a model can serve, and why not the others."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from cp_compress.artifacts.exported_programs.models import ExportedModel
from cp_compress.base.arguments import check_choice, explains_keywords
from cp_compress.base.errors import CompressionError
from cp_compress.base.showing.mistaken import is_factory, reject_kind
from cp_compress.fidelity.comparisons import Need, comparisons_of_models
from cp_compress.fidelity.observing.runner import Model
from cp_compress.model.footprints import file_bytes_of

_OWNER = "served_levels"


@explains_keywords
def served_levels(model: Model, *, role: str = "candidate") -> dict[str, str | None]:
    """Return for each level None where a model can serve it with the assertion's defaults, else the reason why not.

    `role` is "candidate" or "reference": some levels ask more of the reference, along whose gradients they search. A
    reason ends with the arguments that serve without, where there are any. Nothing is run, so that the model may still
    fail on the data: an `nn.Module` is taken to be differentiable in its inputs.

    >>> served_levels(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))["embeddings"] is None
    True
    >>> served_levels(lambda batch: batch)["embeddings"]
    'it has no layers with names: it is no torch.nn.Module'
    """
    if not callable(model) or is_factory(model):
        reject_kind(_OWNER, "model", model, "a model is anything that maps a batch to logits", "model")
    check_choice(_OWNER, "role", role, ("candidate", "reference"))
    served = {name: one for name, one in comparisons_of_models().items() if not one.required}
    return {name: _why_not(model, role, comparison.needs) for name, comparison in served.items()}


def _why_not(model: Model, role: str, needs: Sequence[Need]) -> str | None:
    for need in needs:
        reason = _MISSING[need.what](model) if need.of in ("both", role) else None
        if reason is not None:
            return f"{reason}; {need.remedy} needs none" if need.remedy else reason
    return None


def _why_no_layers(model: Model) -> str | None:
    if not isinstance(model, nn.Module):
        return "it has no layers with names: it is no torch.nn.Module"
    if isinstance(model, ExportedModel) and not model.has_layers:
        return "its program is one flat graph without layers; load_exported(…, layers=True) keeps them"
    if not any(isinstance(part, nn.Linear) or type(part).__name__.endswith("Linear") for part in model.modules()):
        return "it has no linear layer, whose input is the embedding; layer=… names another"
    return None


def _why_no_gradients(model: Model) -> str | None:
    return None if isinstance(model, nn.Module) else "its outputs carry no gradients: it is no torch.nn.Module"


def _why_no_module(model: Model) -> str | None:
    if isinstance(model, nn.Module):
        return None
    try:
        known = file_bytes_of(model) is not None
    except CompressionError as error:
        return str(error)
    return None if known else "its size and operations are not known: it is no torch.nn.Module, and has no file_bytes"


_MISSING = {"layers": _why_no_layers, "gradients": _why_no_gradients, "module": _why_no_module}
