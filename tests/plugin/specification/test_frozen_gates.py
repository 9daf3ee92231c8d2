"""Gates of frozen observations: the reference, the candidate or both, with and without data, and what is refused."""

import json

import pytest
import torch
from torch import nn

import cp_compress
from cp_compress import observe, save_observation
from cp_compress.fidelity.frozen.observation import FrozenObservation

SUBJECTS = """
import torch
from torch import nn
import cp_compress

def reference():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)).eval()

def compressed():
    return cp_compress.compress(reference(), "quantize(int8)")

def data():
    inputs = torch.rand(60, 6, generator=torch.Generator().manual_seed(1))
    return inputs, reference()(inputs).argmax(1)

def shifted():
    inputs, labels = data()
    return inputs.roll(1, 0), labels.roll(1, 0)
"""
LIVE, FROZEN = 'model = "subjects:{}"', 'observation = "{}.obs"'
GATE = """schema_version = 1
[reference]
{reference}
{data}
[[candidate]]
{candidate}
name = "small"
[predictions]
min_agreement = 0.9
confidence = 0.8
[[embeddings]]
min_cka = 0.9
"""
DATA = '[data]\nexamples = "subjects:{}"'
GIVEN = DATA.format("data")


@pytest.fixture
def gate(pytester, monkeypatch):
    pytester.makepyfile(subjects=SUBJECTS)
    monkeypatch.syspath_prepend(pytester.path)
    namespace = {}
    exec(SUBJECTS, namespace)
    torch.manual_seed(0)
    data = namespace["data"]()
    for name in ("reference", "compressed"):
        save_observation(observe(namespace[name](), data), pytester.path / f"{name}.obs", layers="default:")

    def run(reference, candidate, data=GIVEN, text=GATE):
        pytester.path.joinpath("gate.toml").write_text(text.format(reference=reference, candidate=candidate, data=data))
        return pytester.runpytest_inprocess(
            "-p",
            "no:cacheprovider",
            "--pyargs",
            "pytest_cp.gate",
            "--cp-spec=gate.toml",
            "--cp-report-json=report.json",
        )

    run.path = pytester.path
    return run


def numbers(path):
    checks = json.loads(path.joinpath("report.json").read_text(encoding="utf-8"))["checks"]
    kept = ("metrics", "requirements", "counts", "outcome", "examples")
    return [{name: check[name] for name in kept} for check in sorted(checks, key=lambda one: one["comparison"])]


def test_frozen_and_live_gates_say_the_same(gate):
    live, frozen = ({name: form.format(name) for name in ("reference", "compressed")} for form in (LIVE, FROZEN))
    gate(live["reference"], live["compressed"]).assert_outcomes(passed=2)
    expected = numbers(gate.path)
    for reference, candidate, data in (
        (frozen["reference"], live["compressed"], GIVEN),
        (live["reference"], frozen["compressed"], GIVEN),
        (frozen["reference"], frozen["compressed"], ""),
    ):
        gate(reference, candidate, data).assert_outcomes(passed=2)
        assert numbers(gate.path) == expected


def test_other_examples_fail_the_gate(gate):
    result = gate(FROZEN.format("reference"), LIVE.format("compressed"), DATA.format("shifted"))
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*reference.obs does not fit the data: they are in another order, from #0 on*"])


@pytest.mark.parametrize(
    ("reference", "candidate", "data", "told"),
    [
        (FROZEN, LIVE, "", "*gate.toml:1: the file needs a table ?data?, which may be left out only where*"),
        (FROZEN, 'scheme = "quantize(int8)"', DATA, "*:6: the reference is frozen: there is no model that could be*"),
        (FROZEN, 'codec = "zfp(precision=8)"', DATA, "*:6: the reference is frozen: there is no model that could be*"),
        (FROZEN, FROZEN + '\ncodec = "zfp(precision=8)"', "", "*a codec needs data to store: add the table ?data?*"),
        (LIVE + '\ndigest = "0123456789ab"', LIVE, DATA, "*:4: digest is that of an observation, but reference has*"),
        (FROZEN + '\ndigest = "abc"', LIVE, DATA, "*reference.digest*abc*"),
        ('observation = "referense.obs"', LIVE, DATA, "*there is no such file; did you mean reference.obs*"),
        (LIVE + '\nobservation = "reference.obs"', LIVE, DATA, "*must have exactly one of model, file*observation*"),
        (LIVE, LIVE + '\nobservation = "compressed.obs"', DATA, "*only one of *not model and observation*"),
    ],
)
def test_contradictions_are_told_before_anything_runs(gate, monkeypatch, reference, candidate, data, told):
    monkeypatch.setattr(FrozenObservation, "__init__", lambda *_: pytest.fail("something was read"))
    result = gate(reference.format("reference"), candidate.format("compressed"), data.format("data"))
    assert result.ret != 0
    result.stdout.fnmatch_lines([told])


def test_noise_is_that_of_the_file_or_of_files(gate):
    """A bound of "noise" means what was frozen; with options it needs frozen references of its own."""
    namespace = {}
    exec(SUBJECTS, namespace)
    reference, data = namespace["reference"](), namespace["data"]()
    other = observe(cp_compress.compress(reference, "quantize(bfloat16)"), data)
    save_observation(observe(reference, data), gate.path / "noisy.obs", noise={"bfloat16": other})
    save_observation(other, gate.path / "other.obs")
    text = GATE.partition("[predictions]")[0] + '[predictions]\nmax_mean_kl = "noise + 0.5"\n'
    given = FROZEN.format("noisy"), FROZEN.format("compressed"), ""
    gate(*given, text=text).assert_outcomes(passed=1)
    result = gate(*given, text=text + "top_k = 2\n")
    result.stdout.fnmatch_lines(["*noisy.obs: the noise of predictions was frozen without top_k*"])
    of_files = text + 'top_k = 2\n[noise]\nreferences = ["other.obs"]\n'
    gate(*given, text=of_files).assert_outcomes(passed=1)
    result = gate(FROZEN.format("reference"), *given[1:], text=text)
    result.stdout.fnmatch_lines(["*reference.obs: the noise of predictions was not frozen for mean_kl*"])


def test_a_pinned_digest_must_be_that_of_the_file(gate):
    digest = cp_compress.load_observation(gate.path / "reference.obs").digest
    pinned = FROZEN.format("reference") + f'\ndigest = "sha256:{digest}"'
    gate(pinned, LIVE.format("compressed")).assert_outcomes(passed=2)
    torch.manual_seed(5)
    other = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    save_observation(observe(other, torch.rand(60, 6)), gate.path / "reference.obs")
    result = gate(pinned, LIVE.format("compressed"))
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*reference.obs: has the digest *, and sha256:* is required*"])
