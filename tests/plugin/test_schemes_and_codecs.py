"""What runs: markers, ini keys, --cp-scheme and --cp-codec."""

import pytest

GATE = """
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)
"""
DATA_GATE = """
def test_data(compressed_dataset, reference_model, dataset):
    assert_preserved_predictions(
        reference_model, reference_model, dataset, compressed_dataset=compressed_dataset, min_agreement=0.1
    )
"""
BOTH = """
def test_both(compressed_model, compressed_dataset, reference_model, dataset):
    assert_preserved_predictions(
        compressed_model, reference_model, dataset, compressed_dataset=compressed_dataset, min_agreement=0.1
    )
"""
ZFP = "zfp(tolerance=0.5, clip=None)"


def candidates(outcome):
    return [check["subjects"]["candidate"]["name"] for check in outcome.report["checks"]]


def test_ini_names_schemes(project):
    project.pytester.makeini(
        "[pytest]\ncp_schemes =\n    prune(density=0.9)\n    prune(density=0.8) | quantize(float16)\n"
    )
    project.write_test(GATE)
    outcome = project.run()
    assert outcome.result.ret == 0
    assert sorted(candidates(outcome)) == ["prune(density=0.8) | quantize(float16)", "prune(density=0.9)"]


def test_command_line_adds_schemes_and_takes_none_away(project):
    project.pytester.makeini("[pytest]\ncp_schemes = prune(density=0.9)\n")
    project.write_test(GATE)
    outcome = project.run("--cp-scheme=prune(density=0.95)", "--cp-scheme=prune(density=0.9)")
    assert sorted(candidates(outcome)) == ["prune(density=0.9)", "prune(density=0.95)"]


def test_marker_decides_alone(project):
    project.pytester.makeini("[pytest]\ncp_schemes = prune(density=0.9)\n")
    project.write_test('@pytest.mark.compress_model("prune(density=0.7)")' + GATE)
    outcome = project.run()
    assert candidates(outcome) == ["prune(density=0.7)"]
    assert "cp_schemes is set in the ini file, and no gate of this session uses it" in outcome.result.stdout.str()


@pytest.mark.parametrize("option", ["--cp-scheme=prune(density=0.95)", "--cp-codec=jpeg(quality=75)"])
def test_what_no_test_takes_is_refused_on_the_command_line(project, option):
    project.write_test('@pytest.mark.compress_model("prune(density=0.7)")' + GATE)
    outcome = project.run(option)
    assert outcome.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "no collected test uses it" in outcome.result.stderr.str()


def test_workers_refuse_it_too(project):
    project.write_test('@pytest.mark.compress_model("prune(density=0.7)")' + GATE)
    outcome = project.run("-n2", "--cp-scheme=prune(density=0.95)", subprocess=True)
    assert outcome.failed_everywhere
    assert "no collected test uses it" in outcome.junit_messages[0]
    project.write_test(GATE, name="test_taking")
    assert project.run("-n2", "--cp-scheme=prune(density=0.95)", subprocess=True).result.ret == 0


def test_marker_takes_values(project):
    project.write_test("from cp_compress import Prune\n@pytest.mark.compress_model(Prune(0.7))" + GATE)
    assert candidates(project.run()) == ["prune(density=0.7)"]


def test_codecs(project):
    project.pytester.makeini(f"[pytest]\ncp_codecs = {ZFP}\n")
    project.write_test(DATA_GATE)
    outcome = project.run("--cp-codec=zfp(precision=16, clip=None)")
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    codecs = sorted(check["subjects"]["compressed_data"]["name"] for check in outcome.report["checks"])
    assert codecs[0].startswith("zfp(precision=16")
    assert codecs[1].startswith("zfp(tolerance=0.5")


def test_model_and_data_crossed(project):
    project.pytester.makeini(
        f"[pytest]\ncp_codecs =\n    {ZFP}\n    zfp(precision=16, clip=None)\n"
        "cp_schemes =\n    prune(density=0.9)\n    prune(density=0.8)\n"
    )
    project.write_test(BOTH)
    outcome = project.run()
    assert outcome.result.ret == 0
    assert outcome.junit["tests"] == 4


def test_a_lossless_codec_is_a_compression(project):
    project.write_test('@pytest.mark.compress_dataset("zfp(reversible=True, clip=None)")' + DATA_GATE)
    outcome = project.run()
    assert outcome.result.ret == 0, outcome.result.stdout.str()


@pytest.mark.parametrize("arguments", [(), ("-n0",), ("-n2",), ("-p", "no:cacheprovider"), ("-p", "no:xdist")])
def test_same_checks_however_pytest_runs(project, arguments):
    project.pytester.makeini("[pytest]\ncp_schemes =\n    prune(density=0.9)\n    prune(density=0.8)\n")
    project.write_test(GATE)
    project.write_test(GATE, name="test_other")
    outcome = project.run(*arguments, subprocess=True)
    assert outcome.result.ret == 0, outcome.result.stdout.str() + outcome.result.stderr.str()
    checks = {(check["test"], check["metrics"]["agreement"]) for check in outcome.report["checks"]}
    assert len(checks) == 4
    assert {agreement for test, agreement in checks if "0.9" in test} == {
        agreement for test, agreement in checks if "0.9" in test and "other" in test
    }


def test_factories_named_in_the_ini_file(project):
    project.pytester.makeconftest("")
    project.pytester.makeini(
        "[pytest]\npythonpath = .\ncp_reference = subjects:make_model\ncp_dataset = subjects:make_data\n"
        "cp_schemes = prune(density=0.9)\n"
    )
    project.write_test(GATE)
    assert project.run().result.ret == 0


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("subjects", "must have the form"),
        ("subjects:nothing", "has no attribute"),
        ("nowhere:make", "No module named"),
        ("subjects:pytest", "not callable"),
    ],
)
def test_factories_that_cannot_be_used(project, factory, message):
    project.pytester.makeconftest("")
    project.pytester.makeini(
        f"[pytest]\npythonpath = .\ncp_reference = {factory}\ncp_dataset = subjects:make_data\n"
        "cp_schemes = prune(density=0.9)\n"
    )
    project.write_test(GATE)
    outcome = project.run()
    assert outcome.failed_everywhere
    assert message in outcome.result.stdout.str()


def test_a_session_fixture_of_a_narrower_override_is_explained(project):
    project.pytester.makeconftest("""
import pytest, subjects

@pytest.fixture
def reference_model():
    return subjects.make_model()

@pytest.fixture(scope="session")
def dataset():
    return subjects.make_data()
""")
    project.write_test(
        """
@pytest.fixture(scope="session")
def packed(compressed_model, reference_model):
    return compressed_model
"""
        + '@pytest.mark.compress_model("prune(density=0.7)")'
        + GATE.replace("compressed_model", "packed")
    )
    outcome = project.run()
    assert outcome.failed_everywhere
    assert 'scope="session"' in outcome.result.stdout.str()
