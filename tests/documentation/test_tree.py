"""The tree stays easy to survey: small folders that say what they are for, and `make check` that touches all tests."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_MODULES = 20
CHECKED = [line.partition("::") for line in (ROOT / "tests" / "check.txt").read_text(encoding="utf-8").split()]
FOLDERS = sorted(
    {
        path.parent.relative_to(ROOT)
        for name in ("cp_compress", "pytest_cp", "tests")
        for path in (ROOT / name).rglob("*.py")
    }
)


def names(folders):
    return [pytest.param(folder, id=folder.as_posix()) for folder in folders]


@pytest.mark.parametrize("folder", names(FOLDERS))
def test_a_folder_has_at_most_twenty_modules(folder):
    modules = sorted(path.name for path in (ROOT / folder).glob("*.py"))
    assert len(modules) <= MOST_MODULES, f"{folder} has {len(modules)} modules: make a folder of those of one kind"


@pytest.mark.parametrize("folder", names(folder for folder in FOLDERS if folder.parts[0] != "tests"))
def test_a_package_opens_with_the_sentence_that_says_what_it_is_for(folder):
    init = ROOT / folder / "__init__.py"
    assert init.exists(), f"{folder} has no __init__.py"
    docstring = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8")))
    assert docstring, f"{folder}/__init__.py has no docstring"
    first = docstring.split("\n\n")[0]
    assert first[0].isupper(), first
    assert first.endswith((".", "?")), first


def test_no_modules_import_each_other_in_a_circle():
    """The contract on circles is about folders; a package and a module of its own can make one, too."""
    grimp, networkx = pytest.importorskip("grimp"), pytest.importorskip("networkx")
    imports = grimp.build_graph("cp_compress", "pytest_cp", cache_dir=None)
    graph = networkx.DiGraph(
        (module, other) for module in imports.modules for other in imports.find_modules_directly_imported_by(module)
    )
    assert [circle for circle in networkx.strongly_connected_components(graph) if len(circle) > 1] == []


@pytest.mark.parametrize("folder", names(folder for folder in FOLDERS if list((ROOT / folder).glob("test_*.py"))))
def test_make_check_touches_every_folder_of_tests(folder):
    checked = {Path(path).parent for path, *_ in CHECKED}
    assert folder in checked, f"name a quick test module of {folder} in tests/check.txt"


@pytest.mark.parametrize("entry", CHECKED, ids="".join)
def test_what_make_check_names_is_there(entry):
    path, _, test = entry
    assert (ROOT / path).is_file(), path
    if test:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, test


def test_make_check_runs_what_is_named():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (check,) = [block for block in makefile.split("\n\n") if block.startswith("check:")]
    assert "tests/check.txt" in check
