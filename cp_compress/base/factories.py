"""Objects named by text: `package.module:factory`, called without arguments."""

from __future__ import annotations

import importlib
import operator
from typing import Any

from cp_compress.base.errors import InvalidArgumentError


def make_from(name: str, setting: str) -> Any:
    """Return what the factory of that name gives; `setting` is what an error calls the text.

    Raises InvalidArgumentError for a text of another form, a module or factory that is not there, and one that cannot
    be called; whatever the factory itself raises goes through.

    >>> len(make_from("cp_compress.examples:digits", "dataset"))
    600
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise InvalidArgumentError(f'{setting} = "{name}": must have the form "package.module:factory"')
    try:
        factory = operator.attrgetter(attribute)(importlib.import_module(module_name))
    except (ImportError, AttributeError) as error:
        raise InvalidArgumentError(f'{setting} = "{name}": {error}') from error
    if not callable(factory):
        raise InvalidArgumentError(f'{setting} = "{name}": {attribute} is not callable')
    return factory()
