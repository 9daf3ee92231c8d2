"""Claims of a whole gate: about clusters, and about all candidates together."""

GATE = """\
schema_version = 1
[reference]
model = "subjects:make_model"
[data]
examples = "subjects:make_data"
{metadata}
[[candidate]]
scheme = "quantize(float16)"
[[candidate]]
scheme = "quantize(bfloat16)"
[predictions]
min_agreement = 0.6
confidence = {confidence}
{more}
"""


def write(project, *, metadata='metadata = "rows.csv"', confidence=0.9, more=""):
    (project.path / "gate.toml").write_text(GATE.format(metadata=metadata, confidence=confidence, more=more))
    return project.run("--pyargs", "pytest_cp.gate", "--cp-spec", "gate.toml")


def test_a_specification_makes_claims_about_clusters_and_all_candidates(project):
    (project.path / "rows.csv").write_text("patient\n" + "".join(f"p{index // 2}\n" for index in range(120)))
    outcome = write(project, more='clusters = "patient"\nfamily = "candidates"')
    requirements = [check["requirements"][0] for check in outcome.report["checks"]]
    assert [one["family"] for one in requirements] == [2, 2]
    assert [one["clusters"] for one in requirements] == [60, 60]
    assert all("over 2 candidates" in one["requirement"] for one in requirements)
    wrong = write(project, more='clusters = "doctor"')
    wrong.result.stdout.fnmatch_lines(["*clusters = 'doctor': no column of the metadata; known are patient*"])
    missing = write(project, metadata="", more='clusters = "patient"')
    assert "needs data.metadata" in str(missing.result.stdout) + str(missing.result.stderr)


def test_in_a_test_the_family_is_that_of_its_candidates_whichever_run(project):
    project.write_test(
        """
@pytest.mark.compress_model("quantize(float16)", "quantize(bfloat16)", "quantize(int8)")
def test_all(compressed_model, reference_model, dataset):
    found = assert_preserved_predictions(
        compressed_model, reference_model, dataset, min_agreement=0.5, confidence=0.8, family="candidates"
    )
    assert found.results[0].requirement.family == 3


def test_none(reference_model, dataset):
    other = lambda batch: reference_model(batch) * 2
    with pytest.raises(Exception, match="needs the candidates of a test"):
        assert_preserved_predictions(
            other, reference_model, dataset, min_agreement=0.5, confidence=0.8, family="candidates"
        )
    with pytest.raises(Exception, match="give confidence, too"):
        assert_preserved_predictions(other, reference_model, dataset, min_agreement=0.5, clusters=[0])
"""
    )
    outcome = project.run("-k", "bfloat16 or none")
    outcome.result.assert_outcomes(passed=1, failed=1, deselected=2)
    outcome.result.stdout.fnmatch_lines(["a refused check was caught and ignored*needs the candidates of a test*"])
    told = (
        "agreement ≥ 0.5 at 80% confidence over 3 candidates, n = 120, quantize(bfloat16): were the true agreement 0.*"
    )
    outcome.result.stdout.fnmatch_lines([f"{told}, 4 of 5 data sets of this size would not pass this check; *"])


def test_other_claims_about_data_with_clusters_are_refused(project):
    project.write_test(
        """
from cp_compress.inputs.tasks import TaskDataset


@pytest.mark.compress_model("quantize(float16)")
def test_one(compressed_model, reference_model, dataset):
    told = TaskDataset(dataset, "single_label", clusters=[index // 2 for index in range(120)])
    assert_attribution_iou(compressed_model, reference_model, told, min_mean_iou=0.1)
    assert_attribution_iou(compressed_model, reference_model, told, min_mean_iou=0.1, confidence=0.5)
"""
    )
    outcome = project.run()
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines(["*only claims about predictions are made of clusters*"])
