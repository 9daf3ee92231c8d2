"""Attribution methods as text and back, and what they refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.fidelity.attribution_methods import (
    GradCAM,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    Saliency,
    parse_attribution_method,
)

extents = st.integers(1, 9) | st.lists(st.integers(1, 9), min_size=2, max_size=2).map(tuple)
methods = st.one_of(
    st.just(Saliency()),
    st.just(InputXGradient()),
    st.integers(2, 1000).map(IntegratedGradients),
    extents.map(lambda window: Occlusion(window, 1)),
    st.text(min_size=1).map(GradCAM),
)


@given(methods)
def test_text_and_back(method):
    assert parse_attribution_method(str(method)) == method


def test_names():
    assert str(Saliency()) == "saliency()"
    assert str(IntegratedGradients(20)) == "integrated_gradients(steps=20)"
    assert str(GradCAM("layer3.8.conv2")) == "grad_cam(layer='layer3.8.conv2')"
    assert parse_attribution_method("integrated_gradients") == IntegratedGradients(steps=50)
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
        (lambda: parse_attribution_method("saliency() | saliency()"), "name one method"),
        (lambda: parse_attribution_method("smooth_grad()"), "known are grad_cam"),
        (lambda: parse_attribution_method("grad_cam()"), "the fields of grad_cam are layer"),
        (lambda: parse_attribution_method(3), "expression"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make()


def test_windows_cover_all_channels_of_an_image():
    assert Occlusion(4, 2).sizes((3, 32, 32)) == ((3, 4, 4), (3, 2, 2))
    assert Occlusion((4, 2), 2).sizes((8, 8)) == ((4, 2), (2, 2))
    assert Occlusion(5, 5).sizes((64,)) == ((5,), (5,))
