"""Objects named by text: `package.module:factory`, called without arguments."""

from __future__ import annotations

import importlib.util
import inspect
import operator
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

from cp_compress.base.errors import FactoryError, InvalidArgumentError


def make_from(name: str, setting: str) -> Any:
    """Return what the factory of that name gives; `setting` is what an error calls the text.

    Raises InvalidArgumentError for a text of another form, a module or factory that is not there, and one that cannot
    be called without arguments; FactoryError, with its cause, for whatever the module or the factory itself raises.

    >>> len(make_from("cp_compress.examples:digits", "dataset"))
    600
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise InvalidArgumentError(f'{setting} = "{name}": must have the form "package.module:factory"')
    _refuse_python(module_name, f'{setting} = "{name}"')
    try:
        factory = operator.attrgetter(attribute)(importlib.import_module(module_name))
    except (ImportError, AttributeError) as error:
        raise InvalidArgumentError(f'{setting} = "{name}": {error}') from error
    except (Exception, SystemExit) as error:
        raise _told(f'{setting} = "{name}": importing {module_name}', error) from error
    if not callable(factory) or _is_module(factory):
        found = f"{attribute} is a {type(factory).__name__}" + ("" if callable(factory) else ", which is not callable")
        raise InvalidArgumentError(f'{setting} = "{name}": {found}; name a function without arguments that returns it')
    if isinstance(factory, (BuiltinFunctionType, FunctionType, type)):  # by whatever way it was reached
        _refuse_python(str(factory.__module__), f'{setting} = "{name}"')
    required = _required_arguments(factory)
    if required:
        rule = f"{attribute} needs {', '.join(required)}; name a function without arguments"
        raise InvalidArgumentError(f'{setting} = "{name}": {rule}')
    try:
        return factory()
    except InvalidArgumentError:
        raise
    except (Exception, SystemExit) as error:
        raise _told(f'{setting} = "{name}"', error) from error


def _refuse_python(module_name: str, what: str) -> None:
    """Raise InvalidArgumentError for a module of Python itself: none makes a model or data, and some end the process.

    A module of the user's own that only has the same name is none.
    """
    top = module_name.partition(".")[0]
    if top not in sys.stdlib_module_names:
        return
    found = importlib.util.find_spec(top)
    origin = None if found is None else found.origin
    if origin in (None, "built-in", "frozen") or Path(origin).is_relative_to(sysconfig.get_path("stdlib")):
        raise InvalidArgumentError(f"{what}: {top} is a module of the standard library, which makes no models or data")


def _told(what: str, error: BaseException) -> FactoryError:
    return FactoryError(f"{what} raised {type(error).__name__}: {error}")


def _is_module(value: object) -> bool:
    torch = sys.modules.get("torch")  # without torch there are no modules
    return torch is not None and isinstance(value, torch.nn.Module)


def _required_arguments(factory: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some built-in ones have none
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in optional]
