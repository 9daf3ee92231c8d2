"""What a walk through a model finds: tensors and other content by their paths, and what it cannot see."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

REGISTERED, ATTRIBUTE, PACKED, CAPTURED = "registered", "attribute", "packed", "captured"


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor with a strided storage of its own, and the path by which it was found first.

    `place` is "registered" for parts of a module's parameters and buffers, "attribute" for what a copy of the model has
    a copy of, "packed" for what has to be unpacked to be seen, "captured" for what belongs to code: closures, defaults,
    variables that functions read, attributes of classes. `parameter` is set for parts of parameters, and of packed
    ones.
    """

    path: str
    tensor: Tensor
    place: str
    parameter: bool = False


@dataclass(frozen=True)
class Content:
    """Content that is no tensor, such as bytes or a TorchScript archive: its size in bytes and its digest."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class Unseen:
    """Something that may hold content and cannot be looked into, and why."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}, {self.what}"


@dataclass
class Holdings:
    """What was found in a model.

    Attributes:
        tensors: Every tensor once, however often it is shared.
        content: What is no tensor and still is data.
        modules: The modules that `named_modules` does not list, with their paths.
        facts: Texts without which the tensors are not understood, such as the scale of a quantised tensor.
        unseen: What may hold content that nobody can see.
    """

    tensors: list[Held] = field(default_factory=list)
    content: list[Content] = field(default_factory=list)
    modules: list[tuple[str, nn.Module]] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    unseen: list[Unseen] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)

    def hidden(self) -> list[Held]:
        """Return the tensors that are neither parameters nor buffers of the model or part of one."""
        return [held for held in self.tensors if held.place != REGISTERED]
