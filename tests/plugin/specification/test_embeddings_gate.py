"""`assert_embeddings_preserved` in a gate."""

GATE = """
@pytest.mark.compress_model("prune(density=0.3)")
def test_gate(compressed_model, reference_model, dataset):
    assert_embeddings_preserved(compressed_model, reference_model, dataset, {requirement})
"""


def test_fails_and_says_how_much(project):
    project.write_test(GATE.format(requirement='layer="0", min_cka=0.999, max_mean_angle=3.0'))
    outcome = project.run()
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines(["*EmbeddingsNotPreservedError: cka = 0.*, required ≥ 0.999, n = 120*"])
    (check,) = outcome.report["checks"]
    assert check["comparison"] == "embeddings"
    assert check["details"]["layers"][0]["layer"] == "0"


def test_passes(project):
    project.write_test(GATE.format(requirement="min_cka=0.2, max_mean_angle=1.5"))
    assert project.run().result.ret == 0


def test_needs_a_requirement_in_range(project):
    project.write_test(GATE.format(requirement='layer="0"'))
    project.run().result.stdout.fnmatch_lines(["*no requirement is given*min_cka*"])
    project.write_test(GATE.format(requirement="min_cka=1.2"))
    project.run().result.stdout.fnmatch_lines(["*min_cka*1.2*"])


def test_the_reference_itself_is_refused(project):
    project.write_test(
        """
def test_gate(reference_model, dataset):
    assert_embeddings_preserved(reference_model, reference_model, dataset, min_cka=0.1)
"""
    )
    outcome = project.run()
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines(["*nothing was compressed*"])
