"""What a module does not define is told from its file; in doubt nothing is said, and nothing is imported."""

import dataclasses
import sys

import pytest

from cp_compress import examples
from cp_compress.base.errors import InvalidArgumentError
from cp_compress.data import CORRUPTION_NAMES
from cp_compress.fidelity import observe
from cp_compress.fidelity.attributions.methods.declared import check_method_text, declared_methods
from cp_compress.fidelity.attributions.methods.known import known_methods
from cp_compress.fidelity.comparisons import COMPARISONS
from pytest_cp.specification.levels import _corruptions_schema, limits_of
from pytest_cp.specification.source_files import wrong_factory

FILES = {
    "plain": """
        import boom, package as known
        from package import other as renamed
        TABLE = {}
        if True:
            def inner(): ...
        for looped in (): pass
        with open(__file__) as opened: pass
        def make(): ...
        def sized(size, *, depth, scale=1): ...
        def optional(size=3): ...
        twice = make
        def twice(size): ...
        @decorated
        def wrapped(size): ...
        class Net:
            def build(self): ...
        def declares():
            global declared
            declared = 3
        walrus = (named := 3)
        model.eval()
        """,
    "made": "globals().update(x=1)",
    "lazy": "def __getattr__(name): ...",
    "starred": "from plain import *",
    "injected": "import sys; sys.modules[__name__].x = 1",
    "broken": "def f(:",
    "package/__init__": "from boom import thing",
    "package/inner": "def make(): ...",
    "elsewhere/__init__": "__path__.append('x')",
    "elsewhere/inner": "",
}
TOLD = {
    "plain:mak": "module plain defines no mak; did you mean make?",
    "plain:nothing_like_it": "module plain defines no nothing_like_it",
    "plain:sized": "sized needs size, depth; name a function without arguments",
    "broken:f": "module broken is no Python: broken.py:1: ",
    "plan:make": "no module is called plan, in this folder or on the path of Python; did you mean plain?",
    "package.iner:make": "no module is called package.iner; did you mean inner?",
    "package.inner:mak": "module package.inner defines no mak; did you mean make?",
    "package.inner.deeper:make": None,
    "package:other": "module package defines no other",
}
IN_DOUBT = [
    *(f"plain:{name}" for name in ("make", "optional", "twice", "wrapped", "Net", "Net.build", "Net.nothing", "TABLE")),
    *(f"plain:{name}" for name in ("inner", "looped", "opened", "declared", "named", "known", "renamed", "boom")),
    *("made:x", "lazy:x", "starred:x", "injected:x", "package:thing", "package:inner", "package.inner:make"),
    *("elsewhere.other:x", "torch:load", "torch.nn:Linear", "math:pi"),
]


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(line[8:] for line in text.splitlines()) if "\n" in text else text)
    return tmp_path


def test_what_is_told_of_a_file(folder):
    before = dict(sys.modules)
    for text, told in TOLD.items():
        found = wrong_factory(text, folder)
        assert found is None if told is None else found.startswith(told), (text, found)
    for text in IN_DOUBT:
        assert wrong_factory(text, folder) is None, text
    assert not {"plain", "made", "package", "broken", "boom"} & (sys.modules.keys() - before.keys())


def test_the_factories_of_the_examples_are_there(tmp_path):
    for name in ("digits", "digits_cnn"):
        assert callable(getattr(examples, name))
        assert wrong_factory(f"cp_compress.examples:{name}", tmp_path) is None
    assert wrong_factory("cp_compress.examples:digit", tmp_path).endswith("did you mean digits?")


def test_declared_methods_are_the_known_ones():
    declared, known = declared_methods(), known_methods()
    assert declared.keys() == known.keys()
    for name, made in known.items():
        fields, read = ([one.name for one in dataclasses.fields(kind)] for kind in (made, declared[name]))
        assert fields == read, name
        assert made.positional_fields == declared[name].positional_fields
        check_method_text(f"{name}(layer='features')" if "spatial layer" in made.needs else name)
    with pytest.raises(InvalidArgumentError, match="did you mean integrated_gradients"):
        check_method_text("integrated_gradient")


# a value that each option must refuse, as the schema does
REFUSED = {"minimum": lambda limit: limit - 1, "exclusiveMinimum": lambda limit: limit, "maximum": lambda limit: 2}
REFUSED |= {"exclusiveMaximum": lambda limit: limit, "enum": lambda choices: f"{choices[0]}x", "items": lambda one: [9]}


@pytest.mark.parametrize("level", [name for name, one in COMPARISONS.items() if one.kind == "behaviour"])
def test_the_limits_of_the_schema_are_those_of_the_comparison(level):
    comparison = COMPARISONS[level]
    model, data = examples.digits_cnn(), [examples.digits()[index] for index in range(12)]
    seen = observe(model, data)
    needed = {"epsilon": 0.1} if level == "divergence" else {"must_look": lambda inputs: inputs[:, 0] > 0}
    needed = needed if comparison.required == ("must_look", "must_not_look") or level == "divergence" else {}
    if level == "concepts":
        needed = {"layer": "features.0", "concepts": {"a": seen.data.select(range(8))[0]}}
    for name in comparison.options:
        for kind, limit in limits_of(level, name).items():
            if kind in REFUSED:
                with pytest.raises(InvalidArgumentError, match=name):
                    comparison.compare(seen, seen, **{**needed, name: REFUSED[kind](limit)})


def test_every_corruption_is_allowed():
    schema = _corruptions_schema()
    assert schema["items"]["enum"] == list(CORRUPTION_NAMES)
    assert schema["then"]["enum"] == ["all", *CORRUPTION_NAMES]
