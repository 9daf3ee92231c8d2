"""Models that servers run, in a specification: what they are called, and which tables compare them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cp_compress.artifacts.served.settings import read_settings
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import InvalidArgumentError

_LEVEL = "language"
"""The level that compares models of which only the most likely tokens are known."""


def served_name(table: Mapping[str, Any]) -> list[str]:
    """Return what a served model is called; its address may hold secrets, and is not told where it is wrong."""
    try:
        return [read_settings(**table).name]
    except (InvalidArgumentError, TypeError):
        return ["served"]


def served_troubles(
    tables: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]], entries: Sequence[tuple[str, Mapping[str, Any]]]
) -> Iterator[tuple[list[str | int], str]]:
    """Yield what is wrong with served models, and each table of a level that cannot compare them.

    `candidates` are those of the specification with their names, `entries` its tables of requirements, by level.
    """
    places: list[tuple[list[str | int], Mapping[str, Any]]] = [(["reference"], tables["reference"])]
    places += [(["candidate", position], one) for position, one in enumerate(candidates)]
    for place, table in places:
        try:
            if "served" in table:
                read_settings(**table["served"])
        except InvalidArgumentError as error:
            yield [*place, "served"], shortened(error)
    for level, entry in entries:
        about = entry.get("candidates")
        who = [one["name"] for one in candidates if "served" in one and (about is None or one["name"] in about)]
        if "served" in tables["reference"]:
            who = ["the reference"]
        if who and level != _LEVEL:
            told = f"{level} needs more than the most likely tokens, which are all that {who[0]} tells: it is served"
            yield [level], f"{told}; list the candidates to compare under candidates"
