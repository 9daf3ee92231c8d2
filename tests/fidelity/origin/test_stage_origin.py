"""Which stage of a pipeline a changed prediction comes from: against the stages observed one by one."""

import pytest
import torch

from cp_compress.base.errors import ObservationError
from cp_compress.data import JPEG, CompressedDataset
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import observe
from cp_compress.fidelity.origin.layers import THE_DATA
from cp_compress.fidelity.origin.stages import explain_damage, find_stages
from cp_compress.model import parse_scheme

STAGES = ("low_rank(rank=6)", "prune(density=0.35)", "quantize(int4)")


def pipeline(steps):
    return parse_scheme(" | ".join(steps)).compress(digits_cnn())


@pytest.mark.parametrize("stored", [False, True])
def test_equals_the_stages_one_by_one(stored):
    model, data = digits_cnn(), digits()
    read = CompressedDataset(data, JPEG(15)) if stored else data
    found = find_stages(observe(pipeline(STAGES), read), observe(model, data))
    names = (THE_DATA, *STAGES) if stored else STAGES
    models = [model] if stored else []
    models += [parse_scheme(STAGES[0]).compress(model), pipeline(STAGES[:2]), pipeline(STAGES)]
    predictions = [observe(model, data).predictions]
    predictions += [observe(one, read).predictions for one in models]
    expected = [0] * len(names)
    for row in zip(*(list(map(int, found)) for found in predictions), strict=True):
        if row[-1] == row[0]:
            continue
        first = max((stage for stage in range(1, len(row)) if row[stage] == row[0]), default=0)
        expected[first] += 1
    assert [stage.introduced for stage in found] == expected
    assert sum(expected) == found[0].flips > 0
    assert tuple(stage.scheme for stage in found) == names


def test_what_the_data_changes_is_charged_to_no_scheme():
    model, data = digits_cnn(), digits()
    candidate, stored = pipeline(("prune(density=0.9)", "quantize(float16)")), CompressedDataset(data, JPEG(5))
    assert torch.equal(observe(candidate, data).predictions, observe(model, data).predictions)
    explained = explain_damage(observe(candidate, stored), observe(model, data))
    assert [(stage["scheme"], stage["share"]) for stage in explained["stages"]] == [
        (THE_DATA, 1),
        ("prune(density=0.9)", 0),
        ("quantize(float16)", 0),
    ]
    assert (explained["layers"][0]["name"], explained["layers"][0]["share"]) == (THE_DATA, 1)


def test_refuses_a_candidate_that_was_changed_since():
    model, data = digits_cnn(), digits()
    candidate = pipeline(STAGES)
    with torch.no_grad():
        candidate.classifier[3].bias.add_(torch.arange(10.0))
    with pytest.raises(ObservationError, match="changed since"):
        find_stages(observe(candidate, data), observe(model, data))


def test_refuses_a_single_scheme():
    model, data = digits_cnn(), digits()
    with pytest.raises(ObservationError, match="no stages"):
        find_stages(observe(parse_scheme(STAGES[0]).compress(model), data), observe(model, data))


def test_explaining_never_raises():
    model, data = digits_cnn(), digits()
    found = explain_damage(observe(lambda inputs: model(inputs).roll(1, 1), data), observe(model, data))
    assert found["layers"] == found["stages"] == []
    assert any("plain callable" in note for note in found["notes"])
