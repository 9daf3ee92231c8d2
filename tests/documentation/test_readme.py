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
    script = tmp_path / "script.py"
    script.write_text(block_with("from cp_compress import Prune"))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Footprint(parameters=" in done.stdout


def test_every_expression_in_the_tables_can_be_read():
    from cp_compress import parse_codec, parse_scheme

    written = re.findall(r"`((?:prune|filter_prune|quantize|jpeg|zfp)\([^`]*)`", README)
    assert len(written) >= 12
    for text in written:
        parse = parse_codec if text.startswith(("jpeg", "zfp")) else parse_scheme
        assert parse(text.replace("\\|", "|"))


def test_every_option_and_ini_key_is_documented():
    from pytest_cp import options

    for name, *_ in options._INI:
        assert f"`{name}`" in README, name
    for option in ("scheme", "codec", "device", "seed", "batch-size", "report-json", "baseline", "cache-dir"):
        assert f"--cp-{option}" in README
