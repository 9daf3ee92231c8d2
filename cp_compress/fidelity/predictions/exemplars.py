"""Examples on which compression in general, not a single candidate, changes the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.observing.observation import Observation, as_observations
from cp_compress.fidelity.observing.pairing import check_comparable
from cp_compress.fidelity.predictions.output_changes import by_blocks


@explains_keywords
@dataclass(frozen=True, eq=False, repr=False)
class Exemplars(Brief):
    """Compression-identified exemplars, ordered by the agreement of the candidates.

    Attributes:
        indices: The examples (k,).
        labels: Their true classes (k,).
        reference_classes: The modal class (k,) of the references.
        candidate_classes: The modal class (k,) of the candidates.
        votes: The fraction (k,) of candidates that predict their modal class.
        reference_confidence: The references' mean probability (k,) of their modal class.
    """

    indices: Tensor
    labels: Tensor
    reference_classes: Tensor
    candidate_classes: Tensor
    votes: Tensor
    reference_confidence: Tensor

    def __len__(self) -> int:
        return len(self.indices)


@explains_keywords
def compression_identified_exemplars(
    candidates: Observation | Sequence[Observation], reference: Observation | Sequence[Observation]
) -> Exemplars:
    """Return the examples whose modal class over several candidates is not the modal class of the reference.

    Give candidates of one kind, such as a scheme on several trained networks or at several seeds, and one reference or
    several. Of classes predicted equally often the one with the larger summed probability is the mode. Examples are
    ranked by the fraction of candidates that agree on the new class, then by the reference's confidence in the old one.
    Hooker et al. 2019, "What do compressed deep neural networks forget?", section 2.3.

    Raises InvalidArgumentError without candidates or references, ObservationError for observations that are not of the
    same examples.
    """
    several = as_observations("compression_identified_exemplars", "candidates", candidates)
    references = as_observations("compression_identified_exemplars", "reference", reference)
    for one in [*several, *references[1:]]:
        check_comparable(one, references[0])
    after, votes, _ = _modal(several)
    before, _, confidence = _modal(references)
    changed = (after != before).nonzero().flatten()
    order = sorted(changed.tolist(), key=lambda index: (-float(votes[index]), -float(confidence[index]), index))
    chosen = torch.tensor(order, dtype=torch.int64)
    return Exemplars(
        indices=chosen,
        labels=references[0].labels[chosen],
        reference_classes=before[chosen],
        candidate_classes=after[chosen],
        votes=votes[chosen],
        reference_confidence=confidence[chosen],
    )


def _modal(observations: Sequence[Observation]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the modal classes (n,), the share of observations that give them, and their mean probability."""
    named = torch.stack([seen.predictions for seen in observations], dim=1)

    def modal_of(chosen: Tensor, *logits: Tensor) -> Tensor:
        mean = sum(torch.softmax(one.double(), dim=1) for one in logits) / len(logits)
        assert isinstance(mean, Tensor)
        counts = torch.zeros_like(mean).scatter_add_(1, chosen, torch.ones_like(chosen, dtype=mean.dtype))
        modal = (counts + mean * 0.5).argmax(dim=1, keepdim=True)  # a mean probability never outweighs a vote
        return torch.cat([modal.double(), counts.gather(1, modal), mean.gather(1, modal)], dim=1)

    # by blocks: tables of all examples and many classes would not fit into memory
    rows = by_blocks(modal_of, named, *(seen.logits for seen in observations))
    return rows[:, 0].long(), rows[:, 1] / len(observations), rows[:, 2]
