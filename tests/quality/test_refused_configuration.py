"""Configuration that cannot be meant is an error: options, ini keys, markers and their arguments."""

import pytest

PASSING = """
@pytest.mark.compress_model("prune(density=0.4)")
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.5)
"""


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('compress_model("prune(density=1.4)")', "density"),
        ('compress_model("shrink(0.5)")', "no scheme is called"),
        ("compress_model()", "takes one or more"),
        ('compress_model(scheme="prune(density=0.5)")', "takes one or more"),
        ("compress_model(3)", "not a scheme"),
        ('compress_model(["quantize(int8)", "prune(density=0.5)"])', "compress_model('quantize(int8)', 'prune(dens"),
        ('cp_execution(devise="cpu")', "devise"),
    ],
)
def test_marker_arguments_that_cannot_be_meant(project, marker, message):
    source = PASSING
    if marker.startswith("cp_execution"):
        source = f"\n@pytest.mark.{marker}" + source
    else:
        source = source.replace('compress_model("prune(density=0.4)")', marker)
    project.write_test(source)
    outcome = project.run()
    assert outcome.result.ret != 0
    output = outcome.result.stdout.str() + outcome.result.stderr.str()
    assert message in output


OPTIONS = {
    "--cp-schemes=prune(density=0.5)": "did you mean --cp-scheme?",
    "--cp-report-htm=x.html": "did you mean --cp-report-html?",
    "--cp-min-coverage=0.9": "cp_min_coverage is set in the ini file, not on the command line",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_unknown_option(project, option):
    project.write_test(PASSING)
    outcome = project.run(option)
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    assert OPTIONS[option] in outcome.result.stderr.str()


def test_unknown_options_of_others_are_left_to_pytest(project):
    project.write_test(PASSING)
    outcome = project.run("--quite")
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "unrecognized arguments: --quite" in outcome.result.stderr.str()
    outcome = project.run("--cp-spec=gate.toml", "--quite")
    assert "--quite: there is no such option; did you mean --quiet?" in outcome.result.stderr.str()


def test_a_misspelt_keyword_says_which_word_is_meant(project):
    project.write_test(PASSING)
    outcome = project.run("-k", "gat_")
    assert "deselected by -k 'gat_' (did you mean gate" in outcome.result.stdout.str()


SETTINGS = {
    "cp_scheme = prune(density=0.5)": "unknown ini key cp_scheme; did you mean cp_schemes?",
    "cp_ratchet = yess": "cp_ratchet = yess: must be true or false; did you mean yes?",
    "cp_fail_on_deselected = 2": "cp_fail_on_deselected = 2: must be true or false",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_unknown_ini_keys_and_values(project, setting):
    project.pytester.makeini(f"[pytest]\n{setting}\n")
    project.write_test(PASSING)
    outcome = project.run()
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    assert SETTINGS[setting] in outcome.result.stderr.str()


def test_policy_on_the_command_line(project):
    project.write_test(PASSING)
    assert project.run("-o", "cp_baseline_tolerance=10").result.ret == pytest.ExitCode.USAGE_ERROR


def test_misspelt_marker(project):
    project.write_test(PASSING.replace("compress_model(", "compres_model("))
    outcome = project.run(subprocess=True)
    assert outcome.failed_everywhere
    assert "did you mean compress_model?" in outcome.result.stdout.str()


MISSPELT = {
    "cp_baselines(tolerance=0.1)": "did you mean cp_baseline?",
    "cp_basline(tolerance=0.1)": "did you mean cp_baseline?",
    "cp_exec(seed=3)": "did you mean cp_execution?",
    "cp_ratchet": "unknown marker cp_ratchet",
    "cp_": "known markers are compress_model, compress_dataset, cp_execution, cp_baseline",
}
CASE = """
import unittest

class TestCase(unittest.TestCase):
    @pytest.mark.cp_exec(seed=3)
    def test_case(self):
        pass
"""


def test_unknown_markers_of_the_plugin(project):
    project.pytester.makeini("[pytest]\nmarkers =\n    cp_mine(size): of this project\n")
    for position, marker in enumerate(MISSPELT):
        project.write_test(f"@pytest.mark.{marker}\ndef test_other():\n    pass\n", name=f"test_{position}")
    project.write_test(CASE, name="test_case")
    project.write_test("@pytest.mark.cp_mine(3)\n@pytest.mark.cpu\ndef test_own():\n    pass\n", name="test_own")
    outcome = project.run("--continue-on-collection-errors", "-Wignore")
    outcome.result.assert_outcomes(passed=1, errors=len(MISSPELT) + 1)
    output = outcome.result.stdout.str()
    for told in MISSPELT.values():
        assert told in output


def test_missing_subjects(project):
    project.pytester.makeconftest("")
    project.write_test(PASSING)
    outcome = project.run()
    assert outcome.failed_everywhere
    assert "cp_reference" in outcome.result.stdout.str()
    assert 'scope="session"' in outcome.result.stdout.str()


def test_no_scheme_named(project):
    project.write_test(PASSING.replace('@pytest.mark.compress_model("prune(density=0.4)")', ""))
    outcome = project.run()
    assert outcome.failed_everywhere
    assert "--cp-scheme" in outcome.result.stdout.str()


def test_scheme_without_effect(project):
    project.write_test(PASSING.replace("density=0.4", "density=1"))
    assert project.run().failed_everywhere
