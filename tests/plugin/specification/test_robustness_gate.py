"""`assert_robustness` in a gate."""


def test_fails_and_names_the_worst_cell(project):
    project.write_test("""
from cp_compress.examples import digits, digits_cnn
from cp_compress import Prune

def test_gate():
    assert_robustness(
        Prune(0.2).compress(digits_cnn()), digits_cnn(), digits(), corruptions=["fog", "contrast"], severities=[5],
        min_corrupted_agreement=0.99, min_worst_corrupted_agreement=0.98,
    )
""")
    outcome = project.run()
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines(
        ["*RobustnessNotPreservedError: *corrupted_agreement = 0*required ≥ 0.9*", "*agree least on * at severity 5*"]
    )
