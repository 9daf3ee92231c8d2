"""A small project for `pytester`: a fixed linear-and-ReLU model, data that it classifies, and JUnit read back."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import pkgutil
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from forks import run_pytest
from hypothesis import given, settings, strategies
from installed import remember_what_is_installed
from missing_extras import require_plugins

import cp_compress
import pytest_cp

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
NEEDS_TRITON = ("cp_compress.data.zfp.kernel",)
LEAVING = {"--reruns": "rerunfailures"}  # options that use a plugin: it leaves a thread with a socket after each run
KEPT = ("torch", "torchao", "torchvision", "transformers")
IMPORTED_LATE = ("torchvision", "_pytest.stepwise")


class _Kept:
    """A plugin that knows of runs that have ended which modules with operators of torch they had imported."""

    def __init__(self) -> None:
        self.modules: dict[str, Any] = {}

    def pytest_unconfigure(self) -> None:
        self.modules |= {name: one for name, one in sys.modules.items() if name.partition(".")[0] in KEPT}


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
        self._forks = 0
        pytester.makepyfile(subjects=SUBJECTS)
        pytester.makeconftest(CONFTEST)
        pytester.makeini("[pytest]\n")

    @property
    def path(self) -> Path:
        return self.pytester.path

    def write_test(self, source: str, name: str = "test_gate") -> None:
        """Write a test module; `pytest`, `torch` and the names of `pytest_cp` that it has are imported for it.

        Not all names: they import everything that can be compared, which takes each process seconds.
        """
        used = sorted(set(pytest_cp.__all__) & set(re.findall(r"\w+", source)))
        header = "import pytest, torch\n" + "".join(f"from pytest_cp import {name}\n" for name in used)
        self.pytester.makepyfile(**{name: header + source})

    def run(self, *arguments: str, subprocess: bool = False) -> Outcome:
        """Run pytest here, writing JUnit XML and the JSON report beside the tests."""
        require_plugins(arguments)
        junit, report = self.path / "junit.xml", self.path / "report.json"
        for leftover in (junit, report):
            leftover.unlink(missing_ok=True)
        run = self._run_in_a_fork if subprocess else self.pytester.runpytest_inprocess
        result = run(f"--junitxml={junit}", f"--cp-report-json={report}", *arguments)
        document = json.loads(report.read_text()) if report.exists() else None
        return Outcome(result, *_read_junit(junit), document)

    def _run_in_a_fork(self, *arguments: str) -> pytest.RunResult:
        self._forks += 1
        return run_pytest(f"--basetemp={self.path / f'run-{self._forks}'}", *arguments, folder=self.path)


def _read_junit(path: Path) -> tuple[dict[str, int], list[str]]:
    if not path.exists():
        return {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}, []
    suite = ElementTree.parse(path).getroot().find("testsuite")
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    messages = [entry.get("message", "") for kind in ("failure", "error") for entry in suite.iter(kind)]
    return counts, messages


@pytest.fixture(scope="session")
def loaded() -> None:
    """Import all modules of the packages and what they import late.

    After a run in this process `pytester` forgets the modules that the run imported. The next one would import them
    again: that takes seconds and memory that is never given back, and some C extensions cannot be loaded twice.
    """
    for package in (cp_compress, pytest_cp):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name not in NEEDS_TRITON:
                importlib.import_module(module.name)
    for name in IMPORTED_LATE:
        importlib.import_module(name)
    remember_what_is_installed()
    gc.collect()
    gc.freeze()  # else each run in this process looks through all of it ten times, as pytest does in the end


@pytest.fixture
def _kept() -> Iterator[_Kept]:
    """Bring back, when `pytester` has forgotten them, modules whose operators cannot be registered a second time."""
    kept = _Kept()
    yield kept
    sys.modules.update(kept.modules)


@pytest.fixture
def pytester(loaded: None, _kept: _Kept, pytester: pytest.Pytester) -> Iterator[pytest.Pytester]:
    """Return pytest's own fixture; runs in this process have Hypothesis' own profile, as a user's tests have.

    Plugins that leave something behind in the process are on only in runs that use them.
    """
    settings.load_profile("default")
    inline_run = pytester.inline_run

    def run_without_leftovers(*arguments: str, plugins: Any = (), **keywords: Any) -> pytest.HookRecorder:
        unused = [name for option, name in LEAVING.items() if not any(str(one).startswith(option) for one in arguments)]
        options = [part for name in unused for part in ("-p", f"no:{name}")]
        found = inline_run(*options, *arguments, plugins=[*plugins, _kept], **keywords)
        sys.modules.update(_kept.modules)  # for the next run of the test
        return found

    pytester.inline_run = run_without_leftovers
    yield pytester
    settings.load_profile("suite")


@pytest.fixture(autouse=True, scope="session")
def _what_is_imported_is_not_searched_for_garbage() -> None:
    """Leave what collection has imported out of the many collections to come: each would take a third of a second."""
    given(strategies.none())(lambda _: None)()  # once frozen, older versions of Hypothesis do not find their generator
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _freed_memory_given_back() -> Iterator[None]:
    """Give memory that a module has freed back to the system: else a worker keeps gigabytes of fragments of tensors."""
    yield
    observation = sys.modules.get("cp_compress.fidelity.observing.observation")
    if observation is not None:
        observation.forget_observations()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # of glibc
        gc.collect()
        trim(0)


@pytest.fixture
def outside_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let inner runs do what a build server refuses, such as writing baselines."""
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


@pytest.fixture
def project(pytester: pytest.Pytester, outside_ci: None) -> Project:
    """An empty project with a reference model and a data set."""
    return Project(pytester)
