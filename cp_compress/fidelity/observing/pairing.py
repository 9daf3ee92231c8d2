"""Whether compressed data holds the same examples as the original, checked on a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cp_compress.base.errors import ObservationError
from cp_compress.base.lazy import LazyModule
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.seen import known_digests
from cp_compress.inputs.tasks import require_one_class
from cp_compress.inputs.wrapping import layers_of

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = LazyModule("scipy.stats")

_COMPARED, _RANKED = 64, 512
_TOGETHER = 8
_FEWEST_OF_A_CLASS = 4
_VALUES = 3072
# of examples that a codec left recognisable, at most one in 250 was less like its original than like half of its class
_MISRANKED = 0.05
_CLEAR, _IN_PLACE = 0.5, 0.2
_ERROR = 0.001
# strong codecs leave three in ten of very small images at least, a mix-up within classes one in six at most
_RESEMBLING = 0.3
_ALIKE = 0.5
_ROUNDING = 1e-9
_LISTED = 5


def require_same_examples(compressed: LabeledData, original: LabeledData, labels: Tensor) -> None:
    """Raise ObservationError unless compressed examples of a sample resemble their own original more than another one.

    `labels` are those of both. Of 64 examples, several of a class, since a mix-up within a class shows in no label,
    three in ten must resemble their own original. What counts is the correlation of deviations from the sample's mean,
    which a codec that blurs or dims leaves. Nothing is said where examples cannot be told apart, where shapes differ,
    of whole numbers other than uint8, such as token ids, and where compressed data is what its own codec makes of the
    original, however little that leaves.

    A part of the examples in other places is found by a second test. Of up to 512 examples, several of a class, an
    example in its place is more like its original than like half of its class; one that took another's place is so with
    probability one half. Data is refused where more than 5 % are not, in all or in a class, by exact binomial tests
    whose errors add up to 0.1 %; nothing is said unless half of those in their place resemble no other original of the
    sample more. Of 512 examples or more it finds 20 % in other places with probability 0.87, 30 % with 0.999, and a
    class of which 50 are looked at, all in other places, with 0.999; of 100 examples 30 % with 0.65 and 50 % with 0.99.
    """
    sample = _sample(labels, _COMPARED)
    try:
        after, before = (data.inputs(sample).cpu() for data in (compressed, original))
    except ObservationError:  # such as examples of several sizes, which cannot be read together
        return
    made = _remake(compressed.source, before)
    likely = [part for part in (made, before) if part is not None and part.shape == after.shape]
    if not any(part.dtype == after.dtype and torch.equal(part, after) for part in likely):
        shares = [share for share in (_recognised(after, part) for part in likely) if share is not None]
        share = max(shares, default=1.0)
        if share < _RESEMBLING:
            raise ObservationError(
                "the compressed data and the original are not the same examples in the same order: "
                f"only {share:.0%} of {len(after)} examples resemble their own original more than another one"
            )
    _require_own_places(compressed, original, labels)


def _require_own_places(compressed: LabeledData, original: LabeledData, labels: Tensor) -> None:
    """Raise ObservationError where more examples than a codec explains are like others of their class, not like their
    own original.
    """
    sample = _sample(labels, _RANKED)
    after, before = (_read_reduced(data, sample) for data in (compressed, original))
    if after is None or before is None or after.shape != before.shape:
        return
    if torch.equal(after, before):
        return
    classes = labels[sample] if labels.ndim == 1 else torch.zeros(len(sample), dtype=torch.int64)
    lost: dict[int, tuple[int, int]] = {}
    for label in torch.unique(classes).tolist():
        rows = (classes == label).nonzero().flatten()
        if len(rows) >= _FEWEST_OF_A_CLASS:
            lost[label] = _count_misplaced(after[rows], before[rows]), len(rows)
    worst = _beyond_chance(lost)
    if worst is None:
        return
    count, total = (sum(column) for column in zip(*lost.values(), strict=True))
    in_place = 1 - 2 * count / total
    # where a codec leaves too little, every example is somewhat like others; where most are others, see the first test
    if in_place < _IN_PLACE or (_recognised(after, before) or 0.0) < _CLEAR * in_place:
        return
    where = "" if worst == () else f" of class {worst[0]}"
    count, total = (count, total) if worst == () else lost[worst[0]]
    raise ObservationError(
        "the compressed data and the original are not the same examples in the same order: "
        f"{count} of {total} examples{where} that were looked at are less like their own original than like half of "
        "the others of their class, as about twice as many are in the place of others; put both in one order"
    )


def _read_reduced(data: LabeledData, sample: Tensor) -> Tensor | None:
    """Return the examples of a sample as rows of few values; None where they have no likeness, or several shapes."""
    try:
        parts = [_reduced(data.inputs(part).cpu()) for part in torch.split(sample, _COMPARED)]
    except ObservationError:  # such as examples of several sizes, which cannot be read together
        return None
    rows = [part for part in parts if part is not None]
    return torch.cat(rows) if len(rows) == len(parts) and len({part.shape[1] for part in rows}) == 1 else None


def _reduced(inputs: Tensor) -> Tensor | None:
    """Return inputs (n, ...) as rows of few values, averaged over neighbours; None for what has no likeness."""
    if not (inputs.is_floating_point() or inputs.dtype == torch.uint8) or not bool(inputs.isfinite().all()):
        return None
    rows = inputs.float()
    if inputs.ndim == 4 and rows[0].numel() > _VALUES:
        side = max(1, int((_VALUES / rows.shape[1]) ** 0.5))
        rows = F.adaptive_avg_pool2d(rows, (min(side, rows.shape[2]), min(side, rows.shape[3])))
    flat = rows.flatten(1)
    return flat if flat.shape[1] <= _VALUES else F.adaptive_avg_pool1d(flat, _VALUES)


def _count_misplaced(after: Tensor, before: Tensor) -> int:
    """Return how many rows are less like their own original than like half of the others."""
    likeness = _directions(after.double()) @ _directions(before.double()).T
    own, others = likeness.diagonal(), likeness.clone()
    others.fill_diagonal_(float("nan"))
    return int((own < others.nanmedian(1).values - 1e-6).sum())


def _beyond_chance(lost: dict[int, tuple[int, int]]) -> tuple[int, ...] | None:
    """Return () where all counts (lost, of) together are more than chance explains, a class where its are, or None."""
    if not lost:
        return None
    together = tuple(sum(column) for column in zip(*lost.values(), strict=True))
    if stats.binom.sf(together[0] - 1, together[1], _MISRANKED) <= _ERROR / 2:
        return ()
    found = {label: stats.binom.sf(count - 1, total, _MISRANKED) for label, (count, total) in lost.items()}
    worst = min(found, key=lambda label: float(found[label]))
    return (worst,) if found[worst] * len(found) <= _ERROR / 2 else None


def _sample(labels: Tensor, count: int) -> Tensor:
    """Return the indices of examples spread over all classes, in runs of several of a class where it has as many."""
    if labels.ndim > 1 or len(labels) <= count:
        return torch.linspace(0, len(labels) - 1, min(len(labels), count), dtype=torch.float64).round().long()
    order = torch.argsort(labels.cpu(), stable=True)
    starts = torch.linspace(0, len(order) - _TOGETHER, count // _TOGETHER, dtype=torch.float64).round().long()
    chosen: Tensor = torch.unique(order[(starts.unsqueeze(1) + torch.arange(_TOGETHER)).flatten()])  # sorted, too
    return chosen


def _remake(source: Any, originals: Tensor) -> Tensor | None:
    """Return what a data set that says how it stores would hold of these originals, if it can hold them."""
    layers = (layer for layer, _ in layers_of(source))
    source = next((layer for layer in layers if getattr(layer, "codec", None) is not None), None)
    found: list[Any] = [getattr(source, name, None) for name in ("remake", "codec", "transform")]
    remake, codec, transform = found
    try:
        if callable(remake):
            made = remake(originals)
        elif callable(getattr(codec, "roundtrip", None)):
            made = codec.roundtrip(originals) if transform is None else transform(codec.roundtrip(originals))
        else:
            return None
    except Exception:  # originals of another scale or dtype than what was encoded, which codec or transform refuse
        return None
    return made if isinstance(made, Tensor) else None


def _recognised(after: Tensor, before: Tensor) -> float | None:
    """Return the share of examples that resemble their own original no less than any other one, None if none can."""
    measured = all(part.is_floating_point() or part.dtype == torch.uint8 for part in (after, before))
    if not measured or not bool(after.isfinite().all() and before.isfinite().all()):
        return None  # whoever runs a model on NaN says which example it is
    likeness = _directions(after.double().flatten(1)) @ _directions(before.double().flatten(1)).T
    most = likeness.amax(1)
    if float(most.median()) < _ALIKE:  # noise, or another representation, such as a user's own coefficients
        return None
    return float((likeness.diagonal() >= most - 1e-6).double().mean())


def _directions(rows: Tensor) -> Tensor:
    """Return deviations from the mean at length 1, or 0 where only its rounding is left."""
    deviations = rows - rows.mean(0)
    left = deviations.norm(dim=1) > _ROUNDING * rows.norm(dim=1).max()
    return F.normalize(torch.where(left.unsqueeze(1), deviations, 0.0))


def check_comparable(
    candidate: Observation, reference: Observation, *, any_task: bool = False, any_output: bool = False
) -> None:
    """Raise ObservationError unless both observations are of the same labelled examples and classes.

    The inputs may differ, as they do when the candidate reads compressed data, as far as `require_same_examples` takes
    them for the same examples; the labels may not. Unless `any_task`, examples must have one class each, and unless
    `any_output`, models must give logits.
    """
    if candidate.task != reference.task:
        raise ObservationError(f"the candidate's data is of a {candidate.task} task, the reference's {reference.task}")
    if not any_task:
        require_one_class(reference.task)
    if len(candidate) != len(reference):
        raise ObservationError(f"the candidate saw {len(candidate)} examples, the reference {len(reference)}")
    if candidate.labeled != reference.labeled:
        who = "candidate" if candidate.labeled else "reference"
        raise ObservationError(f"only the {who}'s examples have labels: give both labels, or neither")
    if not any_output and candidate.classes != reference.classes:
        raise ObservationError(f"the candidate has {candidate.classes} classes, the reference {reference.classes}")
    if candidate.targets.shape != reference.targets.shape:
        shapes = f"{tuple(candidate.targets.shape)} and {tuple(reference.targets.shape)}"
        raise ObservationError(f"candidate and reference saw different labels, of shapes {shapes}")
    if not torch.equal(candidate.targets, reference.targets):
        first = int((candidate.targets != reference.targets).nonzero()[0, 0])
        raise ObservationError(f"candidate and reference saw different labels, first at example #{first}")
    if candidate.data.source is reference.data.source and candidate.data_digest != reference.data_digest:
        raise ObservationError(
            "the data set returned other examples when it was read again; examples are compared one by one, "
            "so remove random augmentation from it"
        )
    if candidate.data_digest != reference.data_digest:
        candidate.remember(
            ("same examples", reference.data_digest), lambda: _require_same_examples(candidate, reference)
        )


def _require_same_examples(candidate: Observation, reference: Observation) -> None:
    if candidate.inputs_at_hand and reference.inputs_at_hand:
        require_same_examples(candidate.data, reference.data, reference.targets)
        return
    others = [
        place
        for place, (ours, theirs) in enumerate(zip(*digests_of_both(candidate, reference), strict=True))
        if ours.isdisjoint(theirs)
    ]
    if others:
        listed = ", ".join(f"#{place}" for place in others[:_LISTED]) + ("…" if len(others) > _LISTED else "")
        raise ObservationError(
            f"{len(others)} of {len(reference)} examples ({listed}) of the candidate are not the reference's, "
            "nor stored from them, as their digests say, and without their inputs no likeness can be told: observe "
            "both on the same examples, in the same order, preprocessed alike"
        )


def digests_of_both(candidate: Observation, reference: Observation) -> list[list[frozenset[str]]]:
    """Return for each of both the digests of each example, and of what it was stored from."""
    return [
        seen.remember(("example digests",), lambda data=seen.data: known_digests(data))  # type: ignore[misc]
        for seen in (candidate, reference)
    ]
