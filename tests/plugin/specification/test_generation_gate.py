"""`assert_generation_preserved` in a gate, in a specification and on the command line."""

import pytest
from release_gates import failed_check, prepare, report_text, run_reporting

from cp_compress.cli.main import main

pytest.importorskip("transformers")

MODELS = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from cp_compress import GenerationData, Quantize


def reference():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return LlamaForCausalLM(LlamaConfig(vocab_size=90, initializer_range=0.3, **shape, **special)).eval()


def compressed():
    return Quantize("int4", group_size=32).compress(reference())


def prompts():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 90, (length,), generator=generator) for length in [5, 7] * 10]


class Tokenizer:
    def decode(self, ids):
        return "".join(chr(33 + one) for one in ids)
"""

TEST = """
import copy, pytest
from writers import *
from pytest_cp import assert_generation_preserved, check_generation_preserved


@pytest.mark.compress_model("quantize(int8)")
def test_holds(compressed_model, reference_model, dataset):
    assert_generation_preserved(compressed_model, reference_model, dataset, max_new_tokens=4, min_common_prefix=0.5)


def test_fails():
    assert_generation_preserved(
        compressed(), reference(), prompts(), max_new_tokens=8, min_exact_generations=1.0, tokenizer=Tokenizer(),
        slices={"first": range(5)},
    )


def test_claims():
    arguments = Quantize("int8").compress(reference()), reference(), prompts()
    check = check_generation_preserved(*arguments, max_new_tokens=4, max_edit_distance=0.8, confidence=0.9)
    assert check.passed
    with pytest.raises(ValueError, match="no claim about the population"):
        check_generation_preserved(*arguments, min_median_first_difference=1, confidence=0.9)


def write(model, batch):
    return model.generate(**batch, max_new_tokens=2, do_sample=False, pad_token_id=0)[:, batch["input_ids"].shape[1]:]


def test_equal_tokens_of_other_weights_pass():
    model = reference()
    nearly = copy.deepcopy(model)
    nearly.lm_head.weight.data *= 1.01
    check = assert_generation_preserved(nearly, model, prompts(), generate=write, min_exact_generations=1.0)
    assert check.measurement.details["equal_outputs"]
    ours, theirs = (lambda ids, held=held: write(held, {"input_ids": ids}) for held in (nearly, model))
    assert_generation_preserved(ours, theirs, prompts(), min_exact_generations=1.0)


def test_the_same_in_another_wrapper():
    model = reference()
    assert_generation_preserved(
        lambda ids: write(model, {"input_ids": ids}), lambda ids: write(model, {"input_ids": ids}), prompts(),
        min_exact_generations=0.1,
    )
"""

GATE = """
schema_version = 1
[reference]
model = "writers:reference"
[data]
examples = "writers:prompts"
[[candidate]]
scheme = "quantize(int8)"
[generation]
max_new_tokens = 3
min_common_prefix = "noise - 0.5"
max_damaged_generations = 0.9
tokenizer = "writers:Tokenizer"
[noise]
references = ["quantize(float16)"]
"""


@pytest.fixture
def folder(pytester, monkeypatch):
    return prepare(pytester, monkeypatch, "writers", MODELS, "prompts")


def test_in_tests(folder):
    result = run_reporting(folder, TEST)
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*GenerationNotPreservedError: exact_generations = *, required ≥ 1, n = 20*",
            "*slices:*",
            "*first: prompts 5, exact generations *, common prefix *, edit distance *",
            "*#*: '*' → '*' (parts after *, edit distance *, margin *)*",
            "*nothing was compressed: the candidate returns the reference's * bit for bit*",
        ]
    )
    failed = failed_check(folder)
    assert failed["comparison"] == "generation"
    assert failed["subjects"]["data"]["count"] == 20
    for kind in ("html", "markdown"):
        assert "parts after" in report_text(folder, kind)


def test_in_a_specification_and_on_the_command_line(folder, capsys):
    folder.makefile(".toml", gate=GATE)
    result = folder.runpytest_inprocess(
        "-p", "no:cacheprovider", "--pyargs", "pytest_cp.gate", "--cp-spec", "gate.toml"
    )
    result.assert_outcomes(passed=1)
    subjects = ["compare", "writers:compressed", "writers:reference", "--data", "writers:prompts"]
    assert main([*subjects, "--require", "edit_distance <= 0.999"]) == 0
    assert "damaged_generations" in capsys.readouterr().out
