"""The fixtures: a reference, labelled examples, and what compression makes of them; all of session scope."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cp_compress.base.errors import CompressionError, InvalidArgumentError, MissingExtraError
from cp_compress.base.factories import make_from
from pytest_cp.session.options import execution
from pytest_cp.session.state import session_state

if TYPE_CHECKING:
    import torch

    from cp_compress.data import CompressedDataset
    from cp_compress.fidelity.observing.runner import Model

_OVERRIDE = """
{fixture} is missing. Name a factory in the ini file,

    [tool.pytest.ini_options]
    {key} = "package.module:factory"

or override the fixture in conftest.py, with session scope:

    @pytest.fixture(scope="session")
    def {fixture}():
        return ...

To try the plugin out: {key} = "{example}"
"""


@pytest.fixture(scope="session")
def reference_model(pytestconfig: pytest.Config) -> Model:
    """The model before compression: override this fixture, or set `cp_reference` to a factory."""
    model: Model = _made_by_factory(pytestconfig, "reference_model", "cp_reference", "cp_compress.examples:digits_cnn")
    return model


@pytest.fixture(scope="session")
def dataset(pytestconfig: pytest.Config) -> Any:
    """Labelled examples, each (input, label): override this fixture, or set `cp_dataset` to a factory."""
    return _made_by_factory(pytestconfig, "dataset", "cp_dataset", "cp_compress.examples:digits")


@pytest.fixture(scope="session")
def cp_device(pytestconfig: pytest.Config) -> torch.device:
    """The device on which models are compressed and observed: --cp-device, else CUDA if available, else CPU."""
    return chosen_device(pytestconfig)


def chosen_device(config: pytest.Config) -> torch.device:
    """Return the device that a session compresses and observes on; fails for one that is not there."""
    import torch

    name = execution(config).device
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    from cp_compress.base.devices import usable_device

    try:
        return usable_device(name, f"cp device {name!r}")
    except InvalidArgumentError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def compressed_model(request: pytest.FixtureRequest, reference_model: Model, cp_device: torch.device) -> Model:
    """The reference, compressed with a scheme of the test's `compress_model` marker, `cp_schemes` or --cp-scheme.

    All tests with the same scheme share it: do not change it.
    """
    scheme = _parameter(request, "compressed_model", "compress_model", "cp_schemes", "--cp-scheme")
    with _told_plainly(scheme):
        return session_state(request.config).models.compress(reference_model, scheme, cp_device)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def compressed_dataset(request: pytest.FixtureRequest, dataset: Any) -> CompressedDataset:
    """The data set, compressed with a codec of the test's `compress_dataset` marker, `cp_codecs` or --cp-codec."""
    codec = _parameter(request, "compressed_dataset", "compress_dataset", "cp_codecs", "--cp-codec")
    with _told_plainly(codec):
        return session_state(request.config).compressed_dataset(dataset, codec)


@contextlib.contextmanager
def _told_plainly(compression: Any) -> Iterator[None]:
    """Fail without the library's own source when a subject cannot be made, for every test that asks for it."""
    try:
        yield
    except (CompressionError, InvalidArgumentError, MissingExtraError) as error:
        pytest.fail(f"{compression} cannot be applied: {error}", pytrace=False)


def scope_hint(failure: str) -> str | None:
    """Return what to do about a fixture that was overridden with a narrower scope, or None for other failures."""
    overridden = next((name for name in ("reference_model", "dataset") if name in failure), None)
    if "ScopeMismatch" not in failure or overridden is None:
        return None
    return f'override {overridden} with @pytest.fixture(scope="session"): compressed subjects have session scope'


def _made_by_factory(config: pytest.Config, fixture: str, key: str, example: str) -> Any:
    name = config.getini(key)
    if not name:
        pytest.fail(_OVERRIDE.format(fixture=fixture, key=key, example=example), pytrace=False)
    try:
        return make_from(name, key)
    except InvalidArgumentError as error:
        pytest.fail(str(error), pytrace=False)


def _parameter(request: pytest.FixtureRequest, fixture: str, marker: str, key: str, option: str) -> Any:
    if not hasattr(request, "param"):
        kind = option.removeprefix("--cp-")
        remedy = f"name one with @pytest.mark.{marker}(...), {key} or {option}"
        pytest.fail(f"{fixture}: no {kind} is given; {remedy}", pytrace=False)
    return request.param
