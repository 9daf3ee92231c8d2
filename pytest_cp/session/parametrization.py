"""Which schemes and codecs a test runs with, and which tests are gates that must compare something."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from pytest_cp.session import options, overrides
from pytest_cp.session.state import session_state

# fixture, marker, parser of expressions in the library, where configured names come from
_SUBJECTS: tuple[tuple[str, str, str, Callable[[pytest.Config], list[str]]], ...] = (
    ("compressed_model", "compress_model", "scheme", options.schemes),
    ("compressed_dataset", "compress_dataset", "codec", options.codecs),
)


def is_gate(item: pytest.Item) -> bool:
    """Tell whether a test uses a compressed model or data set, so that it must compare something."""
    names = getattr(item, "fixturenames", ())
    return getattr(item, "cp_is_gate", False) or any(
        fixture in names or item.get_closest_marker(marker) is not None for fixture, marker, *_ in _SUBJECTS
    )


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each scheme and codec that it, or the session, names."""
    refuse_misspelt_markers(metafunc.definition)
    for fixture, marker_name, kind, configured in _SUBJECTS:
        marker = metafunc.definition.get_closest_marker(marker_name)
        wanted = fixture in metafunc.fixturenames
        if marker is not None and not wanted:
            test = metafunc.definition.nodeid
            _refuse(f"{test}: has the marker {marker_name} but does not use the fixture {fixture}")
        if not wanted:
            continue
        names = _from_marker(marker) if marker is not None else configured(metafunc.config)
        if marker is None:
            session_state(metafunc.config).used_options.add(f"--cp-{kind}")
        if names:
            values = _parse(names, kind, metafunc.definition.nodeid, marker_name)
            state, test = session_state(metafunc.config), metafunc.definition.nodeid
            state.candidates[test] = state.candidates.get(test, 1) * len(values)
            scope = overrides.scope_of(metafunc, fixture)
            metafunc.parametrize(fixture, values, indirect=True, scope=scope, ids=list(map(str, values)))


def candidates_of(item: pytest.Item) -> int | None:
    """Return with how many candidates a test is run, whichever were selected, or None where it is given none."""
    own: int | None = getattr(item, "cp_candidates", None)
    name = getattr(item, "originalname", None)
    if own is not None or name is None or item.parent is None:
        return own
    return session_state(item.config).candidates.get(f"{item.parent.nodeid}::{name}")


def unused_option(config: pytest.Config) -> str | None:
    """Return what is wrong when the command line names a scheme or codec and every test names its own, or none."""
    for option in ("--cp-scheme", "--cp-codec"):
        if config.getoption(option) and option not in session_state(config).used_options:
            given = ", ".join(config.getoption(option))
            return f"{option}={given}: no collected test uses it (a test with its own marker does not)"
    return None


def unused_keys(config: pytest.Config) -> list[str]:
    """Return a note for each list of schemes or codecs of the ini file that no gate of this session has taken."""
    state = session_state(config)
    return [
        f"{key} is set in the ini file, and no gate of this session uses it: a test with its own marker does not"
        for key, option in (("cp_schemes", "--cp-scheme"), ("cp_codecs", "--cp-codec"))
        if state.gate_tests and config.getini(key) and option not in state.used_options
    ]


def refuse_misspelt_markers(item: pytest.Item) -> None:
    """Fail for an unregistered marker whose name is close to one of the plugin's markers."""
    registered = {re.split(r"[:(]", line, maxsplit=1)[0].strip() for line in item.config.getini("markers")}
    for marker in item.iter_markers():
        if marker.name in registered:  # the plugin's own markers, and those that others registered
            continue
        own = marker.name.startswith("cp_")
        close = difflib.get_close_matches(marker.name, options.MARKERS, n=1, cutoff=0.5 if own else 0.85)
        if own or close:
            advice = f"did you mean {close[0]}?" if close else f"known markers are {', '.join(options.MARKERS)}"
            rule = "register your own cp_ markers in the ini file, under markers"
            _refuse(f"{item.nodeid}: unknown marker {marker.name}; {advice}" + (f" ({rule})" if own else ""))


def _from_marker(marker: pytest.Mark) -> Iterable[Any]:
    if marker.kwargs or not marker.args:
        given = ", ".join(f"{name}=…" for name in marker.kwargs)
        _refuse(f"{marker.name}({given}): takes one or more schemes or codecs as positional arguments")
    return marker.args


def _parse(names: Iterable[Any], kind: str, test: str, marker: str) -> list[Any]:
    from cp_compress.base.errors import InvalidArgumentError
    from cp_compress.data import parse_codec
    from cp_compress.model import parse_scheme

    parse = parse_scheme if kind == "scheme" else parse_codec
    method = "compress" if kind == "scheme" else "encode"
    values = []
    for name in names:
        try:
            value = parse(name) if isinstance(name, str) else name
        except InvalidArgumentError as error:
            _refuse(f"{test}: {error}")
        if isinstance(name, (list, tuple, set)) and name:
            each = ", ".join(repr(one) if isinstance(one, str) else str(one) for one in name)
            _refuse(f"{test}: a list is not a {kind}: name each by itself, as {marker}({each})")
        if isinstance(value, type) or not callable(getattr(value, method, None)):
            made = f": make one, as {value.__name__}(…)" if isinstance(value, type) else ""
            _refuse(f"{test}: {name!r} is not a {kind}{made}")
        values.append(value)
    return values


def _refuse(message: str) -> Any:
    pytest.fail(message, pytrace=False)
