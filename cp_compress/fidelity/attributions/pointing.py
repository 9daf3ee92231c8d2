"""Level C with masks that a person has drawn: does the model look where it must, and not where it must not?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.batching import slices
from cp_compress.base.errors import ObservationError
from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.attributions.checks import check_completeness, check_gap_limit, check_same_inputs
from cp_compress.fidelity.attributions.maps import AttributionMaps, attribution_maps
from cp_compress.fidelity.attributions.masks import Mask, read_masks
from cp_compress.fidelity.attributions.methods.known import as_attribution_method
from cp_compress.fidelity.attributions.methods.method import AttributionMethod
from cp_compress.fidelity.attributions.sanity import require_model_dependence
from cp_compress.fidelity.attributions.similarity import place_strengths
from cp_compress.fidelity.judging.intervals import BoundedMean, Evidence, Proportion
from cp_compress.fidelity.judging.measurement import ExampleChange, Measurement
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.pairing import check_comparable
from cp_compress.fidelity.observing.sampling import batch_size_for, choose_examples

_OWNER = "compare_pointing"
_LISTED_EXAMPLES = 20
_ROWS = 64


@dataclass(frozen=True, repr=False)
class Pointing(Brief):
    """Of each example (n,): the share of strength within a mask, whether the strongest place is, and zero maps."""

    mass: Tensor
    hits: Tensor
    zero: Tensor


@explains_keywords
def compare_pointing(
    candidate: Observation,
    reference: Observation | None = None,
    method: AttributionMethod | str = "saliency",
    *,
    must_look: Mask | None = None,
    must_not_look: Mask | None = None,
    examples: int | Sequence[int] | Tensor | None = None,
    max_completeness_gap: float = 0.1,
    batch_size: int | None = None,
) -> Measurement:
    """Measure which share of a candidate's attribution lies where it must, or must not, and what the reference's does.

    A place's strength is its attribution without the sign, summed over all channels; maps of a layer are enlarged to
    the mask by nearest neighbours. Both models explain the class that the reference predicts; a candidate alone, the
    class that it predicts.

    Metrics of `must_look`: `pointing_mass`, the mean share of a map's strength inside the mask, in [0, 1];
    `pointing_hits`, the share of examples in which a place inside is stronger than all places outside (the pointing
    game of Zhang et al. 2016, without tolerance); `pointing_mass_drop`, the reference's mean mass less the
    candidate's. Metric of `must_not_look`: `forbidden_mass`, the mean share inside that mask. An all-zero map counts
    as mass 0 and no hit in `must_look`, and as mass 1 in `must_not_look`. The details hold the share of the places
    that each mask covers: the mass of a map that has the same value everywhere.

    Args:
        candidate: The compressed model's observation.
        reference: The original model's observation on the same examples, or None to measure the candidate alone.
        method: An attribution method, its expression, or the function "package.module:function" that returns one.
        must_look: The mask where the attribution should lie: a boolean tensor (h, w), or (n, h, w) with one mask for
            each example of the data set; the name of an attribute of the data set that holds such a tensor; or a
            function of (inputs (k, ...), labels (k,)) of the reference's data that returns (k, h, w). For inputs
            without space, masks are (features,).
        must_not_look: The mask where the attribution should not lie, in the same forms.
        examples: A number of examples, spread evenly over the data set; their indices; or None for all.
        max_completeness_gap: As in `compare_attributions`.
        batch_size: The largest number of inputs in one call of a model; by default 32 on a CPU and 512 elsewhere,
            and never more than the observations were made with.

    Returns:
        The metrics of the masks that were given, with evidence, and the 20 examples that look most at the wrong places.

    Raises:
        InvalidArgumentError: An argument is malformed, no mask is given, or a mask holds no place or every place.
        ObservationError: As for `compare_attributions`; all the candidate's maps are zero; or the maps have no places
            that the masks fit.

    >>> from cp_compress.fidelity import observe
    >>> model = torch.nn.Linear(4, 2, bias=False)
    >>> _ = torch.nn.init.constant_(model.weight, 1.0)
    >>> seen = observe(model, (torch.ones(3, 4), torch.tensor([0, 0, 0])))
    >>> compare_pointing(seen, must_look=torch.tensor([True, False, False, False])).metrics["pointing_mass"]
    0.25
    """
    require_observations(_OWNER, candidate=candidate, **({} if reference is None else {"reference": reference}))
    asked = as_attribution_method(method)
    limit = check_gap_limit(_OWNER, max_completeness_gap)
    given = {"must_look": must_look, "must_not_look": must_not_look}
    wanted = {name: mask for name, mask in given.items() if mask is not None}
    if not wanted:
        reject(_OWNER, "must_look", None, "nothing would be measured: give must_look or must_not_look, or both")
    original = candidate if reference is None else reference
    chosen = choose_examples(_OWNER, examples, len(original))
    if reference is not None:
        check_comparable(candidate, reference)
        reference.data.require_one_tensor("a comparison of attributions")
        check_same_inputs(_OWNER, candidate, reference, chosen)
    size = batch_size_for(original.runner.device, batch_size, original.batch_size.limit).limit
    masks = {name: read_masks(_OWNER, name, mask, original, chosen, size) for name, mask in wanted.items()}
    targets = original.predictions[chosen]
    subjects = {"candidate": candidate} if reference is None else {"candidate": candidate, "reference": reference}
    maps = {name: attribution_maps(seen, asked, chosen, targets, batch_size) for name, seen in subjects.items()}
    require_model_dependence(original, asked, chosen, targets)
    check_completeness(asked, {name: found.completeness_gap for name, found in maps.items()}, limit)
    found = {mask: {name: _point(asked, these, masks[mask]) for name, these in maps.items()} for mask in masks}
    zeros = {name: int((~these.maps.flatten(1).any(dim=1)).sum()) for name, these in maps.items()}
    if zeros["candidate"] == len(chosen):
        raise ObservationError(
            f"{asked} gives all-zero maps for the candidate on every example: nothing can be measured"
        )
    return _measure(found, masks, chosen, (candidate, original), str(asked), zeros)


def _point(method: AttributionMethod, found: AttributionMaps, masks: Tensor) -> Pointing:
    parts = [_point_rows(method, found.maps[part], masks[part]) for part in slices(len(masks), _ROWS)]
    return Pointing(*(torch.cat([getattr(part, name) for part in parts]) for name in ("mass", "hits", "zero")))


def _point_rows(method: AttributionMethod, maps: Tensor, masks: Tensor) -> Pointing:
    strengths = place_strengths(maps)
    if strengths.shape != masks.shape:
        if maps.ndim < 4 or strengths.ndim != masks.ndim:
            places = f"maps of shape {tuple(maps.shape[1:])}, on which a mask {tuple(masks.shape[1:])} has no places"
            raise ObservationError(f"{method} gives {places}")
        strengths = F.interpolate(strengths[:, None], masks.shape[1:], mode="nearest-exact")[:, 0]
    rows, inside = strengths.flatten(1), masks.flatten(1)
    largest = rows.amax(dim=1, keepdim=True)
    zero = largest[:, 0] == 0
    # scaled first: sums of the largest numbers overflow, those of the smallest vanish
    rows = rows / torch.where(largest > 0, largest, torch.ones_like(largest))
    mass = (rows * inside).sum(dim=1) / rows.sum(dim=1).clamp_min(1.0)
    hits = rows.masked_fill(~inside, -1.0).amax(dim=1) > rows.masked_fill(inside, -1.0).amax(dim=1)
    return Pointing(mass.clamp(0, 1), hits & ~zero, zero)


def _measure(
    found: dict[str, dict[str, Pointing]],
    masks: dict[str, Tensor],
    chosen: Tensor,
    observations: tuple[Observation, Observation],
    method: str,
    zeros: dict[str, int],
) -> Measurement:
    evidence: dict[str, Evidence] = {}
    rows: dict[str, Tensor] = {"example": chosen}
    details: dict[str, Any] = {"method": method, "zero_maps": zeros}
    worst = torch.zeros(len(chosen), dtype=torch.float64)
    for name, pointed in found.items():
        after, before = pointed["candidate"], pointed.get("reference")
        details[name] = {
            "share_of_places": float(masks[name].double().mean()),
            **{subject: _describe(seen) for subject, seen in pointed.items()},
        }
        if name == "must_look":
            rows |= {"pointing_mass": after.mass, "pointing_hits": after.hits}
            worst += 1 - after.mass
            evidence["pointing_mass"] = BoundedMean.of(after.mass.numpy())
            evidence["pointing_hits"] = Proportion(int(after.hits.sum()), len(chosen))
            if before is not None:
                rows["pointing_mass_drop"] = before.mass - after.mass
                evidence["pointing_mass_drop"] = BoundedMean.of(rows["pointing_mass_drop"].numpy(), low=-1.0)
        else:
            rows["forbidden_mass"] = torch.where(after.zero, torch.ones_like(after.mass), after.mass)
            worst += rows["forbidden_mass"]
            evidence["forbidden_mass"] = BoundedMean.of(rows["forbidden_mass"].numpy())
    metrics = {name: float(rows[name].double().mean()) for name in evidence}
    return Measurement(
        comparison="pointing",
        metrics=metrics,
        counts=dict.fromkeys(metrics, len(chosen)),
        evidence=evidence,
        per_example=rows,
        examples=_worst_examples(found, worst, chosen, observations),
        details=details,
        notes=_notes(details, found),
    )


def _describe(seen: Pointing) -> dict[str, float]:
    return {"mean_mass": float(seen.mass.mean()), "hits": float(seen.hits.double().mean())}


def _worst_examples(
    found: dict[str, dict[str, Pointing]], worst: Tensor, chosen: Tensor, observations: tuple[Observation, Observation]
) -> tuple[ExampleChange, ...]:
    candidate, original = observations
    names, changes = original.class_names, []
    for row in torch.argsort(worst, descending=True, stable=True)[:_LISTED_EXAMPLES].tolist():
        example = int(chosen[row])
        texts = {
            subject: ", ".join(f"{float(pointed[subject].mass[row]):.0%} in {name}" for name, pointed in found.items())
            for subject in next(iter(found.values()))
        }
        now, was = int(candidate.predictions[example]), int(original.predictions[example])
        before = f"{names[was]}" + (f", {texts['reference']}" if "reference" in texts else "")
        label = original.label_name(example)
        changes.append(ExampleChange(example, label, before, f"{names[now]}, {texts['candidate']}"))
    return tuple(changes)


def _notes(details: dict[str, Any], found: dict[str, dict[str, Pointing]]) -> tuple[str, ...]:
    notes = [f"{name} holds {details[name]['share_of_places']:.0%} of the places" for name in found]
    zeros = {name: count for name, count in details["zero_maps"].items() if count}
    return (*notes, *(f"{count} all-zero maps of the {name} count against it" for name, count in zeros.items()))
