"""The refusal to compare a model with itself, which would pass any requirement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from cp_compress.base.arguments import reject
from cp_compress.base.digests import digest_model, digest_tensors, digest_text
from cp_compress.base.errors import NothingComparedError, ObservationError
from cp_compress.base.holdings.reach import modules_within
from cp_compress.fidelity.observing.batch_dependence import Batched
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.pairing import digests_of_both
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
    """Raise NothingComparedError when a model that nothing changed gives the reference's outputs bit for bit.

    It is the reference in another wrapping: a compressed model holds other tensors, or at least one scheme says so.
    """
    if said_by(candidate.data, "codec") is not None:
        return
    if candidate.gives_same(reference):
        require_other_content(candidate.model, reference.model, f"all {len(reference)} examples")


def require_other_content(candidate: Model, reference: Model, where: str) -> None:
    """Raise NothingComparedError, for a candidate with the reference's outputs at `where`, if it holds what that holds.

    Models that hold other tensors than each other are two models, which may well give the same answers.
    """
    from cp_compress.model.record import read_steps

    # a step that says nothing of what it changed is that of a user's own scheme
    if any(step.changes for step in read_steps(candidate)):
        return
    mine, theirs = tensors_within(candidate), tensors_within(reference)
    if mine is not None and theirs is not None and mine != theirs:
        return
    raise NothingComparedError(
        f"nothing was compressed: the candidate returns the reference's outputs bit for bit on {where}, and no scheme "
        "recorded a change; it is the reference in another wrapper"
    )


def tensors_within(model: Model) -> str | None:
    """Return the digest of the tensors that the modules within a model hold, on whatever device; None for none.

    A model that is not at hand may say it as `held_tensors`.
    """
    if hasattr(model, "held_tensors"):
        known: str | None = model.held_tensors
        return known
    held: dict[int, Tensor] = {}
    for module in modules_within(model):
        held |= {
            id(tensor): tensor for tensor in module.state_dict(keep_vars=True).values() if isinstance(tensor, Tensor)
        }
    return digest_text(*sorted({digest_tensors([tensor]) for tensor in held.values()})) if held else None


def require_fresh(candidate: Observation, reference: Observation, searched: frozenset[str] = frozenset()) -> None:
    """Raise InvalidArgumentError when examples of the reference's data had a part in choosing the candidate.

    `searched` are the digests of examples that searches have seen, beside those that the candidate itself carries.
    """
    seen = searched | searched_digests(candidate.model)
    if seen:
        digests = reference.remember(("example digests",), lambda: known_digests(reference.data))
        refuse_searched(digests, seen, reference.data.source)


def refuse_searched(digests: Sequence[frozenset[str]], searched: frozenset[str], source: Any) -> None:
    """Raise InvalidArgumentError when a search has seen one of the digests of some example of a data set."""
    shared = [index for index, own in enumerate(digests) if not searched.isdisjoint(own)]
    if shared:
        listed = ", ".join(f"#{index}" for index in shared[:5])
        rule = (
            f"{len(shared)} of its {len(digests)} examples ({listed}…) chose the compressed model in a search, "
            "so a verdict on them would be too optimistic; judge it on other examples"
        )
        reject("assertion", "dataset", type(source).__name__, rule)


def require_unused(candidate: Observation, reference: Observation, *, claim: bool) -> list[str]:
    """Return notes on examples with which the candidate was made: calibrated, recalibrated, adapted or trained.

    With a `claim` about other examples they are refused with InvalidArgumentError: a candidate does better on what it
    was made with.
    """
    return notes_on_used(
        seen_digests(candidate.model),
        lambda: [ours | theirs for ours, theirs in zip(*digests_of_both(candidate, reference), strict=True)],
        claim=claim,
    )


def notes_on_used(
    used: Mapping[str, frozenset[str]], read: Callable[[], Sequence[frozenset[str]]], *, claim: bool
) -> list[str]:
    """Return the notes of `require_unused`, and raise as it does.

    Args:
        used: The digests of the examples with which a candidate was made, by what for (`seen_digests`).
        read: Returns the digests of each example; called where they are needed.
        claim: Whether a claim about other examples is made.
    """
    notes = []
    for purpose, seen in sorted(used.items()):
        if purpose == "search":  # see `require_fresh`
            continue
        examples = read()
        shared = [place for place, digests in enumerate(examples) if digests & seen]
        if not shared:
            continue
        listed = ", ".join(f"#{index}" for index in shared[:5]) + ("…" if len(shared) > 5 else "")
        told = f"{len(shared)} of {len(examples)} examples ({listed}) were used for {purpose} of the compressed model"
        if claim:
            rule = f"{told}, so a claim about others would be too optimistic: judge it on others, or claim nothing"
            reject("assertion", "confidence", "given", rule)
        notes.append(f"{told}: the values say little of others")
    return notes


def require_known_batches(candidate: Batched, reference: Batched) -> None:
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
