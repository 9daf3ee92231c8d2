"""Which overrides of `reference_model` and `dataset` a test sees: what is compressed must be made from those.

pytest keeps the value of a fixture by its parameter alone, so that a fixture of session scope would go on giving what
it was made from in another module, folder or class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_cp.session.state import session_state

if TYPE_CHECKING:
    Definitions = Mapping[str, Sequence[pytest.FixtureDef[Any]]]

_SCOPES = ("function", "class", "module", "package", "session")
_MADE_FROM = {"compressed_model": ("reference_model", "cp_device"), "compressed_dataset": ("dataset",)}
_SUBJECTS = (*_MADE_FROM, "reference_model", "dataset")


def scope_of(metafunc: pytest.Metafunc, fixture: str) -> Any:
    """Return the scope that a compressed subject of a test can have: the narrowest of what it is made from."""
    definitions: Definitions = metafunc._arg2fixturedefs
    scopes: list[str] = [definitions[name][-1].scope for name in _MADE_FROM[fixture] if name in definitions]
    for mark in metafunc.definition.iter_markers("parametrize"):
        scopes += _scopes_of_parameters(_MADE_FROM[fixture], *mark.args, **mark.kwargs)
    return min(["session", *scopes], key=_SCOPES.index)


def _scopes_of_parameters(
    wanted: Sequence[str],
    argnames: str | Sequence[str] = (),
    argvalues: Any = (),
    indirect: bool | Sequence[str] = False,
    ids: Any = None,
    scope: str | None = None,
) -> Iterator[str]:
    """Yield the scopes of those fixtures that `pytest.mark.parametrize`, with these arguments, gives values itself."""
    names = [name.strip() for name in argnames.split(",")] if isinstance(argnames, str) else argnames
    through_fixture = indirect if not isinstance(indirect, bool) else names if indirect else ()
    for name in set(names) & set(wanted):
        if scope is not None or name not in through_fixture:
            yield scope or "function"


def forget_other_overrides(item: pytest.Item) -> None:
    """Let a test's reference, data and compressed subjects be made anew where other fixtures made them last."""
    definitions: Definitions | None = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", None)
    if definitions is None:  # no test function
        return
    known = session_state(item.config).made_by
    for name in _SUBJECTS:
        for definition in definitions.get(name, ()):
            made_by = tuple(_chain(definition, definitions))
            if known.setdefault(definition, made_by) != made_by:
                known[definition] = made_by
                if definition.cached_result is not None:
                    definition.finish(item._request)  # type: ignore[attr-defined]


def _chain(definition: pytest.FixtureDef[Any], definitions: Definitions) -> Iterator[pytest.FixtureDef[Any]]:
    """Yield all fixtures that a fixture is made from in one test, as pytest resolves their names there."""
    for name in definition.argnames:
        found = list(definitions.get(name, ()))
        if name == definition.argname:  # an override that asks for what it overrides
            found = found[: found.index(definition)] if definition in found else []
        if found:
            yield found[-1]
            yield from _chain(found[-1], definitions)
