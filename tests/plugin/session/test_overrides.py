"""Each gate gets what was made from its own reference and data: modules, folders, classes, scopes and parameters."""

import textwrap

import pytest
import torch

from pytest_cp.session.cache import last_used

SHARED = """
import torch
from torch import nn

calls = []

class Shrink:
    def compress(self, model):
        import copy
        made = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(1.01)
        calls.append(float(model[1].weight[0, 0]))
        return made
    def __str__(self):
        return "shrink"

SHRINK = Shrink()

def make(number):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval().requires_grad_(False)
    model[1].weight.copy_(torch.randn(3, 16, generator=torch.Generator().manual_seed(number)))
    model[1].bias.zero_()
    model[1].weight[0, 0] = number
    return model

def data(number):
    inputs = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(number))
    inputs[0, 0, 0, 0] = number / 100
    return inputs, torch.arange(40) % 3

def own(compressed, reference):
    assert abs(float(compressed[1].weight[0, 0]) - 1.01 * float(reference[1].weight[0, 0])) < 1e-4
"""
CHECK = """
def check(compressed, reference, dataset):
    shared.own(compressed, reference)
    assert_preserved_predictions(compressed, reference, dataset, min_agreement=0.1)
"""
HEAD = "import pytest, shared\nfrom pytest_cp import assert_preserved_predictions, assert_reconstruction\n" + CHECK
OVERRIDE = """
@pytest.fixture(scope="{scope}")
def reference_model():
    return shared.make({number})

@pytest.fixture(scope="{scope}")
def dataset():
    return shared.data({number})
"""
GATES = """
@pytest.mark.compress_model(shared.SHRINK)
def test_first(compressed_model, reference_model, dataset):
    check(compressed_model, reference_model, dataset)
    assert reference_model[1].weight[0, 0] == round(100 * float(dataset[0].flatten()[0]))

@pytest.mark.compress_model(shared.SHRINK)
def test_second(through_another_fixture, reference_model, dataset):
    check(through_another_fixture, reference_model, dataset)

@pytest.mark.compress_dataset("zfp(rate=24)")
def test_data(compressed_dataset, dataset):
    assert_reconstruction(compressed_dataset, dataset, max_error=0.1)
    assert abs(float(compressed_dataset[0][0].flatten()[0] - dataset[0].flatten()[0])) < 0.004
"""
IN_CLASSES = """
class TestOne:
    @pytest.fixture(scope="class")
    def reference_model(self):
        return shared.make(31)

    @pytest.mark.compress_model(shared.SHRINK)
    def test_gate(self, compressed_model, reference_model, dataset):
        check(compressed_model, reference_model, dataset)

class TestTwo(TestOne):
    @pytest.fixture(scope="session")
    def reference_model(self):
        return shared.make(32)
"""
INDIRECT = """
@pytest.fixture(scope="session")
def reference_model(request):
    return shared.make(request.param)

@pytest.mark.parametrize("reference_model", [41, 42], indirect=True)
@pytest.mark.compress_model(shared.SHRINK)
def test_indirect(compressed_model, reference_model, dataset):
    check(compressed_model, reference_model, dataset)

@pytest.mark.parametrize("reference_model", [shared.make(43), shared.make(44)], ids="ab")
@pytest.mark.compress_model(shared.SHRINK)
def test_direct(compressed_model, reference_model, dataset):
    check(compressed_model, reference_model, dataset)
"""
EXTENDED = """
@pytest.fixture(scope="session")
def number():
    return 51

@pytest.mark.compress_model(shared.SHRINK)
def test_what_the_reference_is_made_from(compressed_model, reference_model, dataset):
    check(compressed_model, reference_model, dataset)
    assert reference_model[1].weight[0, 0] == 51
"""
HYPOTHESIS = """
from hypothesis import given, settings, strategies

@pytest.mark.compress_model(shared.SHRINK)
@settings(max_examples=3, database=None)
@given(bound=strategies.sampled_from([0.1, 0.2]))
def test_drawn(compressed_model, reference_model, dataset, bound):
    shared.own(compressed_model, reference_model)
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=bound)
"""


@pytest.fixture
def overrides(project):
    """A project with references of many kinds, and one candidate made from each content."""
    makepy = project.pytester.makepyfile
    makepy(shared=SHARED)
    project.pytester.makeconftest(
        """
import pytest, shared

@pytest.fixture(scope="session")
def number():
    return 1

@pytest.fixture(scope="session")
def reference_model(number):
    return shared.make(number)

@pytest.fixture(scope="session")
def dataset(number):
    return shared.data(number)

@pytest.fixture
def through_another_fixture(compressed_model):
    return compressed_model
"""
    )
    scopes = ["session", "module", "function"]
    files = {f"test_{scope}": HEAD + OVERRIDE.format(scope=scope, number=2 + at) for at, scope in enumerate(scopes)}
    files = {name: text + GATES for name, text in files.items()}
    files |= {"test_plain": HEAD + GATES, "test_classes": HEAD + IN_CLASSES, "test_indirect": HEAD + INDIRECT}
    files |= {"test_extended": HEAD + EXTENDED}
    files |= {"test_drawn": HEAD + OVERRIDE.format(scope="session", number=61) + HYPOTHESIS}
    files["folder/conftest"] = "import pytest, shared\n" + OVERRIDE.format(scope="session", number=71)
    files["folder/test_in_folder"] = HEAD + GATES
    files["folder/deeper/conftest"] = "import pytest, shared\n" + OVERRIDE.format(scope="package", number=72)
    files["folder/deeper/test_in_deeper"] = HEAD + GATES
    files["zlast/test_plain_again"] = HEAD + GATES
    for name, text in files.items():
        path = project.path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    for folder in ("folder", "folder/deeper", "zlast"):
        (project.path / folder / "__init__.py").touch()
    return project


def test_each_gate_gets_what_was_made_from_its_own_reference(overrides):
    (overrides.path / "test_zz_calls.py").write_text(
        "import collections, shared\n"
        "def test_calls():\n"
        "    made = collections.Counter(shared.calls)\n"
        "    assert max(made.values()) <= 2, made  # two references are held, and those of one are asked for twice\n"
        "    assert len(made) == 14, made\n"
    )
    outcome = overrides.run("-p", "no:randomly", "-p", "no:cacheprovider")
    outcome.result.assert_outcomes(passed=30)


def test_so_it_is_with_workers(overrides):
    outcome = overrides.run("-n", "2", "-p", "no:cacheprovider", subprocess=True)
    outcome.result.assert_outcomes(passed=29)


def test_what_was_last_used_is_held():
    held = {}
    for key in (1, 2, 1, 3):
        last_used(held, key, lambda: torch.zeros(1), 2)
    assert list(held) == [1, 3]
    first = held[1]
    assert last_used(held, 1, lambda: torch.ones(1), 2) is first
