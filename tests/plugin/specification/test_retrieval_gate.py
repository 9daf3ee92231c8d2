"""`assert_retrieval_preserved` in a gate, in a specification and on the command line."""

import pytest
from release_gates import failed_check, prepare, report_text, run_reporting

from cp_compress.cli.main import main

pytest.importorskip("ir_measures")

MODELS = """
import torch
from torch import nn
from cp_compress import Quantize, RetrievalData

WORDS = "red green blue tall small old new cold warm fast slow loud".split()


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(len(WORDS), 32), nn.Tanh(), nn.Linear(32, 16))

    def forward(self, batch):
        return nn.functional.normalize(self.layers(batch), dim=-1)


def reference():
    torch.manual_seed(0)
    return Encoder().eval()


def compressed():
    return Quantize("int4", group_size=8).compress(reference())


def encode(model, batch):
    return model(torch.tensor([[float(text.split().count(word)) for word in WORDS] for text in batch]))


def encoding():
    return encode


def data():
    generator = torch.Generator().manual_seed(0)
    texts = [" ".join(WORDS[word] for word in torch.randint(0, 12, (6,), generator=generator)) for _ in range(60)]
    queries = {f"q{place}": texts[place].rsplit(" ", 2)[0] for place in range(24)}
    return RetrievalData(queries, {f"d{place}": text for place, text in enumerate(texts)},
                         {f"q{place}": [f"d{place}"] for place in range(24)})
"""

TEST = """
import pytest
from retrieval_models import *
from pytest_cp import assert_retrieval_preserved, check_retrieval_preserved

GIVEN = {"similarity": "cosine", "encode": encode}


@pytest.mark.compress_model("quantize(int8)")
def test_holds(compressed_model, reference_model, dataset):
    assert_retrieval_preserved(compressed_model, reference_model, dataset, **GIVEN, min_result_overlap=0.8)


def test_fails():
    assert_retrieval_preserved(
        compressed(), reference(), data(), **GIVEN, k=3, min_result_overlap=1.0, max_ndcg_drop=0.5,
        slices={"first": range(12), "last": range(12, 24)},
    )


def test_claims():
    check = check_retrieval_preserved(
        compressed(), reference(), data(), **GIVEN, max_ndcg_drop=0.5, min_result_overlap=0.3, confidence=0.9
    )
    assert check.passed
    assert check.results[0].interval is not None
    with pytest.raises(ValueError, match="no claim about the population"):
        check_retrieval_preserved(
            compressed(), reference(), data(), **GIVEN, slices={"few": [1]}, max_slice_ndcg_drop=1.0, confidence=0.9
        )


def test_wrapped():
    model = reference()
    assert_retrieval_preserved(lambda batch: model(batch), model, data(), **GIVEN, min_result_overlap=0.5)
"""

GATE = """
schema_version = 1
[reference]
model = "retrieval_models:reference"
[data]
examples = "retrieval_models:data"
metadata = "rows.csv"
[[candidate]]
scheme = "quantize(int8)"
[retrieval]
similarity = "cosine"
encode = "retrieval_models:encoding"
min_result_overlap = "noise - 0.2"
max_slice_ndcg_drop = 0.2
[retrieval.slices]
first = {column = "place", at_most = 9}
[noise]
references = ["quantize(float16)"]
"""


@pytest.fixture
def folder(pytester, monkeypatch, outside_ci):
    pytester.path.joinpath("rows.csv").write_text("place\n" + "\n".join(map(str, range(24))) + "\n")
    return prepare(pytester, monkeypatch, "retrieval_models", MODELS, "data")


def test_in_tests(folder):
    result = run_reporting(folder, TEST)
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*RetrievalNotPreservedError: result_overlap = *, required ≥ 1, n = 24*",
            "*slices:*",
            "*last: queries 12, result overlap *",
            "*examples that changed most:*",
            "*#* (q*): d* → d* of the documents kept)*",
            "*nothing was compressed: the candidate returns the reference's * bit for bit*",
        ]
    )
    failed = failed_check(folder)
    assert failed["comparison"] == "retrieval"
    assert failed["subjects"]["data"]["count"] == 24
    assert "Slices by relevance" in report_text(folder, "html")
    assert "slices by relevance: last: queries 12" in report_text(folder, "markdown")
    for mode in ("new", "check"):
        result = folder.runpytest_inprocess("-p", "no:cacheprovider", f"--cp-baseline={mode}", "-k", "holds")
        result.assert_outcomes(passed=1, deselected=3)


def test_in_a_specification_and_on_the_command_line(folder, capsys):
    folder.makefile(".toml", gate=GATE)
    result = folder.runpytest_inprocess(
        "-p", "no:cacheprovider", "--pyargs", "pytest_cp.gate", "--cp-spec", "gate.toml"
    )
    result.assert_outcomes(passed=1)
    subjects = ["compare", "retrieval_models:compressed", "retrieval_models:reference", "--data"]
    subjects += ["retrieval_models:data", "--similarity", "cosine", "--encode", "retrieval_models:encoding"]
    assert main([*subjects, "--require", "result_overlap >= 0.3"]) == 0
    assert "first_result_agreement" in capsys.readouterr().out
    assert main([*subjects, "--level", "retrieval", "--level", "predictions"]) != 0
