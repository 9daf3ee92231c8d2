"""What a Python module defines, read from its file without importing it."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from cp_compress.base.arguments import did_you_mean
from cp_compress.base.error_reasons import shortened

_LARGEST = 4 * 1024 * 1024
# what can define names that stand nowhere in a file
_DYNAMIC = {"globals", "vars", "locals", "exec", "eval", "__getattr__", "__path__"}


def wrong_factory(text: str, folder: Path) -> str | None:
    """Return why "package.module:function" cannot be a factory, as far as the file of its module shows; None in doubt.

    Nothing is imported. Names may be made in ways that no reader sees: then nothing is said.
    """
    module, _, attribute = text.partition(":")
    found = _find(module, folder)
    if isinstance(found, str):
        return found
    if found is None:
        return None
    try:
        if found.stat().st_size > _LARGEST:
            return None
        tree = ast.parse(found.read_bytes())
    except SyntaxError as error:
        return f"module {module} is no Python: {found.name}:{error.lineno}: {shortened(error.msg, 200)}"
    except (OSError, ValueError, RecursionError, MemoryError):
        return None
    names = _names(tree)
    first = attribute.partition(".")[0]
    if names is None or (found.name == "__init__.py" and any(_within([found.parent], first))):
        return None
    if first not in names:
        return _missing(module, first, tree, names)
    return _uncallable(first, tree) if first == attribute else None


def _missing(module: str, name: str, tree: ast.Module, names: set[str]) -> str:
    callables = [one.name for one in tree.body if isinstance(one, (ast.FunctionDef, ast.ClassDef))]
    public = [one for one in callables if not one.startswith("_")]
    advice = did_you_mean(name, public) or did_you_mean(name, names)
    return f"module {module} defines no {name}{advice and f'; {advice}'}"


def _find(module: str, folder: Path) -> Path | str | None:
    """Return the file of a module, or that there is none; None where it is not a plain file of Python."""
    first, *rest = module.split(".")
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):  # it says itself that it cannot be found in the usual way
        return None
    finally:
        sys.path[:] = before
    if spec is None:
        known = [path.stem for path in sorted(folder.glob("*.py"))]
        advice = did_you_mean(first, known)
        told = f"no module is called {first}, in this folder or on the path of Python"
        return f"{told}{advice and f'; {advice}'}"
    origin = Path(spec.origin) if spec.has_location and spec.origin else None
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    for number, part in enumerate(rest, start=2):
        if origin is not None and places and _finds_elsewhere(origin):
            return None
        origin, inner = _within(places, part)
        if origin is None and not inner:
            if not places or any(list(place.glob(f"{part}.*")) for place in places if place.is_dir()):
                return None
            inside = {
                path.stem for place in places for path in place.glob("*") if path.suffix == ".py" or path.is_dir()
            }
            advice = did_you_mean(part, sorted(inside))
            return f"no module is called {'.'.join([first, *rest][:number])}{advice and f'; {advice}'}"
        places = inner
    return origin if origin is not None and origin.suffix == ".py" else None


def _within(places: list[Path], part: str) -> tuple[Path | None, list[Path]]:
    for place in places:
        if (place / part / "__init__.py").is_file():
            return place / part / "__init__.py", [place / part]
        if (place / f"{part}.py").is_file():
            return place / f"{part}.py", []
    return None, [place / part for place in places if (place / part).is_dir()]


def _finds_elsewhere(package: Path) -> bool:
    """Tell whether a package may have modules that do not lie in its folder."""
    try:
        text = package.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return True
    return any(word in text for word in ("__path__", "sys.modules", "meta_path", "exec("))


def _names(tree: ast.Module) -> set[str] | None:
    """Return the names that a module may define, wherever they stand in it; None where it may define any."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):  # also of others: nobody knows where the module itself is changed
            if node.attr not in _DYNAMIC:  # model.eval() is harmless
                found.add(node.attr)
            if node.attr == "modules" and isinstance(node.value, ast.Name) and node.value.id == "sys":
                return None
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update((one.asname or one.name).partition(".")[0] for one in node.names)
        elif isinstance(node, ast.Global):
            found.update(node.names)
        elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
            found.add(node.name)
    return None if found & (_DYNAMIC | {"*"}) else found


def _uncallable(name: str, tree: ast.Module) -> str | None:
    """Return why a function cannot be called without arguments, where it is defined once, at the top, undecorated."""
    defined = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if len(defined) != 1 or defined[0].decorator_list or sum(one == name for one in _stored(tree)) > 1:
        return None
    arguments = defined[0].args
    places = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
    needed = places[: len(places) - len(arguments.defaults)]
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    needed += [one.arg for one, default in pairs if default is None]
    return f"{name} needs {', '.join(needed)}; name a function without arguments" if needed else None


def _stored(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            yield node.id
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((one.asname or one.name).partition(".")[0] for one in node.names)
