"""A failing check says which layers carry the damage; a passing one does not look."""

GATE = """
import copy, subjects

def damaged(model, path="2"):
    broken = copy.deepcopy(model)
    broken.get_submodule(path).weight.data[1].zero_()
    return broken

def test_gate(reference_model, dataset):
    assert_preserved_predictions(damaged(reference_model), reference_model, dataset, min_agreement={bound})
"""


def test_a_failure_names_the_layer(project):
    project.write_test(GATE.format(bound=0.999))
    outcome = project.run()
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines(["*layers that cause the damage*", "*  2 (Linear): 100%*"])
    (check,) = outcome.report["checks"]
    assert check["origin"]["layers"][0]["name"] == "2"
    assert check["origin"]["layers"][0]["share"] == 1


def test_a_pass_does_not_look(project):
    project.write_test(GATE.format(bound=0.01))
    outcome = project.run()
    assert outcome.result.ret == 0
    assert outcome.report["checks"][0]["origin"] is None


def test_it_can_be_switched_off(project):
    project.write_test(GATE.format(bound=0.999))
    outcome = project.run("--cp-origin=off")
    assert outcome.failed_everywhere
    assert outcome.report["checks"][0]["origin"] is None
    project.pytester.makeini("[pytest]\ncp_origin = off\n")
    assert project.run().report["checks"][0]["origin"] is None
    assert project.run("--cp-origin=auto").report["checks"][0]["origin"] is not None


def test_an_unknown_mode_is_refused(project):
    project.write_test(GATE.format(bound=0.999))
    project.pytester.makeini("[pytest]\ncp_origin = maybe\n")
    outcome = project.run()
    assert outcome.result.ret == 4
    outcome.result.stderr.fnmatch_lines(["*cp origin 'maybe'*auto or off*"])


def test_what_cannot_be_explained_stays_a_failure(project):
    project.write_test(
        """
def test_gate(reference_model, dataset):
    other = lambda inputs: reference_model(inputs).roll(1, 1)
    assert_preserved_predictions(other, reference_model, dataset, min_agreement=0.9)
"""
    )
    outcome = project.run()
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines(["*agreement = *required*", "*could not be found*plain callable*"])


def test_stages_of_a_pipeline(project):
    project.write_test(
        """
@pytest.mark.compress_model("prune(density=0.3) | quantize(int4)")
def test_gate(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=1.0)
"""
    )
    outcome = project.run()
    outcome.result.stdout.fnmatch_lines(["*stage prune(density=0.3) introduced *", "*stage quantize(int4) introduced*"])
