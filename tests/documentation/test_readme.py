"""What the README shows runs as it is written; `test_site.py` runs the pages that it points to."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LONGEST = 130


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def block_with(text, language="python", source=README):
    blocks = re.findall(rf"```{language}\b[^\n]*\n(.*?)```", source, flags=re.DOTALL)
    (found,) = [block for block in blocks if text in block]
    return found


def test_it_is_short():
    assert len(README.splitlines()) <= LONGEST


@pytest.fixture
def folder(pytester):
    pytester.makefile(".ini", pytest=block_with("cp_reference", "ini"))
    return pytester


def test_first_example_passes(folder):
    folder.makepyfile(test_release=block_with("# test_release.py"))
    result = folder.runpytest_inprocess()
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=7)


def test_the_specification_that_is_shown_can_be_read(tmp_path):
    from pytest_cp.specification import read_specification

    path = tmp_path / "gate.toml"
    path.write_text(block_with("schema_version", "toml"))
    specification = read_specification(path)
    assert [candidate["name"] for candidate in specification.candidates] == ["quantize(int8)", "what the device says"]
    assert [one.level for one in specification.requirements] == ["predictions", "boundaries"]


def test_pages_and_pictures_are_there():
    found = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    assert "docs/images/report.png" in found
    for target in found:
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_commands_have_the_options_that_are_shown(capsys):
    from cp_compress.cli.main import main

    pages = "\n".join(page(f"{name}.md") for name in ("reference/command-line", "how-to/search"))
    shown = re.findall(r"^\$ cp-compress (\w+) ((?:[^\\\n]|\\\n)*)", pages, re.MULTILINE)
    assert {"compress", "footprint", "compare", "encode", "verify", "search"} <= {command for command, _ in shown}
    for command, arguments in shown:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known = capsys.readouterr().out
        options = re.findall(r"--[a-z-]+", arguments)
        assert options or command in ("inspect", "verify")
        assert all(option in known for option in options)


def test_every_expression_in_the_tables_can_be_read():
    from cp_compress import parse_codec, parse_scheme

    tables = page("reference/model.md") + page("reference/data.md")
    written = re.findall(r"`((?:\w*prune|quantize|fixed_point|low_rank|jpeg|zfp)\([^`]*)`", tables)
    assert len(written) >= 20
    for text in written:
        parse = parse_codec if text.startswith(("jpeg", "zfp")) else parse_scheme
        assert parse(text.replace("\\|", "|"))


def test_every_option_and_ini_key_is_documented():
    from pytest_cp.session import options

    reference = page("reference/options.md")
    for name, *_ in options.INI:
        assert f"`{name}`" in reference, name
    for option in re.findall(r'"(--cp-[a-z-]+)"', Path(options.__file__).read_text(encoding="utf-8")):
        assert f"`{option}" in reference, option
