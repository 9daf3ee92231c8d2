"""The refusal to compare a model with itself, which would pass any requirement."""

from __future__ import annotations

from typing import Any

import torch

from cp_compress.base.arguments import reject
from cp_compress.base.digests import digest_model
from cp_compress.base.errors import NothingComparedError, ObservationError
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.runner import Model
from cp_compress.inputs.originals import other_originals
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.seen import known_digests, searched_digests, seen_digests
from cp_compress.inputs.wrapping import said_by


def require_difference(candidate: Model, reference: Model, dataset: Any, compressed_dataset: Any) -> None:
    """Raise NothingComparedError when the candidate is the reference and reads the same data.

    Models are the same when their content is. Data is the same when it is one object, or holds the same examples
    and was not stored by a codec that the original was not stored by too.
    """
    same_model = candidate is reference or (
        digest_model(candidate) is not None and digest_model(candidate) == digest_model(reference)
    )
    if not same_model:
        return
    if compressed_dataset is None or same_data(compressed_dataset, dataset):
        also = "" if compressed_dataset is None else ", and compressed_dataset holds the same examples as dataset"
        raise NothingComparedError(
            f"nothing was compressed: the compressed model has the same content as the reference{also}. "
            "A comparison with itself passes any requirement; give a compressed model or compressed data"
        )


def same_data(compressed: Any, original: Any) -> bool:
    """Tell whether compressed data is nothing but the original."""
    if compressed is original:
        return True
    codec = said_by(compressed, "codec")
    if codec is not None and codec != said_by(original, "codec"):
        return False
    return LabeledData(compressed).digest() == LabeledData(original).digest()


def require_order(candidate: Model, reference: Model) -> None:
    """Raise InvalidArgumentError when the model in the reference's place is the only one that a scheme made."""
    from cp_compress.model import compression_steps

    steps = compression_steps(reference)
    if steps and not compression_steps(candidate):
        rule = "it was made by a scheme and the other model was not; the compressed model must be the first argument"
        reject("assertion", "reference", " | ".join(steps), rule)


def require_source(candidate: Model, reference: Model) -> None:
    """Raise InvalidArgumentError when the candidate says that it was made from other weights than the reference's."""
    from cp_compress.model.record import compression_steps
    from cp_compress.model.sources import other_source

    if other_source(candidate, reference):
        steps = " | ".join(compression_steps(candidate)) or "the candidate"
        rule = (
            f"{steps} was made from a model with the same layers and other weights: at least one parameter of what "
            "was compressed had another value than in this reference. So the two may not belong together, and a "
            "check would measure something else than the compression. If you changed the model yourself before it was "
            "compressed (fine-tuned it, folded or replaced weights), say so before the check, in one line: "
            "cp_compress.model.declare_source(candidate, reference). Else compare the candidate with the model that it "
            "was made from"
        )
        reject("assertion", "reference", type(reference).__name__, rule)


def require_originals(stored: LabeledData, data: LabeledData) -> None:
    """Raise InvalidArgumentError when stored examples carry that they were made from others than those of the data."""
    others = other_originals(stored, data)
    if others:
        listed = ", ".join(f"#{index}" for index in others[:5])
        rule = (
            f"compressed_dataset was made from other data of this shape: its examples {listed}… come from other "
            "originals; compress these examples, or give those that it was made from as dataset="
        )
        reject("assertion", "dataset", type(data.source).__name__, rule)


def require_other_logits(candidate: Observation, reference: Observation) -> None:
    """Raise NothingComparedError when a model that no scheme changed gives the reference's logits bit for bit.

    It is the reference in another wrapping: a real compression changes some bit of some logit.
    """
    from cp_compress.model.record import read_steps

    # a step that says nothing of what it changed is that of a user's own scheme
    if any(step.changes for step in read_steps(candidate.model)) or said_by(candidate.data, "codec") is not None:
        return
    if torch.equal(candidate.logits, reference.logits):
        raise NothingComparedError(
            f"nothing was compressed: the candidate returns the reference's logits bit for bit on all {len(reference)} "
            "examples, and no scheme recorded a change; it is the reference in another wrapper"
        )


def require_fresh(candidate: Observation, reference: Observation, searched: frozenset[str] = frozenset()) -> None:
    """Raise InvalidArgumentError when examples of the reference's data had a part in choosing the candidate.

    `searched` are the digests of examples that searches have seen, beside those that the candidate itself carries.
    """
    seen = searched | searched_digests(candidate.model)
    if not seen:
        return
    digests = reference.remember(("example digests",), lambda: known_digests(reference.data))
    shared = [index for index, own in enumerate(digests) if not seen.isdisjoint(own)]
    if shared:
        listed = ", ".join(f"#{index}" for index in shared[:5])
        rule = (
            f"{len(shared)} of its {len(digests)} examples ({listed}…) chose the compressed model in a search, "
            "so a verdict on them would be too optimistic; judge it on other examples"
        )
        reject("assertion", "dataset", type(reference.data.source).__name__, rule)


def require_unused(candidate: Observation, reference: Observation, *, claim: bool) -> list[str]:
    """Return notes on examples with which the candidate was made: calibrated, recalibrated, adapted or trained.

    With a `claim` about other examples they are refused with InvalidArgumentError: a candidate does better on what it
    was made with.
    """
    notes = []
    for purpose, seen in sorted(seen_digests(candidate.model).items()):
        if purpose == "search":  # see `require_fresh`
            continue
        shared = [place for place, digests in enumerate(_digests_of_both(candidate, reference)) if digests & seen]
        if not shared:
            continue
        listed = ", ".join(f"#{index}" for index in shared[:5]) + ("…" if len(shared) > 5 else "")
        told = f"{len(shared)} of {len(reference)} examples ({listed}) were used for {purpose} of the compressed model"
        if claim:
            rule = f"{told}, so a claim about others would be too optimistic: judge it on others, or claim nothing"
            reject("assertion", "confidence", "given", rule)
        notes.append(f"{told}: the values say little of others")
    return notes


def _digests_of_both(candidate: Observation, reference: Observation) -> list[set[str]]:
    """Return for each example the digests of what the two models read."""
    read = [
        seen.remember(("example digests",), lambda data=seen.data: known_digests(data))  # type: ignore[misc]
        for seen in (candidate, reference)
    ]
    return [set(ours | theirs) for ours, theirs in zip(*read, strict=True)]


def require_known_batches(candidate: Observation, reference: Observation) -> None:
    """Raise ObservationError where neighbours in the batch decide answers and nobody has said which batch is deployed.

    Then a check would measure the size of its own batches.
    """
    both = (("candidate", candidate), ("reference", reference))
    for who, seen in both[1:] if candidate is reference else both:
        found = seen.batch_dependence
        if found is not None and found.decides and not seen.deployed:
            raise ObservationError(
                f"the {who}'s answers {found}, so that a check would measure the batches that it happens to run, of "
                f"{seen.batches[0]} here. This is so with one activation scale for a batch (dynamic quantisation), "
                "with statistics of the batch, and with a model behind a callable that was not set to evaluation mode "
                "(`.eval()`). Mend it, or say by deployed_batch_size= (cp_deployed_batch_size) what is deployed"
            )
