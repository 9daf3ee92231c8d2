"""Too slow for every pull request: search for inputs and directions on which a candidate fails."""

from hypothesis import given, settings

from pytest_cp import assert_boundary_distance, assert_no_divergence, direction_batches


def test_no_input_nearby_divides_the_models(compressed_model, reference_model, dataset):
    assert_no_divergence(
        compressed_model, reference_model, dataset, epsilon=1 / 16, bounds=(0, 1), examples=20, max_divergence_rate=0.9
    )


@settings(max_examples=10, deadline=None)
@given(directions=direction_batches((1, 8, 8)))
def test_no_wave_moves_a_boundary_far(compressed_model, reference_model, dataset, directions):
    assert_boundary_distance(
        compressed_model,
        reference_model,
        dataset,
        directions=directions,
        examples=8,
        max_distance=6.0,
        max_mean_abs_log_ratio=0.6,
    )
