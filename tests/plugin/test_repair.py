"""A gate on a repaired model shows the repair as a step of the candidate, in the report and in the failure."""

REPAIRED = """
import subjects
from cp_compress import ZFP, CompressedDataset, Prune
from cp_compress.search import adapt, recalibrate_batchnorm

def pairs(seed, count):
    inputs = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    originals = inputs, subjects.make_model()(inputs).argmax(dim=1)
    return CompressedDataset(originals, CODEC), originals

CODEC = ZFP(precision=4, clip=None)

def test_gate(dataset):
    reference = subjects.make_model().requires_grad_(True)
    candidate = Prune(0.8).compress(reference)
    repaired = adapt(candidate, reference, *pairs(2, 256), validation=pairs(3, 64), epochs=2)
    stored = CompressedDataset(dataset, CODEC)
    assert_preserved_predictions(repaired.model, reference, dataset, compressed_dataset=stored, min_agreement=BOUND)
"""
NORMALISED = """
import subjects
from cp_compress.search import recalibrate_batchnorm

def test_gate(dataset):
    inputs, labels = dataset
    reference = torch.nn.Sequential(torch.nn.BatchNorm1d(8), subjects.make_model()).eval()
    repaired = recalibrate_batchnorm(reference, (inputs * 1.1, labels), examples=100)
    assert_preserved_predictions(repaired, reference, dataset, min_agreement=0.1)
"""
ADAPTED = (
    "prune(density=0.8) | adapt(epochs=2, temperature=2, seed=0, examples=256, data='zfp(precision=4, clip=None)')"
)


def test_the_report_shows_the_adaptation_behind_the_scheme_and_beside_the_codec(project):
    project.write_test(REPAIRED.replace("BOUND", "0.2"))
    outcome = project.run()
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    (check,) = outcome.report["checks"]
    assert check["subjects"]["candidate"]["name"] == ADAPTED
    assert check["subjects"]["compressed_data"]["name"] == "zfp(precision=4, clip=None)"
    assert check["subjects"]["reference"]["name"] == "Sequential"


def test_the_failure_shows_it_too(project):
    project.write_test(REPAIRED.replace("BOUND", "0.999"))
    outcome = project.run()
    assert outcome.failed_everywhere
    outcome.result.stdout.fnmatch_lines([f"*candidate: {ADAPTED}*"])


def test_recalibration_is_a_step_and_makes_a_candidate_of_the_reference(project):
    project.write_test(NORMALISED)
    outcome = project.run()
    assert outcome.result.ret == 0, outcome.result.stdout.str()
    (check,) = outcome.report["checks"]
    assert check["subjects"]["candidate"]["name"] == "recalibrate_batchnorm(examples=100, data=tuple)"
