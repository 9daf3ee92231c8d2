"""Objects named by text: `package.module:factory`, called without arguments."""

from __future__ import annotations

import importlib.util
import inspect
import operator
import pkgutil
import re
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

from cp_compress.base.arguments import did_you_mean, nearest
from cp_compress.base.errors import FactoryError, InvalidArgumentError

_SUFFIXES = (
    *(".npz", ".npy", ".cp", ".onnx", ".pt", ".pth", ".pt2", ".bin", ".safetensors", ".toml", ".csv", ".zip", ".store"),
    *(".png", ".jpg", ".jpeg"),
)


def make_from(name: str, setting: str) -> Any:
    """Return what the factory of that name gives; `setting` is what an error calls the text.

    Raises InvalidArgumentError for a text of another form, a module or factory that is not there, and one that cannot
    be called without arguments; FactoryError, with its cause, for whatever the module or the factory itself raises.

    >>> len(make_from("cp_compress.examples:digits", "dataset"))
    600
    """
    module_name, attribute = read_factory(name, setting)
    _refuse_python(module_name, f'{setting} = "{name}"')
    try:
        factory = operator.attrgetter(attribute)(importlib.import_module(module_name))
    except (ImportError, AttributeError) as error:
        raise InvalidArgumentError(f'{setting} = "{name}": {error}{_advice(module_name, attribute, error)}') from error
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


def read_factory(name: str, setting: str) -> tuple[str, str]:
    """Return the module and the function that a text names, without importing anything.

    Raises InvalidArgumentError for a text of another form, with what it may stand for.
    """
    module_name, colon, attribute = name.partition(":")
    if names_file(name):
        raise InvalidArgumentError(f'{setting} = "{name}": is the name of a file, not of a function that returns it')
    if not colon or not module_name or not attribute:
        raise InvalidArgumentError(
            f'{setting} = "{name}": must have the form "package.module:factory"{meant_factory(name)}'
        )
    if module_name.endswith(".py") or "/" in module_name or "\\" in module_name:
        raise InvalidArgumentError(
            f'{setting} = "{name}": names a file; name the module, as "{_module_of(module_name)}:{attribute}", and let '
            "its folder be the current one, or on the path"
        )
    return module_name, attribute


def names_file(name: str) -> bool:
    """Tell whether a text looks like the path of a file or folder, and not like the name of a function.

    >>> names_file("digits.npz"), names_file("runs/net"), names_file("net.py:make"), names_file("package.module:make")
    (True, True, False, False)
    """
    path = Path(name)
    if ":" in name and not path.drive:
        return False
    return path.suffix.lower() in _SUFFIXES or len(path.parts) > 1


def meant_factory(name: str) -> str:
    """Return what a text without a colon may stand for: the last dot, or a comma or two colons, in place of it."""
    module, _, attribute = re.sub(r"::|[,;]\s*", ".", name.strip(" ()")).rpartition(".")
    whole = module and all(part.isidentifier() for part in (*module.split("."), attribute))
    return f'; did you mean "{module}:{attribute}"?' if whole and attribute != "py" else ""


def _module_of(path: str) -> str:
    return re.sub(r"[/\\]+", ".", path.removesuffix(".py").removeprefix("./").removeprefix(".\\").strip("/\\"))


def _advice(module_name: str, attribute: str, error: ImportError | AttributeError) -> str:
    """Return which name of a module is near to one that it does not have, or where modules are searched."""
    module = sys.modules.get(module_name)
    if isinstance(error, ModuleNotFoundError):
        missing = error.name or ""
        if not f"{module_name}.".startswith(f"{missing}."):
            return f", which {module_name} imports: install it, or run where it is found"
        parent, _, last = missing.rpartition(".")
        places = getattr(sys.modules.get(parent), "__path__", None) if parent else [*sys.path]
        known = [one.name for one in pkgutil.iter_modules(places)] if places is not None else []
        close = nearest(last, known, most=1)
        named = f"did you mean {'.'.join(filter(None, (parent, close[0])))}?" if close else ""
        return f"; {named or 'modules are found in the current folder and on the path of Python'}"
    if module is None or not isinstance(error, AttributeError) or "." in attribute:
        return ""
    callables = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
    advice = did_you_mean(attribute, callables)
    return f"; {advice}" if advice else ""


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
