"""Observations written to files, so that they can be compared where neither model nor data are at hand."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cp_compress.artifacts.observations.format import DTYPES, VERSION, write_file
from cp_compress.base.arguments import check_integer, explains_keywords, reject
from cp_compress.base.digests import examine
from cp_compress.base.environment import describe_environment
from cp_compress.base.errors import ObservationError
from cp_compress.base.files import replacing
from cp_compress.base.json_values import plain
from cp_compress.fidelity.embeddings.comparison import class_weights, compare_embeddings
from cp_compress.fidelity.embeddings.default_layer import default_layer
from cp_compress.fidelity.frozen.content import CLUSTERS, EXAMPLES, LOGITS, ORIGINALS, TARGETS, TOP
from cp_compress.fidelity.frozen.matching import describe_inputs, read_examples_of
from cp_compress.fidelity.frozen.observation import FrozenObservation
from cp_compress.fidelity.frozen.top_logits import top_logits
from cp_compress.fidelity.judging.telling import gives_one_output, largest_input
from cp_compress.fidelity.observing.batch_dependence import Batched
from cp_compress.fidelity.observing.layer_outputs import INPUT, layer_features
from cp_compress.fidelity.observing.observation import Observation, require_observations
from cp_compress.fidelity.observing.refusals import tensors_within
from cp_compress.fidelity.observing.runner import Model
from cp_compress.fidelity.predictions.comparison import compare_predictions
from cp_compress.fidelity.predictions.known_outputs import kind_of, reading_of
from cp_compress.inputs.clusters import read_clusters
from cp_compress.inputs.originals import DIGEST_BYTES as ORIGINAL_BYTES
from cp_compress.inputs.originals import values_behind
from cp_compress.inputs.seen import seen_digests
from cp_compress.inputs.wrapping import said_by
from cp_compress.model.record import compression_steps, read_steps
from cp_compress.model.sources import read_sources, sources_within

_OWNER = "save_observation"
_DESCRIBED = 64
_DEFAULT = "default:"


@explains_keywords
def save_observation(
    observation: Observation,
    path: str | os.PathLike[str],
    *,
    layers: Sequence[str] | str = (),
    pool: str = "mean",
    top_k: int | None = None,
    noise: Mapping[str, Observation] | None = None,
) -> str:
    """Write what a model did on a data set to one file, and return the file's SHA-256 digest, by which others know it.

    Written are the logits, the labels, a digest of each example, the embeddings that comparisons have asked for and
    those of `layers`, and who made them: the model's digest and steps, and versions. The file is a safetensors file
    with a JSON document in its header; it holds neither code nor inputs, and appears whole or not at all.

    Args:
        observation: The observation, as `observe` returns it; its model is run where it was not yet.
        path: The file to write.
        layers: Layers whose embeddings are written, as `layer_features` takes them; "default:" is the one that
            `compare_embeddings` takes where none is named.
        pool: How their outputs are pooled: "mean" or "flatten".
        top_k: How many of the largest logits of each example are written, with the logarithm of the normaliser; by
            default all. What needs the others is then not known, or known within bounds.
        noise: Observations, on the same data, of references that are as good, by names such as "quantize(bfloat16)":
            written is what predictions, and embeddings of the default layer, are among all of them.

    Returns:
        The digest of the file.

    Raises:
        ObservationError: If the model cannot be observed, or gives what cannot be frozen.
        InvalidArgumentError: If an argument is not as described.
        OSError: If the file cannot be written.

    >>> import tempfile
    >>> from cp_compress import compare_predictions, load_observation, observe
    >>> from cp_compress.examples import digits, digits_cnn
    >>> seen = observe(digits_cnn(), digits())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     digest = save_observation(seen, f"{folder}/reference.obs")
    ...     reference = load_observation(f"{folder}/reference.obs", digest=digest)
    ...     compare_predictions(seen, reference)["agreement"]
    1.0
    """
    require_observations(_OWNER, observation=observation)
    return write_observation(observation, path, layers=layers, pool=pool, top_k=top_k, noise=noise)


def write_observation(
    observation: Observation,
    path: str | os.PathLike[str],
    *,
    layers: Sequence[str] | str,
    pool: str,
    top_k: int | None,
    noise: Mapping[str, Observation] | None = None,
    digests: Tensor | None = None,
) -> str:
    """Write an observation as `save_observation` does; `digests` (n, 16) are those of its examples where known."""
    if isinstance(observation, FrozenObservation):
        reject(_OWNER, "observation", observation.content.name, "it is a file already: copy that")
    if not observation.gives_logits:
        raise ObservationError("the model gives no logits: observations of other outputs cannot be frozen")
    given = [layers] if isinstance(layers, str) else list(layers)
    names = [default_layer(observation) if name == _DEFAULT else name for name in given]
    if names:
        layer_features(observation, names, pool=pool)
    equals = dict(noise or {})
    require_observations(_OWNER, **equals)
    kind = kind_of(observation)
    kept_logits = _kept(observation, top_k, kind == "probabilities")
    digests = as_bytes(read_examples_of(observation.data)[0]) if digests is None else digests
    tensors = {
        **kept_logits,
        TARGETS: observation.targets,
        EXAMPLES: digests,
        **_about_examples(observation),
    }
    kept = {key: one for key, one in observation.remembered("features").items() if key[3] is None}
    for place, ((_, name, _, _), features) in enumerate(kept.items()):
        tensors[f"layer.{place}"] = features
        weights = class_weights(observation, name, features.shape[1]) if name.startswith(INPUT) else None
        if weights is not None:
            tensors[f"layer.{place}.weights"] = weights
    wrong = next((tensor.dtype for tensor in tensors.values() if tensor.dtype not in DTYPES.values()), None)
    if wrong is not None:
        raise ObservationError(f"the model gives {wrong}, which a file of an observation cannot hold")
    document = _document(observation, [{"layer": name, "pool": how} for _, name, how, _ in kept])
    document["outputs"] |= {"kept": top_k, "kind": kind}
    embedded = default_layer(observation) in {name for _, name, _, _ in kept} if equals and kept else False
    document["noise"] = {"references": [*equals], "floors": _floors([observation, *equals.values()], embedded)}
    with replacing(path) as file:
        return write_file(file, document, tensors)


def _floors(references: Sequence[Observation], embedded: bool) -> dict[str, dict[str, list[float]]]:
    """Return what each metric is between references that are as good, by comparison: a value for each ordered pair."""
    compares = {"predictions": compare_predictions, **({"embeddings": compare_embeddings} if embedded else {})}
    pairs = [
        (one, other)
        for one, other in itertools.permutations(references, 2)
        if compression_steps(one.model) or not compression_steps(other.model)  # the compressed one comes first
    ]
    floors: dict[str, dict[str, list[float]]] = {}
    for name, compare in compares.items() if pairs else ():
        found = [compare(*pair).metrics for pair in pairs]  # type: ignore[operator]
        metrics = [metric for metric in found[0] if all(math.isfinite(each.get(metric, math.nan)) for each in found)]
        floors[name] = {metric: [each[metric] for each in found] for metric in metrics}
    return floors


def _kept(observation: Observation, top_k: int | None, probabilities: bool) -> dict[str, Tensor]:
    """Return all logits, or the largest, by the names of their tensors."""
    if top_k is None:
        return {LOGITS: observation.logits}
    rule = f"must be a whole number in 1..{observation.classes - 1}, less than the classes, or None for all logits"
    check_integer(_OWNER, "top_k", top_k, rule, at_least=1, at_most=observation.classes - 1)
    if observation.task != "single_label":
        reject(_OWNER, "top_k", top_k, f"is for data of one class an example, and not of a {observation.task} task")
    found = top_logits(observation.logits, top_k, reading_of(probabilities))
    return dict(zip(TOP, (found.values, found.places.int(), found.log_totals), strict=True))


def _document(observation: Observation, layers: list[dict[str, str]]) -> dict[str, Any]:
    model, data = observation.model, observation.data
    spread = torch.linspace(0, len(data) - 1, min(len(data), _DESCRIBED), dtype=torch.float64).round().long()
    classes, codec = said_by(data, "classes"), said_by(data, "codec")
    own = observation.remembered("default layer")
    return {
        "version": VERSION,
        "kind": "examples",
        "model": describe_model(model),
        "data": {
            "name": type(data.source).__name__,
            "digest": observation.data_digest,
            "count": len(observation),
            "task": observation.task,
            "labeled": observation.labeled,
            "inputs": describe_inputs(data.read(spread)[0]),
            "largest": largest_input(observation),
            "classes": list(map(str, classes))
            if isinstance(classes, Sequence) and not isinstance(classes, str)
            else None,
            "numbered_by_folder": said_by(data, "numbered_by_folder"),
            "codec": None if codec is None else str(codec),
        },
        "outputs": {
            "classes": observation.classes,
            "alike": len(observation) > 1 and gives_one_output(observation),
            "digest": observation.outputs_digest,
            "part": None if callable(observation.output) else observation.output,
            "by_function": callable(observation.output),
        },
        "batches": describe_batches(observation),
        "layers": layers,
        "default_layer": next(iter(own.values()), None),
        "environment": describe_environment(),
    }


def describe_model(model: Model) -> dict[str, Any]:
    """Return who a model is, as plain Python types: its name, digests, steps and sources, and what it has seen."""
    return {
        "name": _name_of(model),
        "digest": examine(model).digest,
        "held": tensors_within(model),
        "steps": [step.to_json() for step in read_steps(model)],
        "sources": [source.to_json() for source in read_sources(model)],
        "parts": [source.to_json() for source in sources_within(model)],
        "seen": {purpose: sorted(digests) for purpose, digests in seen_digests(model).items()},
    }


def describe_batches(seen: Batched) -> dict[str, Any]:
    """Return the batches that a model was run on, and how its answers depend on them, as plain Python types."""
    (first, last), dependence = seen.batches, seen.batch_dependence
    return {
        "first": first,
        "last": last,
        "limit": seen.batch_size.limit,
        "deployed": seen.deployed,
        "dependence": None if dependence is None else plain(vars(dependence)),
    }


def _name_of(model: Any) -> str:
    steps = read_steps(model)
    if steps:
        return " | ".join(step.scheme for step in steps)
    return str(getattr(model, "__name__", type(model).__name__))


def as_bytes(digests: Sequence[str]) -> Tensor:
    """Return digests of one length as rows (n, bytes), uint8."""
    joined = bytearray.fromhex("".join(digests))
    return torch.frombuffer(joined, dtype=torch.uint8).reshape(len(digests), -1)


def _about_examples(observation: Observation) -> dict[str, Tensor]:
    """Return what examples were stored from, and which belong together, where the data set says so."""
    found = {}
    behind = values_behind(observation.data.source, len(observation))
    many = max(map(len, behind))
    if many:
        found[ORIGINALS] = as_bytes(["".join(one).ljust(2 * many * ORIGINAL_BYTES, "0") for one in behind])
    clusters = read_clusters(_OWNER, None, observation.data, len(observation))
    if clusters is not None:
        found[CLUSTERS] = clusters
    return found
