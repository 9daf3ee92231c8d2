"""A data set in a compressed store is a subject like any other: as the data set itself, and as what was compressed."""

import pytest

from cp_compress.data import ZFP, CompressedDataset
from cp_compress.examples import digits, digits_cnn
from cp_compress.fidelity import observe
from pytest_cp.checks.naming import describe_pair
from pytest_cp.report.compressed import compressed_name

FACTORIES = """
from cp_compress import ZFP, StoredDataset, write_store
from subjects import make_data

def exact():
    return write_store(make_data(), ZFP(reversible=True, clip=None), "exact.store", shard_size=50)

def coarse():
    return write_store(make_data(), ZFP(rate=6, clip=None), "coarse.store", shard_size=50)
"""
GATE = """
from factories import coarse, exact

@pytest.mark.compress_model("prune(density=0.4)")
def test_compressed_model(compressed_model, reference_model, dataset):
    assert_preserved_predictions(compressed_model, reference_model, dataset, min_agreement=0.1)

def test_compressed_data(reference_model, dataset):
    check = assert_preserved_predictions(
        reference_model, reference_model, dataset, compressed_dataset=coarse(), min_agreement=MINIMUM
    )
    assert check.measurement.counts["agreement"] == 120
"""


@pytest.fixture
def stored_project(project):
    project.pytester.makepyfile(factories=FACTORIES)
    project.pytester.makeconftest("")
    project.pytester.makeini(
        "[pytest]\npythonpath = .\ncp_reference = subjects:make_model\ncp_dataset = factories:exact\n"
    )
    return project


@pytest.mark.parametrize(("minimum", "failed"), [("0.5", 0), ("1.0", 1)])
def test_a_store_as_the_data_set_and_as_the_compressed_one(stored_project, minimum, failed):
    stored_project.write_test(GATE.replace("MINIMUM", minimum))
    outcome = stored_project.run()
    outcome.result.assert_outcomes(passed=2 - failed, failed=failed)
    assert outcome.failed_everywhere == bool(failed)


def test_a_store_opened_twice_is_not_compressed_data(stored_project):
    stored_project.write_test(GATE.replace("MINIMUM", "0.5").replace("coarse()", "exact()"))
    outcome = stored_project.run()
    outcome.result.assert_outcomes(passed=1, failed=1)
    assert any("nothing was compressed" in message for message in outcome.junit_messages)


def test_a_codec_that_loses_nothing_is_a_subject_too():
    model, data = digits_cnn(), tuple(part[:20] for part in digits().tensors)
    original = observe(model, data)
    lossless, zipped = ZFP(reversible=True), ZFP(reversible=True, layout="2d")
    pair = describe_pair(observe(model, CompressedDataset(data, lossless)), original)
    assert pair["compressed_data"] == {**pair["data"], "name": str(lossless)}
    assert compressed_name({"subjects": pair}) == str(lossless)
    stored = observe(model, CompressedDataset(data, lossless))
    assert "compressed_data" not in describe_pair(original, original)
    assert "compressed_data" not in describe_pair(stored, stored)
    assert "compressed_data" not in describe_pair(original, stored)
    assert describe_pair(observe(model, CompressedDataset(data, zipped)), stored)["compressed_data"]["name"] == str(
        zipped
    )
