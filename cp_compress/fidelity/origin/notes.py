"""What the search for the layers that cause a change says of its limits."""

from __future__ import annotations

from collections.abc import Sequence

from cp_compress.fidelity.origin.pairs import LayerPairs
from cp_compress.fidelity.origin.restoration import Restored


def notes_on(pairs: LayerPairs, changed: int, asked: int, found: int, *, by_noise: bool) -> tuple[str, ...]:
    """Return what is said of `asked` of the `changed` predictions that were tested, and of `found` layers."""
    notes = []
    if by_noise:
        notes.append("the order is that of the noise that each layer adds")
    elif not changed:
        notes.append("no prediction changed; the order is that of the noise that each layer adds")
    elif asked < changed:
        notes.append(f"{asked} of {changed} changed predictions were tested, spread evenly")
    if pairs.left_out:
        for reason in dict.fromkeys(pairs.left_out.values()):
            paths = [path for path, why in pairs.left_out.items() if why == reason]
            listed = ", ".join(paths[:3]) + (", …" if len(paths) > 3 else "")
            notes.append(f"{len(paths)} parts could not be restored ({listed}): {reason}")
    if not found and not pairs.left_out and not pairs.units:
        notes.append("the models do not differ in any part that can be replaced")
    return tuple(notes)


def not_reached(pairs: LayerPairs, found: Sequence[Restored]) -> str:
    """Return what is said of layers that the time budget left no time for."""
    reached = {path for part in found for unit in part.units for path in unit}
    left = [path for unit in pairs.units for path in unit if path not in reached]
    if not left:
        return "the time budget was spent before the groups of layers were divided further"
    listed = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
    return f"the time budget was spent: {len(left)} layers were not looked at ({listed})"
