"""Two models compared at every level that they and the data can serve, in one call."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from cp_compress.base.arguments import (
    check_integer,
    check_real,
    did_you_mean,
    explains_keywords,
    reject,
    unknown_argument,
)
from cp_compress.base.error_reasons import shortened
from cp_compress.base.errors import (
    CompressionError,
    InvalidArgumentError,
    MissingExtraError,
    NothingComparedError,
    ObservationError,
)
from cp_compress.base.showing.mistaken import is_factory, missing_attribute, reject_kind
from cp_compress.base.showing.tables import escaped, html_table, number, table
from cp_compress.data.codec import as_codec
from cp_compress.data.dataset import CompressedDataset
from cp_compress.fidelity.comparisons import Comparison, known_comparisons
from cp_compress.fidelity.judging.batches import with_batches
from cp_compress.fidelity.judging.measurement import Measurement
from cp_compress.fidelity.observing.observation import Observation, observe
from cp_compress.fidelity.observing.outputs import NoLogitsError, Output
from cp_compress.fidelity.observing.refusals import (
    require_difference,
    require_known_batches,
    require_order,
    require_other_logits,
    require_source,
)
from cp_compress.fidelity.observing.runner import Model

if TYPE_CHECKING:
    import torch

    from cp_compress.data.codec import Codec

_CANNOT = (CompressionError, InvalidArgumentError, MissingExtraError, NothingComparedError, ObservationError)
_SHOWN_METRICS = 2
_SIZES = ("compression", "flops_ratio", "coverage")  # a speed takes time to measure


@explains_keywords
@dataclass(frozen=True, repr=False)
class LevelMeasurements(Mapping[str, Measurement]):
    """The measurements of two models by the names of their levels, and why other levels were left out.

    Attributes:
        measurements: The measurements by level, as `found["predictions"]` gives them too.
        left_out: The reason for each level that was not measured.
    """

    measurements: Mapping[str, Measurement]
    left_out: Mapping[str, str]

    def __getitem__(self, level: str) -> Measurement:
        """Return the measurement of a level; raises KeyError, which says where a metric or another level is."""
        if level in self.measurements:
            return self.measurements[level]
        if level in self.left_out:
            raise KeyError(f"{level} was left out: {self.left_out[level]}")
        home = next((name for name, one in self.measurements.items() if level in one), None)
        if home is not None:
            raise KeyError(f'{level} is a metric: found["{home}"]["{level}"], or found.metrics["{level}"]')
        known = f"measured were {', '.join(self.measurements)}"
        raise KeyError(f"no level is called {level!r}; {did_you_mean(level, self.measurements) or known}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.measurements)

    def __len__(self) -> int:
        return len(self.measurements)

    if not TYPE_CHECKING:  # or every attribute would be known

        def __getattr__(self, name: str) -> NoReturn:
            measured = vars(self).get("measurements", {})
            elsewhere = {level: f'found["{level}"]' for level in (*measured, *vars(self).get("left_out", ()))}
            elsewhere |= {metric: f'found["{level}"]["{metric}"]' for level, one in measured.items() for metric in one}
            raise missing_attribute(self, name, elsewhere)

    @property
    def metrics(self) -> dict[str, float]:
        """The values of all levels by the names of their metrics, of which no two levels share one."""
        return {name: value for one in self.measurements.values() for name, value in one.metrics.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the measurements and the reasons as plain Python types."""
        return {
            "measurements": {name: one.to_json() for name, one in self.measurements.items()},
            "left_out": dict(self.left_out),
        }

    def __repr__(self) -> str:
        left = f", left out: {', '.join(self.left_out)}" if self.left_out else ""
        return f"<measured: {', '.join(self.measurements)}{left}>"

    def __str__(self) -> str:
        rows = [("level", "metric", "value", "n")]
        for name, one in self.measurements.items():
            told = known_comparisons()[name].proposed or tuple(one.metrics)
            shown = [metric for metric in told if metric in one.metrics][:_SHOWN_METRICS]
            rows += [(name, metric, number(one[metric]), number(one.counts.get(metric))) for metric in shown]
        left = [shortened(f"left out: {name}: {why}", 158) for name, why in self.left_out.items()]
        return "\n".join([table(rows), *left])

    def _repr_html_(self) -> str:
        """Return all metrics of all levels as one table, and what was left out, for a notebook."""
        rows = [("level", "metric", "value", "n")]
        for name, one in self.measurements.items():
            rows += [(name, *row) for row in one.metric_rows()[1:]]
        left = "".join(f"<li>{escaped(name)}: {escaped(why)}</li>" for name, why in self.left_out.items())
        return html_table(rows) + (f"<p>left out:</p><ul>{left}</ul>" if left else "")


@explains_keywords
def compare(
    candidate: Model,
    reference: Model,
    data: Any,
    *,
    codec: Codec | str | None = None,
    levels: Sequence[str] | str | None = None,
    examples: int = 64,
    epsilon: float | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 256,
    deployed_batch_size: int | None = None,
    output: Output = None,
    seed: int = 0,
    **options: Any,
) -> LevelMeasurements:
    """Compare two models at every level that they and the data can serve, and say which levels were left out and why.

    It judges nothing: `judge`, the assertions of `pytest_cp` and `cp-compress gate` do. Latencies are not measured.

    Args:
        candidate: The compressed model: an `nn.Module`, or anything that maps a batch to logits.
        reference: The model that it is compared with.
        data: The examples that both read, in any form that `observe` takes; they need no labels.
        codec: A codec, or its expression such as "jpeg(quality=50)": the candidate reads the data after it.
        levels: The names of the levels to compare; None for all. A level that is named and cannot be compared is an
            error, and not left out.
        examples: The largest number of examples of the levels that take more than one forward pass (boundaries: never
            more than their default of 32); predictions and embeddings are compared on all.
        epsilon: How far from an example inputs on which the models disagree may lie, in units of the input; without it
            the level "divergence" is left out.
        device: Where to run; by default where the models are.
        batch_size: The largest number of examples in one call.
        deployed_batch_size: The batch size of the deployed model, as `observe` takes it.
        output: The part of what the models give that is compared, as `observe` takes it.
        seed: The seed of every random choice.
        options: Options of the levels' own comparisons, such as `method="grad_cam"` or `corruptions=["fog"]`: each goes
            to every level that has it.

    Returns:
        The measurements by level; it prints itself.

    Raises:
        TypeError: If no level has an option of this name.
        NothingComparedError: If the candidate is the reference and reads the same data.
        ObservationError: If the models cannot be run on the data.
        InvalidArgumentError: If an argument is not as described.

    >>> from cp_compress.examples import digits, digits_cnn
    >>> from cp_compress.model import Quantize
    >>> model = digits_cnn()
    >>> found = compare(Quantize("int8").compress(model), model, digits(), levels=["predictions", "footprint"])
    >>> found["predictions"]["agreement"] > 0.97, found["footprint"]["compression"] > 2
    (True, True)
    """
    check_integer("compare", "examples", examples, "must be a whole number of 1 or more", at_least=1)
    check_integer("compare", "seed", seed, "must be a whole number of 0 or more", at_least=0)
    if epsilon is not None:
        check_real("compare", "epsilon", epsilon, "must be a distance above 0, in units of the input", above=0)
    chosen = _chosen(levels)
    _check_options(options, chosen)
    decoded = None if codec is None else CompressedDataset(data, as_codec("compare", codec))
    settings = {"device": device, "batch_size": batch_size, "deployed_batch_size": deployed_batch_size}
    pair = observe_pair(candidate, reference, data, decoded, output=output, **settings)
    given = {"epsilon": epsilon, "seed": seed, "examples": min(examples, len(pair[1])), "batch_size": batch_size}
    measurements: dict[str, Measurement] = {}
    left_out: dict[str, str] = {}
    for name in chosen:
        comparison = known_comparisons()[name]
        own = {option: value for option, value in options.items() if option in comparison.options}
        lacking = _lacking(comparison, decoded, {**given, **own})
        if lacking is not None:
            if levels is not None:
                raise InvalidArgumentError(f"{name}: {lacking}")
            left_out[name] = lacking
            continue
        try:
            measurements[name] = _measure(comparison, pair, decoded, data, given, own)
        except _CANNOT as error:
            # what cannot be run has no other level either, and an option with a wrong value is no reason to go on
            whole = name == "predictions" and not isinstance(error, NoLogitsError)
            if levels is not None or whole or (own and isinstance(error, InvalidArgumentError)):
                raise
            left_out[name] = str(error)
    return LevelMeasurements(measurements, left_out)


def _chosen(levels: Sequence[str] | str | None) -> list[str]:
    known = known_comparisons()
    if levels is None:
        return list(known)
    named = [levels] if isinstance(levels, str) else list(levels) if isinstance(levels, Iterable) else [levels]
    for name in named:
        if name not in known:
            advice = did_you_mean(name, known) or f"known are {', '.join(known)}"
            reject("compare", "levels", name, f"no level is called so; {advice}")
    if not named:
        reject("compare", "levels", levels, "name one level or more, or leave it out for all")
    return named


def _check_options(options: Mapping[str, Any], chosen: Sequence[str]) -> None:
    """Raise TypeError for an option that none of the chosen levels has, as Python itself does."""
    takers = {name: [level for level, one in _runnable().items() if name in one.options] for name in options}
    for name, levels in takers.items():
        if not levels:
            own = [one for one in inspect.signature(compare).parameters if one != "options"]
            known = dict.fromkeys([*own, *(option for one in _runnable().values() for option in one.options)])
            told = unknown_argument(name, options[name], known)
            raise TypeError(f"compare() got an unexpected keyword argument {name!r}: {told}")
        if not set(levels) & set(chosen):
            rule = f"is an option of {' and '.join(levels)}, which levels={list(chosen)!r} leaves out"
            reject("compare", name, options[name], rule)


def _runnable() -> dict[str, Comparison]:
    return {level: one for level, one in known_comparisons().items() if one.kind not in ("streamed", "pipeline")}


def _lacking(comparison: Comparison, decoded: Any, given: Mapping[str, Any]) -> str | None:
    """Return what a level needs and was not given, None where it has all."""
    needed = comparison.required
    missing = [name for name in needed if comparison.options[name].default is inspect.Parameter.empty]
    missing = [name for name in missing if name not in given]
    if missing or (needed and not set(needed) & given.keys()):
        return f"it needs {' and '.join(missing or needed)}: give them, or call compare_{comparison.name}"
    if comparison.kind == "streamed":
        return f"it reads its data in another form: call compare_{comparison.name}"
    if comparison.kind == "pipeline":
        return f"it measures time, from stored data to answers: call compare_{comparison.name}"
    if comparison.kind == "data" and decoded is None:
        return "it compares data before and after a codec: give codec"
    if "epsilon" in comparison.options and given["epsilon"] is None:
        return "it searches for inputs near the examples: give epsilon, how far they may lie"
    return None


def _measure(
    comparison: Comparison,
    pair: tuple[Observation, Observation],
    decoded: Any,
    data: Any,
    given: Mapping[str, Any],
    own: Mapping[str, Any],
) -> Measurement:
    if comparison.kind == "data":
        return comparison.compare(decoded, data, **own)
    taken = {name: value for name, value in given.items() if name in comparison.options and name != "batch_size"}
    usual = comparison.options["examples"].default if "examples" in taken else None
    if comparison.name == "embeddings":  # one forward pass, as predictions
        taken.pop("examples")
    elif isinstance(usual, int):  # of a level that takes long for each
        taken["examples"] = min(usual, taken["examples"])
    if comparison.kind == "size":
        taken |= {"batch_size": given["batch_size"], **comparison.implied(_SIZES)}
    return with_batches(comparison.compare(*pair, **{**taken, **own}), *pair)


def observe_pair(
    candidate: Model, reference: Model, data: Any, decoded: Any = None, **settings: Any
) -> tuple[Observation, Observation]:
    """Return the observations of a candidate, on decoded data where there are any, and of its reference.

    `settings` are the options of `observe`. Raises as the assertions do for two models in the wrong order or of other
    origin, and for a candidate that is its reference.
    """
    for name, model in (("candidate", candidate), ("reference", reference)):
        if not callable(model) or is_factory(model):
            reject_kind("compare", name, model, "a model is anything that maps a batch to logits", "model")
    require_order(candidate, reference)
    require_source(candidate, reference)
    require_difference(candidate, reference, data, decoded)
    read = data if decoded is None else decoded
    seen = observe(candidate, read, **settings), observe(reference, data, **settings)
    require_other_logits(*seen)
    require_known_batches(*seen)
    return seen
