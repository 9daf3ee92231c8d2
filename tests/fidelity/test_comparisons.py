"""Each comparison is declared once: its function gives what its declaration says, and everything else follows."""

import inspect

import pytest
import torch
from schemas import assert_published
from torch import nn
from torch.utils.data import Subset

from cp_compress import Prune, Quantize, Requirement, observe
from cp_compress.artifacts import served_levels
from cp_compress.base.errors import InvalidArgumentError
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import Comparison, Metric
from cp_compress.fidelity.comparisons import COMPARISONS, comparison_of
from cp_compress.fidelity.judging.metrics import METRICS, find_comparison, find_metric
from cp_compress.fidelity.proposals import PROPOSED_LEVELS, propose, propose_applicable
from cp_compress.search import Preserved
from pytest_cp.specification.levels import assertion_of, level_schema

EXAMPLES = 40


def mask(inputs, labels):
    chosen = torch.zeros(inputs.shape[-2:], dtype=torch.bool)
    chosen[2:6, 2:6] = True
    return chosen.expand(len(inputs), -1, -1)


# the slices, masks and concepts with which every metric has a value
GIVEN = {
    "predictions": {"slices": {"first": list(range(20))}},
    "attributions": {"quantiles": (0.1,), "examples": EXAMPLES},
    "pointing": {"must_look": mask, "must_not_look": mask, "examples": EXAMPLES},
    "concepts": {"layer": "classifier.0", "concepts": {"bright": torch.ones(8, 1, 8, 8)}, "min_class_examples": 5},
    "boundaries": {"examples": 8},
    "robustness": {"corruptions": ["gaussian_noise"], "severities": (1,), "examples": EXAMPLES},
    "divergence": {"epsilon": 0.3, "examples": 8, "queries": 20},
    "outputs": {"tolerance": 0.1, "metric": lambda ours, theirs: (ours - theirs).abs().mean(1)},
    "footprint": {"metrics": ("compression", "flops_ratio", "speedup"), "batch_size": 4},
}
STRUCTURED = {"exact_agreement", "mean_class_iou", "reference_mean_class_iou", "mean_class_iou_drop", "agreement_iou"}


@pytest.fixture(scope="module")
def pair():
    reference = digits_cnn()
    data = Subset(digits(), range(200))
    return observe(Prune(0.1).compress(reference), data), observe(reference, data)


OBSERVED = [name for name, one in COMPARISONS.items() if one.kind in ("behaviour", "size")]


@pytest.mark.parametrize("name", OBSERVED)
def test_a_function_gives_the_metrics_that_are_declared_and_claims_only_where_it_says(pair, name):
    comparison = COMPARISONS[name]
    options = GIVEN.get(name, {})
    if name == "concepts":
        options = {
            **options,
            "layer": next(path for path, part in pair[1].model.named_modules() if isinstance(part, nn.ReLU)),
        }
    measured = comparison.compare(*pair, **options)
    assert measured.comparison == name
    families = {find_comparison(metric) for metric in measured.metrics}
    assert families == {name}
    declared = {metric.name for metric in comparison.metrics} - STRUCTURED
    assert {find_metric(metric).name for metric in measured.metrics} == declared
    claims = {metric.name for metric in comparison.metrics if metric.claims} - STRUCTURED
    assert {find_metric(metric).name for metric in measured.evidence} == claims


@pytest.mark.parametrize("name", ["predictions", "embeddings", "attributions", "boundaries", "robustness"])
def test_eight_bits_keep_every_bound_to_start_from_and_a_ruined_model_keeps_none(pair, name):
    comparison = COMPARISONS[name]
    mild = observe(Quantize("int8").compress(pair[1].model), pair[1].data.source)
    kept, ruined = (comparison.compare(seen, pair[1], **GIVEN.get(name, {})).metrics for seen in (mild, pair[0]))
    started = {one: find_metric(one) for one in kept if find_metric(one).start is not None}
    assert started
    for metric, declared in started.items():
        requirement = Requirement(metric, declared.direction, declared.start)
        assert requirement.holds(kept[metric]), metric
        assert not requirement.holds(ruined[metric]) or metric == "hardness_change", metric


def test_reconstruction_gives_what_is_declared():
    images = torch.rand(6, 1, 8, 8)
    comparison = COMPARISONS["reconstruction"]
    measured = comparison.compare(images.clamp(0.1, 0.9), images, bytes_per_example=10.0)
    assert set(measured.metrics) == {metric.name for metric in comparison.metrics}
    assert {name for name in measured.evidence if not comparison.metric(name).claims} == set()


@pytest.mark.parametrize("name", COMPARISONS)
def test_an_assertion_and_a_table_take_the_bounds_that_are_declared(name):
    taken = inspect.signature(assertion_of(name)).parameters
    table = level_schema(name)["properties"]
    declared = {metric.argument for metric in METRICS[name].values() if metric.argument is not None}
    assert declared <= taken.keys()
    assert declared <= table.keys()
    others = {argument for argument in taken if argument.startswith(("min_", "max_"))} - declared
    assert others <= {
        "max_distance",
        "min_class_examples",
        "min_class_objects",
        "max_new_tokens",
    }  # options that bound the work


def test_the_types_of_bounds_are_those_that_are_declared():
    assert_published("pytest_cp.assertions", "bounds.py")


@pytest.mark.parametrize("name", [name for name in OBSERVED if not COMPARISONS[name].required])
def test_a_search_knows_every_comparison_of_models(name):
    metric = next(metric for metric in COMPARISONS[name].metrics if metric.direction is not None and not metric.leveled)
    options = {"epsilon": 0.1} if name == "divergence" else {}
    bound = max(metric.low, -1.0)
    assert name in str(Preserved(name, digits(), [Requirement(metric.name, metric.direction, bound)], options))


def test_what_a_requirement_implies_is_asked_for(pair):
    check = Preserved("attributions", digits(), [Requirement("iou_quantile_0.2", "min", 0.0)], {"examples": 8})
    assert "iou_quantile_0.2" in check(pair[0].model, pair[1].model).measurement.metrics


def test_levels_and_proposals_follow():
    assert list(served_levels(digits_cnn())) == [name for name in OBSERVED if not COMPARISONS[name].required]
    assert [name for name, one in COMPARISONS.items() if one.proposed] == list(PROPOSED_LEVELS)
    with pytest.raises(InvalidArgumentError, match="known are predictions"):
        propose([], levels=["divergence"])


def test_a_metric_without_a_proposal_names_the_bound_to_start_from():
    few, model = Subset(digits(), range(3)), digits_cnn()
    same = [observe(one, few) for one in (model, Quantize("bfloat16").compress(model))]
    _, left_out = propose_applicable(same, levels=["predictions"])
    told = left_out["predictions.max_class_accuracy_drop"]
    assert told.endswith("; a bound to start from: max_class_accuracy_drop = 0.05")


def test_what_a_comparison_cannot_do_without_is_asked_for_at_once():
    with pytest.raises(InvalidArgumentError, match="must_look or must_not_look"):
        Preserved("pointing", digits(), [Requirement("pointing_mass", "min", 0.1)])


@pytest.mark.parametrize(
    "wrong", [{"unchanged": 7.0}, {"claims": "no"}, {"start": -0.1}, {"sentence": " "}, {"name": "class"}]
)
def test_a_metric_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        Metric(**{"name": "gap", "sentence": "A gap.", "better": "lower", **wrong})


def test_a_comparison_of_a_metric():
    assert comparison_of("iou_quantile_0.1").name == "attributions"
    with pytest.raises(InvalidArgumentError, match="no comparison gives it"):
        comparison_of("agrement")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "a b"}, "name"),
        ({"metrics": ()}, "metrics"),
        ({"function": 3}, "function"),
        ({"proposed": ("gap",)}, "value of an unchanged model"),
    ],
)
def test_a_declaration_that_says_too_little_is_refused(change, told):
    given = {"name": "mine", "function": print, "metrics": (Metric("gap", "A gap.", "lower"),)}
    with pytest.raises(InvalidArgumentError, match=told):
        Comparison(**(given | change))
