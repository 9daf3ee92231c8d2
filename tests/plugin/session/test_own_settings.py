"""What an invocation takes away from the project's own settings is named in the terminal and in the reports."""

import pytest

GATE = """
@pytest.mark.compress_model("prune(density=0.9)")
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)
"""
ADDED = "--cp-baseline=check"
DROPPED = "the command line takes --cp-baseline=check, which addopts of {} adds, away from this run: "


def notes(project, *arguments):
    return project.run(*arguments).report["notes"]


@pytest.mark.parametrize("toml", [False, True])
def test_what_is_taken_away_is_named(project, toml):
    """`other.ini` is empty but for a weaker tolerance."""
    project.write_test(GATE)
    (project.path / "waivers.toml").write_text("")
    if toml:
        (project.path / "tox.ini").unlink()
        settings = f'addopts = ["{ADDED}"]\ncp_waivers = "waivers.toml"\ncp_baseline_tolerance = "0.001"\n'
        (project.path / "pyproject.toml").write_text(f"[tool.pytest.ini_options]\n{settings}")
    else:
        settings = f"addopts = {ADDED}\ncp_waivers = waivers.toml\ncp_baseline_tolerance = 0.001\n"
        project.pytester.makeini(f"[pytest]\n{settings}")
    file = "pyproject.toml" if toml else "tox.ini"
    project.run("--cp-baseline=new")
    assert notes(project) == []
    assert notes(project, "-o", "addopts=") == [DROPPED.format(file) + "there is none"]
    assert DROPPED.format(file) + "--cp-baseline=update instead" in notes(project, "--cp-baseline=update")
    (project.path / "other.ini").write_text("[pytest]\ncp_baseline_tolerance = 0.9\n")
    outcome = project.run("-c", "other.ini")
    assert outcome.report["notes"] == [
        f"-c takes cp_waivers = waivers.toml of {file} away from this run: there is none",
        f"-c takes cp_baseline_tolerance = 0.001 of {file} away from this run: cp_baseline_tolerance = 0.9 instead",
        DROPPED.format(file) + "there is none",
    ]
    outcome.result.stdout.fnmatch_lines(["note: -c takes cp_waivers*"])
    wide = project.run("-c", "other.ini", "--cp-baseline=check")
    wide.result.stdout.fnmatch_lines(["baseline: *the tolerance 0.9 of agreement lets half of all values pass"])
