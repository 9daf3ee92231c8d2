"""What other plugins add through the hooks, made known for as long as the session lasts."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from cp_compress.base.error_reasons import shortened

_EXTENSIONS = pytest.StashKey[contextlib.ExitStack]()


def add_extensions(config: pytest.Config) -> None:
    """Make what the hooks return known by name; raises pytest.UsageError for what cannot be used."""
    hook = config.hook
    schemes = _lists("pytest_cp_schemes", hook.pytest_cp_schemes(), "classes of schemes")
    codecs = _lists("pytest_cp_codecs", hook.pytest_cp_codecs(), "classes of codecs")
    attributions = _lists("pytest_cp_attribution_methods", hook.pytest_cp_attribution_methods(), "classes of methods")
    tables = _tables("pytest_cp_directions", hook.pytest_cp_directions(), "functions that make directions")
    families = {name: make for table in tables for name, make in table.items()}
    comparisons = _lists("pytest_cp_comparisons", hook.pytest_cp_comparisons(), "comparisons")
    if not (schemes or codecs or attributions or families or comparisons):
        return
    from cp_compress.base.errors import InvalidArgumentError
    from cp_compress.base.extensions import by_expression_name, extending
    from cp_compress.data.registry import known_codecs
    from cp_compress.fidelity.attributions.methods.known import attribution_methods_by_name, known_methods
    from cp_compress.fidelity.boundaries.gate_directions import FAMILIES
    from cp_compress.fidelity.comparisons import COMPARISONS, by_name
    from cp_compress.model.registry import known_schemes

    stack = config.stash[_EXTENSIONS] = contextlib.ExitStack()
    try:
        stack.enter_context(extending("scheme", by_expression_name(schemes, "scheme"), known_schemes()))
        stack.enter_context(extending("codec", by_expression_name(codecs, "codec"), known_codecs()))
        methods = attribution_methods_by_name(attributions)
        stack.enter_context(extending("attribution method", methods, known_methods()))
        stack.enter_context(extending("directions", families, dict.fromkeys(FAMILIES)))
        stack.enter_context(extending("comparison", by_name(comparisons), COMPARISONS))
    except InvalidArgumentError as error:
        stack.close()
        raise pytest.UsageError(str(error)) from error


def remove_extensions(config: pytest.Config) -> None:
    """Forget what the hooks added."""
    stack = config.stash.get(_EXTENSIONS, None)
    if stack is not None:
        stack.close()


def complete_document(config: pytest.Config, document: dict[str, Any]) -> None:
    """Add to a report the facts and sections of the hooks; one that fails is told in its notes, and loses nothing."""
    parts: dict[str, Callable[[], Any]] = {
        "provenance": lambda: _provenance(config),
        "sections": lambda: _sections(config, document),
    }
    for name, read in parts.items():
        try:
            document[name] = read()
        except Exception as error:  # a report must not be lost to what others add to it
            document["notes"].append(f"the hooks' {name} are missing: {type(error).__name__}: {error}")


def _provenance(config: pytest.Config) -> dict[str, str]:
    found = _tables("pytest_cp_provenance", config.hook.pytest_cp_provenance(config=config), "facts")
    return {str(name): str(value) for facts in reversed(found) for name, value in facts.items()}


def _sections(config: pytest.Config, document: dict[str, Any]) -> list[dict[str, str]]:
    name, rule = "pytest_cp_report_sections", "sections, each with a title and a text"
    copied = copy.deepcopy(document)  # what others do to it must not change what the session found
    found = _lists(name, config.hook.pytest_cp_report_sections(document=copied), rule)
    for section in found:
        if not isinstance(section, Mapping) or not {"title", "text"} <= section.keys():
            raise pytest.UsageError(f"{name} returned {shortened(repr(section), 80)} in its list: must be {rule}")
    return [{"title": str(section["title"]), "text": str(section["text"])} for section in found]


def _lists(hook: str, returned: Iterable[Any], rule: str) -> list[Any]:
    """Return all parts of the lists that implementations of a hook returned; raises pytest.UsageError."""
    found: list[Any] = []
    for value in returned:
        if isinstance(value, (str, bytes, Mapping, type)) or not isinstance(value, Iterable):
            raise pytest.UsageError(f"{hook} returned {shortened(repr(value), 80)}: must be a list of {rule}")
        found += value
    return found


def _tables(hook: str, returned: Iterable[Any], rule: str) -> list[Mapping[str, Any]]:
    """Return the mappings that implementations of a hook returned; raises pytest.UsageError."""
    found: list[Mapping[str, Any]] = []
    for value in returned:
        if not isinstance(value, Mapping):
            raise pytest.UsageError(
                f"{hook} returned {shortened(repr(value), 80)}: must be a mapping of names to {rule}"
            )
        found.append(value)
    return found
