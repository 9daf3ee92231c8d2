"""What a test asks its fixtures for is what its checks must be about; refused calls and subtests count."""

import copy

import pytest
from torch import nn

from cp_compress import Prune, Quantize
from pytest_cp.checks.asked import same_model

HEAD = """
import contextlib, copy, unittest
import subjects
from cp_compress import Prune, Quantize, Requirement
from cp_compress.fidelity import Measurement
from cp_compress.model import declare_source
from torch import nn

pytestmark = pytest.mark.compress_model("prune(density=0.4)")
BOUND = {"min_agreement": 0.1}

def small(model, reference, data, **arguments):
    return assert_preserved_predictions(model, reference, data, **(arguments or BOUND))
"""
HONEST = """
class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, batch):
        return self.inner(batch) * 2

def tuned(model):
    made = copy.deepcopy(model)
    with torch.no_grad():
        made[0].weight.mul_(1.01)
    return made

def fresh(model):
    made = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 3))
    made.load_state_dict(model.state_dict())
    return made.double().float()

def closed(model):
    models = {"candidate": model}
    return lambda batch: models["candidate"](batch)

def declared(model):
    made = subjects.make_model().half().float()
    declare_source(made, model)
    return made

class Opaque:
    __slots__ = ("answer",)
    def __init__(self, answer):
        self.answer = answer
    def __call__(self, batch):
        return torch.from_numpy(self.answer(batch.numpy()))

def exported(model):
    weights = [tensor.numpy() for tensor in model.state_dict().values()]
    first, bias, second, end = weights
    return Opaque(lambda batch: (batch @ first.T + bias).clip(0) @ second.T + end)

MAKERS = [Wrapped, tuned, fresh, closed, declared, exported, lambda model: Quantize("int8").compress(model),
          lambda model: nn.Sequential(model[0], *list(model)[1:]), lambda model: model.forward,
          lambda model: torch.jit.trace(model, torch.zeros(1, 8))]

@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", MAKERS)
def test_made_from_it(compressed_model, reference_model, dataset, make):
    small(make(compressed_model), reference_model, dataset)

def test_footprint(compressed_model, reference_model):
    assert_footprint(compressed_model, reference_model, min_compression=1.1)

def test_own_measurement(compressed_model, reference_model):
    found = Measurement("own", {"gap": 0.0}, {"gap": 3})
    assert_measurement(found, Requirement("gap", "max", 0.1), compressed=compressed_model, reference=reference_model)

def test_subtest(subtests, compressed_model, reference_model, dataset):
    with subtests.test("agreement"):
        small(compressed_model, reference_model, dataset)
    with subtests.test("nothing here"):
        pass
"""
OTHER = """
def test_other_scheme(compressed_model, reference_model, dataset):
    small(Quantize("int8").compress(reference_model), reference_model, dataset)

def test_other_density(compressed_model, reference_model, dataset):
    small(Prune(0.3).compress(reference_model), reference_model, dataset)

def test_other_module(compressed_model, reference_model, dataset):
    small(copy.deepcopy(reference_model).bfloat16().float(), reference_model, dataset)

def test_other_within_a_function(compressed_model, reference_model, dataset):
    other = Quantize("int8").compress(reference_model)
    small(lambda batch: other(batch), reference_model, dataset)

@pytest.mark.compress_dataset("zfp(rate=8)")
def test_codec_forgotten(compressed_model, compressed_dataset, reference_model, dataset):
    small(compressed_model, reference_model, dataset)
"""
CODEC = """
@pytest.fixture(scope="session")
def dataset():
    images = torch.rand(60, 1, 2, 4, generator=torch.Generator().manual_seed(0))
    return images, subjects.make_model()(images.flatten(1)).argmax(1)

@pytest.fixture(scope="session")
def reference_model():
    return nn.Sequential(nn.Flatten(), subjects.make_model())
"""
REFUSED = """
REFUSALS = [
    lambda *subjects: assert_preserved_predictions(*subjects, min_agreement=97),
    lambda *subjects: assert_preserved_predictions(*subjects),
    lambda *subjects: assert_preserved_predictions(*subjects, min_agrement=0.9),
    lambda *subjects: assert_comparison(*subjects, "no such comparison"),
]

@pytest.mark.parametrize("refused", REFUSALS)
def test_refused(compressed_model, reference_model, dataset, refused):
    small(compressed_model, reference_model, dataset)
    with contextlib.suppress(ValueError, TypeError):
        refused(compressed_model, reference_model, dataset)

def test_refused_measurement(compressed_model, reference_model, dataset):
    small(compressed_model, reference_model, dataset)
    with contextlib.suppress(ValueError):
        assert_measurement(None, "agreement >= 0.9", compressed=compressed_model, reference=reference_model)

def test_refused_in_a_subtest(subtests, compressed_model, reference_model, dataset):
    small(compressed_model, reference_model, dataset)
    with subtests.test("x"), contextlib.suppress(ValueError):
        assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=97)

def test_caught_in_a_subtest(subtests, compressed_model, reference_model, dataset):
    with subtests.test("x"), contextlib.suppress(AssertionError):
        small(compressed_model, reference_model, dataset, min_agreement=1.0)
    small(compressed_model, reference_model, dataset)

@pytest.mark.filterwarnings("ignore")
class TestCase(unittest.TestCase):
    def test_caught(self):
        reference, data = subjects.make_model(), subjects.make_data()
        candidate = Prune(0.4).compress(reference)
        with self.subTest("x"), contextlib.suppress(AssertionError):
            small(candidate, reference, data, min_agreement=1.0)
"""
TOLD = """
def test_told(subtests, compressed_model, reference_model, dataset):
    with subtests.test("fails"):
        small(compressed_model, reference_model, dataset, min_agreement=1.0)
    with subtests.test("holds"):
        small(compressed_model, reference_model, dataset)
    with subtests.test("refused"):
        assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=97)

def test_known(subtests, compressed_model, reference_model, dataset):
    with subtests.test("known"):
        with contextlib.suppress(AssertionError):
            small(compressed_model, reference_model, dataset, min_agreement=1.0)
        pytest.xfail("a known deviation")
    small(compressed_model, reference_model, dataset)
"""
HAS_SUBTESTS = int(pytest.__version__.partition(".")[0]) >= 9
needs_subtests = pytest.mark.skipif(not HAS_SUBTESTS, reason="pytest has no subtests before 9")


@needs_subtests
def test_candidates_of_tests_that_make_something_of_the_fixture(project):
    project.write_test(HEAD + HONEST)
    outcome = project.run()
    outcome.result.assert_outcomes(passed=13)
    notes = [note for note in outcome.report["notes"] if "cannot be seen into" in note]
    assert len(notes) == 1, notes
    assert "Opaque" in notes[0]


@needs_subtests
def test_what_was_not_compared_or_was_refused_fails(project):
    project.write_test(HEAD + OTHER.partition("@pytest.mark.compress_dataset")[0], name="test_other")
    codec = OTHER.partition("@pytest.mark.compress_dataset")[2]
    project.write_test(HEAD + CODEC + "\n@pytest.mark.compress_dataset" + codec, name="test_codec")
    project.write_test(HEAD + REFUSED, name="test_refused")
    project.write_test(HEAD + TOLD, name="test_told")
    outcome = project.run("--cp-origin=off")
    assert outcome.failed_everywhere
    text = outcome.result.stdout.str()
    messages = "\n".join(outcome.junit_messages)
    assert messages.count("compressed_model was never compared") == 4
    assert "its checks are about quantize(int8)" in messages
    assert "its checks are about prune(density=0.3)" in messages
    assert messages.count("compressed_dataset was never compared") == 1
    assert messages.count("a refused check was caught and ignored") == 6
    assert messages.count("a failed check was caught and ignored") == 2
    assert "contains 2 failed subtests" in text
    assert "a rerun does not undo" not in text
    by_test = {check["test"].rpartition("::")[2]: check for check in outcome.report["checks"]}
    assert {name.partition("[")[0] for name in by_test} >= {"test_told", "test_known", "test_caught_in_a_subtest"}


def test_candidates_of_two_schemes_that_leave_only_biases_as_parameters_are_two_models():
    reference = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    eight, four = (Quantize(form).compress(reference) for form in ("int8", "int4"))
    assert not same_model(four, eight)
    assert not same_model(eight, (Prune(0.5) | Quantize("int8")).compress(reference))
    assert same_model(four, copy.deepcopy(four))
    assert same_model(Prune(0.5).compress(reference), (Prune(0.5) | Quantize("int8")).compress(reference))
