"""What a frozen observation says of the model that is not at hand, where a check asks its subjects who they are."""

from __future__ import annotations

from typing import Any, NoReturn

from cp_compress.base.digests import Examined
from cp_compress.base.errors import ObservationError
from cp_compress.fidelity.frozen.content import FrozenContent
from cp_compress.inputs.seen import write_seen
from cp_compress.model.record import write_steps
from cp_compress.model.sources import write_sources


class FrozenSubject:
    """A subject of checks that stands for a model: its name, digest, steps, sources, and the examples it has seen."""

    content: FrozenContent

    def describe_model(self, content: FrozenContent) -> None:
        """Take what is known of the model."""
        self.content = content
        self.__name__ = content.model["name"]
        write_steps(self, content.steps)
        write_sources(self, content.sources("sources"))
        write_seen(self, content.model["seen"])

    def __call__(self, *args: Any, **keywords: Any) -> NoReturn:
        refuse(self.content)

    @property
    def digest(self) -> str:
        """The digest of its file."""
        return self.content.digest

    @property
    def examined(self) -> Examined:
        """What `examine` said of the model."""
        return self.content.examined

    @property
    def part_sources(self) -> tuple[Any, ...]:
        """The fingerprints of the model and its parts, as `source_of` gives them."""
        return self.content.sources("parts")

    @property
    def held_tensors(self) -> str | None:
        """The digest of all tensors that the model held, None where it held none that could be seen."""
        held: str | None = self.content.model["held"]
        return held


def refuse(content: FrozenContent) -> NoReturn:
    """Raise ObservationError: what is asked for was not frozen."""
    raise ObservationError(
        f"{content.name} is a frozen observation, which holds {content.holds()}, and no model to run: what is asked "
        "for here was not frozen. Freeze it too, such as by cp-compress observe --layer, or give the model"
    )
