"""`assert_language_preserved` in a gate, in a specification and on the command line."""

import importlib
import json

import pytest
from completion_servers import CompletionServer

from cp_compress.cli.main import main

pytest.importorskip("transformers")

MODELS = """
import torch
from torch import nn
from cp_compress import Quantize


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.cell = nn.Embedding(40, 16), nn.GRU(16, 16, batch_first=True)
        self.out = nn.Linear(16, 40)

    def forward(self, ids):
        return self.out(self.cell(self.embedding(ids))[0])


def reference():
    torch.manual_seed(0)
    model = Recurrent().eval()
    model.out.weight.data *= 8
    return model


def compressed():
    return Quantize("int8").compress(reference())


def documents(times=1):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 40, (length,), generator=generator) for _ in range(times) for length in range(8, 28)]


class Tokenizer:
    def decode(self, ids):
        return "".join(chr(65 + one) for one in ids)
"""

TEST = """
import pytest
from lm_models import *
from pytest_cp import assert_language_preserved, check_language_preserved


def test_holds():
    assert_language_preserved(compressed(), reference(), documents(), max_perplexity_ratio=1.1, min_token_agreement=0.8)


def test_fails():
    assert_language_preserved(
        compressed(), reference(), documents(), max_token_kl=1e-9, tokenizer=Tokenizer(), slices={"short": range(5)}
    )


def test_claims():
    arguments = compressed(), reference(), documents(3)
    check = check_language_preserved(*arguments, max_kl_quantile=(0.5, 5.0), min_token_agreement=0.3, confidence=0.9)
    assert check.passed and "those with up to 26 tokens" in str(check)
    few = check_language_preserved(*arguments, min_token_agreement=0.3, confidence=0.95)
    assert few.outcome == "inconclusive" and "needs 72 documents" in str(few)
    assert check.results[0].clusters == 60
    with pytest.raises(ValueError, match="no claim about the population"):
        check_language_preserved(*arguments, max_perplexity_ratio=1.1, confidence=0.9)


def test_wrapped():
    model = reference()
    assert_language_preserved(lambda ids: model(ids), model, documents(), max_token_kl=1.0)
"""

GATE = """
schema_version = 1
[reference]
model = "lm_models:reference"
[data]
examples = "lm_models:documents"
metadata = "rows.csv"
[[candidate]]
scheme = "quantize(int8)"
[footprint]
min_compression = 1.1
max_flops_ratio = 2.0
[language]
max_perplexity_ratio = "noise + 0.2"
max_kl_quantile = [0.99, 2.5]
max_worst_slice_perplexity_ratio = 1.2
tokenizer = "lm_models:Tokenizer"
[language.slices]
first = {column = "place", at_most = 4}
[noise]
references = ["quantize(float16)"]
"""

SERVED_GATE = """
schema_version = 1
[reference]
model = "lm_models:reference"
[data]
examples = "lm_models:documents"
[[candidate]]
served = {{url = "{url}", model = "tiny", api_key_env = "SERVER_KEY"}}
[{level}]
{bound}
"""


@pytest.fixture
def folder(pytester, monkeypatch):
    pytester.makepyfile(lm_models=MODELS)
    pytester.path.joinpath("rows.csv").write_text("place\n" + "\n".join(map(str, range(20))) + "\n")
    monkeypatch.syspath_prepend(pytester.path)
    return pytester


def test_in_tests(folder):
    folder.makepyfile(test_release=TEST)
    result = folder.runpytest_inprocess(
        "-p",
        "no:cacheprovider",
        "--cp-report-json=report.json",
        "--cp-report-html=report.html",
        "--cp-report-markdown=report.md",
    )
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*LanguageNotPreservedError: token_kl = *, required ≤ *, n = 330*",
            "*slices, worst first:*",
            "*short: perplexity ratio *",
            "*tokens that changed most:*",
            "*token * after '*': KL * nats, most likely '?' → '?', the text has '?'*",
            "*nothing was compressed: the candidate returns the reference's outputs bit for bit*",
        ]
    )
    report = json.loads(folder.path.joinpath("report.json").read_text(encoding="utf-8"))
    failed = next(check for check in report["checks"] if check["outcome"] == "fail")
    assert failed["comparison"] == "language"
    assert failed["subjects"]["data"]["count"] == 20
    for name in ("report.html", "report.md"):
        assert "most likely" in folder.path.joinpath(name).read_text(encoding="utf-8")
    assert "tokens 1 to " in folder.path.joinpath("report.html").read_text(encoding="utf-8")


def test_in_a_specification_and_on_the_command_line(folder, capsys):
    folder.makefile(".toml", gate=GATE)
    result = folder.runpytest_inprocess(
        "-p", "no:cacheprovider", "--pyargs", "pytest_cp.gate", "--cp-spec", "gate.toml"
    )
    result.assert_outcomes(passed=2)
    subjects = ["compare", "lm_models:compressed", "lm_models:reference", "--data", "lm_models:documents"]
    assert main([*subjects, "--require", "perplexity_ratio <= 1.1"]) == 0
    assert "token_agreement" in capsys.readouterr().out
    assert main([*subjects, "--level", "language", "--level", "predictions"]) != 0


def test_served_models_in_a_specification_and_on_the_command_line(folder, capsys, monkeypatch):
    monkeypatch.setenv("SERVER_KEY", "sesame-key")
    run = ("-p", "no:cacheprovider", "--pyargs", "pytest_cp.gate", "--cp-spec", "gate.toml")
    reports = ("--cp-report-json=report.json", "--cp-report-html=report.html", "--cp-report-markdown=report.md")
    subjects = ["lm_models:reference", "--data", "lm_models:documents", "--api-key-env", "SERVER_KEY"]
    compressed = importlib.import_module("lm_models").compressed()
    server = CompletionServer(compressed, key="sesame-key")

    def gate(bound, level="language", *, url):
        folder.makefile(".toml", gate=SERVED_GATE.format(url=url, level=level, bound=bound))
        return folder.runpytest_inprocess(*run, *reports)

    with server.running() as url:
        place = url.removeprefix("http://").removesuffix("/v1")
        gate("max_perplexity_ratio = 1.1\nmin_token_agreement = 0.8", url=url).assert_outcomes(passed=1)
        texts = [folder.path.joinpath(f"report.{kind}").read_text(encoding="utf-8") for kind in ("json", "html", "md")]
        assert all(f"tiny at {place}" in text and "sesame" not in text for text in texts)
        check = json.loads(texts[0])["checks"][0]
        assert check["details"]["not_known"]["token_kl"]
        assert check["subjects"]["candidate"]["digest"] is None
        failing = gate("min_token_agreement = 0.9999\nmin_top_k_overlap = 0.9999", url=url)
        failing.assert_outcomes(failed=1)
        failing.stdout.fnmatch_lines(["*tokens that changed most:*", "*its negative log-likelihood rises by *"])
        asked = len(server.seen)
        unknown = gate("max_kl_quantile = [0.99, 1.0]", url=url)
        unknown.assert_outcomes(failed=1)
        unknown.stdout.fnmatch_lines(["*kl_quantile_0.99*not known: a served or frozen model tells the most likely*"])
        gate("min_agreement = 0.9", "predictions", url=url).stdout.fnmatch_lines(["*predictions needs more*tiny at*"])
        secret = gate("min_token_agreement = 0.8", url=url.replace("//", "//me:sesame@"))
        assert "api_key_env" in str(secret.stdout)
        assert "sesame" not in f"{secret.stdout}{secret.stderr}"
        assert len(server.seen) == asked
        assert main(["compare", url, *subjects, "--served-model", "tiny", "--require", "perplexity_ratio <= 1.1"]) == 0
        assert main(["compare", url, *subjects, "--require", "token_kl <= 1"]) == 2
        assert main(["compare", url, *subjects, "--level", "predictions"]) != 0
        assert main(["compare", "lm_models:compressed", *subjects, "--level", "language"]) == 2
    assert "sesame" not in str(capsys.readouterr())
