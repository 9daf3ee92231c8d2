"""Who is compared with whom: names and digests of models and data, for records."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from cp_compress.base.digests import digest_model
from cp_compress.fidelity.observing.observation import Observation
from cp_compress.fidelity.observing.runner import Model
from cp_compress.inputs.reading import LabeledData
from cp_compress.inputs.wrapping import said_by
from pytest_cp.checks.cached import cached_file
from pytest_cp.checks.recorder import Record

_KEPT_COVERAGES = 64
_coverages: dict[Any, Record] = {}
_candidate_name: ContextVar[str | None] = ContextVar("cp_candidate_name", default=None)


@contextlib.contextmanager
def candidate_called(name: str | None) -> Iterator[None]:
    """Let records of checks inside call their candidate by this name; None leaves it what its model says."""
    token = _candidate_name.set(name)
    try:
        yield
    finally:
        _candidate_name.reset(token)


def describe_candidate(model: Model) -> Record:
    """Return the name that a specification gave the candidate, or else its model's, and its digest."""
    described = describe_model(model)
    return described | {"name": _candidate_name.get() or described["name"]}


def describe_model(model: Model) -> Record:
    """Return a model's name (the scheme that made it, where known) and digest."""
    from cp_compress.model import compression_steps

    steps = compression_steps(model)
    name = " | ".join(steps) if steps else getattr(type(model), "__name__", repr(model))
    if not steps and hasattr(model, "__name__"):
        name = model.__name__
    return {"name": name, "digest": digest_model(model)} | cached_file(model)


def describe_coverage(candidate: Model, reference: Model) -> Record:
    """Return what share of the reference the candidate changed, for a subject; nothing where they are one model."""
    from cp_compress.model.coverage import measure_coverage
    from cp_compress.model.record import read_steps

    digests = digest_model(candidate), digest_model(reference)
    if candidate is reference or (digests[0] is not None and digests[0] == digests[1]):
        return {}
    if None in digests:
        return {"coverage": measure_coverage(candidate, reference).to_json()}
    key = (*digests, read_steps(candidate))  # steps say why a weight stayed as it was
    if key not in _coverages:
        if len(_coverages) >= _KEPT_COVERAGES:
            _coverages.clear()
        _coverages[key] = measure_coverage(candidate, reference).to_json()
    return {"coverage": _coverages[key]}


def describe_data(source: Any, digest: str | None, count: int) -> Record:
    """Return a data set's name (with its codec, where it has one), digest and size."""
    codec = said_by(source, "codec")
    name = said_by(source, "observed_name") or type(source).__name__
    return {"name": name if codec is None else str(codec), "digest": digest, "count": count}


def describe_models(candidate: Model, reference: Model, compressed_dataset: Any) -> Record:
    """Return the subjects of a check that are known before anything runs: the models, and the candidate's codec."""
    described = describe_candidate(candidate) | describe_coverage(candidate, reference)
    subjects = {"candidate": described, "reference": describe_model(reference)}
    if said_by(compressed_dataset, "codec") is not None:
        subjects["compressed_data"] = describe_data(compressed_dataset, None, len(LabeledData(compressed_dataset)))
    return subjects


def describe_pair(candidate: Observation, reference: Observation) -> Record:
    """Return the subjects of a check: candidate, reference, data, and the candidate's own data where it differs.

    Data stored by another codec is data of its own, though the codec may have lost nothing.
    """
    read = candidate.data_digest  # first: data that a model has read need not be read again for a frozen reference
    subjects: Record = {
        "candidate": describe_candidate(candidate.model) | describe_coverage(candidate.model, reference.model),
        "reference": describe_model(reference.model),
        "data": describe_data(reference.data.source, reference.data_digest, len(reference)),
    }
    source, codec = candidate.data.source, getattr(reference.data.source, "codec", None)
    if read != reference.data_digest or getattr(source, "codec", codec) != codec:
        subjects["compressed_data"] = describe_data(source, read, len(candidate))
    return subjects
