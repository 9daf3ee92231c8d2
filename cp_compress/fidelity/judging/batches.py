"""What a measurement says of the batches that its answers depend on."""

from __future__ import annotations

import dataclasses
from typing import Any

from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.batch_dependence import KEY, Batched


def with_batches(measurement: Measurement, candidate: Batched, reference: Batched) -> Measurement:
    """Return a measurement that says of both models what depends on the batch, and which batches were run."""
    if candidate.chosen_batch is not None:
        measurement = dataclasses.replace(
            measurement, details={**measurement.details, "chosen_batch": candidate.chosen_batch}
        )
    found = {"candidate": candidate.batch_dependence, "reference": reference.batch_dependence}
    if not any(found.values()) or KEY in measurement.details:
        return measurement
    size, last = candidate.batches
    ran = f"{'the deployed ' if candidate.deployed else ''}batches of {size}"
    ran += f", the last of {last}" if last != size else ""
    if candidate.deployed and size < candidate.batch_size.limit:
        ran = f"one batch of {size}, which is all the data, where {candidate.batch_size.limit} are deployed"
    notes = [f"the {who}'s answers {one}; they were taken in {ran}" for who, one in found.items() if one is not None]
    told: dict[str, Any] = {who: None if one is None else dataclasses.asdict(one) for who, one in found.items()}
    details = {**measurement.details, KEY: {"batch_size": size, "deployed": candidate.deployed, **told}}
    return dataclasses.replace(measurement, notes=(*measurement.notes, *notes), details=details)
