"""Names that a package exports without importing the modules behind them until they are used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


class LazyModule:
    """A module that is imported when something of it is first used: for large ones that most runs never need.

    >>> LazyModule("math").floor(2.5)
    2
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


def lazy_exports(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return a package's `__getattr__` and `__dir__` (PEP 562) for names that live in other modules.

    `modules` maps each public name to the full name of its module.

    >>> getattr_, dir_ = lazy_exports("cp_compress", {"digest_text": "cp_compress.base.digests"})
    >>> getattr_("digest_text").__name__, dir_()
    ('digest_text', ['digest_text'])
    """

    def module_getattr(name: str) -> object:
        if name not in modules:
            from cp_compress.base.arguments import did_you_mean  # not before it is needed: a package imports this first

            advice = "" if name.startswith("_") else did_you_mean(name, modules)
            raise AttributeError(f"module {package!r} has no attribute {name!r}{advice and f'; {advice}'}")
        return getattr(importlib.import_module(modules[name]), name)

    def module_dir() -> list[str]:
        return sorted(modules)

    return module_getattr, module_dir
