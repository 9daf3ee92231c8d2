"""Whether a store still holds every byte that was written, and which examples are lost if not."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cp_compress.base.arguments import explains_keywords
from cp_compress.base.errors import CorruptStreamError
from cp_compress.data.codec import Codec
from cp_compress.data.store.manifest import read_manifest
from cp_compress.data.store.originals import read_originals
from cp_compress.data.store.shards import Shard, ShardRecord, file_is_whole, is_exhaustion
from cp_compress.data.store.unfinished import ORIGINALS


@dataclass(frozen=True)
class DamagedShard:
    """A shard that is not what was written: its name, the reason, and the examples that are lost."""

    name: str
    reason: str
    lost: tuple[int, ...] = field(repr=False)


@explains_keywords
@dataclass(frozen=True)
class StoreReport:
    """What `verify_store` found."""

    examples: int
    shards: int
    damaged: tuple[DamagedShard, ...]

    @property
    def intact(self) -> bool:
        """Whether every byte is as it was written."""
        return not self.damaged

    @property
    def lost(self) -> int:
        """The number of examples that cannot be read."""
        return sum(len(shard.lost) for shard in self.damaged)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain Python types; ranges of examples include their last example."""
        rows = [
            {"shard": shard.name, "reason": shard.reason, "lost": len(shard.lost), "lost_ranges": _ranges(shard.lost)}
            for shard in self.damaged
        ]
        return {
            "examples": self.examples,
            "shards": self.shards,
            "intact": self.intact,
            "lost": self.lost,
            "damaged": rows,
        }

    def __str__(self) -> str:
        if self.intact:
            return f"{self.examples} examples in {self.shards} shards: intact"
        lines = [f"{len(self.damaged)} of {self.shards} shards damaged, {self.lost} of {self.examples} examples lost"]
        for shard in self.damaged:
            parts = [f"#{first}" if first == last else f"#{first} to #{last}" for first, last in _ranges(shard.lost)]
            lines.append(f"  {shard.name} {shard.reason}; lost: {', '.join(parts) or 'none'}")
        return "\n".join(lines)


@explains_keywords
def verify_store(path: str | os.PathLike[str], *, progress: bool = False) -> StoreReport:
    """Compare every byte of a store with what was written, and report which examples are lost.

    `progress` shows a progress bar. Raises InvalidArgumentError if the folder is not a finished store, and
    CorruptStreamError for a damaged manifest.
    """
    from tqdm import tqdm

    folder = Path(path)
    manifest = read_manifest(folder)
    damaged = []
    with tqdm(total=manifest.examples, desc="verify", unit=" examples", disable=not progress) as bar:
        for record in manifest.shards:
            found = _examine(folder, record, manifest.codec)
            damaged += [] if found is None else [found]
            bar.update(record.stop - record.start)
    try:
        read_originals(folder, manifest.examples)
    except CorruptStreamError:
        damaged.append(DamagedShard(ORIGINALS, "is damaged: it does not say what the examples were made from", ()))
    return StoreReport(manifest.examples, len(manifest.shards), tuple(damaged))


def _examine(folder: Path, record: ShardRecord, codec: Codec) -> DamagedShard | None:
    """Find out which examples of a shard are lost where it is damaged: those whose streams do not decode, or all."""
    everything = tuple(range(record.start, record.stop))
    try:
        if file_is_whole(folder, record):
            return None
        shard = Shard(folder, record)
        size = (folder / record.name).stat().st_size
    except CorruptStreamError as error:
        return DamagedShard(record.name, str(error).removeprefix(f"shard {record.name} "), everything)
    except OSError as error:
        if is_exhaustion(error):
            raise
        return DamagedShard(record.name, f"cannot be read: {error}", everything)
    lost = []
    for position in everything:
        try:
            codec.decode(shard.streams([position - record.start]))
        except CorruptStreamError:
            lost.append(position)
    reason = "its bytes are not those that were written"
    if size != record.file_bytes:
        reason = f"it has {size} bytes instead of {record.file_bytes}"
    return DamagedShard(record.name, f"is damaged: {reason}", tuple(lost))


def _ranges(positions: tuple[int, ...]) -> list[list[int]]:
    """Return positions as [first, last] of each run."""
    parts: list[list[int]] = []
    for position in positions:
        if parts and parts[-1][1] == position - 1:
            parts[-1][1] = position
        else:
            parts.append([position, position])
    return parts
