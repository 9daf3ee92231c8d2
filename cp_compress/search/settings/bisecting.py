"""The smallest setting of each example at which every member of a committee keeps what it must, by bisection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cp_compress.base.errors import CompressionError, InvalidArgumentError
from cp_compress.data.codec import Codec
from cp_compress.data.store.shards import digest_bytes
from cp_compress.search.settings.committee import Member

Shown = Callable[[Tensor], Tensor]


@dataclass
class Chosen:
    """The setting of each example, in order, with the digest of its stream; and what that took.

    A setting as large as the number of settings says that none held: the example has the stream of the mildest, or of
    the lossless codec, or an empty one where the codec refused it, as `refused` names. `decodes` is the largest number
    of decodes of one example.
    """

    settings: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    kept: dict[str, list[bool]] = field(default_factory=dict)
    same: dict[str, list[bool]] = field(default_factory=dict)
    decodes: int = 0
    refusal: str | None = None


class Bisecting:
    """Chooses settings batch by batch; `codecs` go from the strongest setting to the mildest.

    An example for which none holds has the mildest; with `lossless` that codec, if the members keep what they must on
    what it gives.
    """

    def __init__(
        self,
        codecs: Sequence[Codec],
        lossless: Codec | None,
        members: Sequence[Member],
        held_back: Sequence[Member],
        shown: Shown,
    ) -> None:
        self.codecs, self.lossless = codecs, lossless
        self.members, self.held_back, self.shown = members, held_back, shown
        self.found = Chosen(kept={one.name: [] for one in held_back}, same={one.name: [] for one in held_back})

    def add(self, inputs: Tensor) -> None:
        """Choose the settings of the examples (n, ...) that follow."""
        first, count = len(self.found.settings), len(inputs)
        originals = self.shown(inputs)
        before = [member.look(originals, first) for member in self.members]
        low = torch.zeros(count, dtype=torch.int64)
        high = torch.full((count,), len(self.codecs))
        streams: list[bytes] = [b""] * count
        kept = inputs.clone()  # what is decoded of the chosen streams
        decodes = 0
        while bool((low < high).any()):
            active = (low < high).nonzero().flatten()
            middle = (low[active] + high[active]) // 2
            held, tried, decoded = self._try(inputs[active], middle, active, before)
            decodes += 1
            taken = held | (middle == len(self.codecs) - 1)  # where no setting holds, the mildest is tried last
            kept[active[taken]] = decoded[taken]
            for place in taken.nonzero().flatten().tolist():
                streams[int(active[place])] = tried[place]
            high[active[held]] = middle[held]
            low[active[~held]] = middle[~held] + 1
        unkept = (high == len(self.codecs)).nonzero().flatten()
        if len(unkept) and self.lossless is not None:
            made = self.lossless.encode(inputs[unkept])
            kept[unkept] = self.lossless.decode(made)
            decodes += 1
            for place, stream in zip(unkept.tolist(), made, strict=True):
                streams[place] = stream
                if not torch.equal(kept[place], inputs[place]):  # the same input has the same answer
                    raise CompressionError(f"example #{first + place} is changed by {self.lossless}")
        if self.held_back and all(streams):
            self._look_beside(originals, kept)
        self.found.settings += high.tolist()
        self.found.refused += [first + place for place, stream in enumerate(streams) if not stream]
        self.found.digests += [digest_bytes(stream) for stream in streams]
        self.found.decodes = max(self.found.decodes, decodes)

    def _try(
        self, inputs: Tensor, settings: Tensor, places: Tensor, before: Sequence[Tensor]
    ) -> tuple[Tensor, list[bytes], Tensor]:
        """Tell which examples (n,) hold at their settings; return that, their streams, and what is decoded of them.

        One that the codec refuses does not hold and has no stream.
        """
        decoded = inputs.clone()
        stored = torch.zeros(len(inputs), dtype=torch.bool)
        streams: list[bytes] = [b""] * len(inputs)
        for number in torch.unique(settings).tolist():
            rows = (settings == number).nonzero().flatten()
            for part, made in self._encoded(self.codecs[number], inputs, rows):
                decoded[part], stored[part] = self.codecs[number].decode(made), True
                for row, stream in zip(part.tolist(), made, strict=True):
                    streams[row] = stream
        held = stored.clone()
        if bool(stored.any()):
            held[stored] = self._kept(decoded[stored], places[stored], before)
        return held, streams, decoded

    def _encoded(self, codec: Codec, inputs: Tensor, rows: Tensor) -> list[tuple[Tensor, list[bytes]]]:
        """Return the rows that a codec stores with their streams: in one part, or one by one where it refuses some."""
        try:
            return [(rows, codec.encode(inputs[rows]))]
        except (CompressionError, InvalidArgumentError) as error:
            self.found.refusal = self.found.refusal or f"{codec}: {error}"
            if len(rows) == 1:
                return []
            return [part for row in torch.split(rows, 1) for part in self._encoded(codec, inputs, row)]

    def _kept(self, decoded: Tensor, places: Tensor, before: Sequence[Tensor]) -> Tensor:
        """Tell of which examples (n,) every member keeps what it must; each is asked only of what is kept so far."""
        shown = self.shown(decoded)
        kept = torch.ones(len(decoded), dtype=torch.bool)
        for member, outputs in zip(self.members, before, strict=True):
            rows = kept.nonzero().flatten()
            if len(rows):
                kept[rows] = member.holds(member.ask(shown[rows]), outputs[places[rows]])
        return kept

    def _look_beside(self, originals: Tensor, decoded: Tensor) -> None:
        """Note what the models that were held back make of what is decoded of the chosen streams."""
        shown = self.shown(decoded)
        for member in self.held_back:
            before = member.look(originals, len(self.found.settings))
            after = member.ask(shown)
            self.found.kept[member.name] += member.holds(after, before).tolist()
            self.found.same[member.name] += (after.argmax(dim=1) == before.argmax(dim=1)).tolist()
