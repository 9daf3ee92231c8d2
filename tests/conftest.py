"""A small project for `pytester`: a fixed linear-and-ReLU model, data that it classifies, and JUnit read back."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# `pytester` forgets modules that a run inside this process imports, but C extensions cannot be loaded twice
import torchvision  # noqa: F401
from hypothesis import settings
from missing_extras import require_plugins

import cp_compress.examples  # noqa: F401
import pytest_cp.assertions.attributions
import pytest_cp.assertions.boundaries
import pytest_cp.assertions.footprint
import pytest_cp.assertions.predictions
import pytest_cp.assertions.reconstruction
import pytest_cp.directions  # noqa: F401

SUBJECTS = """
import pytest, torch
from torch import nn

def make_model():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.requires_grad_(False)

def make_data():
    inputs = torch.randn(120, 8, generator=torch.Generator().manual_seed(1))
    return inputs, make_model()(inputs).argmax(dim=1)
"""
CONFTEST = """
import pytest, subjects

@pytest.fixture(scope="session")
def reference_model():
    return subjects.make_model()

@pytest.fixture(scope="session")
def dataset():
    return subjects.make_data()
"""


@dataclass
class Outcome:
    """What a run of pytest left behind: its result, JUnit counts and the JSON report."""

    result: pytest.RunResult
    junit: dict[str, int]
    junit_messages: list[str]
    report: dict | None

    @property
    def failed_everywhere(self) -> bool:
        """Whether the exit code and the JUnit file agree that the run failed."""
        return self.result.ret != 0 and self.junit["failures"] + self.junit["errors"] > 0


class Project:
    """A folder with tests in it, run by pytest."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        pytester.makepyfile(subjects=SUBJECTS)
        pytester.makeconftest(CONFTEST)
        pytester.makeini("[pytest]\n")

    @property
    def path(self) -> Path:
        return self.pytester.path

    def write_test(self, source: str, name: str = "test_gate") -> None:
        """Write a test module; `pytest`, `torch` and the assertions are imported for it."""
        header = "import pytest, torch\nfrom pytest_cp import *\n"
        self.pytester.makepyfile(**{name: header + source})

    def run(self, *arguments: str, subprocess: bool = False) -> Outcome:
        """Run pytest here, writing JUnit XML and the JSON report beside the tests."""
        require_plugins(arguments)
        junit, report = self.path / "junit.xml", self.path / "report.json"
        for leftover in (junit, report):
            leftover.unlink(missing_ok=True)
        run = self.pytester.runpytest_subprocess if subprocess else self.pytester.runpytest_inprocess
        result = run(f"--junitxml={junit}", f"--cp-report-json={report}", *arguments)
        document = json.loads(report.read_text()) if report.exists() else None
        return Outcome(result, *_read_junit(junit), document)


def _read_junit(path: Path) -> tuple[dict[str, int], list[str]]:
    if not path.exists():
        return {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}, []
    suite = ElementTree.parse(path).getroot().find("testsuite")
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    messages = [entry.get("message", "") for kind in ("failure", "error") for entry in suite.iter(kind)]
    return counts, messages


@pytest.fixture
def pytester(pytester: pytest.Pytester) -> Iterator[pytest.Pytester]:
    """Return pytest's own fixture; runs in this process have Hypothesis' own profile, as a user's tests have."""
    settings.load_profile("default")
    yield pytester
    settings.load_profile("suite")


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project with a reference model and a data set."""
    for variable in (
        "CI",
        "BUILD_NUMBER",
        "GITHUB_ACTIONS",
        "GITLAB_CI",
        "JENKINS_URL",
        "TEAMCITY_VERSION",
        "TF_BUILD",
    ):
        monkeypatch.delenv(variable, raising=False)
    return Project(pytester)
