"""How a compressed model differs from its architecture in anything but values, as JSON and back.

The ways in which its layers hold weights (`cp_compress.model.representations.registry`), train/eval states and the
record of the schemes. What is read is checked against the architecture before anything is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from cp_compress.base.error_reasons import reason_of
from cp_compress.base.errors import CompressionError, CorruptStreamError
from cp_compress.model.record import Step, read_steps, write_steps
from cp_compress.model.representations.fewer_channels import FewerChannels
from cp_compress.model.representations.registry import REPRESENTATIONS
from cp_compress.model.representations.representation import Representation
from cp_compress.model.sources import Source, read_sources, write_sources
from cp_compress.model.storage.steps import describe_step, read_step


def describe_arrangement(model: nn.Module) -> dict[str, Any]:
    """Return everything about a model but its values that `read_arrangement` turns back."""
    content: dict[str, Any] = {"steps": [describe_step(step) for step in read_steps(model)]}
    content |= {form.key: form.describe(model) for form in REPRESENTATIONS}
    sources = read_sources(model)
    content |= {"made_from": [source.to_json() for source in sources]} if sources else {}
    content["training"] = "".join("1" if module.training else "0" for module in model.modules())
    # built first, and always written last: equal models give equal files, whichever version writes them
    content[FewerChannels.key] = content.pop(FewerChannels.key)
    return content


@dataclass(frozen=True)
class Arrangement:
    """What `describe_arrangement` wrote, checked for its form but not yet against a model."""

    steps: tuple[Step, ...]
    held: tuple[tuple[Representation, Any], ...]
    training: str
    sources: tuple[Source, ...] = ()


def read_arrangement(content: Any) -> Arrangement:
    """Return an arrangement from plain Python types; raises CorruptStreamError for what cannot have been written."""
    try:
        return Arrangement(
            tuple(read_step(step) for step in content["steps"]),
            # a file that is older than a way to hold weights does not have it
            tuple((form, form.read(content[form.key])) for form in REPRESENTATIONS if form.key in content),
            str(content["training"]),
            tuple(map(Source.from_json, content.get("made_from", ()))),  # older files do not have it
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CorruptStreamError(f"its arrangement of layers is not readable ({reason_of(error)})") from error


def shape_model(model: nn.Module, arrangement: Arrangement) -> None:
    """Give a model, in place, the layers of an arrangement; the values of its tensors are then to be replaced.

    Raises CompressionError for an arrangement that does not fit the model.
    """
    for form, found in arrangement.held:
        form.shape(model, found)


def finish_model(model: nn.Module, arrangement: Arrangement) -> None:
    """Give a model, once it has its values, its train/eval states and its record; raises as `shape_model`."""
    modules = list(model.modules())
    if len(arrangement.training) != len(modules):
        raise CompressionError(f"the file has {len(arrangement.training)} modules, the model {len(modules)}")
    for module, flag in zip(modules, arrangement.training, strict=True):
        module.training = flag == "1"
    for form, found in arrangement.held:
        form.finish(model, found)
    write_steps(model, arrangement.steps)
    write_sources(model, arrangement.sources)
