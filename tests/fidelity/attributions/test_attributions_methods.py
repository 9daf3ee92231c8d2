"""Attribution methods as text and back, and what they refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.fidelity import (
    Deconvolution,
    DeepLift,
    DeepLiftShap,
    GradCAM,
    GradientShap,
    GuidedBackprop,
    GuidedGradCAM,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    Saliency,
    SmoothGrad,
    parse_attribution_method,
)
from cp_compress.fidelity.attributions.methods.known import as_attribution_method

extents = st.integers(1, 9) | st.lists(st.integers(1, 9), min_size=2, max_size=2).map(tuple)
layers = st.none() | st.text(min_size=1)
reals = st.floats(allow_nan=False, allow_infinity=False)
averaged = st.sampled_from(["saliency", "deep_lift(layer='a.b')", "occlusion(window=(2, 3))"])
methods = st.one_of(
    st.just(Saliency()),
    st.just(InputXGradient()),
    st.integers(2, 1000).map(IntegratedGradients),
    extents.map(lambda window: Occlusion(window, 1)),
    st.text(min_size=1).map(GradCAM),
    st.builds(Saliency, layer=layers),
    st.builds(InputXGradient, layer=layers),
    st.builds(IntegratedGradients, baseline=reals, layer=layers),
    st.just(GuidedBackprop()),
    st.just(Deconvolution()),
    st.text(min_size=1).map(GuidedGradCAM),
    st.builds(DeepLift, baseline=reals, layer=layers),
    st.builds(DeepLiftShap, baselines=st.integers(1, 99), seed=st.integers(0, 99)),
    st.builds(GradientShap, deviation=st.floats(0, 9), baselines=st.sampled_from(["data", "zero"])),
    st.builds(SmoothGrad, samples=st.integers(1, 99), deviation=st.floats(1e-3, 9), method=averaged),
)


@given(methods)
def test_text_and_back(method):
    assert parse_attribution_method(str(method)) == method


def test_names():
    assert str(Saliency()) == "saliency()"
    assert str(IntegratedGradients(20)) == "integrated_gradients(steps=20)"
    assert str(GradCAM("layer3.8.conv2")) == "grad_cam(layer='layer3.8.conv2')"
    assert parse_attribution_method("integrated_gradients") == IntegratedGradients(steps=None)
    assert str(SmoothGrad(method=IntegratedGradients(20))) == "smooth_grad(method='integrated_gradients(steps=20)')"
    assert hash(Occlusion([4, 4], [2, 2])) == hash(Occlusion((4, 4), (2, 2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntegratedGradients(1), "steps=1"),
        (lambda: IntegratedGradients(2.5), "steps=2.5"),
        (lambda: Occlusion(0), "window=0"),
        (lambda: Occlusion(window=2, stride=3), "gaps"),
        (lambda: Occlusion(window=(4, 2), stride=3), "gaps"),
        (lambda: Occlusion(window=(4, 4, 4), stride=(2, 2)), "3 spatial dimensions"),
        (lambda: Occlusion(window=9).sizes((1, 8, 8)), "larger than the input"),
        (lambda: Occlusion(window=(4, 4)).sizes((64,)), "1 spatial"),
        (lambda: GradCAM(""), "path of a module"),
        (lambda: parse_attribution_method("saliency() | saliency()"), "not 2"),
        (lambda: parse_attribution_method("lime()"), "known are deconvolution, deep_lift"),
        (lambda: Saliency(layer=""), "path of a module"),
        (lambda: Saliency(layer=3), "path of a module"),
        (lambda: GuidedGradCAM(None), "name the layer to look at"),
        (lambda: DeepLift(baseline=float("nan")), "baseline.*finite number"),
        (lambda: IntegratedGradients(baseline="black"), "baseline.*finite number"),
        (lambda: DeepLiftShap(baselines=0), "1 or more"),
        (lambda: GradientShap(samples=0), "1 or more"),
        (lambda: GradientShap(deviation=-0.1), "0 or more"),
        (lambda: GradientShap(baselines="mean"), "one of 'data', 'zero'"),
        (lambda: GradientShap(seed=-1), "seed"),
        (lambda: SmoothGrad(samples=2.5), "noise patterns"),
        (lambda: SmoothGrad(deviation=0), "deviation=0"),
        (lambda: parse_attribution_method("smooth_grad(method='smooth_grad()')"), "no method for SmoothGrad"),
        (lambda: parse_attribution_method("smooth_grad(method='saliency | saliency')"), "SmoothGrad.*not 2"),
        (lambda: as_attribution_method(SmoothGrad(method="gradient_shap")), "no method for SmoothGrad"),
        (lambda: parse_attribution_method("grad_cam()"), "grad_cam.*name the layer to look at"),
        (lambda: parse_attribution_method(3), "expression"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make()


def test_windows_cover_all_channels_of_an_image():
    assert Occlusion(4, 2).sizes((3, 32, 32)) == ((3, 4, 4), (3, 2, 2)) == Occlusion().sizes((3, 32, 32))
    assert Occlusion().sizes((3, 224, 96)) == ((3, 28, 12), (3, 14, 6))
    assert Occlusion(2).sizes((3, 224, 96)) == ((3, 2, 2), (3, 2, 2))
    assert Occlusion((4, 2), 2).sizes((8, 8)) == ((4, 2), (2, 2))
    assert Occlusion(5, 5).sizes((64,)) == ((5,), (5,))


def test_the_layer_of_a_method():
    assert Saliency().at_layer is None
    assert DeepLift(layer="a").at_layer == GradCAM("a").at_layer == "a"
    assert SmoothGrad(method="saliency(layer='b.c')").inner.at_layer == "b.c"
