"""The examples for build servers: valid by the servers' own schemas, and their commands run as written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CI = Path(__file__).resolve().parents[2] / "examples" / "ci"
PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def checkout(tmp_path):
    """A repository with what the examples need, as a build server lays it out."""
    folder = tmp_path / "checkout"
    shutil.copytree(CI, folder)
    return folder


def run(command, folder, **variables):
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    settings |= {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}", "CI": "true", "OMP_NUM_THREADS": "1"}
    shell = ["bash", "-e", "-o", "pipefail", "-c", command]
    return subprocess.run(
        shell, cwd=folder, env=settings | variables, capture_output=True, text=True, timeout=900, check=False
    )


def commands(name):
    """Return the commands of an example by step: its installation, and the rest."""
    content = yaml.safe_load((CI / name).read_text())
    if name.startswith("gitlab"):
        job = content["gate"]
        return job["before_script"], job["script"]
    (job,) = content["jobs"].values()
    steps = [step["run"] for step in job["steps"] if "run" in step]
    return steps[:1], steps[1:]


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("github-actions.yml", "vendor.github-workflows"),
        ("github-nightly.yml", "vendor.github-workflows"),
        ("gitlab-ci.yml", "vendor.gitlab-ci"),
    ],
)
def test_an_example_is_what_its_server_reads(name, schema):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(CI / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["github-actions.yml", "github-nightly.yml", "gitlab-ci.yml"])
def test_the_installation_names_what_is_there(name):
    (install,), _ = commands(name)
    assert install.startswith("python -m pip install ")
    assert {"pytest-cp", "pytest-xdist"} == set(install.removeprefix("python -m pip install ").split())


def test_the_github_example_is_green_and_writes_its_summary(checkout, tmp_path):
    _, (gate,) = commands("github-actions.yml")
    summary = tmp_path / "summary.md"
    done = run(gate, checkout, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "## ✅ Preserved" in summary.read_text()
    document = json.loads((checkout / "reports" / "gate.json").read_text())
    assert document["baselines"]["mode"] == "check"
    assert set(document["baselines"]["verdicts"]) <= {"ok", "improved"}
    assert {path.name for path in (checkout / "reports").iterdir()} >= {"junit.xml", "gate.json", "gate.html"}


def test_the_gitlab_example_is_red_for_a_worse_candidate(checkout):
    _, (gate,) = commands("gitlab-ci.yml")
    path = checkout / "gate.toml"
    path.write_text(path.read_text().replace("prune(density=0.5)", "prune(density=0.05)"))
    done = run(gate, checkout, GITLAB_CI="true")
    assert done.returncode == 1
    assert 'failures="0"' not in (checkout / "reports" / "junit.xml").read_text()


def test_the_nightly_example_is_green(checkout):
    _, (explore,) = commands("github-nightly.yml")
    path = checkout / "nightly" / "test_nightly.py"
    path.write_text(path.read_text().replace("max_examples=10", "max_examples=2").replace("examples=20", "examples=4"))
    done = run(explore, checkout, GITHUB_ACTIONS="true", GITHUB_RUN_NUMBER="7")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads((checkout / "reports" / "nightly.json").read_text())["checks"]
    assert {check["comparison"] for check in checks} == {"divergence", "boundaries"}
    assert {check["seed"] for check in checks} == {7}


def test_the_pre_commit_example_stops_a_commit(checkout):
    pytest.importorskip("pre_commit", reason="pre-commit is not installed")
    shutil.copy(checkout / "pre-commit-config.yaml", checkout / ".pre-commit-config.yaml")
    home = {"PRE_COMMIT_HOME": str(checkout.parent / "home")}
    prepare = "git init -q . && git add . && "
    hook = f"{sys.executable} -m pre_commit run"
    passed = run(prepare + f"{hook} --all-files", checkout, **home)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "the compressed model still does the same thing" in passed.stdout
    path = checkout / "gate.toml"
    path.write_text(path.read_text().replace("prune(density=0.5)", "prune(density=0.05)"))
    stopped = run(f"git add . && {hook} --files gate.toml", checkout, **home)
    assert stopped.returncode == 1
    assert "PredictionsNotPreservedError" in stopped.stdout
    (checkout / "notes.txt").write_text("nothing of the model")
    assert "Skipped" in run(f"git add . && {hook} --files notes.txt", checkout, **home).stdout
