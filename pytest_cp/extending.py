"""What other plugins add through the hooks, made known for as long as the session lasts."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest

_EXTENSIONS = pytest.StashKey[contextlib.ExitStack]()


def add_extensions(config: pytest.Config) -> None:
    """Make schemes, codecs and directions of the hooks known; raises pytest.UsageError for what is none."""
    hook = config.hook
    schemes = list(itertools.chain.from_iterable(hook.pytest_cp_schemes()))
    codecs = list(itertools.chain.from_iterable(hook.pytest_cp_codecs()))
    families = {name: make for found in hook.pytest_cp_directions() for name, make in found.items()}
    if not (schemes or codecs or families):
        return
    from cp_compress.base.errors import InvalidArgumentError
    from cp_compress.base.extensions import by_expression_name, extending
    from cp_compress.data.codecs import known_codecs
    from cp_compress.model.schemes import known_schemes
    from cp_compress.standard_directions import FAMILIES

    stack = config.stash[_EXTENSIONS] = contextlib.ExitStack()
    try:
        stack.enter_context(extending("scheme", by_expression_name(schemes, "scheme"), known_schemes()))
        stack.enter_context(extending("codec", by_expression_name(codecs, "codec"), known_codecs()))
        stack.enter_context(extending("directions", families, dict.fromkeys(FAMILIES)))
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
    found = config.hook.pytest_cp_provenance(config=config)
    return {str(name): str(value) for facts in reversed(found) for name, value in facts.items()}


def _sections(config: pytest.Config, document: dict[str, Any]) -> list[dict[str, str]]:
    found = itertools.chain.from_iterable(config.hook.pytest_cp_report_sections(document=document))
    return [{"title": str(section["title"]), "text": str(section["text"])} for section in found]
