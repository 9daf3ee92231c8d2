"""The examples for build servers, and the jobs of this project: servers can read them; the examples run as written."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forks import programs

from cp_compress import __version__

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (extra: test)")

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / "examples" / "ci"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def checkout(tmp_path):
    """A repository with what the examples need, as a build server lays it out."""
    folder = tmp_path / "checkout"
    shutil.copytree(CI, folder)
    return folder


def run(command, folder, **variables):
    if sys.platform == "win32":
        pytest.skip("the jobs run in a shell of Linux")
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    settings |= {"PATH": f"{programs()}{os.pathsep}{os.environ['PATH']}", "CI": "true", "OMP_NUM_THREADS": "1"}
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


def check_schema(path, schema):
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed (extra: test)")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("github-actions.yml", "vendor.github-workflows"),
        ("github-nightly.yml", "vendor.github-workflows"),
        ("gitlab-ci.yml", "vendor.gitlab-ci"),
    ],
)
def test_an_example_is_what_its_server_reads(name, schema):
    check_schema(CI / name, schema)


@pytest.mark.parametrize("name", ["github-actions.yml", "github-nightly.yml", "gitlab-ci.yml"])
def test_the_installation_names_what_is_there(name):
    (install,), _ = commands(name)
    assert install.startswith("python -m pip install ")
    wheel = f"wheels/pytest_cp-{__version__}-py3-none-any.whl"
    assert {wheel, "pytest-xdist"} == set(install.removeprefix("python -m pip install ").split())


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


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_of_this_project_may_do_little(path):
    check_schema(path, "vendor.github-workflows")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["permissions"] == {"contents": "read"}
    assert content["concurrency"]["group"].startswith(f"{path.stem}-")
    for job in content["jobs"].values():
        assert job["timeout-minutes"] <= 60
        assert set(job.get("permissions", {})) <= {"id-token"}
        used = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(re.fullmatch(r"actions/[\w-]+@v\d+|pypa/gh-action-pypi-publish@release/v1", name) for name in used)


def test_the_workflows_cover_what_is_promised():
    (tests,) = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in WORKFLOWS if path.stem == "tests")
    matrix = tests["jobs"]["newest"]["strategy"]["matrix"]
    promised = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", one)]
    assert matrix["python"] == promised
    assert PROJECT["requires-python"] == f">={promised[0]}"
    systems = {*matrix["os"], *(one["os"] for one in matrix["include"])}
    assert systems == {"ubuntu-latest", "macos-latest", "windows-latest"}
    installed = {name: steps_of(job) for name, job in tests["jobs"].items()}
    assert "--resolution lowest-direct" in installed["lowest"]
    assert "[test]" not in installed["without-extras"]
    assert "make check" in installed["check"]


def steps_of(job):
    """Return all commands of a job."""
    return "\n".join(step["run"] for step in job["steps"] if "run" in step)


def test_publishing_needs_a_tag_and_no_secret():
    (path,) = (path for path in WORKFLOWS if path.stem == "publish")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content[True] == {"push": {"tags": ["v*"]}}  # YAML reads "on" as true
    publish = content["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"
    assert publish["environment"]
    assert not any("run" in step for step in publish["steps"])
    assert "secrets." not in path.read_text(encoding="utf-8")


def test_the_hooks_of_this_project_are_valid_and_run(tmp_path):
    pytest.importorskip("pre_commit", reason="pre-commit is not installed (extra: test)")
    path = ROOT / ".pre-commit-config.yaml"
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copy(path, tmp_path / path.name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "long.py").write_text("import os\n")
    hook = f"git init -q . && git add . && {shlex.quote(sys.executable)} -m pre_commit run ruff-check --all-files"
    found = run(hook, tmp_path, PRE_COMMIT_HOME=str(tmp_path.parent / "home"))
    assert found.returncode == 1
    assert "F401" in found.stdout


def test_fragments_become_a_section_of_the_changelog(tmp_path):
    pytest.importorskip("towncrier", reason="towncrier is not installed (extra: test)")
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "changelog.d", tmp_path / "changelog.d")
    kinds = re.findall(
        r"^\| `(\w+)` \|", (ROOT / "changelog.d" / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    for kind in kinds:
        (tmp_path / "changelog.d" / f"77.{kind}.md").write_text(f"A fragment that is {kind}.\n")
    command = f"git init -q . && git add . && {shlex.quote(sys.executable)} -m towncrier build --yes --version 99.1"
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    before, now = (folder.joinpath("CHANGELOG.md").read_text(encoding="utf-8") for folder in (ROOT, tmp_path))
    head, _, rest = before.partition("<!-- releases are added below this line")
    assert now.startswith(head)
    assert now.endswith(rest.partition("-->\n\n")[2])
    section = now[: now.index("## 0.1.0")]
    assert section.index("## 99.1 (") < section.index(f"### {kinds[0].capitalize()}")
    for kind in kinds:
        assert f"- A fragment that is {kind}. (#77)" in section
    assert [path.name for path in (tmp_path / "changelog.d").iterdir()] == ["README.md"]
