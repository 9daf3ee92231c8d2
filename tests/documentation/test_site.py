"""The documentation site: its snippets run, its links lead somewhere, and nothing that it should name is missing."""

import argparse
import importlib
import importlib.util
import os
import re
from pathlib import Path

import pytest
from forks import programs, run_program
from missing_extras import skip_for_what_is_told
from snippets import RUN_LANGUAGES, first_missing, read_commands, read_snippets

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
NAVIGATION = re.findall(
    r"^ *- (?:[^:\n]+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE
)
PACKAGES = {
    "pytest_cp": "pytest_cp",
    "cp_compress.model": "model",
    "cp_compress.data": "data",
    "cp_compress.fidelity": "fidelity",
    "cp_compress.pipeline": "pipeline",
    "cp_compress.search": "search",
    "cp_compress.artifacts": "artifacts",
}
NOT_RUN_AT_MOST = 4
FOREIGN = ("CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "TEAMCITY_VERSION", "TF_BUILD")
FOREIGN += ("GITHUB_STEP_SUMMARY", "FORCE_COLOR")
LOADED = re.compile(r"""<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^\s"'>]+)""")


def text_of(page):
    return (DOCS / page).read_text(encoding="utf-8")


WITH_SNIPPETS = [page for page in PAGES if any(one.not_run is None for one in read_snippets(text_of(page)))]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="snippets are run in forks, which this system does not have")
@pytest.mark.parametrize("page", WITH_SNIPPETS)
def test_snippets_run(tmp_path, page):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_") and name not in FOREIGN}
    shown = {"PATH": f"{programs()}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120", "NO_COLOR": "1"}
    done = run_program("page", str(DOCS / page), folder=tmp_path, environment=kept | shown)
    if done.returncode != 0:
        skip_for_what_is_told(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr


def test_snippets_that_are_not_run_say_why():
    reasons = [(page, one.not_run) for page in PAGES for one in read_snippets(text_of(page)) if one.not_run is not None]
    assert len(reasons) <= NOT_RUN_AT_MOST, reasons
    assert all(len(reason) > 10 for _, reason in reasons)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_seen(page):
    text = text_of(page)
    opened = re.findall(rf"^ *```(?:{'|'.join(RUN_LANGUAGES)})\b", text, re.MULTILINE)
    assert len(read_snippets(text)) == len(opened)
    assert text.count("<!-- not run") == sum(one.not_run is not None for one in read_snippets(text))


def test_what_the_runner_compares():
    ((command, expected),) = read_commands("$ pytest \\\n    -x\n1 failed …\nend\n")
    assert command == "pytest -x"
    assert first_missing(expected, "start\n1 failed in 3.5 s\n\nend\n") is None
    assert first_missing(expected, "end\n1 failed in 3.5 s\n") == "end"


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("about 579 more examples", "about 546 more examples", False),
        ("38,768 bytes", "38,769 bytes", False),
        ("== 2 passed in 3.51s ==", "==== 2 passed in 12.90s ====", True),
        ("2 passed in 3.5 s", "1 passed in 3.5 s", False),
        ("agreement  0.9417  ≥ 0.97", "agreement 0.9301 ≥ 0.97", True),
        ("agreement  0.9417  ≥ 0.97", "agreement 0.90 ≥ 0.97", False),
        ("margin -0.0283", "margin 0.0283", False),
        ("kl 0.0021", "kl 0.0022", True),
        ("kl 0.0021", "kl 0.0024", False),
        ("1.2e-05 nats", "1.21e-05 nats", True),
        ("1.2e-05 nats", "1.2e-04 nats", False),
        ("quantize(int8) 1", "quantize(int4) 1", False),
        ("83%, … dB", "83%, 9.2 and 3 dB", True),
        (
            "wrote /home/ada/gate.toml on 2026-01-02, version 0.1.0",
            "wrote /a/b.toml on 2027-10-12, version 0.2.1",
            True,
        ),
        ("digest 0123456789abcdef", "digest fedcba9876543210", True),
    ],
)
def test_numbers_of_a_page_are_compared(shown, printed, same):
    assert (first_missing([shown], f"before\n{printed}\nafter") is None) == same


def test_navigation_is_complete():
    assert sorted(NAVIGATION) == PAGES


def anchors_of(page):
    headings = re.findall(r"^#+ (.+?)(?: \{#([\w-]+)\})?$", text_of(page), re.MULTILINE)
    slugs = {
        given or re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title, given in headings
    }
    return slugs | set(re.findall(r"^::: ([\w.]+)$", text_of(page), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_internal_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", text_of(page), flags=re.DOTALL)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        other = (DOCS / page).parent / path if path else DOCS / page
        assert other.resolve().exists(), f"{page}: {target}"
        if anchor and other.suffix == ".md":
            assert anchor in anchors_of(other.resolve().relative_to(DOCS).as_posix()), f"{page}: {target}"


def test_examples_for_build_servers_are_there():
    named = re.findall(r"^\| `([\w.-]+)` \|", text_of("how-to/ci.md"), re.MULTILINE)
    assert named
    assert [name for name in named if not (ROOT / "examples" / "ci" / name).is_file()] == []


def test_no_page_names_a_machine():
    words = re.compile(r"/(?:work|home|tmp|root)/")
    for path in [*DOCS.rglob("*.md"), *DOCS.rglob("*.py"), ROOT / "mkdocs.yml"]:
        assert not words.search(path.read_text(encoding="utf-8")), path


class Declared(list):
    """Stands for pytest's parser, and remembers the names of what is declared."""

    def getgroup(self, *names):
        return self

    def addoption(self, *names, **settings):
        self.extend(names)

    def addini(self, name, *rest, **settings):
        self.append(name)


def test_every_option_and_ini_key_is_in_the_reference():
    from pytest_cp.session import options

    declared = Declared()
    options.add_options(declared)
    reference = text_of("reference/options.md")
    rows = re.findall(r"^\| `(--cp-[a-z-]+|cp_[a-z_]+)", reference, re.MULTILINE)
    markers = set(options.MARKERS)
    assert set(rows) - markers - {"cp_device"} == set(declared) - {"cp_device"}  # which is a fixture too
    assert all(f"`{marker}" in reference for marker in markers)


def test_pages_name_no_unknown_option():
    from pytest_cp.session import options

    declared = Declared()
    options.add_options(declared)
    for page in PAGES:
        named = set(re.findall(r"(?<![\w-])(--cp-[a-z]+(?:-[a-z]+)*)", text_of(page)))
        assert named <= set(declared), page


def test_every_command_and_its_options_are_in_the_reference():
    from cp_compress.cli.main import _parser

    reference = text_of("reference/command-line.md")
    (commands,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    for name, parser in commands.choices.items():
        section = re.search(rf"^## `cp-compress {name}`\n(.*?)(?=^## |\Z)", reference, re.MULTILINE | re.DOTALL)
        assert section, name
        options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
        assert all(f"`{option}" in section[1] for option in options - {"--help"}), (name, options)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(package):
    reference = text_of(f"reference/{PACKAGES[package]}.md")
    shown = set(re.findall(rf"^::: {re.escape(package)}\.(\w+)$", reference, re.MULTILINE))
    shown |= set(re.findall(r"^\| `(\w+)` \|", reference, re.MULTILINE))
    assert set(importlib.import_module(package).__all__) <= shown


def test_every_public_name_of_the_library_is_listed():
    reference = text_of("reference/cp_compress.md")
    assert all(
        f"`{name}`" in reference or f".{name}\n" in reference for name in importlib.import_module("cp_compress").__all__
    )


def test_every_metric_is_explained():
    from cp_compress.fidelity.judging.metrics import METRICS

    explained = "".join(text_of(page) for page in PAGES if page.startswith("explanation/"))
    assert [name for metrics in METRICS.values() for name in metrics if f"`{name}`" not in explained] == []


def test_site_builds_strictly(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        content = page.read_text(encoding="utf-8")
        assert "arithmatex" not in content, page
        # what the converter does not know is left as it was written
        assert [found for found in re.findall(r"<math.*?</math>", content, re.DOTALL) if "\\" in found] == [], page
        assert LOADED.findall(content) == [], page
        # a pipe in a table has a backslash in Markdown alone
        cells = re.findall(r"<t[dh]\b.*?</t[dh]>", content, re.DOTALL)
        assert not any(r"\|" in code for cell in cells for code in re.findall(r"<code>.*?</code>", cell)), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"""(?:url\(|@import )["']?(?:https?:)?//""", sheet.read_text(encoding="utf-8")), sheet
