"""The page on adding an attribution method: its example works from outside, alone, by name, and in gates."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from forks import run_pytest
from snippets import read_snippets

from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.extensions import extending
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import compare_attributions, observe, parse_attribution_method
from cp_compress.fidelity.attributions.methods.known import attribution_methods_by_name, is_users_own, known_methods
from cp_compress.model import parse_scheme

pytest_plugins = ["pytester"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "contributing" / "add-an-attribution-method.md"
FILES = {one.title: one.body for one in read_snippets(PAGE.read_text(encoding="utf-8")) if one.title}


@pytest.fixture
def random_masks(monkeypatch):
    """The class of the page."""
    module = ModuleType("random_masks")
    monkeypatch.setitem(sys.modules, "random_masks", module)
    exec(compile(FILES["random_masks.py"], "random_masks.py", "exec"), vars(module))
    return module.RandomMasks


@pytest.fixture(scope="module")
def pair():
    reference = digits_cnn()
    candidate = parse_scheme("prune(density=0.5)").compress(reference)
    return observe(candidate, digits()), observe(reference, digits())


def test_it_compares_as_a_value_by_its_maker_and_by_its_name(random_masks, pair):
    found = compare_attributions(*pair, random_masks(32), examples=8)
    assert is_users_own(random_masks(32))
    assert found.details["method"] == "random_masks(samples=32)"
    assert found.metrics["chance_iou"] < found.metrics["mean_iou"] < 1
    again = compare_attributions(*pair, random_masks(32), examples=8, batch_size=3)
    assert torch.allclose(again.per_example["iou"], found.per_example["iou"], atol=1e-4)
    assert compare_attributions(*pair, random_masks(32, seed=1), examples=8).metrics != found.metrics
    made = compare_attributions(*pair, "random_masks:RandomMasks", examples=2)
    assert made.details["method"] == "random_masks()"
    with pytest.raises(InvalidArgumentError, match="'random_masks'; known are"):
        parse_attribution_method("random_masks(samples=32)")
    with extending("attribution method", attribution_methods_by_name([random_masks]), known_methods()):
        assert compare_attributions(*pair, "random_masks(samples=32)", examples=8).metrics == found.metrics
        with pytest.raises(InvalidArgumentError, match="samples=0"):
            parse_attribution_method("random_masks(samples=0)")


def test_it_needs_no_gradients(random_masks, pair):
    model = pair[1].model
    callable_only = observe(lambda inputs: model(inputs).detach(), digits())
    assert compare_attributions(callable_only, pair[1], random_masks(32), examples=4).metrics["mean_iou"] > 0.99


def test_its_own_tests_and_both_gates_pass(pytester):
    for name, body in FILES.items():
        (pytester.path / name).write_text(body, encoding="utf-8")
    result = run_pytest("-q", folder=pytester.path)
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["pass *prune(density=0.8)*corrected_iou*"])
    gate = ("-q", "--pyargs", "pytest_cp.gate", "--cp-spec=gate.toml")
    result = run_pytest(*gate, folder=pytester.path)
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["pass *prune(density=0.8)*corrected_iou*"])
    specification = pytester.path / "gate.toml"
    specification.write_text(FILES["gate.toml"].replace("min_corrected_iou = 0.8", "min_corrected_iou = 0.999"))
    result = run_pytest(*gate, folder=pytester.path)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*corrected_iou*0.999*"])
    (pytester.path / "conftest.py").write_text("")
    result = run_pytest(*gate, folder=pytester.path)
    assert result.ret == pytest.ExitCode.INTERRUPTED  # told before anything is run
    result.stdout.fnmatch_lines(["*'random_masks'; known are*"])


def test_one_that_does_not_depend_on_the_model_fails_its_gate(pytester):
    for name, body in FILES.items():
        (pytester.path / name).write_text(body, encoding="utf-8")
    ignoring = FILES["random_masks.py"].replace("return total / self.samples", "return total * 0 + inputs.detach()")
    assert ignoring != FILES["random_masks.py"]
    (pytester.path / "random_masks.py").write_text(ignoring, encoding="utf-8")
    result = run_pytest("-q", "test_release.py", folder=pytester.path)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*do not depend on the model*"])
