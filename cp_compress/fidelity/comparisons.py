"""The comparisons: what each measures, what it needs, and what follows for assertions, specifications and commands.

Each comparison is declared here once. Its function is imported when it is first called, so that a command line can
list the comparisons without loading torch.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import keyword
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cp_compress.base.arguments import explains_keywords, reject
from cp_compress.base.extensions import added
from cp_compress.base.showing.brief import Brief
from cp_compress.fidelity.judging.metric import Metric, bound_arguments
from cp_compress.fidelity.judging.metrics import METRICS, find_comparison

if TYPE_CHECKING:
    from cp_compress.fidelity.judging.measurement import Measurement

Kind = Literal["behaviour", "size", "data", "streamed", "pipeline"]


@explains_keywords
@dataclass(frozen=True)
class Need:
    """Something that a comparison asks of a model and that not every model has.

    Args:
        what: "layers" (modules with names), "gradients" (outputs that can be differentiated in the inputs) or "module"
            (a `torch.nn.Module`, whose parameters and operations are known).
        of: "both" models, or the "reference" alone.
        unless: The arguments with which the comparison does without, such as 'guide="examples"', or a function that
            returns them; empty if there are none.
    """

    what: Literal["layers", "gradients", "module"]
    of: Literal["both", "reference"] = "both"
    unless: str | Callable[[], str] = ""

    @property
    def remedy(self) -> str:
        """The arguments with which the comparison does without."""
        return self.unless if isinstance(self.unless, str) else self.unless()


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return operator.attrgetter(name)(importlib.import_module(module))


def _nothing(metrics: Sequence[str]) -> Mapping[str, Any]:
    return {}


@explains_keywords
@dataclass(frozen=True, repr=False)
class Comparison(Brief):
    """A way to measure what compression changed.

    Args:
        name: What specifications, records and the command line call it.
        function: The function (candidate observation, reference observation, **options) -> Measurement, or where it
            is, as "package.module:function". Of kind "data" it takes (decoded data, original data, **options), of kind
            "streamed" (candidate, reference, data, **options), of kind "pipeline" (candidate, reference, candidate's
            data, reference's data, **options).
        metrics: The metrics that it gives.
        kind: What is compared: "behaviour" of two models on data, "size" of two models, "data" before and after a
            codec, "streamed": two models side by side, batch by batch, whose outputs are folded and not kept, or
            "pipeline": how fast two models read and answer, each its own data.
        needs: What it asks of the models.
        made: Options that are no plain values: a specification names the factory that makes one.
        required: Options without which it cannot be called, and which no text can give: it is used from Python and,
            through factories, from a specification.
        proposed: The metrics for which `cp-compress init` proposes bounds, with the options in `proposed_options`.
        proposed_options: Options of the comparison for such a proposal.
        implied: A function from the names of required metrics to the options that they imply.
        reads: Of kind "streamed", what reads its data, as "package.module:name": it takes whatever a user gives; what
            it returns has `source`, a length, `digest()`, `example_digests()` and `first_input()`.

    Raises:
        InvalidArgumentError: If the name is no word, there is no metric, or `proposed` names one that is not given.

    >>> comparison_of("agreement").name
    'predictions'
    """

    name: str
    function: Callable[..., Measurement] | str
    metrics: tuple[Metric, ...]
    kind: Kind = "behaviour"
    needs: tuple[Need, ...] = ()
    made: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    proposed: tuple[str, ...] = ()
    proposed_options: Mapping[str, Any] = field(default_factory=dict)
    implied: Callable[[Sequence[str]], Mapping[str, Any]] = _nothing
    reads: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier() or keyword.iskeyword(self.name):
            reject("Comparison", "name", self.name, "must be a word that Python could use as a name, such as fairness")
        metrics = (self.metrics,) if isinstance(self.metrics, Metric) else tuple(self.metrics)
        object.__setattr__(self, "metrics", metrics)
        if not self.metrics or not all(isinstance(metric, Metric) for metric in self.metrics):
            reject("Comparison", "metrics", self.metrics, "must be one Metric or more")
        if not (callable(self.function) or isinstance(self.function, str)):
            reject("Comparison", "function", self.function, "must be a function of two observations, or where it is")
        given = {metric.name: metric for metric in self.metrics}
        wrong = [name for name in self.proposed if name not in given or given[name].unchanged is None]
        if wrong:
            rule = "a bound is proposed from the value of an unchanged model, which must be declared with the metric"
            reject("Comparison", "proposed", wrong, rule)

    @functools.cached_property
    def compare(self) -> Callable[..., Measurement]:
        """The function that measures; what a user's own returns is checked."""
        if callable(self.function):
            return self._checked(self.function)
        found: Callable[..., Measurement] = _imported(self.function)
        return found

    def read(self, source: Any) -> Any:
        """Return the data of a comparison of kind "streamed" as it reads them; raises what its reader raises."""
        return _imported(self.reads)(source)

    def _checked(self, function: Callable[..., Any]) -> Callable[..., Measurement]:
        from cp_compress.fidelity.judging.measurement import Measurement

        owner = f"comparison {self.name}"

        @functools.wraps(function)
        def compare(*subjects: Any, **options: Any) -> Measurement:
            found = function(*subjects, **options)
            if not isinstance(found, Measurement):
                reject(owner, "returned", type(found).__name__, "it must return a cp_compress.fidelity.Measurement")
            if found.comparison != self.name:
                reject(owner, "comparison", found.comparison, f"its measurement must be of comparison {self.name!r}")
            unknown = [name for name in found.metrics if name not in {metric.name for metric in self.metrics}]
            if unknown:
                reject(owner, "metrics", unknown, "a metric that it gives must be declared")
            found.check(owner, self.metrics)
            return found

        return compare

    @property
    def options(self) -> Mapping[str, inspect.Parameter]:
        """The options of its function, by name: every parameter after the subjects."""
        parameters = list(inspect.signature(self.compare).parameters.items())
        return dict(parameters[{"streamed": 3, "pipeline": 4}.get(self.kind, 2) :])

    def metric(self, name: str) -> Metric:
        """Return one of its metrics; raises KeyError for another name."""
        return next(metric for metric in self.metrics if metric.name == name)


def _quantiles(family: str, metrics: Sequence[str]) -> Mapping[str, Any]:
    prefix = f"{family}_"
    levels = []
    for metric in metrics:
        if metric.startswith(prefix):
            try:
                levels.append(float(metric.removeprefix(prefix)))
            except ValueError:
                reject("measurement", "metric", metric, f"names no quantile such as {prefix}0.1")
    return {"quantiles": tuple(levels)} if levels else {}


def _methods_without_gradients() -> str:
    from cp_compress.fidelity.attributions.methods.known import methods_without_needs

    return " or ".join(f'method="{name}"' for name in methods_without_needs())


def _sizes(metrics: Sequence[str]) -> Mapping[str, Any]:
    return {"metrics": tuple(metrics)} if metrics else {}


def _declare(name: str, function: str, **rest: Any) -> Comparison:
    return Comparison(name, f"cp_compress.fidelity.{function}", tuple(METRICS[name].values()), **rest)


COMPARISONS: Mapping[str, Comparison] = {
    comparison.name: comparison
    for comparison in (
        _declare(
            "predictions",
            "predictions.comparison:compare_predictions",
            made=("class_distance", "weights"),
            proposed=("agreement", "accuracy_drop", "max_class_accuracy_drop"),
        ),
        _declare(
            "embeddings",
            "embeddings.comparison:compare_embeddings",
            needs=(Need("layers"),),
            proposed=("cka",),
        ),
        _declare(
            "attributions",
            "attributions.comparison:compare_attributions",
            needs=(Need("gradients", unless=_methods_without_gradients),),
            made=("method",),
            proposed=("mean_iou",),
            proposed_options={"examples": 64},
            implied=functools.partial(_quantiles, "iou_quantile"),
        ),
        _declare(
            "pointing",
            "attributions.pointing:compare_pointing",
            needs=(Need("gradients", unless=_methods_without_gradients),),
            made=("method", "must_look", "must_not_look"),
            required=("must_look", "must_not_look"),
        ),
        _declare(
            "concepts",
            "attributions.concepts:compare_concepts",
            needs=(Need("layers"), Need("gradients")),
            made=("concepts", "random_sets"),
            required=("layer", "concepts"),
        ),
        _declare(
            "boundaries",
            "boundaries.gate_directions:compare_standard_boundaries",
            needs=(Need("gradients", of="reference", unless="directions=…"),),
            made=("bounds", "directions"),
            proposed=("median_change",),
        ),
        _declare("robustness", "robustness:compare_robustness"),
        _declare(
            "divergence",
            "divergence.comparison:compare_divergence",
            needs=(Need("gradients", of="reference", unless='guide="examples"'),),
            made=("bounds",),
        ),
        _declare(
            "footprint",
            "footprints:compare_observed_footprints",
            kind="size",
            needs=(Need("module"),),
            implied=_sizes,
        ),
        _declare("reconstruction", "reconstruction:compare_reconstruction", kind="data"),
        _declare("end_to_end", "end_to_end:compare_end_to_end", kind="pipeline", made=("transform", "loss")),
        _declare(
            "outputs",
            "outputs.comparison:compare_outputs",
            made=("metric",),
            implied=functools.partial(_quantiles, "relative_error_quantile"),
        ),
        _declare(
            "language",
            "language.comparison:compare_language",
            kind="streamed",
            reads="cp_compress.inputs.tokens:TokenData",
            made=("tokenizer",),
            implied=functools.partial(_quantiles, "kl_quantile"),
        ),
        _declare(
            "retrieval",
            "retrieval.comparison:compare_retrieval",
            kind="streamed",
            reads="cp_compress.inputs.retrieval:RetrievalData.of",
            made=("encode", "encode_documents", "score"),
        ),
        _declare(
            "detections",
            "detections.comparison:compare_detections",
            kind="streamed",
            reads="cp_compress.inputs.detection:DetectionData.of",
            made=("detect",),
        ),
        _declare(
            "generation",
            "generation.comparison:compare_generation",
            kind="streamed",
            reads="cp_compress.inputs.prompts:GenerationData.of",
            made=("generate", "tokenizer"),
        ),
    )
}
"""The comparisons of this package, by name."""


def by_name(comparisons: Iterable[Any]) -> dict[str, Comparison]:
    """Return comparisons by their names, to be added beside those of this package.

    Raises InvalidArgumentError for anything else, two of one name, and a metric whose name or argument another
    comparison has.
    """
    found: dict[str, Comparison] = {}
    taken = {name: one for table in METRICS.values() for metric in table.values() for name, one in _names(metric)}
    for comparison in comparisons:
        if not isinstance(comparison, Comparison) or comparison.kind != "behaviour":
            rule = 'must be a Comparison of the kind "behaviour": a function of two observations with its metrics'
            reject("extending", "comparison", comparison, rule)
        if found.get(comparison.name) is comparison:  # two plugins share it
            continue
        if comparison.name in found:
            reject("extending", "comparison", comparison.name, "two comparisons have this name")
        _check_options(comparison)
        for metric in comparison.metrics:
            for name, _ in _names(metric):
                if name in taken:
                    reject("extending", "comparison", comparison.name, f"its metric {name} is another comparison's")
            taken |= dict(_names(metric))
        found[comparison.name] = comparison
    return found


_TAKEN_ARGUMENTS = (
    "compressed",
    "reference",
    "dataset",
    "compressed_dataset",
    "confidence",
    "candidates",
    "family",
    "deployed_batch_size",
)


def _check_options(comparison: Comparison) -> None:
    """Raise InvalidArgumentError for a function that no assertion or table of a specification could call."""
    parameters = list(inspect.signature(comparison.compare).parameters.values())
    subjects, options = parameters[:2], parameters[2:]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(subjects) < 2 or any(one.kind not in positional for one in subjects):
        rule = "must be a function of two observations, the candidate's and the reference's, and of options by keyword"
        reject("Comparison", "function", comparison.name, rule)
    bounds = bound_arguments(comparison.metrics)
    for option in options:
        if option.kind is option.POSITIONAL_ONLY or option.kind is option.VAR_POSITIONAL:
            reject("Comparison", "function", comparison.name, f"its option {option.name} cannot be given by keyword")
        if option.name in bounds or option.name in _TAKEN_ARGUMENTS:
            what = "a bound of its metrics" if option.name in bounds else "an argument of every assertion"
            reject("Comparison", "function", comparison.name, f"its option {option.name} has the name of {what}")


def _names(metric: Metric) -> list[tuple[str, Metric]]:
    return [(name, metric) for name in (metric.name, metric.argument) if name is not None]


def known_comparisons() -> Mapping[str, Comparison]:
    """Return the comparisons of this package and those that users have added, by name."""
    return {**COMPARISONS, **added("comparison")}


def comparison_of(metric: str) -> Comparison:
    """Return the comparison that gives a metric; raises InvalidArgumentError for a metric that none gives."""
    return known_comparisons()[find_comparison(metric)]


def comparisons_of_models() -> Mapping[str, Comparison]:
    """Return the comparisons that take two observations."""
    return {name: one for name, one in known_comparisons().items() if one.kind in ("behaviour", "size")}
