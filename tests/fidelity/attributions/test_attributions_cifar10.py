"""Level C on a trained network and real images: figures measured once must come again."""

import copy

import cifar_resnet
import pytest
import torch

from cp_compress import parse_scheme
from cp_compress.fidelity import DeepLift, IntegratedGradients, observe
from cp_compress.fidelity.attributions.comparison import compare_attributions
from cp_compress.fidelity.attributions.jaccard import split_jaccard
from cp_compress.fidelity.attributions.maps import attribution_maps

pytestmark = pytest.mark.cifar10
COUNT = 24


@pytest.fixture(scope="module")
def reference():
    return observe(cifar_resnet.resnet20(), cifar_resnet.images(COUNT))


def candidate(reference, change):
    model = copy.deepcopy(reference.model)
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "weight"):
                module.weight.copy_(change(module.weight))
    return observe(model, reference.data)


def test_bfloat16_weights_keep_saliency_at_about_0_92_above_a_floor_of_0_15(reference):
    found = compare_attributions(candidate(reference, lambda weight: weight.bfloat16()), reference)
    assert found.details["strata"][1]["count"] == 0
    assert found.metrics["mean_iou"] == pytest.approx(0.92, abs=0.04)
    assert found.metrics["chance_iou"] == pytest.approx(0.15, abs=0.02)


def test_int8_weights_keep_saliency_at_about_0_85(reference):
    found = compare_attributions(
        observe(parse_scheme("quantize(int8)").compress(reference.model), reference.data), reference
    )
    assert found.metrics["mean_iou"] == pytest.approx(0.85, abs=0.04)


def test_float16_arithmetic_keeps_saliency_above_0_9(reference):
    half = observe(parse_scheme("quantize(float16)").compress(reference.model), reference.data)
    found = compare_attributions(half, reference, examples=3)
    assert 0.9 < found.metrics["mean_iou"] < 1


def test_a_destroyed_network_is_near_the_floor(reference):
    noise = torch.Generator().manual_seed(0)
    destroyed = candidate(reference, lambda w: torch.randn(w.shape, generator=noise) * w.std() if w.ndim > 1 else w)
    found = compare_attributions(destroyed, reference)
    assert found.metrics["mean_iou"] < 0.25
    assert found.metrics["corrected_iou"] < 0.12


def test_steps_of_integrated_gradients_converge(reference):
    chosen = torch.arange(3)
    target = reference.predictions[chosen]
    fine = attribution_maps(reference, IntegratedGradients(150), chosen, target).maps
    shares = []
    for steps in (20, 50):
        found = attribution_maps(reference, IntegratedGradients(steps), chosen, target)
        shares.append(float(split_jaccard(found.maps, fine).mean()))
        assert found.completeness_gap < 0.1
    assert 0.85 < shares[0] < shares[1] < 1


def test_grad_cam_and_occlusion_on_a_real_network(reference):
    rounded = candidate(reference, lambda weight: weight.bfloat16())
    for method in ("grad_cam(layer='layer3.2.conv2')", "occlusion(window=8, stride=8)"):
        found = compare_attributions(rounded, reference, method, examples=8)
        assert found.metrics["mean_iou"] > 0.95
        assert found.metrics["chance_iou"] < 0.7


METHODS = [
    "saliency",
    "smooth_grad(samples=8)",
    "guided_backprop",
    "guided_grad_cam(layer='layer3.2.conv2')",
    "deep_lift",
    "gradient_shap(samples=8)",
    "saliency(layer='layer2')",
    "deep_lift(layer='layer2')",
]


@pytest.mark.parametrize("method", METHODS)
def test_harder_compression_is_less_alike_by_every_measure(reference, method):
    schemes = ("quantize(float16)", "quantize(int8)", "prune(density=0.5)", "prune(density=0.3)")
    candidates = [observe(parse_scheme(scheme).compress(reference.model), reference.data) for scheme in schemes]
    found = [compare_attributions(candidate, reference, method, examples=8) for candidate in candidates]
    for metric in ("mean_iou", "corrected_iou", "rank_correlation", "top_fraction_iou"):
        values = [measurement.metrics[metric] for measurement in found]
        assert values == sorted(values, reverse=True), metric
        assert values[0] > 0.8


def test_deep_lift_is_complete_on_a_network_whose_activations_are_functions(reference):
    chosen = torch.arange(8)
    found = attribution_maps(reference, DeepLift(), chosen, reference.predictions[chosen])
    assert found.completeness_gap < 1e-5


def test_noise_shared_by_both_models_is_averaged_out(reference):
    compressed = observe(parse_scheme("quantize(int8)").compress(reference.model), reference.data)
    plain = compare_attributions(compressed, reference, examples=12).metrics["mean_iou"]
    averaged = compare_attributions(compressed, reference, "smooth_grad(samples=16, deviation=0.1)", examples=12)
    assert averaged.metrics["mean_iou"] > plain + 0.01
