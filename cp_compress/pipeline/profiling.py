"""Where the time of a pipeline from stored data to a model's answers goes, for one or for several in turns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.devices import usable_device
from cp_compress.base.showing.describing import describe
from cp_compress.base.showing.mistaken import is_factory, reject_kind
from cp_compress.data.codec import Codec, as_codec
from cp_compress.data.coefficients.dataset import CoefficientDataset
from cp_compress.data.dataset import CompressedDataset
from cp_compress.model.copying import copy_whole
from cp_compress.model.footprints import in_turns
from cp_compress.model.layers import named_tensors
from cp_compress.model.record import compression_steps
from cp_compress.pipeline.results import PipelineComparison, PipelineProfile
from cp_compress.pipeline.running import Course, Pass, run_pass
from cp_compress.pipeline.sources import as_source

_OWNER = "profile_pipeline"
_MOST_BATCHES = 64
Loss = Callable[[Any, Tensor], Tensor]


@explains_keywords
@dataclass(frozen=True, eq=False)
class Pipeline:
    """Data, how it is read, and the model that is run on it.

    Args:
        data: A `StoredDataset`, a `CompressedDataset` or a `CoefficientDataset`, an `ImageFolder`, or any data set of
            (input, label).
        model: The model, dense or compressed; None to load alone.
        codec: A codec by which `data` is stored in memory before anything is timed; None for data as it is.
        coefficients: Whether the model reads coefficients instead of decoded examples.
        transform: A function from a batch of inputs to what the model takes, after collating.
        batch_size: The number of examples in a batch.
        workers: The number of processes that load, as `num_workers` of torch's `DataLoader`.
        backward: Whether gradients are computed too, as in training; the model is copied for it.
        loss: What gradients are those of, a function (output, labels) -> one number; by default the cross-entropy.
        device: Where the model runs; by default where it is.

    Raises:
        InvalidArgumentError: If an argument is not as described.
    """

    data: Any
    model: Callable[..., Any] | None = None
    codec: Codec | str | None = None
    coefficients: bool = False
    transform: Callable[[Any], Any] | None = None
    batch_size: int = 64
    workers: int = 0
    backward: bool = False
    loss: Loss | None = None
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        if self.model is not None and (not callable(self.model) or is_factory(self.model)):
            reject_kind(_OWNER, "model", self.model, "must map a batch to outputs, or be None", "model")
        check_integer(_OWNER, "batch_size", self.batch_size, "must be a whole number of 1 or more", at_least=1)
        check_integer(_OWNER, "workers", self.workers, "must be a whole number of 0 or more", at_least=0)
        for name in ("transform", "loss"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                reject(_OWNER, name, getattr(self, name), "must be a function, or None")
        if self.backward and not isinstance(self.model, nn.Module):
            reject(_OWNER, "backward", True, "gradients need a torch.nn.Module as model")
        if self.loss is not None and not self.backward:
            reject(_OWNER, "loss", self.loss, "is used with backward=True alone")
        if self.codec is not None:
            object.__setattr__(self, "codec", as_codec(_OWNER, self.codec))
            if getattr(self.data, "codec", None) is not None:
                reject(
                    _OWNER,
                    "codec",
                    str(self.codec),
                    "the data is stored by a codec already; give the original, or none",
                )
        if self.device is not None:
            usable_device(self.device, f"{_OWNER}(device={str(self.device)!r}): it")


@explains_keywords
def profile_pipeline(
    data: Any,
    model: Callable[..., Any] | None = None,
    *,
    codec: Codec | str | None = None,
    coefficients: bool = False,
    transform: Callable[[Any], Any] | None = None,
    batch_size: int = 64,
    workers: int = 0,
    backward: bool = False,
    loss: Loss | None = None,
    device: torch.device | str | None = None,
    examples: int | None = None,
    passes: int = 3,
) -> PipelineProfile:
    """Return where the time goes from stored data to the answers of a model: read, decode, collate, transfer, compute.

    Batches are made as torch's `DataLoader` makes them. Each stage is timed where it is done: in the workers, or in the
    process that runs the model. What the loader itself costs is told as "other". On a CUDA device the stages of the
    model are what its kernels and copies took, by `torch.profiler`, in a pass of its own.

    `at_best` says what the run would come to if a stage took no time: the others one after the other, or, with workers,
    the slower of loading and computing. Others on the machine slow all stages; what is given is the median pass.

    Args:
        data: The data, as `Pipeline` describes it.
        model: The model, dense or compressed; None to load alone.
        codec: A codec by which `data` is stored in memory first; None for data as it is.
        coefficients: Whether the model reads coefficients instead of decoded examples.
        transform: A function from a batch of inputs to what the model takes, after collating.

    Args: The run
        batch_size: The number of examples in a batch.
        workers: The number of processes that load.
        backward: Whether gradients are computed too.
        loss: What gradients are those of; by default the cross-entropy.
        device: Where the model runs; by default where it is.
        examples: The number of examples of a timed pass, rounded up to whole batches and read again where the data has
            fewer; by default those of the data, at most 64 batches.
        passes: The number of timed passes.

    Returns:
        The profile.

    Raises:
        InvalidArgumentError: If an argument is not as described.

    >>> from cp_compress.examples import digits, digits_cnn
    >>> found = profile_pipeline(digits(), digits_cnn(), codec="jpeg(quality=75)", examples=128, passes=1)
    >>> list(found.stages), sum(found.shares.values()) <= 1
    (['read', 'decode', 'collate', 'forward'], True)
    """
    given = Pipeline(
        data, model, codec, coefficients, transform, batch_size, workers, backward, loss=loss, device=device
    )
    return profile_pipelines({"pipeline": given}, examples=examples, passes=passes).profiles[0]


@explains_keywords
def profile_pipelines(
    pipelines: Mapping[str, Pipeline], *, examples: int | None = None, passes: int = 3
) -> PipelineComparison:
    """Return the profiles of several pipelines side by side, run in turns so that a busy machine slows all alike.

    Args:
        pipelines: The pipelines by name; the others are compared with the first one.
        examples: The number of examples of a timed pass, as for `profile_pipeline`.
        passes: The number of timed passes of each.

    Returns:
        The profiles, in order.

    Raises:
        InvalidArgumentError: If an argument is not as described.
    """
    if not isinstance(pipelines, Mapping) or not pipelines:
        reject("profile_pipelines", "pipelines", type(pipelines).__name__, "must map names to one Pipeline or more")
    for name, pipeline in pipelines.items():
        if not isinstance(pipeline, Pipeline) or not isinstance(name, str) or not name:
            reject("profile_pipelines", "pipelines", name, "must map names to one Pipeline or more")
    check_integer(_OWNER, "passes", passes, "must be a whole number of 1 or more", at_least=1)
    if examples is not None:
        check_integer(_OWNER, "examples", examples, "must be a whole number of 1 or more", at_least=1)
    stored: dict[tuple[int, str], CompressedDataset] = {}
    courses = {name: _course(pipeline, examples, stored) for name, pipeline in pipelines.items()}
    timed = in_turns([functools.partial(run_pass, course) for course in courses.values()], passes)
    return PipelineComparison(
        tuple(
            _profile(name, pipelines[name], course, found)
            for (name, course), found in zip(courses.items(), timed, strict=True)
        )
    )


def _course(pipeline: Pipeline, examples: int | None, stored: dict[tuple[int, str], CompressedDataset]) -> Course:
    data = pipeline.data
    if pipeline.codec is not None:
        key = id(data), str(pipeline.codec)
        if key not in stored:
            stored[key] = CompressedDataset(data, pipeline.codec)
        data = stored[key]
    if pipeline.coefficients and not isinstance(data, CoefficientDataset):
        data = CoefficientDataset(data)
    source = as_source(_OWNER, data)
    size = pipeline.batch_size
    asked = min(len(source), _MOST_BATCHES * size) if examples is None else examples
    device = _device_of(pipeline)
    model = pipeline.model
    if isinstance(model, nn.Module) and (pipeline.backward or device != _own_device(model)):
        model = copy_whole(model).to(device)
    loss = (pipeline.loss or _cross_entropy) if pipeline.backward else None
    batches = -(-asked // size)
    return Course(source, model, pipeline.transform, size, pipeline.workers, batches, device, loss)


def _profile(name: str, pipeline: Pipeline, course: Course, passes: list[Pass]) -> PipelineProfile:
    middle = sorted(passes, key=lambda one: one.seconds)[(len(passes) - 1) // 2]
    stages = dict(middle.stages)
    notes = [course.source.note] if course.source.note else []
    if course.device.type == "cuda":
        from cp_compress.pipeline.devices import device_seconds

        stages |= device_seconds(course, course.batches)
    facts = {
        "data": _describe_data(pipeline.data),
        "codec": _codec_of(pipeline),
        "model": _describe_model(pipeline.model),
        "batch_size": course.batch_size,
        "workers": course.workers,
        "device": str(course.device),
        "backward": pipeline.backward,
    }
    return PipelineProfile(
        name=name,
        facts=facts,
        examples=middle.examples,
        seconds=middle.seconds,
        rates=tuple(one.examples / one.seconds for one in passes),
        stages=stages,
        loading=tuple(course.loading),
        waiting=middle.waiting,
        overlapping=course.workers > 0 or course.device.type == "cuda",
        notes=tuple(notes),
    )


def _own_device(model: nn.Module) -> torch.device:
    return next((tensor.device for _, tensor in named_tensors(model)), torch.device("cpu"))


def _device_of(pipeline: Pipeline) -> torch.device:
    if pipeline.device is not None:
        return torch.device(pipeline.device)
    return _own_device(pipeline.model) if isinstance(pipeline.model, nn.Module) else torch.device("cpu")


def _cross_entropy(output: Any, labels: Tensor) -> Tensor:
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        reject(_OWNER, "loss", None, f"the model gives {found}, no logits (n, classes, …): give a loss of your own")
    return nn.functional.cross_entropy(logits, labels)


def _describe_data(data: Any) -> str:
    place = getattr(data, "path", None) or getattr(data, "root", None)
    return type(data).__name__ if place is None else f"{type(data).__name__} {place}"


def _codec_of(pipeline: Pipeline) -> str | None:
    codec = pipeline.codec or getattr(pipeline.data, "codec", None)
    return None if codec is None else str(codec)


def _describe_model(model: Any) -> str | None:
    if model is None:
        return None
    steps = compression_steps(model) if isinstance(model, nn.Module) else ()
    kind = type(model).__name__ if isinstance(model, nn.Module) else describe(model)
    return " | ".join([kind, *steps]) if steps else kind
