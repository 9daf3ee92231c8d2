"""What requirements are judged on: a comparison of two observations that could tell a ruined candidate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from cp_compress.fidelity.judging.batches import with_batches
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.judging.repeats import count_once
from cp_compress.fidelity.judging.requirement import Requirement
from cp_compress.fidelity.judging.telling import require_telling
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.refusals import require_known_batches

Compare = Callable[[Observation, Observation], Measurement]


def measure_for(
    requirements: Sequence[Requirement], candidate: Observation, reference: Observation, compare: Compare
) -> Measurement:
    """Return what `compare` finds, with notes on what is doubtful, to be judged by requirements.

    Raises ObservationError where answers depend on batches of which nobody has said which are deployed, and where the
    reference's data cannot tell a good candidate from a ruined one by these requirements.
    """
    require_known_batches(candidate, reference)
    doubts = require_telling(reference, requirements)
    found = count_once(with_batches(compare(candidate, reference), candidate, reference), reference, requirements)
    return dataclasses.replace(found, notes=(*found.notes, *doubts)) if doubts else found


def require_judgeable(reference: Observation, requirements: Sequence[Requirement]) -> None:
    """Raise as `measure_for` for what a reference and its data show alone, before any candidate is made."""
    require_known_batches(reference, reference)
    require_telling(reference, requirements)
