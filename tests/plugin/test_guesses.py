"""What a user of torch guesses works, and objects show themselves on one screen."""

import html
import importlib
import inspect
import pickle
import re

import pytest
import torch
from torch import nn

import cp_compress
import pytest_cp
from cp_compress import JPEG, Compose, CompressedDataset, Prune, Quantize, observe
from cp_compress.base.arguments import explains_keywords
from cp_compress.base.errors import InvalidArgumentError, NothingComparedError
from cp_compress.data import write_store
from cp_compress.fidelity.comparisons import COMPARISONS
from cp_compress.model.projection import project
from cp_compress.training.training import train_compressed
from pytest_cp import check_preserved_predictions
from pytest_cp.assertions import ASSERTIONS
from pytest_cp.checks.records import not_asserting

SCREEN = 24


def make_images(count=40):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


@pytest.fixture(scope="module")
def data(reference):
    return make_images(), reference(make_images()).argmax(1)


@pytest.fixture(scope="module")
def candidate(reference):
    return cp_compress.compress(reference, "prune(density=0.2)")


@pytest.fixture(scope="module")
def check(candidate, reference, data):
    return check_preserved_predictions(candidate, reference, data, min_agreement=0.999)


@pytest.fixture(scope="module")
def found(candidate, reference, data):
    return cp_compress.compare(candidate, reference, data, examples=8)


def test_values_are_found_by_the_names_of_metrics(check, found):
    measurement = check.measurement
    assert (
        check.metrics["agreement"] == check["agreement"] == measurement["agreement"] == measurement.metrics["agreement"]
    )
    assert dict(measurement) == dict(measurement.metrics)
    assert "agreement" in measurement
    assert "agreement" in check
    assert found["predictions"]["agreement"] == found.metrics["agreement"]
    assert list(check) == list(measurement.metrics)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda check, found: check["agrement"], "did you mean agreement"),
        (lambda check, found: found["agreement"], 'found["predictions"]["agreement"]'),
        (lambda check, found: found["prediction"], "did you mean predictions?"),
        (lambda check, found: found["concepts"], "concepts was left out: it needs layer and concepts"),
    ],
)
def test_names_that_are_not_there_say_which_are(check, found, ask, told):
    with pytest.raises(KeyError, match=re.escape(told)):
        ask(check, found)


def test_compare_measures_what_it_can_and_says_what_it_left_out(candidate, reference, data, found):
    assert {"predictions", "embeddings", "attributions", "boundaries", "footprint"} <= set(found)
    assert set(found) | set(found.left_out) == set(COMPARISONS)
    assert "epsilon" in found.left_out["divergence"]
    agreement = (candidate(data[0]).argmax(1) == reference(data[0]).argmax(1)).double().mean()
    assert found.metrics["agreement"] == pytest.approx(float(agreement))
    coded = cp_compress.compare(candidate, reference, data, codec="jpeg(quality=30)", levels=["reconstruction"])
    restored = torch.stack([image for image, _ in CompressedDataset(data, JPEG(30))])
    assert coded["reconstruction"]["max_error"] == pytest.approx(float((restored - data[0]).abs().max()))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"levels": ["prediction"]}, "did you mean predictions?"),
        ({"levels": ["concepts"]}, "it needs layer and concepts"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"examples": 0}, "examples"),
        ({"codec": "jpg(50)"}, "did you mean jpeg?"),
        ({"method": "salincy"}, "did you mean saliency?"),
        ({"method": "saliency", "levels": ["predictions"]}, "an option of attributions and pointing, which levels="),
        ({"must_look": 3, "levels": ["pointing"]}, "must_look"),
    ],
)
def test_compare_refuses_what_was_asked_for_and_cannot_be(candidate, reference, data, options, told):
    with pytest.raises(InvalidArgumentError, match=re.escape(told)):
        cp_compress.compare(candidate, reference, data, **options)


def test_compare_hands_the_options_of_its_levels_on(candidate, reference, data):
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4] = True
    levels = ["attributions", "pointing", "boundaries"]
    options = {"method": "input_x_gradient", "must_look": mask, "tolerance": 0.5}
    found = cp_compress.compare(candidate, reference, data, examples=8, levels=levels, **options)
    seen = [observe(model, data) for model in (candidate, reference)]
    alone = cp_compress.compare_attributions(*seen, method="input_x_gradient", examples=8)
    assert found["attributions"].metrics == alone.metrics
    pointed = cp_compress.compare_pointing(*seen, method="input_x_gradient", must_look=mask, examples=8)
    assert found["pointing"].metrics == pointed.metrics
    assert (
        found["boundaries"]["preserved_fraction"]
        >= cp_compress.compare(candidate, reference, data, examples=8, levels="boundaries")["boundaries"][
            "preserved_fraction"
        ]
    )
    with pytest.raises(TypeError, match=r"compare\(\) got an unexpected keyword argument 'methd': did you mean method"):
        cp_compress.compare(candidate, reference, data, methd="saliency")


def test_compare_refuses_a_model_with_itself(reference, data):
    with pytest.raises(NothingComparedError):
        cp_compress.compare(reference, reference, data)


def test_expressions_go_wherever_a_scheme_or_codec_goes(reference, data, tmp_path):
    text, scheme = "prune(density=0.25)", Prune(0.25)
    made = [value.detach() for value in scheme.compress(reference).parameters()]
    for model in (cp_compress.compress(reference, text), cp_compress.model.scheme.apply_scheme(text, reference)):
        assert all(torch.equal(one, other) for one, other in zip(model.parameters(), made, strict=True))
    assert project(text, reference).keys() == project(scheme, reference).keys()
    assert Compose(text, "quantize(int8)") == scheme | "quantize(int8)" == text | Quantize("int8")
    trained = train_compressed(reference, text, data, steps=1)
    assert int(trained.model[1].weight.count_nonzero()) < trained.model[1].weight.numel()
    assert CompressedDataset(data, "jpeg(quality=50)").codec == JPEG(50)
    assert write_store(data, "jpeg(quality=50)", tmp_path / "store").codec == JPEG(50)
    for refuse in (lambda: cp_compress.compress(reference, 3), lambda: CompressedDataset(data, 3)):
        with pytest.raises(InvalidArgumentError, match="or its expression"):
            refuse()


def test_load_says_what_it_needs(candidate, reference, tmp_path):
    path = tmp_path / "a.cp"
    cp_compress.save(candidate, path)
    with pytest.raises(InvalidArgumentError, match=r"give the model .* second argument.*prune\(density=0\.2\)"):
        cp_compress.load(path)
    with pytest.raises(InvalidArgumentError, match="the path comes first"):
        cp_compress.load(reference, path)
    assert torch.equal(cp_compress.load(path, reference)[1].weight, candidate[1].weight)


def test_the_noise_floor_is_at_the_top(candidate, reference, data):
    seen = [observe(model, data) for model in (reference, candidate)]
    floor = cp_compress.noise_floor(seen, cp_compress.compare_predictions)
    assert "agreement" in str(floor)


@pytest.mark.parametrize("kind", ["assert", "check"])
@pytest.mark.parametrize("level", sorted(set(ASSERTIONS) - {"comparison", "measurement"}))
def test_a_misspelt_keyword_of_every_assertion_is_a_type_error(level, kind):
    function = getattr(pytest_cp, f"{kind}_{ASSERTIONS[level]}")
    keyword = next(name for name in inspect.signature(function).parameters if name.startswith(("min_", "max_")))
    misspelt = keyword[:-2] + keyword[-1]
    with not_asserting(), pytest.raises(TypeError, match=f"{misspelt}.*did you mean .*{keyword}"):
        function(None, None, None, **{misspelt: 0.5})


PACKAGES = ["cp_compress", *(f"cp_compress.{name}" for name in ("artifacts", "data", "fidelity", "model", "search"))]
PUBLIC = {
    f"{called.__module__}.{called.__qualname__}": called
    for package in PACKAGES
    for name in importlib.import_module(package).__all__
    for called in [getattr(importlib.import_module(package), name)]
    if callable(called) and not (inspect.isclass(called) and issubclass(called, BaseException))
}


def named_parameters(called):
    return [
        one.name
        for one in inspect.signature(called).parameters.values()
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]


def test_a_misspelt_keyword_of_every_public_callable_says_which_is_meant():
    asked = 0
    for name, called in PUBLIC.items():
        if getattr(called, "_is_protocol", False):
            continue
        for keyword in [one for one in named_parameters(called) if len(one) > 4][-1:]:
            misspelt = keyword[:-2] + keyword[-1]
            if not any(one.kind is one.VAR_KEYWORD for one in inspect.signature(called).parameters.values()):
                with pytest.raises(TypeError, match=rf"\(\) got an unexpected.*'{misspelt}': did you mean .*{keyword}"):
                    called(**{misspelt: 0.5})
                asked += 1
        assert inspect.getdoc(called), name
    assert asked > 120


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: cp_compress.compare(None, None, None, level="a"), "did you mean levels?"),
        (lambda: Prune(sparsity=0.9), "density is the share that stays: sparsity=0.9 is density=0.1"),
        (lambda: Quantize(groupsize=32), "Quantize() got an unexpected keyword argument 'groupsize'"),
        (lambda: cp_compress.load("a", strct=True), "it takes path, model"),
        (lambda: cp_compress.footprint(None, exampleinput=None), "did you mean example_input?"),
        (lambda: cp_compress.compare(None, None, None, min_agreement=1), "give bounds to an assertion of pytest_cp"),
        (lambda: cp_compress.Requirement.parse("cka >= 0.9", confidense=0.9), "did you mean confidence?"),
        (lambda: observe(None, None, "cpu"), "are given by name"),
        (lambda: cp_compress.compare_predictions(1, 2, 3), "compare(candidate, reference, data) takes models"),
        (lambda: check_preserved_predictions(1, 2, 3, batch_size=4), "by @pytest.mark.cp_execution(batch_size=…)"),
        (lambda: check_preserved_predictions(1, 2, 3, confidense=0.9), "did you mean confidence?"),
        (lambda: check_preserved_predictions(1, 2, 3, outputs="a"), "did you mean output?"),
    ],
)
def test_keywords_that_are_meant(call, told):
    with pytest.raises(TypeError, match=re.escape(told)):
        call()


def test_what_explains_its_keywords_stays_what_it_was():
    @explains_keywords
    class Store:
        def __init__(self, size=3):
            self.size = size

        @classmethod
        def of(cls, size):
            return cls(size)

        def read(self, first, /, *, step=1):
            if first == "broken":
                raise TypeError("its own")
            return self.size * first * step

    assert Store.of(size=2).read(3, step=2) == 12
    assert str(inspect.signature(Store)) == "(size=3)"
    with pytest.raises(TypeError, match=r"^its own$"):
        Store().read("broken")
    with pytest.raises(TypeError, match=r"Store\(\) got .* 'sise': did you mean size"):
        Store(sise=2)
    with pytest.raises(TypeError, match=r"read\(\) got .* 'stp': did you mean step"):
        Store().read(1, stp=2)
    assert pickle.loads(pickle.dumps(observe)) is observe
    assert observe.__globals__["__name__"] == observe.__module__


@pytest.mark.parametrize("kind", [repr, str])
def test_every_object_fits_one_screen(check, found, candidate, reference, data, kind):
    seen = observe(candidate, data)
    directions = cp_compress.fidelity.Directions(torch.eye(64).view(64, 1, 8, 8), ("d",) * 64, ("f",) * 64)
    searched = cp_compress.fidelity.search_boundaries(candidate, data[0][:4], directions, max_distance=1.0)
    objects = [
        check,
        check.measurement,
        found,
        seen,
        directions,
        searched,
        cp_compress.footprint(candidate),
        *check.results,
    ]
    for value in objects:
        text = kind(value)
        assert len(text.splitlines()) <= (1 if kind is repr else SCREEN), text
        assert len(text) <= (400 if kind is repr else 80 * SCREEN), text


def test_a_notebook_shows_the_card_of_the_report(check):
    shown = check._repr_html_()
    inner = html.unescape(shown)
    assert shown.startswith("<p><strong>fail</strong>: agreement ≥ 0.999</p><iframe sandbox")
    assert "Predictions that changed" in inner
    assert "prune(density=0.2)" in inner
    assert inner.count("<details") == inner.count("</details>") == 2
    assert "<script" not in inner


def test_a_notebook_shows_measurements_as_tables(check, found):
    table = check.measurement._repr_html_()
    assert table.count("<tr>") == 1 + len(check.metrics)
    assert found._repr_html_().count("<tr>") == 1 + len(found.metrics)
    assert "left out" in found._repr_html_()
