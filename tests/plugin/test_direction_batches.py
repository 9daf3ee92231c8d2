"""Drawn directions are valid, and a failing one shrinks to something that a person can read."""

import pytest
from hypothesis import find, given, settings

from cp_compress.base.errors import InvalidArgumentError
from pytest_cp import direction_batches


@settings(max_examples=30, deadline=None)
@given(directions=direction_batches((3, 8, 8), size=5, max_terms=2))
def test_batches_have_their_size_and_unit_length(directions):
    assert directions.tensor.shape == (5, 3, 8, 8)
    assert directions.tensor.flatten(1).norm(dim=1).sub(1).abs().max() < 1e-5
    assert all(name.count(" + ") + name.count(" − ") <= 1 for name in directions.names)


def test_shrinking_ends_in_one_wave():
    wanted = direction_batches((3, 8, 8), size=2)
    # fails for any direction that has much of its length in the red channel
    simplest = find(wanted, lambda drawn: bool((drawn.tensor[:, 0].flatten(1).norm(dim=1) > 0.9).any()))
    reds = [name for name in simplest.names if name.startswith("red channel")]
    assert reds[0] == "red channel, uniform"


def test_a_failure_names_the_directions_and_prints_no_tensor(project):
    project.write_test("""
from hypothesis import given, settings

@settings(max_examples=20, deadline=None, database=None)
@pytest.mark.compress_model("prune(density=0.3)")
@given(directions=direction_batches((8,), size=2))
def test_waves(compressed_model, reference_model, dataset, directions):
    assert_boundary_distance(
        compressed_model, reference_model, dataset,
        directions=directions, max_distance=100, max_mean_abs_log_ratio=0.0001,
    )
""")
    outcome = project.run()
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
from hypothesis import given, settings

@settings(max_examples=40, deadline=None, database=None, derandomize=True)
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
        outcome.result.stdout.fnmatch_lines(["*the worst of * runs (this one is the simplest found)*"])


def test_two_checks_of_one_kind_in_one_run(project):
    project.write_test("""
from hypothesis import given, settings

@settings(max_examples=5, deadline=None, database=None)
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
