"""The package is on no index yet: what texts install is a checkout, a wheel or an address, never the bare name."""

import re
from pathlib import Path

import pytest
from snippets import read_snippets

from cp_compress.base.errors import MissingExtraError

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WHEEL = f"pytest_cp-{PROJECT['version']}-py3-none-any.whl"
KINDS = {".md", ".yml", ".yaml", ".toml", ".py", ".txt", ".cfg", ".html", ""}
FOLDERS = ("cp_compress", "pytest_cp", "docs", "examples", "benchmarks", "tests", "changelog.d", ".github", ".ci")
TEXTS = [
    path
    for path in [*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    if path.is_file() and path.suffix in KINDS and path != Path(__file__).resolve()
]
_INSTALLER = re.compile(
    r"\b(?:pip[\d.]* +(?:install|download|wheel)|(?:uv|poetry|pdm|hatch|rye|pixi) +(?:tool +)?(?:add|install|run)"
    r"|uvx|pipx +(?:install|run)|(?:conda|mamba) +install|additional_dependencies:)(?P<rest>[^\n#]*)"
)
# a name that pip would look for on an index: not part of a path or a file's name, and without an address behind it
_BARE = re.compile(r"(?<![\w./-])pytest[-_.]cp(\[[^\]]*\])?(?![\[\w/-]|\.\w| *@)", re.IGNORECASE)


def bare_lines(text):
    """Return the commands of a text that would install the package by its bare name."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [found[0] for found in _INSTALLER.finditer(joined) if _BARE.search(found["rest"])]


@pytest.mark.parametrize(
    "line",
    [
        "pip install pytest-cp",
        "$ pip install pytest_cp",
        "python -m pip install --upgrade pytest-cp pytest-xdist",
        'pip install "pytest-cp[onnx]"',
        "pip install 'pytest-cp[onnx]>=0.1'",
        "pip install pytest-xdist \\\n    pytest-cp==0.1.0",
        "uv add pytest-cp",
        "pipx install pytest.cp",
        "additional_dependencies: [pytest-cp]",
        "needs an optional dependency: pip install 'pytest-cp[{extra}]'",
    ],
)
def test_a_bare_name_is_found(line):
    assert bare_lines(line)


@pytest.mark.parametrize(
    "line",
    [
        "pip install .",
        'pip install --editable ".[test]"',
        f"pip install dist/{WHEEL}",
        f'pip install "wheels/{WHEEL}[onnx]" pytest-xdist',
        'pip install "pytest-cp @ git+https://git.example/owner/pytest-cp"',
        'pip install "pytest-cp[onnx] @ git+https://git.example/owner/pytest-cp"',
        "pip install ./pytest-cp",
        "pip install pytest-cpuinfo",
        "the plugin pytest-cp",
    ],
)
def test_what_says_where_it_comes_from_is_not(line):
    assert not bare_lines(line)


def test_no_text_installs_the_bare_name():
    assert len(TEXTS) > 500
    found = {
        str(path.relative_to(ROOT)): lines for path in TEXTS if (lines := bare_lines(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_the_wheel_that_texts_name_is_that_of_this_version():
    from cp_compress import __version__

    named = {
        name for path in TEXTS for name in re.findall(r"pytest_cp-[\w.-]+?\.whl", path.read_text(encoding="utf-8"))
    }
    assert named == {WHEEL}
    assert PROJECT["version"] == __version__


def test_the_first_page_says_how_to_install():
    """A page that only forbids the bare name would help nobody."""
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    commands = [line for one in read_snippets(page) for line in one.body.splitlines() if line.startswith("$ pip ")]
    assert commands[0].partition("  #")[0] == "$ pip install ."
    assert f'$ pip install "dist/{WHEEL}[onnx]"' in commands


@pytest.mark.parametrize("extra", ["cluster", "onnx", "shrink", "transformers"])
def test_a_missing_extra_is_installed_by_the_names_of_its_packages(extra):
    """These are on an index, and the command works wherever the package itself came from."""
    message = str(MissingExtraError("this", extra))
    assert f"pytest-cp[{extra}]" in message
    for package in PROJECT["optional-dependencies"][extra]:
        assert f'"{package}"' in message.partition("pip install ")[2]
    assert not bare_lines(message)


def test_an_extra_that_is_not_declared_has_no_command():
    assert "pip install" not in str(MissingExtraError("this", "nowhere"))


def test_every_extra_that_is_asked_for_is_declared():
    sources = [path for path in TEXTS if path.suffix == ".py" and path.is_relative_to(ROOT / "cp_compress")]
    asked = [
        extra
        for path in sources
        for extra in re.findall(r"MissingExtraError\([^()]*, \"(\w+)\"\)", path.read_text(encoding="utf-8"))
    ]
    assert len(asked) >= 5
    assert set(asked) <= set(PROJECT["optional-dependencies"])
