"""Mistakes of newcomers are told with what is meant: in expressions, requirements, names, options and files."""

import re

import pytest
from command import run

from cp_compress.base.arguments import did_you_mean, nearest
from cp_compress.base.errors import ArtifactError, InvalidArgumentError
from cp_compress.base.factories import make_from
from cp_compress.data import parse_codec
from cp_compress.data.settings import check_codec_text
from cp_compress.fidelity import Requirement
from cp_compress.model import parse_scheme
from cp_compress.model.settings import check_scheme_text
from cp_compress.search import parse_parameter

SCHEMES = {
    "prune(density=50%)": "leave out the percent sign: a share of 50 % is 0.5",
    "prune(density=0,5)": "write the number with a point: density=0.5",
    "prune(density=0.5, include=layer1.*)": 'put layer1.* in quotes: include="layer1.*"',
    "prune(density=0.5, include=features.0)": 'put features.0 in quotes: include="features.0"',
    "prune(density=0.5, exclude=type:Conv*)": 'put type:Conv* in quotes: exclude="type:Conv*"',
    "prune(sparsity=0.9)": "density is the share that stays: sparsity=0.9 is density=0.1",
    "prune(densty=0.5)": "did you mean density?",
    "prune(density=90)": "90 % would be 0.9",
    "prune(density='0.5')": "give a number, not a text",
    "prune": "prune needs density, as in prune(density=…)",
    "int8": "did you mean quantize(int8)?",
    "Prune(density=0.5)": "did you mean prune?",
    "quantise(int8)": "did you mean quantize?",
    "quantize(fp16)": "did you mean float16?",
    "quantize(8)": "did you mean int8?",
    "quantize(int8, mode=statc)": "did you mean static?",
    "quantize(int8, calibration=data:make)": 'put data:make in quotes: calibration="data:make"',
    "prune(density=0.5), quantize(int8)": "joined by |, not by a comma: prune(density=0.5) | quantize(int8)",
    "prune(density=0.5) + quantize(int8)": "joined by |, not by +",
    "prune(density=0.5) -> quantize(int8)": "joined by |, not by ->",
    "prune(density=0.5) |": "nothing stands on one side of |",
    "prune(density=0.5": "one is missing",
    "prune density=0.5": "its fields stand in round brackets: prune(density=0.5)",
    "prune(density: 0.5)": "a field is given by =, not by a colon: density=0.5",
    "prune(density=0.5 scope=layer)": "a comma is missing before scope",
    'quantize("int8)': "a quotation mark is missing",
    "": "it is empty",
}
CODECS = {
    "jpg(quality=75)": "did you mean jpeg?",
    "jpeg(quality=0.9)": "0.9 would be 90",
    "jpeg(quality=75, subsampling=4:2:0)": 'put 4:2:0 in quotes: subsampling="4:2:0"',
}
REQUIREMENTS = {
    "accuracy_loss <= 0.01": "did you mean accuracy_drop",
    "agreement >= 99": "99 % would be 0.99",
    "agreement >= 97%": "write 0.97 for 97%",
    "agreement >= 0,97": "write 0.97",
    "agreement > 0.97": '"agreement >= 0.97"',
    "agreement > = 0.97": '"agreement >= 0.97"',
    "agreement at least 0.97": '"agreement >= 0.97"',
    "0.97 <= agreement": '"agreement >= 0.97"',
    "min_agreement=0.97": '"agreement >= 0.97"',
    "agrement = 0.97": "did you mean agreement?",
    "agreement": '"agreement >= bound"',
    "perplexity = 2": "nothing can be required of perplexity",
    "iou >= .5": "did you mean mean_iou",
    "kl <= 1": "mean_kl",
    "acc >= 0.9": "did you mean accuracy",
    "size >= 2": "did you mean compression?",
    "agreement >= 0.9, accuracy_drop <= 0.1": "give each by itself: 'agreement >= 0.9' and 'accuracy_drop <= 0.1'",
    "agreement >= 0.9 and cka >= 0.9": "give each by itself",
    "agreement >= 0.9 at 95%": "its confidence is given apart",
    "accuracy_drop = 0.01": '"accuracy_drop <= 0.01"',
}
PARAMETERS = {
    "0.1..1": "did you mean real(0.1, 1)?",
    "[1, 8]": "did you mean integer(1, 8)?",
    "1:8": "did you mean integer(1, 8)?",
    "0.1 to 1": "did you mean real(0.1, 1)?",
    "int8,float16": "did you mean categorical(('int8', 'float16'))?",
    "['a', 'b']": "did you mean categorical(('a', 'b'))?",
    "rel(0.1, 1)": "did you mean real?",
}
MODEL, EXAMPLES = "cp_compress.examples:digits_cnn", "cp_compress.examples:digits"
FACTORIES = {
    "cp_compress.examples.digits": 'did you mean "cp_compress.examples:digits"?',
    "cp_compress.examples:digit": "did you mean digits?",
    "cp_compres.examples:digits": "did you mean cp_compress?",
    "cp_compress/examples.py:digits": 'as "cp_compress.examples:digits"',
    "digits.npz": "is the name of a file",
}
OPTIONS = {
    ("compare", "a:b", "a:c", "--data", "a:d", "--quite"): "did you mean --quiet?",
    ("compare", "a:b", "a:c", "--data", "a:d", "--level", "prediction"): "did you mean predictions?",
    ("compare", "a:b", "a:c", "--dta", "a:d"): "--dta is no option, did you mean --data?",
    ("compare", "a:b", "a:c", "--data", "a:d", "--tolerance", "10"): "10 % would be 0.1",
    ("compare", "a:b", "a:c", "--data", "a:d", "--require", "cka >= 1", "--confidence", "95"): "95 % would be 0.95",
    ("compare", "a:b", "a:c", "--data", "a:d", "--confidence", "0.9"): "add --require, or leave it out",
    ("compare", "quantize(int8)", MODEL, "--data", EXAMPLES): "cp-compress compress MODEL --scheme",
    ("compare", MODEL, MODEL, "--data", "jpeg(quality=50)"): "a codec is given by --codec",
    ("compare", MODEL, "cp_compress.examples.digits_cnn", "--data", EXAMPLES): f'did you mean "{MODEL}"?',
    ("inspect", "nothing.cp"): "there is no such file",
    ("verify", "nothing"): "there is no such file",
    ("--verison",): "--verison is no option, did you mean --version?",
    ("compar", "a:b"): "did you mean compare",
    ("compare", "cp_compress.examples:digits_cnn", "cp_compress.examples:digits_cnn", "--data", "no.npz"): (
        "--data no.npz: there is no such file"
    ),
}


@pytest.mark.parametrize("text", SCHEMES)
def test_schemes(text):
    for read in (check_scheme_text, parse_scheme):
        with pytest.raises(InvalidArgumentError) as caught:
            read(text)
        assert SCHEMES[text] in str(caught.value)
        assert "<unknown>" not in str(caught.value)


@pytest.mark.parametrize("text", CODECS)
def test_codecs(text):
    for read in (check_codec_text, parse_codec):
        with pytest.raises(InvalidArgumentError, match=re.escape(CODECS[text])):
            read(text)


@pytest.mark.parametrize("text", REQUIREMENTS)
def test_requirements(text):
    with pytest.raises(InvalidArgumentError, match=re.escape(REQUIREMENTS[text])) as caught:
        Requirement.parse(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", PARAMETERS)
def test_parameters(text):
    with pytest.raises(InvalidArgumentError, match=re.escape(PARAMETERS[text])):
        parse_parameter(text)


@pytest.mark.parametrize("text", FACTORIES)
def test_factories(text):
    with pytest.raises(InvalidArgumentError, match=re.escape(FACTORIES[text])):
        make_from(text, "data")


@pytest.mark.parametrize("arguments", OPTIONS, ids=" ".join)
def test_options(arguments, capsys):
    code, _, error = run(capsys, *arguments)
    assert code == 2
    assert len(error.splitlines()) <= 2
    assert OPTIONS[arguments] in " ".join(error.split())


def test_files_that_are_not_there(tmp_path):
    from cp_compress.artifacts import read_artifact

    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ArtifactError, match=r"no such file; did you mean model\.safetensors\?"):
        read_artifact(tmp_path / "modle.safetensors")
    with pytest.raises(ArtifactError, match="and no folder"):
        read_artifact(tmp_path / "nowhere" / "model.safetensors")


def test_what_is_near_comes_first_and_what_is_not_does_not_come():
    names = ("min_agreement", "max_accuracy_drop", "max_class_accuracy_drop", "max_cost")
    assert nearest("max_accuracy_loss", names)[0] == "max_accuracy_drop"
    assert did_you_mean("xyz", names) == ""
    assert did_you_mean("MIN-AGREEMENT", names) == "did you mean min_agreement?"
    assert nearest("a" * 10_000, names) == []
