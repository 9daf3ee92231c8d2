"""What the README shows runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def block_with(text, language="python"):
    (found,) = [block for block in blocks(language) if text in block]
    return found


@pytest.fixture
def folder(pytester):
    pytester.makefile(".ini", pytest=block_with("cp_reference", "ini"))
    return pytester


def test_first_example_passes(folder):
    folder.makepyfile(test_release=block_with("# test_release.py"))
    result = folder.runpytest_inprocess()
    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=7)


def test_hypothesis_example_passes(folder):
    source = "import pytest\nfrom pytest_cp import assert_boundary_distance\n" + block_with("direction_batches((1,")
    folder.makepyfile(
        test_waves=source.replace("@given", "@settings(max_examples=3, deadline=None)\n@given").replace(
            "import given", "import given, settings"
        )
    )
    result = folder.runpytest_inprocess()
    assert result.ret == 0, result.stdout.str()


def test_library_example_runs(tmp_path):
    assert "Footprint(parameters=" in run_script(tmp_path, block_with("import Prune, Quantize, compare_predictions"))


def run_script(folder, source):
    script = folder / "script.py"
    script.write_text(source)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=900, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_specification_that_is_shown_can_be_read(tmp_path):
    from pytest_cp.specification import read_specification

    path = tmp_path / "gate.toml"
    path.write_text(block_with("schema_version", "toml"))
    specification = read_specification(path)
    assert [candidate["name"] for candidate in specification.candidates] == ["quantize(int8)", "what the device says"]
    assert [one.level for one in specification.requirements] == ["predictions", "boundaries"]


def test_pages_and_pictures_are_there():
    found = re.findall(r"\]\(([^)#]+)\)", README)
    assert "docs/images/report.png" in found
    for target in found:
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_commands_have_the_options_that_are_shown(capsys):
    from cp_compress.cli.main import main

    shown = re.findall(r"cp-compress (\w+) ((?:[^\\\n]|\\\n)*)", block_with("cp-compress compress", "console"))
    assert [command for command, _ in shown] == ["compress", "footprint", "compare", "encode", "verify", "search"]
    for command, arguments in shown:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known = capsys.readouterr().out
        options = re.findall(r"--[a-z-]+", arguments)
        assert options or command == "verify"
        assert all(option in known for option in options)


def test_every_expression_in_the_tables_can_be_read():
    from cp_compress import parse_codec, parse_scheme

    written = re.findall(r"`((?:\w*prune|quantize|fixed_point|low_rank|jpeg|zfp)\([^`]*)`", README)
    assert len(written) >= 20
    for text in written:
        parse = parse_codec if text.startswith(("jpeg", "zfp")) else parse_scheme
        assert parse(text.replace("\\|", "|"))


def test_every_option_and_ini_key_is_documented():
    from pytest_cp.session import options

    for name, *_ in options._INI:
        assert f"`{name}`" in README, name
    for option in re.findall(r'"(--cp-[a-z-]+)"', Path(options.__file__).read_text(encoding="utf-8")):
        assert f"`{option}" in README, option
