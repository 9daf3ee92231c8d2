"""Frozen observations in a specification: what goes with them, and when there need be no data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_cp.specification.errors import SpecificationError
from pytest_cp.specification.kinds import OWN_MODELS

if TYPE_CHECKING:
    from cp_compress.fidelity.frozen.observation import FrozenObservation


def frozen_noise(reference: FrozenObservation, level: str, metric: str, options: Mapping[str, Any]) -> list[float]:
    """Return what a metric is among the references that a frozen one was frozen with.

    Raises SpecificationError where that was not frozen, and for options of the comparison, of which it says nothing.
    """
    where = f"{reference.content.name}: the noise of {level}"
    if options:
        told = f"was frozen without {', '.join(options)}; add [noise] with references that are observations, too"
        raise SpecificationError(f"{where} {told}")
    values = reference.noise.get(level, {}).get(metric)
    if not values:
        told = "cp-compress observe --noise, or add [noise] with references that are observations, too"
        raise SpecificationError(f"{where} was not frozen for {metric}: {told}")
    return list(values)


def observation_troubles(tables: Mapping[str, Any]) -> Iterator[tuple[list[str | int], str]]:
    """Yield what is wrong with frozen observations, and a table of the data that is missing.

    Data can be left out where the reference and all candidates are frozen.
    """
    reference, candidates = tables["reference"], tables["candidate"]
    places: list[tuple[list[str | int], Mapping[str, Any]]] = [(["reference"], reference)]
    places += [(["candidate", position], one) for position, one in enumerate(candidates)]
    for place, table in places:
        if "digest" in table and "observation" not in table:
            yield [*place, "digest"], f"digest is that of an observation, but {place[0]} has no observation"
    frozen = "observation" in reference
    for position, one in enumerate(candidates):
        place = ["candidate", position]
        if frozen and not one.keys() & {*OWN_MODELS, "search"}:
            told = "the reference is frozen: there is no model that could be compressed, or read other data"
            yield place, f"{told}; name the candidate by model, file, command or observation"
        elif frozen and "scheme" in one:
            told = "the reference is frozen: there is no model that could be compressed"
            yield [*place, "scheme"], f"{told}; name the candidate by model, file, command or observation"
    if tables["data"]:
        return
    live = [place for place, table in places if "observation" not in table]
    if live:
        told = "may be left out only where reference and candidates are observations"
        yield [], f"the file needs a table [data], which {told}"
    for position, one in enumerate(candidates):
        if "codec" in one and not live:
            yield ["candidate", position, "codec"], "a codec needs data to store: add the table [data]"
