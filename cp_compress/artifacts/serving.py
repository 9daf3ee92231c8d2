"""Which levels of comparison a model can serve, and why not the others."""

from __future__ import annotations

from torch import nn

from cp_compress.artifacts.exported_programs.models import ExportedModel
from cp_compress.base.arguments import check_choice, reject
from cp_compress.fidelity.attributions.methods.known import methods_without_needs
from cp_compress.fidelity.observing.runner import Model

LEVELS = ("predictions", "embeddings", "attributions", "boundaries", "divergence", "robustness", "footprint")
_OWNER = "served_levels"


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
    if not callable(model):
        reject(_OWNER, "model", model, "a model is anything that maps a batch to logits")
    check_choice(_OWNER, "role", role, ("candidate", "reference"))
    reasons: dict[str, str | None] = dict.fromkeys(LEVELS)
    reasons["embeddings"] = _why_no_layers(model)
    if isinstance(model, nn.Module):
        return reasons
    no_gradients = "its outputs carry no gradients: it is no torch.nn.Module"
    methods = " or ".join(f'method="{name}"' for name in methods_without_needs())
    reasons["attributions"] = f"{no_gradients}; {methods} needs none"
    reasons["footprint"] = "its size and operations are not known: it is no torch.nn.Module"
    if role == "reference":
        reasons["boundaries"] = f"{no_gradients}, along which the gate's directions go; directions=… needs none"
        reasons["divergence"] = f'{no_gradients}; guide="examples" needs none'
    return reasons


def _why_no_layers(model: Model) -> str | None:
    if not isinstance(model, nn.Module):
        return "it has no layers with names: it is no torch.nn.Module"
    if isinstance(model, ExportedModel) and not model.has_layers:
        return "its program is one flat graph without layers; load_exported(…, layers=True) keeps them"
    if not any(type(part).__name__.endswith("Linear") for part in model.modules()):
        return "it has no linear layer, whose input is the embedding; layer=… names another"
    return None
