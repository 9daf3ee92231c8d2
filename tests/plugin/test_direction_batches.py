"""Drawn directions are valid, and a failing one shrinks to something that a person can read."""

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.fidelity import DirectionBasis
from pytest_cp import direction_batches


@settings(max_examples=30)
@given(directions=direction_batches((3, 8, 8), size=5, max_terms=2))
def test_batches_have_their_size_and_unit_length(directions):
    assert directions.tensor.shape == (5, 3, 8, 8)
    assert directions.tensor.flatten(1).norm(dim=1).sub(1).abs().max() < 1e-5
    assert all(name.count(" + ") + name.count(" − ") <= 1 for name in directions.names)


_OPPOSITE = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]])


@settings(max_examples=60)
@given(directions=direction_batches(basis=DirectionBasis(("brighter", "darker", "blob"), _OPPOSITE), size=3))
def test_combinations_that_cancel_are_not_drawn(directions):
    assert directions.tensor.flatten(1).norm(dim=1).sub(1).abs().max() < 1e-5


@given(st.dictionaries(st.integers(0, 2), st.integers(-4, 4).filter(bool), min_size=1))
def test_what_cancels_is_what_leaves_nothing(terms):
    basis = DirectionBasis(("brighter", "darker", "blob"), _OPPOSITE)
    assert basis.cancels(terms) == (terms.get(0, 0) == terms.get(1, 0) and 2 not in terms)


def test_shrinking_ends_in_one_wave():
    wanted = direction_batches((3, 8, 8), size=2)
    # fails for any direction that has much of its length in the red channel
    simplest = find(wanted, lambda drawn: bool((drawn.tensor[:, 0].flatten(1).norm(dim=1) > 0.9).any()))
    reds = [name for name in simplest.names if name.startswith("red channel")]
    assert reds[0] == "red channel, uniform"


def test_a_failure_names_the_directions_and_prints_no_tensor(project):
    project.write_test("""
from hypothesis import Phase, given, settings

@settings(phases=(Phase.generate, Phase.shrink), max_examples=20, deadline=None, database=None)
@pytest.mark.compress_model("prune(density=0.3)")
@given(directions=direction_batches((8,), size=2))
def test_waves(compressed_model, reference_model, dataset, directions):
    assert_boundary_distance(
        compressed_model, reference_model, dataset,
        directions=directions, max_distance=100, max_mean_abs_log_ratio=0.0001, examples=8,
    )
""")
    outcome = project.run("--cp-origin=off")
    assert outcome.failed_everywhere
    text = outcome.result.stdout.str()
    assert "directions=Directions(2 shared: uniform; uniform)" in text
    assert "directions=Directions(tensor" not in text


@pytest.mark.parametrize(
    "arguments",
    [{}, {"input_shape": (8,), "size": 0}, {"input_shape": (8,), "max_terms": 0}, {"input_shape": (2, 2, 2, 2)}],
)
def test_refusals(arguments):
    with pytest.raises(InvalidArgumentError):
        direction_batches(**arguments)


def test_the_worst_seen_and_the_simplest_found_are_both_reported(project):
    project.write_test("""
from hypothesis import Phase, given, settings

@settings(phases=(Phase.generate, Phase.shrink), max_examples=40, deadline=None, database=None, derandomize=True)
@pytest.mark.compress_model("prune(density=0.3)")
@given(directions=direction_batches((8,), size=1))
def test_waves(compressed_model, reference_model, dataset, directions):
    assert_boundary_distance(
        compressed_model, reference_model, dataset,
        directions=directions, max_distance=100, min_preserved_fraction=0.95,
    )
""")
    for arguments in ((), ("-n", "2")):
        outcome = project.run(*arguments, subprocess=bool(arguments))
        assert outcome.failed_everywhere
        (check,) = outcome.report["checks"]
        assert check["runs"] > 2
        assert check["worst"]["value"] <= check["metrics"]["preserved_fraction"] < 0.95
        outcome.result.stdout.fnmatch_lines(["*worst of * runs (the failure above is the simplest one)*"])


def test_two_checks_of_one_kind_in_one_run(project):
    project.write_test("""
from hypothesis import Phase, given, settings

@settings(phases=(Phase.generate, Phase.shrink), max_examples=5, deadline=None, database=None)
@pytest.mark.compress_model("prune(density=0.3)")
@given(directions=direction_batches((8,), size=1))
def test_waves(compressed_model, reference_model, dataset, directions):
    for examples in (8, 9):
        check_boundary_distance(
            compressed_model, reference_model, dataset, examples=examples,
            directions=directions, max_distance=100, max_censored_fraction=0.5,
        )
""")
    assert project.run().result.ret == 0


EXPLORED = """
from hypothesis import given, settings
from cp_compress import Quantize, Prune
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity.boundaries.directions import low_frequency_basis
from hypothesis import strategies as st

reference = digits_cnn()
faithful, damaged = Quantize("int8").compress(reference), Prune(0.4).compress(reference)
waves = low_frequency_basis((1, 8, 8))

def batch(*terms):
    return waves.combine([{{term: -1}} for term in terms])

def holds(candidate, directions, bound, **options):
    assert_boundary_distance(
        candidate, reference, digits(), directions=directions, max_mean_abs_log_ratio=bound, **options
    )

{test}
"""


def test_a_batch_along_which_nothing_is_reached_is_no_counterexample(project):
    project.write_test(
        EXPLORED.format(
            test="""
@settings(max_examples=6, deadline=None, database=None, derandomize=True)
@given(directions=st.sampled_from([batch(3, 3), batch(1, 2)]))
def test_waves(directions):
    holds(faithful, directions, 0.5, examples=8)
"""
        )
    )
    outcome = project.run()
    assert outcome.result.ret == 0
    (check,) = outcome.report["checks"]
    assert check["outcome"] == "pass"
    assert check["counts"]["mean_abs_log_ratio"] > 0
    assert any("showed nothing" in note for note in check["notes"])


def test_nothing_but_such_batches_is_a_failure(project):
    project.write_test(
        EXPLORED.format(
            test="""
@settings(max_examples=3, deadline=None, database=None, derandomize=True)
@given(directions=st.sampled_from([batch(3), batch(3, 3)]))
def test_waves(directions):
    holds(faithful, directions, 0.5, examples=8)

def test_what_nobody_explores():
    holds(faithful, batch(3), 0.5, examples=8)
"""
        )
    )
    outcome = project.run()
    assert outcome.junit["failures"] == 2
    assert [check["outcome"] for check in outcome.report["checks"]] == ["error", "error"]


def test_censored_rays_fail_what_bounds_them(project):
    project.write_test(
        EXPLORED.format(
            test="""
@settings(max_examples=2, deadline=None, database=None, derandomize=True)
@given(directions=st.sampled_from([batch(3)]))
def test_waves(directions):
    holds(faithful, directions, 0.5, examples=8, max_censored_fraction=0.5)
"""
        )
    )
    outcome = project.run()
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines(["*fail: censored_fraction = 1, required ≤ 0.5*"])


def test_the_row_shows_the_failure_that_the_message_tells(project):
    project.write_test(
        EXPLORED.format(
            test="""
@settings(max_examples=3, deadline=None, database=None, derandomize=True)
@given(directions=st.sampled_from([batch(1), batch(2), batch(5)]))
def test_waves(directions):
    holds(damaged, directions, 0.01, examples=2, max_distance=3.0)
"""
        )
    )
    outcome = project.run("--cp-origin=off")
    (check,) = outcome.report["checks"]
    assert check["outcome"] == "fail"
    value = f"{check['metrics']['mean_abs_log_ratio']:.4f}"
    outcome.result.stdout.fnmatch_lines([f"*mean_abs_log_ratio = {value}, required*", f"fail *{value} *"])
