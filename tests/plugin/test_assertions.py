"""Every assertion passes, fails with its own error, refuses to require nothing, and has a twin that does not raise."""

import re

import pytest
import torch
from torch import nn

import pytest_cp
from cp_compress import JPEG, ZFP, CompressedDataset, Prune, Quantize
from cp_compress.base import digests
from cp_compress.base.errors import InvalidArgumentError
from pytest_cp import errors
from pytest_cp.checks.recorder import Recorder
from pytest_cp.checks.records import recording


@pytest.fixture(autouse=True)
def _kept_out_of_this_sessions_own_summary():
    with recording(Recorder("a test of the assertions themselves")):
        yield


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


@pytest.fixture(scope="module")
def data(reference):
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return images, reference(images).argmax(dim=1)


@pytest.fixture(scope="module")
def pruned(reference):
    return Prune(0.3).compress(reference)


MIDDLE = torch.zeros(8, 8, dtype=torch.bool)
MIDDLE[2:6, 2:6] = True
STRIPES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(2)) * torch.tensor([0.0, 1.0] * 4)
CONCEPTS = {"layer": "0", "concepts": {"stripes": STRIPES}, "random_sets": 2, "min_class_examples": 2}
CASES = {
    "preserved_predictions": (
        lambda reference, pruned, data: (pruned, reference, data),
        [{"min_agreement": 0.0}, {"max_cost": 1.0, "confidence": 0.9}, {"min_accuracy": 0.0}],
        [{"min_agreement": 1.0}, {"max_accuracy_drop": -1.0}, {"max_class_accuracy_drop": -1.0, "confidence": 0.9}],
        errors.PredictionsNotPreservedError,
    ),
    "attribution_iou": (
        lambda reference, pruned, data: (pruned, reference, data),
        [
            {"min_mean_iou": 0.0},
            {"min_iou_quantile": (0.1, 0.0)},
            {"method": "occlusion(window=3)", "min_median_iou": 0},
        ],
        [
            {"min_mean_iou": 0.999},
            {"min_iou_quantile": (0.9, 1.0)},
            {"min_corrected_iou": 0.99, "confidence": 0.9},
            {"min_agreeing_mean_iou": 0.999},
            {"min_rank_correlation": 0.999, "confidence": 0.9},
            {"min_top_fraction_iou": 0.99, "top_fraction": 0.3},
            {"method": "deep_lift", "min_mean_iou": 0.999},
        ],
        errors.AttributionsNotPreservedError,
    ),
    "pointing": (
        lambda reference, pruned, data: (pruned, reference, data),
        [
            {"must_look": MIDDLE, "min_pointing_mass": 0.05},
            {"must_look": MIDDLE, "max_pointing_mass_drop": 0.9, "confidence": 0.9},
            {"must_not_look": MIDDLE, "max_forbidden_mass": 0.95, "method": "guided_backprop"},
        ],
        [
            {"must_look": MIDDLE, "min_pointing_mass": 0.99},
            {"must_look": MIDDLE, "min_pointing_hits": 1.0, "confidence": 0.9},
            {"must_look": MIDDLE, "max_pointing_mass_drop": -0.9},
            {"must_not_look": MIDDLE, "max_forbidden_mass": 0.01},
        ],
        errors.PointingNotPreservedError,
    ),
    "concepts_preserved": (
        lambda reference, pruned, data: (pruned, reference, data),
        [
            {**CONCEPTS, "max_concept_change": 1.0},
            {**CONCEPTS, "min_concept_agreement": 0.01, "confidence": 0.9},
        ],
        [
            {**CONCEPTS, "max_mean_concept_change": 0.0},
            {**CONCEPTS, "max_concept_change": 0.0},
            {**CONCEPTS, "min_concept_agreement": 1.0},
        ],
        errors.ConceptsNotPreservedError,
    ),
    "boundary_distance": (
        lambda reference, pruned, data: (pruned, reference, data),
        [{"max_median_change": 100.0}, {"min_preserved_fraction": 0.0}, {"max_censored_fraction": 1.0}],
        [
            {"max_median_change": 0.0},
            {"max_mean_abs_log_ratio": 0.0},
            {"directions": torch.eye(64).view(64, 1, 8, 8), "min_preserved_fraction": 1.0},
        ],
        errors.BoundariesNotPreservedError,
    ),
    "reconstruction": (
        lambda reference, pruned, data: (CompressedDataset(data, JPEG(60)), data),
        [{"max_error": 1.0}, {"min_psnr": 5.0}, {"max_bytes_per_example": 2000}],
        [{"max_error": 0.0}, {"min_psnr": 90.0}, {"min_ssim": 0.9999}, {"max_bytes_per_example": 5}],
        errors.ReconstructionNotPreservedError,
    ),
    "footprint": (
        lambda reference, pruned, data: (pruned, reference),
        [{"min_compression": 1.01}, {"max_flops_ratio": 1.0, "example_input": torch.zeros(1, 1, 8, 8)}],
        [{"min_compression": 50.0}, {"max_flops_ratio": 0.5, "example_input": torch.zeros(1, 1, 8, 8)}],
        errors.FootprintNotReducedError,
    ),
    "end_to_end": (
        lambda reference, pruned, data: (pruned, reference, data),
        [{"min_speedup": 0.0, "turns": 3, "examples": 8}, {"min_examples_per_second": 0.0, "turns": 3, "examples": 8}],
        [{"min_examples_per_second": 1e12, "turns": 5, "examples": 8, "confidence": 0.95}],
        errors.PipelineNotFasterError,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_passing_and_failing(name, reference, pruned, data):
    subjects, passing, failing, error = CASES[name]
    assertion, twin = getattr(pytest_cp, f"assert_{name}"), getattr(pytest_cp, f"check_{name}")
    arguments = subjects(reference, pruned, data)
    for required in passing:
        assert assertion(*arguments, **required).passed
        assert twin(*arguments, **required).passed
    for required in failing:
        with pytest.raises(error) as caught:
            assertion(*arguments, **required)
        assert not caught.value.check.passed
        check = twin(*arguments, **required)
        assert check.outcome in ("fail", "inconclusive")
        assert check.worst.requirement == caught.value.check.worst.requirement
        assert f"{check.worst.requirement.metric} = " in str(caught.value).partition("\n")[0]


@pytest.mark.parametrize("name", CASES)
def test_nothing_required(name, reference, pruned, data):
    needed = CONCEPTS if name == "concepts_preserved" else {}
    with pytest.raises(InvalidArgumentError, match="no requirement is given"):
        getattr(pytest_cp, f"assert_{name}")(*CASES[name][0](reference, pruned, data), **needed)


def test_a_requirement_needs_its_mask(reference, pruned, data):
    with pytest.raises(InvalidArgumentError, match="share inside this mask: give it"):
        pytest_cp.assert_pointing(pruned, reference, data, must_look=MIDDLE, max_forbidden_mass=0.5)
    with pytest.raises(InvalidArgumentError, match="share inside this mask: give it"):
        pytest_cp.assert_pointing(pruned, reference, data, must_not_look=MIDDLE, min_pointing_hits=0.5)


OF_TWO_MODELS = ["preserved_predictions", "attribution_iou", "pointing", "concepts_preserved", "boundary_distance"]


@pytest.mark.parametrize("name", OF_TWO_MODELS)
def test_a_thing_is_not_compared_with_itself(name, reference, data):
    requirement = next(iter(CASES[name][1]))
    assertion = getattr(pytest_cp, f"assert_{name}")
    with pytest.raises(errors.NothingComparedError, match="nothing was compressed"):
        assertion(reference, reference, data, **requirement)
    with pytest.raises(errors.NothingComparedError, match="same examples"):
        assertion(reference, reference, data, compressed_dataset=(data[0].clone(), data[1]), **requirement)
    stored = CompressedDataset(data, ZFP(rate=8))
    assert assertion(reference, reference, data, compressed_dataset=stored, **requirement).passed


def test_reconstruction_of_the_original_itself(data):
    with pytest.raises(errors.NothingComparedError):
        pytest_cp.assert_reconstruction(data, data, min_psnr=1)
    with pytest.raises(errors.NothingComparedError):
        pytest_cp.assert_reconstruction((data[0].clone(), data[1]), data, min_psnr=1)
    assert pytest_cp.assert_reconstruction(CompressedDataset(data, ZFP(reversible=True)), data, max_error=0).passed


def test_footprint_of_the_same_model(reference):
    with pytest.raises(errors.NothingComparedError):
        pytest_cp.assert_footprint(reference, reference, min_compression=1)


def test_flops_need_an_input(reference, pruned):
    with pytest.raises(InvalidArgumentError, match="example_input"):
        pytest_cp.assert_footprint(pruned, reference, max_flops_ratio=1.0)


def test_nothing_of_the_users_is_changed(reference, data):
    candidate = Quantize("int8").compress(reference).train()
    reference.train()
    reference[0].weight.grad = torch.ones_like(reference[0].weight)
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    random, images = torch.get_rng_state(), data[0].clone()
    pytest_cp.check_preserved_predictions(candidate, reference, data, min_agreement=0.5)
    pytest_cp.check_attribution_iou(candidate, reference, data, min_mean_iou=0.5)
    pytest_cp.check_boundary_distance(candidate, reference, data, max_median_change=0.5)
    pytest_cp.check_footprint(candidate, reference, min_compression=1)
    assert reference.training
    assert candidate.training
    assert torch.equal(reference[0].weight.grad, torch.ones_like(reference[0].weight))
    assert all(torch.equal(value, before[name]) for name, value in reference.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(data[0], images)
    reference.eval()
    reference.zero_grad()


def test_a_check_examines_each_model_once_before_it_runs(project, monkeypatch):
    asked = []
    real = digests._examine
    monkeypatch.setattr(digests, "_examine", lambda one: asked.append(one) or real(one))
    project.write_test("""
import copy

@pytest.fixture(scope="module")
def damaged(reference_model):
    candidate = copy.deepcopy(reference_model)
    candidate[0].weight.data *= 1.01
    return candidate

@pytest.mark.parametrize("bound", [0.5, 0.6])
def test_it(damaged, reference_model, dataset, bound):
    from cp_compress.base import digests
    before = len(digests._asked)
    assert_preserved_predictions(damaged, reference_model, dataset, min_agreement=bound)
    print("EXAMINED", len(digests._asked) - before)
""")
    monkeypatch.setattr(digests, "_asked", asked, raising=False)
    first, second = re.findall(r"EXAMINED (\d+)", project.run("-s").result.stdout.str())
    assert int(first) <= 8  # before it runs, after it ran, and around what is measured of the reference alone
    assert int(second) == 2
