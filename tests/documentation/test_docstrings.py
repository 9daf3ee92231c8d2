"""Public callables of more than three parameters have sections for parameters, result and errors, in Google's style."""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest

from cp_compress.base import errors

griffe = pytest.importorskip("griffe")

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["cp_compress", *(f"cp_compress.{name}" for name in ("artifacts", "data", "fidelity", "model", "search"))]
PACKAGES += ["pytest_cp"]
DOCUMENTED = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
MOST_WITHOUT_SECTIONS = 3
ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
REFUSALS = ("check_", "reject", "refuse_", "require_")


def public_names():
    """Return all documented names, and all that the packages export."""
    pages = (path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    exported = {f"{name}.{each}" for name in PACKAGES for each in importlib.import_module(name).__all__}
    return exported | {name for page in pages for name in DOCUMENTED.findall(page)}


def resolve(name):
    """Return the object of a full name: of a module, or of a class in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{name} is not importable")


def own_functions(value):
    """Yield a function, or a class and its public functions."""
    yield value
    if inspect.isclass(value):
        for name, member in vars(value).items():
            function = getattr(member, "__func__", member)
            if inspect.isfunction(function) and not name.startswith("_"):
                yield function


def parameters_of(value):
    if inspect.isclass(value) and issubclass(value, BaseException):
        return []
    try:
        signature = inspect.signature(value)
    except ValueError:
        return []
    if inspect.isfunction(value) and value.__doc__ == inspect.unwrap(value).__doc__:  # `**bounds`, as it is written
        signature = inspect.signature(inspect.unwrap(value, stop=lambda inner: not hasattr(inner, "__wrapped__")))
    return [name for name in signature.parameters if name not in ("self", "cls")]


def long_callables():
    found = {}
    for name in public_names():
        value = resolve(name)
        if not callable(value) or not getattr(value, "__module__", "").startswith(("cp_compress", "pytest_cp")):
            continue
        for function in own_functions(value):
            if len(parameters_of(function)) > MOST_WITHOUT_SECTIONS:
                found[f"{function.__module__}.{function.__qualname__}"] = function
    return found


CALLABLES = long_callables()


def sections_of(value):
    parsed = griffe.Docstring(inspect.getdoc(value) or "").parse("google", returns_multiple_items=False, warnings=False)
    kinds = {}
    for section in parsed:
        kinds.setdefault(section.kind.value, []).append(section.value)
    return kinds


def names_in(kinds, *wanted):
    return [item.name.lstrip("*") for kind in wanted for section in kinds.get(kind, ()) for item in section]


def refuses_arguments(value):
    """Tell whether a function, or a class as it is made, raises an error of the package by itself."""
    if inspect.isclass(value):
        makers = (getattr(value, name, None) for name in ("__init__", "__post_init__"))
        return any(refuses_arguments(maker) for maker in makers if inspect.isfunction(maker))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    except (OSError, SyntaxError):  # made by `dataclass`
        return False
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [node.id for node in called if isinstance(node, ast.Name)]
    raised = {node.exc.func.id for node in ast.walk(tree) if isinstance(node, ast.Raise) and is_made(node.exc)}
    return any(name.startswith(REFUSALS) for name in names) or bool(raised & ERRORS)


def is_made(exception):
    return isinstance(exception, ast.Call) and isinstance(exception.func, ast.Name)


def problems_of(value):
    """Return what is missing from the docstring of a callable."""
    kinds, parameters, found = sections_of(value), parameters_of(value), []
    documented = names_in(kinds, "parameters", "other parameters")
    if inspect.isclass(value):
        documented += names_in(kinds, "attributes")
    if sorted(documented) != sorted(parameters):
        missing, unknown = sorted({*parameters} - {*documented}), sorted({*documented} - {*parameters})
        repeated = sorted({name for name in documented if documented.count(name) > 1})
        found.append(f"parameters: missing {missing}, unknown {unknown}, repeated {repeated}")
    returned = inspect.signature(value).return_annotation
    if not inspect.isclass(value) and returned not in (None, "None") and "returns" not in kinds:
        found.append("Returns: is missing")
    if refuses_arguments(value) and "raises" not in kinds:
        found.append("Raises: is missing")
    return found


# the twin of an assertion takes its arguments, and says so
@pytest.mark.parametrize(
    "name", sorted(name for name in CALLABLES if "pytest_cp.assertions" not in name or ".assert_" in name)
)
def test_sections_name_every_parameter(name):
    assert problems_of(CALLABLES[name]) == [], name


def test_what_is_found_in_a_docstring():
    def judge(first, second, third, fourth) -> int:
        """Judge.

        Args:
            first: A number.
            second: A number: any.
            other: A number.

        >>> judge(1, 2, 3, 4)
        0
        """
        return 0

    assert problems_of(judge) == [
        "parameters: missing ['fourth', 'third'], unknown ['other'], repeated []",
        "Returns: is missing",
    ]


def test_public_callables_are_found():
    assert {"cp_compress.data.store.writing.write_store", "cp_compress.data.zfp.codec.ZFP"} <= CALLABLES.keys()
    assert refuses_arguments(CALLABLES["cp_compress.data.store.writing.write_store"])
    assert refuses_arguments(CALLABLES["cp_compress.data.zfp.codec.ZFP"])
