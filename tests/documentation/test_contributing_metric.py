"""The metric of the page "Add a metric", added from outside the package by the public protocol."""

import doctest
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from forks import run_pytest
from snippets import read_snippets

from cp_compress import Prune, Requirement, judge, observe
from cp_compress.base.errors import InvalidArgumentError
from cp_compress.base.extensions import extending
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity.comparisons import COMPARISONS, by_name
from cp_compress.search import Preserved

PAGE = Path(__file__).resolve().parents[2] / "docs" / "contributing" / "add-a-metric.md"
FILES = {one.title: one.body for one in read_snippets(PAGE.read_text(encoding="utf-8")) if one.title is not None}
SPECIFICATION = """
schema_version = 1
[reference]
model = "cp_compress.examples:digits_cnn"
[data]
examples = "cp_compress.examples:digits"
[[candidate]]
scheme = "quantize(int8)"
[brier]
max_brier_change = {bound}
confidence = 0.95
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    path = tmp_path_factory.mktemp("metric") / "brier.py"
    path.write_text(FILES["brier.py"], encoding="utf-8")
    specification = importlib.util.spec_from_file_location("brier", path)
    loaded = importlib.util.module_from_spec(specification)
    sys.modules["brier"] = loaded
    specification.loader.exec_module(loaded)
    yield loaded
    del sys.modules["brier"]


@pytest.fixture
def added(module):
    with extending("comparison", by_name([module.BRIER]), COMPARISONS):
        yield module


def test_its_own_example_is_right(module):
    tried = doctest.testmod(module)
    assert tried.attempted > 0
    assert tried.failed == 0


def test_the_formula_is_that_of_its_source(module):
    logits, labels = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    by_hand = [
        sum((float(share) - (place == label)) ** 2 for place, share in enumerate(row.double().softmax(0)))
        for row, label in zip(logits, labels.tolist(), strict=True)
    ]
    assert module.brier_scores(logits, labels).tolist() == pytest.approx(by_hand)


def test_everything_else_follows_from_its_declaration(added):
    assert Requirement.parse("brier_change <= 0.1", confidence=0.9).bound == 0.1
    for wrong in ("brier_change >= 0.1", "brier_change <= 3"):
        with pytest.raises(InvalidArgumentError, match="brier_change"):
            Requirement.parse(wrong)
    candidate, reference = Prune(0.1).compress(digits_cnn()), digits_cnn()
    held = Preserved("brier", digits(), [Requirement("brier_change", "max", 0.0)])(candidate, reference)
    measured = added.compare_brier(observe(candidate, digits()), observe(reference, digits()))
    assert held.measurement.metrics == measured.metrics
    assert judge(measured, [Requirement("brier_change", "max", 2.0, confidence=0.95)]).passed


def test_it_is_unknown_again_afterwards():
    with pytest.raises(InvalidArgumentError, match="no comparison gives it"):
        Requirement.parse("brier_change <= 0.1")


def test_it_gates_as_the_page_shows(pytester):
    for name in ("brier.py", "conftest.py", "pytest.ini", "test_brier.py"):
        pytester.path.joinpath(name).write_text(FILES[name], encoding="utf-8")
    result = run_pytest("-q", folder=pytester.path)
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["pass * quantize(int8) *brier_change*"])
    pytester.path.joinpath("gate.toml").write_text(SPECIFICATION.format(bound=0.5), encoding="utf-8")
    arguments = ("-q", "--pyargs", "pytest_cp.gate", "--cp-spec=gate.toml")
    assert run_pytest(*arguments, folder=pytester.path).ret == 0
    pytester.path.joinpath("gate.toml").write_text(SPECIFICATION.format(bound=-0.5), encoding="utf-8")
    result = run_pytest(*arguments, folder=pytester.path)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*brier_change = *, required ≤ -0.5*"])
