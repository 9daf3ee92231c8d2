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
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_and_search_examples_run(tmp_path):
    training = block_with("train_compressed(").replace("epochs=15", "epochs=2")
    assert re.search(r"PreserveAgreement: .* ≤ 0.05", run_script(tmp_path, training))
    assert (tmp_path / "training.pt").exists()
    search = block_with("SchemeSpace(").replace('state="search.json"', 'state="search.json", trials=4')
    assert "fresh data: agreement" in run_script(tmp_path, search)


def test_examples_of_data_compression_run(tmp_path):
    assert "torch.Size([8, 3, 8, 8, 16])" in run_script(tmp_path, block_with("codec.requantise(batch)"))
    found = run_script(tmp_path, block_with("write_store("))
    assert "intact" in found
    assert "torch.Size([16, 2, 2])" in found
    # again: what was written is found to be there
    assert run_script(tmp_path, block_with("write_store(")) == found


def test_examples_of_repair_and_of_fewer_examples_run(tmp_path):
    repair = block_with("find_smallest(family").replace("epochs=3", "epochs=1")
    found = run_script(tmp_path, repair)
    assert "jpeg(quality=" in found
    assert "clean: accuracy" in found
    assert "of 1197" in run_script(tmp_path, block_with("find_smallest_subset(").replace("trials=4", "trials=2"))


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
    from pytest_cp import options

    for name, *_ in options._INI:
        assert f"`{name}`" in README, name
    for option in ("scheme", "codec", "device", "seed", "batch-size", "report-json", "baseline", "cache-dir"):
        assert f"--cp-{option}" in README
